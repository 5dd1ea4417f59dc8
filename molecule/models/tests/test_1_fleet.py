"""What the first run left: four hosts, each with the locked models, and one trip to the registry."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from conftest import HOSTS, LOCK, STORE, ask, blob_bytes, control, digests, locked
from scenario import on_host

each_host = pytest.mark.parametrize("name", HOSTS)
BIG = "big:1b"


def test_the_registry_gave_each_byte_once() -> None:
    """Four hosts, and the traffic of one: the counters run since before the first pull."""
    wanted = {layer["digest"]: layer["size"] for entry in locked().values() for layer in entry["layers"]}
    served = blob_bytes(control("stats"))
    assert set(served) == set(wanted)
    # to learn where a large blob is costs a byte
    assert {digest: count - wanted[digest] for digest, count in served.items() if not 0 <= count - wanted[digest] <= 1} == {}
    assert sum(wanted.values()) > 100 << 20


@each_host
def test_every_host_has_what_is_locked(name: str) -> None:
    """The same list on Debian 12 and 13, digest by digest, and a model of one's own."""
    found = digests(name)
    assert set(found) == {"all-minilm:latest", "big:1b", "smollm2:135m", "support-bot:latest"}
    assert {f"sha256:{found[model]}" for model in locked()} == {entry["manifest_digest"] for entry in locked().values()}


@each_host
def test_the_store_belongs_to_the_service(name: str) -> None:
    """Nothing is root's, nothing foreign lies where Ollama looks, and nothing is left of the pulls."""
    host = on_host(name)
    assert host.check_output(f"find {STORE} ! -user ollama") == ""
    assert host.check_output(f"find {STORE}/blobs -type f | grep -vE '/sha256-[0-9a-f]{{64}}$' || true") == ""
    assert host.check_output(f"find {STORE}/.gpufleet -name '*.part' -o -name '*.map'") == ""
    assert host.check_output(f"find {STORE} -path {STORE}/.gpufleet -prune -o -type f ! -perm 644 -print") == ""
    # others may count what is staged, but not open it
    assert host.check_output(f"stat -c %a {STORE}/.gpufleet/staging") == "755"
    assert host.check_output(f"find {STORE}/.gpufleet/staging -type f -perm /077") == ""


@each_host
def test_a_mirror_brings_no_other_site(name: str) -> None:
    """No site of the distribution's nginx, now or at boot."""
    host = on_host(name)
    assert not host.socket("tcp://0.0.0.0:80").is_listening
    assert host.run("systemctl is-enabled nginx").stdout.strip() == "disabled"


@each_host
def test_a_model_of_ones_own_answers_as_it_was_told_to(name: str) -> None:
    """The stand-in repeats a system prompt at the end of its answer."""
    answer = ask(name, "/api/generate", {"model": "support-bot", "prompt": "hi", "stream": False})
    assert "support questions" in answer["response"]
    shown = ask(name, "/api/show", {"model": "support-bot"})
    assert "2048" in shown["parameters"] and "0.2" in shown["parameters"]


def loaded(name: str) -> dict[str, str]:
    """Loaded models, and when they go."""
    return {item["name"]: item["expires_at"] for item in ask(name, "/api/ps")["models"]}


@each_host
def test_warm_models_are_loaded(name: str) -> None:
    """One for ever, one for a day; an embedding model too."""
    found = loaded(name)
    assert {"big:1b", "all-minilm:latest"} <= set(found) and "smollm2:135m" not in found
    assert int(found["big:1b"][:4]) > 2200 > int(found["all-minilm:latest"][:4])


def test_warm_models_come_back_with_the_server() -> None:
    """Whoever restarts it, without a run of the playbook; also after a crash."""
    host = on_host("models-b")
    for command in ("systemctl restart ollama@default", "systemctl kill -s KILL ollama@default"):
        host.check_output(command)
        for _attempt in range(60):
            if host.run("curl -sS --max-time 5 http://127.0.0.1:11434/api/version").rc == 0 and len(loaded("models-b")) == 2:
                break
            time.sleep(0.5)
        assert set(loaded("models-b")) == {"big:1b", "all-minilm:latest"}, host.run("journalctl -n 30 -u 'ollama*' --no-pager").stdout[-1500:]


def test_the_warm_unit_is_confined() -> None:
    """At most 2.0 in systemd's own score."""
    line = on_host("models-a").check_output("systemd-analyze security --no-pager ollama-warm@default.service | tail -1")
    assert float(line.split(": ")[1].split()[0]) <= 2.0


def test_the_mirror_shows_models_and_nothing_else() -> None:
    """What a peer gets, and what nobody gets."""
    host = on_host("models-a")
    address = host.check_output("hostname -i").split()[0]
    layer = next(layer for layer in locked()[BIG]["layers"] if layer["kind"] == "template")
    status = "curl -s -o /dev/null -w '%{http_code}' --path-as-is"
    base = f"http://{address}:8140"
    assert on_host("models-b").check_output(f"curl -sf {base}/v2/library/big/blobs/{layer['digest']} | sha256sum")[:64] == layer["digest"][7:]
    assert on_host("models-b").check_output(f"curl -sf {base}/v2/library/big/manifests/1b") == locked()[BIG]["manifest"].rstrip("\n")
    for path in ("/", "/.gpufleet/verified.json", "/v2/library/big/manifests/../../../../.gpufleet/verified.json", "/v2/library/big/manifests/nope"):
        assert on_host("models-b").check_output(f"{status} {base}{path}") in ("404", "400"), path
    assert on_host("models-b").check_output(f"{status} -X PUT {base}/v2/library/big/manifests/1b") in ("403", "405")
    assert host.check_output("ss -Hltn 'sport = :8140'").split()[3] == f"{address}:8140"
    assert host.run("systemctl is-active nginx").stdout.strip() != "active"


def test_the_lock_pins_bytes() -> None:
    """The manifest is in the lock, to the byte, and what the capacity check needs is with it."""
    entry = locked()[BIG]
    assert json.loads(entry["manifest"])["layers"] and entry["metadata"]["block_count"] > 0, LOCK


def test_a_peer_can_be_pulled_from_by_ollama_itself() -> None:
    """A plain `ollama pull HOST:8140/library/…` works from the store of a host."""
    address = on_host("models-a").check_output("hostname -i").split()[0]
    name = f"{address}:8140/library/smollm2:135m"
    lines: Any = on_host("models-c").check_output(
        f"curl -sS --max-time 60 -d '{json.dumps({'model': name, 'insecure': True})}' http://127.0.0.1:11434/api/pull"
    )
    assert json.loads(lines.splitlines()[-1]) == {"status": "success"}
    on_host("models-c").check_output(f"curl -sSf -X DELETE -d '{json.dumps({'model': name})}' http://127.0.0.1:11434/api/delete")
