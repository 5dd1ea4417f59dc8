"""Saved from one host, brought back on another, tried out there."""

from __future__ import annotations

from conftest import FROM, MODELS, STORE, TO, ask, digests, metrics, registry_bytes, storage_bytes, tree
from scenario import on_host, play

WEIGHTS = 4 << 20


def test_the_plan_says_the_bytes() -> None:
    """Check mode saves nothing."""
    before = storage_bytes()
    plan = play("backup", "--check", "-l", FROM)
    assert plan.status == 0 and plan.says("support-bot:latest") and plan.says("bytes that a registry has"), plan
    assert plan.says("smollm2:135m: 0 bytes in the backup") and storage_bytes() == before


def test_backup_and_again_for_nothing() -> None:
    """What the registry has is not in it; the second one moves next to nothing; both are told to node_exporter."""
    empty = storage_bytes()
    done = play("backup", "-l", FROM)
    assert done.status == 0 and done.says("3 models") and done.says("left to a registry"), done
    first = storage_bytes()
    assert first - empty < 100_000 < WEIGHTS
    found = metrics(FROM, "backup")
    assert found["ollama_backup_success"] == 1 and found["ollama_backup_registry_bytes"] > WEIGHTS > found["ollama_backup_size_bytes"] > 0
    on_host(FROM).check_output("systemctl start gpufleet-backup.service")
    assert storage_bytes() - first < 20_000
    again = metrics(FROM, "backup")
    assert again["ollama_backup_last_success_timestamp_seconds"] > found["ollama_backup_last_success_timestamp_seconds"]


def test_backup_while_the_timers_runs() -> None:
    """The playbook waits for it, and says what became of it."""
    host, folder = on_host(FROM), "/run/systemd/system/gpufleet-backup.service.d"
    host.check_output(f"mkdir {folder} && printf '[Service]\\nExecStartPre=/bin/sleep 40\\n' >{folder}/slow.conf && systemctl daemon-reload")
    host.check_output("systemctl start --no-block gpufleet-backup.service")
    done = play("backup", "-l", FROM)
    assert done.status == 0 and done.says("3 models"), done
    assert host.run("systemctl is-active gpufleet-backup.service").stdout.strip() == "inactive"
    host.check_output(f"rm -r {folder} && systemctl daemon-reload")


def test_wiped_and_restored_on_another_host() -> None:
    """All models are there, to the byte, and answer; a dry run said before what comes from where."""
    was, names = tree(FROM), digests(FROM)
    assert set(names) == MODELS and digests(TO) == {}
    on_host(FROM).check_output(f"systemctl stop ollama@default && rm -rf {STORE}/blobs {STORE}/manifests && systemctl start ollama@default")
    registry_bytes(reset=True)
    plan = play("restore", "--check", "-l", TO, restore_from=FROM)
    assert plan.status == 0 and plan.says("Would restore") and plan.says("bytes from mirrors and registries"), plan
    assert digests(TO) == {} and registry_bytes() == 0
    done = play("restore", "-l", TO, restore_from=FROM)
    assert done.status == 0 and done.changed(TO) == 1, done
    assert tree(TO) == was and digests(TO) == names and registry_bytes() > WEIGHTS
    assert on_host(TO).check_output(f"find {STORE} ! -user ollama") == ""
    answer = ask(TO, "/api/generate", {"model": "support-bot", "prompt": "hi", "stream": False})
    assert "support questions" in answer["response"]
    assert ask(TO, "/api/generate", {"model": "smollm2:135m", "prompt": "hi", "stream": False})["response"]
    assert ask(TO, "/api/embed", {"model": "all-minilm", "input": "hi"})["embeddings"][0]
    assert play("restore", "-l", TO, restore_from=FROM).changed(TO) == 0


def test_one_model_on_the_host_itself() -> None:
    """Only what is named comes back."""
    done = play("restore", "-l", FROM, restore_models="support-bot")
    assert done.status == 0 and set(digests(FROM)) == {"support-bot:latest"}, done
    assert play("restore", "-l", FROM).status == 0 and set(digests(FROM)) == MODELS


def test_drill_on_another_host() -> None:
    """The other host reads the backup, and an instance that serves nobody else answers; nothing of it stays."""
    done = play("backup_drill", "-l", TO)
    assert done.status == 0 and done.says("have the digests that they must have") and done.says("support-bot:latest answers"), done
    assert metrics(TO, "drill")['ollama_backup_drill_success{backup_host="backup-a"}'] == 1
    host = on_host(TO)
    assert host.check_output("find /var/lib/gpufleet-drill -mindepth 1") == ""
    assert not host.run("systemctl is-active gpufleet-drill-ollama.service").succeeded
    assert host.check_output("ss -Hltn | grep -c ollama || true").strip() == "0"
