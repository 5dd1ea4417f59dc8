"""What changes later: tags that move, blobs that rot, hosts that lose a model, names that come and go."""

from __future__ import annotations

from typing import Any, Callable

from conftest import HOSTS, STORE, control, digests, locked
from scenario import on_host, play

WITHOUT_BIG = ["smollm2:135m", {"name": "all-minilm", "warm": True, "keep_alive": "24h"}]
BIG = {"name": "big:1b", "warm": True}


def test_a_tag_that_moved_changes_nothing(counted: Callable[[], dict[str, int]]) -> None:
    """The lock decides. The plan of the lock shows the drift, and writes nothing."""
    before, lock = digests("models-a"), locked()
    moved = control("republish", "POST", {"name": "big:1b", "seed": 99})
    try:
        done = play("models", "-l", "models-a,models-b")
        assert done.status == 0 and done.changed("models-a") == done.changed("models-b") == 0, done
        assert digests("models-a") == before and counted() == {}
        drift = play("lock", "--check", "--diff", lock_host="models-a")
        assert drift.status == 0 and drift.says(lock["big:1b"]["manifest_digest"]) and drift.says(str(moved["digest"])), drift
        assert locked() == lock
    finally:
        control("republish", "POST", {"name": "big:1b", "seed": 7})


def test_a_flipped_byte_is_found_and_mended_by_a_peer(counted: Callable[[], dict[str, int]]) -> None:
    """Ollama would trust it. Only that blob is fetched, and not from the registry; without verify nothing is read."""
    host = on_host("models-c")
    layer = max(locked()["smollm2:135m"]["layers"], key=lambda layer: layer["size"])
    path = f"{STORE}/blobs/{layer['digest'].replace(':', '-')}"
    # the size, the time and the inode stay, as with a disk that rots
    host.check_output(
        f"touch -r {path} /tmp/stamp; printf X | dd of={path} bs=1 seek=100000 conv=notrunc status=none; touch -r /tmp/stamp {path}"
    )
    assert host.check_output(f"sha256sum {path}")[:64] != layer["digest"][7:]
    assert play("models", "-l", "models-c,models-d").changed("models-c") == 0
    done = play("models", "-l", "models-c,models-d", ollama_models_verify_enabled=True)
    assert done.status == 0 and done.changed("models-c") == 1 and done.changed("models-d") == 0, done
    assert host.check_output(f"sha256sum {path}")[:64] == layer["digest"][7:]
    assert counted() == {}


def test_a_host_that_lost_a_model_gets_it_from_the_fleet(counted: Callable[[], dict[str, int]]) -> None:
    """Check mode says so, touches nothing, and tells the bytes."""
    host = on_host("models-d")
    host.check_output("curl -sSf -X DELETE -d '{\"model\": \"big:1b\"}' http://127.0.0.1:11434/api/delete")
    plan = play("models", "--check", "--diff", "-l", "models-d")
    assert plan.status == 0 and plan.says("big:1b absent") and plan.says(f"big:1b {locked()['big:1b']['manifest_digest'][7:]}"), plan
    assert "big:1b" not in digests("models-d")
    done = play("models", "-l", "models-d")
    assert done.status == 0 and f"sha256:{digests('models-d')['big:1b']}" == locked()["big:1b"]["manifest_digest"], done
    assert counted() == {}


def test_progress_is_shown(counted: Callable[[], dict[str, int]]) -> None:
    """A line for the host while it pulls, with what is there, the rate and the time that is left; and the limit holds."""
    host = on_host("models-d")
    host.check_output("curl -sSf -X DELETE -d '{\"model\": \"big:1b\"}' http://127.0.0.1:11434/api/delete")
    done = play("models", "-l", "models-d", ollama_models_rate_limit="20M", ollama_models_progress_seconds=1)
    lines = [line for line in done.output.splitlines() if line.startswith("models-d big:1b ") and " MB/s " in line]
    assert done.status == 0 and len(lines) >= 2 and all("%" in line and "/0.1 GB" in line or "/100" in line for line in lines), (lines, done)
    assert counted() == {}


def test_a_removed_definition_is_rebuilt_and_only_then() -> None:
    """Another system prompt is another model; the same one is not built again."""
    before = digests("models-a")["support-bot:latest"]
    models: list[Any] = [*WITHOUT_BIG, BIG, {"name": "support-bot", "from": "smollm2:135m", "system": "Be brief."}]
    done = play("models", "-l", "models-a", ollama_models=models)
    assert done.status == 0 and done.changed("models-a") == 1, done
    assert digests("models-a")["support-bot:latest"] != before
    assert play("models", "-l", "models-a", ollama_models=models).changed("models-a") == 0
    assert play("models", "-l", "models-a").changed("models-a") == 1
    assert digests("models-a")["support-bot:latest"] == before


def test_absent_and_prune() -> None:
    """An absent name goes; what is not in the manifest goes only when that is asked for, after the new ones are there."""
    models: list[Any] = [*WITHOUT_BIG, {"name": "support-bot", "state": "absent"}, "old:1b"]
    done = play("models", "-l", "models-a", ollama_models=models)
    assert done.status == 0 and set(digests("models-a")) == {"smollm2:135m", "all-minilm:latest", "big:1b", "old:1b"}, done
    # not locked: the run says what it took
    assert done.says(f"old:1b is sha256:{digests('models-a')['old:1b']} now, and not locked")
    plan = play("models", "--check", "--diff", "-l", "models-a", ollama_models=WITHOUT_BIG, ollama_models_prune_enabled=True)
    assert plan.status == 0 and "big:1b" in digests("models-a") and plan.says("old:1b"), plan
    done = play("models", "-l", "models-a", ollama_models=WITHOUT_BIG, ollama_models_prune_enabled=True)
    assert done.status == 0 and set(digests("models-a")) == {"smollm2:135m", "all-minilm:latest"}, done


def test_a_seed_that_fails_does_not_stop_the_others() -> None:
    """The first host of the waves, alone in its wave: the run goes on without it, and fails at the end with its words."""
    host = on_host("models-a")
    host.check_output("systemctl stop ollama@default")
    try:
        done = play("models")
        assert done.failed_with("no Ollama answers at http://127.0.0.1:11434"), done
        recap = {line.split()[0]: line for line in done.output.splitlines() if " ok=" in line}
        assert "failed=1" in recap["models-a"] and all("failed=0" in recap[name] for name in HOSTS[1:]), recap
    finally:
        host.check_output("systemctl start ollama@default")


def test_back_again() -> None:
    """The manifest of the inventory brings all of it back."""
    assert play("models").status == 0
    assert all(set(digests(host)) == {"all-minilm:latest", "big:1b", "smollm2:135m", "support-bot:latest"} for host in HOSTS)
