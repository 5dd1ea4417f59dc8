"""A mirror on a host that runs no Ollama: it has the models of registries, and the Ollama hosts had them from there."""

from __future__ import annotations

import json

from scenario import on_host

STORE = "/var/lib/ollama/models"


def test_the_registry_gave_each_byte_once() -> None:
    """Three stores, and the traffic of one: the weights of both models, by digest."""
    stats = json.loads(on_host("main-gpu1").check_output("curl -sS https://registry.ollama.ai/_double/stats"))["digests"]
    sizes = dict(line.split() for line in on_host("main-monitoring").check_output(f"stat -c '%n %s' {STORE}/blobs/*").splitlines())
    large = {path.rsplit("/", 1)[1].replace("-", ":"): int(size) for path, size in sizes.items() if int(size) > 1 << 20}
    # to learn where a large blob is costs a byte
    assert len(large) == 2 and all(stats[digest]["bytes"] - size in (0, 1) for digest, size in large.items()), (stats, large)


def test_its_store_is_root_s_and_readable() -> None:
    """Nobody else writes there, and the mirror, another user, gives it on."""
    mirror = on_host("main-monitoring")
    assert mirror.check_output(f"find {STORE} ! -user root") == "" and mirror.user("ollama").exists is False
    address = mirror.check_output("hostname -i").split()[0]
    assert json.loads(on_host("main-gpu2").check_output(f"curl -sf http://{address}:8140/v2/library/smollm2/manifests/135m"))["layers"]


def test_nobody_else_listens() -> None:
    """The site that the distribution's nginx comes with is gone: the host is a gateway, too."""
    assert not on_host("main-monitoring").socket("tcp://0.0.0.0:80").is_listening
