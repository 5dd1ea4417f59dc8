"""Other ways for the same bytes, and places that are too small for them."""

from __future__ import annotations

import json
from typing import Any, Callable, Iterator

import pytest

from conftest import HOSTS, digests, locked
from scenario import on_host, play

READERS = HOSTS[1:]


def drop(model: str, hosts: tuple[str, ...]) -> None:
    """Delete a model, and what is left of its blobs."""
    for name in hosts:
        on_host(name).check_output(f"curl -sSf -X DELETE -d '{json.dumps({'model': model})}' http://127.0.0.1:11434/api/delete")


@pytest.fixture
def cache() -> Iterator[str]:
    """The first host as a cache in front of the registry; its URL."""
    assert play("models", "-l", "models-a", "--tags", "ollama_mirror", ollama_mirror_mode="pull_through").status == 0
    yield f"http://{on_host('models-a').check_output('hostname -i').split()[0]}:8140"
    assert play("models", "-l", "models-a", "--tags", "ollama_mirror").status == 0


def test_a_cache_asks_the_registry_once(cache: str, counted: Callable[[], dict[str, int]]) -> None:
    """Three hosts at once, cold: the registry gives each byte once; warm, it gives none."""
    drop("big:1b", READERS)
    options = {"ollama_models_sources": [cache], "ollama_models_upstream_enabled": False, "ollama_models_waves": "100%"}
    done = play("models", "-l", ",".join(READERS), "--tags", "ollama_models", **options)
    assert done.status == 0 and all(f"sha256:{digests(host)['big:1b']}" == locked()["big:1b"]["manifest_digest"] for host in READERS), done
    served = counted()
    weights = next(layer for layer in locked()["big:1b"]["layers"] if layer["kind"] == "model")
    assert {digest: count for digest, count in served.items() if count > 1 << 20} == {weights["digest"]: weights["size"]}
    drop("big:1b", READERS[:1])
    assert play("models", "-l", READERS[0], "--tags", "ollama_models", **options).status == 0
    assert counted() == served


def test_from_a_directory(counted: Callable[[], dict[str, int]]) -> None:
    """An air gap: a bundle is written where there is a way out, and is a source where there is none."""
    done = play("bundle", bundle_dir="/srv/bundle", bundle_host="models-a")
    assert done.status == 0 and "big:1b" in on_host("models-a").check_output("cat /srv/bundle/models.lock.yml"), done
    assert play("bundle", bundle_dir="/srv/bundle", bundle_host="models-a").changed("models-a") == 0
    before = counted()
    drop("smollm2:135m", ("models-a",))
    # no mirror may help either: nobody listens there
    arguments: dict[str, Any] = {"ollama_models_sources": ["/srv/bundle"], "ollama_models_upstream_enabled": False, "ollama_mirror_port": 9}
    done = play("models", "-l", "models-a", "--skip-tags", "ollama_mirror", **arguments)
    assert done.status == 0 and f"sha256:{digests('models-a')['smollm2:135m']}" == locked()["smollm2:135m"]["manifest_digest"], done
    assert counted() == before
    on_host("models-a").check_output("rm -rf /srv/bundle")


def test_a_model_that_nobody_has() -> None:
    """One sentence, with the name and where it was looked for."""
    done = play("models", "-l", "models-b", "--skip-tags", "ollama_mirror", ollama_models=["nope:1b"])
    assert done.failed_with("nope:1b") and done.says("registry.ollama.ai"), done


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(counted: Callable[[], dict[str, int]]) -> None:
    """The table says what is needed and what there is; the check comes before any change, so nothing was written."""
    host = on_host("models-b")
    host.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=40m tmpfs /srv/small")
    try:
        options = {"ollama_models_dir": "/srv/small", "ollama_models_reserve": "1M"}
        done = play("preflight", "-l", "models-b", **options)
        assert done.status != 0 and done.says("/srv/small") and done.says("does not fit"), done
        # without the check the module refuses it
        host.check_output("mkdir -p /srv/small/blobs /srv/small/manifests")
        done = play("models", "-l", "models-b", "--tags", "ollama_models", ollama_capacity_check="off", **options)
        assert done.status != 0 and done.says("/srv/small"), done
        assert host.check_output("find /srv/small -type f -size +4k") == "" and counted() == {}
    finally:
        host.check_output("umount /srv/small")


def test_memory_that_is_too_small() -> None:
    """Weights and context against what the instance may have: refused, or only said, as it is wanted."""
    instances = [{"name": "default", "memory_max": "64M"}]
    done = play("preflight", "-l", "models-b", ollama_instances=instances)
    assert done.status != 0 and done.says("does not fit") and done.says("big:1b"), done
    done = play("preflight", "-l", "models-b", ollama_instances=instances, ollama_capacity_check="warn")
    assert done.status == 0 and done.says("does not fit"), done
