"""The manifest of models: what is wanted where, and where it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _model, _models

PLAIN = {"state": "present", "warm": False, "keep_alive": "-1", "keep": False, "definition": None}
SUM = "0" * 64


def completed(items: list[dict[str, Any]], writer: bool = True) -> list[dict[str, Any]]:
    """Instances i0, i1 and so on."""
    raw = [{"name": f"i{number}", "port": 11434 + number, **item} for number, item in enumerate(items)]
    return _model.instances(raw, "10.0.0.5", "/store", writer)


def present(items: list[dict[str, Any]], models: list[Any], writer: bool = True) -> list[tuple[str, str, list[str]]]:
    """Store, last digit of the writer's port, and names, for each store."""
    return [(store["store"], store["url"][-1], store["present"]) for store in _models.store_models(completed(items, writer), _models.manifest(models))]


def test_manifest() -> None:
    """Names are completed, all options are there."""
    assert _models.manifest(["a", {"name": "b:1", "warm": True, "keep_alive": "24h", "keep": True}]) == [
        {"name": "a:latest", **PLAIN},
        {"name": "b:1", **PLAIN, "warm": True, "keep_alive": "24h", "keep": True},
    ]


def test_definition() -> None:
    """What a model of one's own is made from; the base by its full name."""
    [_base, bot, weights] = _models.manifest([
        "A", {"name": "bot", "from": "a", "system": "Be brief.", "parameters": {"num_ctx": 8192}},
        {"name": "w", "from": "https://example.org/w.gguf", "sha256": SUM, "adapters": [{"path": "/srv/a.gguf"}]},
    ])
    assert bot["definition"] == {"from": "a:latest", "system": "Be brief.", "parameters": {"num_ctx": 8192}}
    assert weights["definition"] == {"from": "https://example.org/w.gguf", "sha256": SUM, "adapters": [{"path": "/srv/a.gguf"}]}


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"url": "https://example.org/a"}, "which may change: give its sha256"),
        ({"url": "https://example.org/a", "path": "/a", "sha256": SUM}, "give either path, or url and sha256"),
        ({"path": "a.gguf"}, "give either path, or url and sha256"),
        ({}, "give either path, or url and sha256"),
    ],
    ids=str,
)
def test_bad_adapter(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(_model.ModelError, match=message):
        _models.manifest(["a", {"name": "b", "from": "a", "adapters": [adapter]}])


def test_stores() -> None:
    """For each store what any of its instances serves, in the manifest's order, through the store's writer."""
    models = ["a", "b", "C"]
    assert present([{"models": ["c", "a:latest"]}], models) == [("/store", "4", ["a:latest", "C:latest"])]
    assert present([{"models": ["c"]}, {}], models) == [("/store", "4", ["a:latest", "b:latest", "C:latest"])]
    two_stores = [{"models": ["b"]}, {"models": ["b"], "models_dir": "/own"}, {"models": ["a"]}]
    assert present(two_stores, models) == [("/store", "4", ["a:latest", "b:latest"]), ("/own", "5", ["b:latest"])]
    assert present(two_stores, models, writer=False) == [("/own", "5", ["b:latest"])]


def test_unknown_model() -> None:
    with pytest.raises(_model.ModelError, match="instance i1: d:latest is not in ollama_models"):
        present([{}, {"models": ["d"]}], ["a"])


def test_custom_models_bring_what_they_are_made_from() -> None:
    """An instance that serves only the last of a chain has all of it in its store; the chain in the order in which it can be made."""
    models = [{"name": "second", "from": "first"}, {"name": "first", "from": "base"}, "base", "other"]
    [store] = _models.store_models(completed([{"models": ["second"]}]), _models.manifest(models))
    assert (store["present"], [item["name"] for item in store["custom"]]) == (["base:latest"], ["first:latest", "second:latest"])
    assert store["custom"][1] == {"name": "second:latest", "from": "first:latest"}
    assert store["keep"] == ["second:latest", "first:latest", "base:latest"]


def test_absent() -> None:
    [store] = _models.store_models(completed([{}]), _models.manifest(["a", {"name": "b", "state": "absent"}]))
    assert (store["present"], store["absent"], store["keep"]) == (["a:latest"], ["b:latest"], ["a:latest"])


def test_the_proxy_of_the_server_is_the_puller_s() -> None:
    """Apart from the stores, which are shown when something fails."""
    items = completed([{"environment": {"https_proxy": "http://user:secret@proxy.example.org:3128", "no_proxy": "10.0.0.0/8"}}, {"models_dir": "/own"}])
    assert _models.store_proxies(items) == {"/store": {"https": "http://user:secret@proxy.example.org:3128", "bypass": "10.0.0.0/8"}, "/own": {}}
    assert "secret" not in str(_models.store_models(items, _models.manifest(["a"])))


def test_the_writer_pulls_for_the_readers() -> None:
    """A host that only reads a shared store pulls nothing: who writes there has its models too."""
    mount = {"src": "nas:/models", "fstype": "nfs4", "writer": "h1"}
    hostvars = {
        "h1": {},
        "h2": {"ollama_models_mount": mount, "ollama_models_dir": "/store", "ollama_instances": [{"name": "x", "models": ["b"]}]},
        "h3": {"ollama_models_dir": "/store"},
    }
    models = _models.manifest(["a", "b", "c"])
    mine = completed([{"models": ["a"]}])
    [store] = _models.store_models(mine, models, "h1", hostvars, ["h1", "h2", "h3"])
    assert store["present"] == ["a:latest", "b:latest"]
    hostvars["h2"]["ollama_instances"][0]["models"] = ["d"]
    with pytest.raises(_model.ModelError, match="instance x of h2: d:latest is not in ollama_models"):
        _models.store_models(mine, models, "h1", hostvars, ["h1", "h2", "h3"])


def test_store_of_a_mirror() -> None:
    [store] = _models.mirror_store("/srv/models", _models.manifest(["a", {"name": "b", "from": "a"}, {"name": "c", "state": "absent"}]))
    assert store == {"store": "/srv/models", "url": "", "present": ["a:latest"], "custom": [], "keep": ["a:latest"], "absent": ["c:latest"]}


def test_warm_models() -> None:
    models = _models.manifest([{"name": "a", "warm": True}, "b", {"name": "c", "warm": True, "keep_alive": 3600}])
    found = _models.warm_models(completed([{}, {"models": ["C", "b"]}, {"models": ["b"]}]), models)
    assert [(item["name"], item["models"]) for item in found] == [
        ("i0", [{"name": "a:latest", "keep_alive": "-1"}, {"name": "c:latest", "keep_alive": "3600"}]),
        ("i1", [{"name": "c:latest", "keep_alive": "3600"}]),
        ("i2", []),
    ]


def test_exporter_instances() -> None:
    """Each instance with what it should have, pinned where the lock has it in whatever spelling, and whether it should use GPUs."""
    models = _models.manifest(["a", "B:1", {"name": "bot", "from": "a"}, {"name": "gone", "state": "absent"}])
    lock = {"A:latest": {"manifest_digest": "sha256:aa"}, "bot:latest": {"manifest_digest": "sha256:bb"}, "else:1": {"manifest_digest": "sha256:cc"}}
    items = completed([{}, {"models": ["bot"], "models_dir": "/other", "gpus": "none"}, {"models": [], "gpus": ["GPU-1"]}])
    assert _models.exporter_instances(items, models, lock, True) == [
        {"name": "i0", "url": "http://10.0.0.5:11434", "store": "/store", "gpu_expected": True,
         "models": {"a:latest": "sha256:aa", "B:1": None, "bot:latest": None}},
        # what a model is made from belongs there too
        {"name": "i1", "url": "http://10.0.0.5:11435", "store": "/other", "gpu_expected": False, "models": {"a:latest": "sha256:aa", "bot:latest": None}},
        {"name": "i2", "url": "http://10.0.0.5:11436", "store": "/store", "gpu_expected": True, "models": {}},
    ]
    assert [item["gpu_expected"] for item in _models.exporter_instances(items, models, {})] == [False, False, True]


def test_sources() -> None:
    """Finished hosts first, a few of them, then caches, then mirrors out of the play; never oneself, nor who has nothing yet."""
    hosts = [f"h{number}" for number in range(8)]
    hostvars: dict[str, dict[str, Any]] = {host: {} for host in hosts}
    hostvars["h6"] = {"ollama_mirror_mode": "pull_through", "ollama_mirror_port": 9000}
    hostvars["h7"] = {"ollama_address": "10.0.0.7"}

    def found(host: str, done: list[str]) -> list[str]:
        pulls = {name: {"pull": {"changed": True}} for name in done}
        values = {name: {"pull": {"failed": True} if name == "h4" else None, **hostvars[name], **pulls.get(name, {})} for name in hosts}
        return _models.model_sources(hosts, values, host, ["a"], hosts[:6], "pull")

    assert found("h0", []) == ["http://h6:9000", "http://10.0.0.7:8140"]
    assert found("h1", ["h0"]) == ["http://h0:8140", "http://h6:9000", "http://10.0.0.7:8140"]
    many = found("h5", hosts[:5])
    assert len(many) == 5 and set(many[:3]) <= {f"http://{host}:8140" for host in hosts[:5]}
    # not all ask the same ones
    assert len({tuple(found(host, hosts[:3])) for host in hosts[3:6]}) > 1
    assert all(f"http://{host}:8140" not in found(host, hosts[:6]) for host in hosts)
    assert found("h6", []) == ["http://10.0.0.7:8140"]


def test_sources_that_have_it() -> None:
    """Where hosts have different models, those that have the wanted ones come first, and each is at one of them at least."""
    def pull(*names: str) -> dict[str, Any]:
        return {"pull": {"results": [{"models": [{"name": name} for name in names]}]}}

    hosts = [f"h{number}" for number in range(10)]
    hostvars = {host: pull("a:latest") for host in hosts} | {"h7": pull("b:latest"), "h8": pull("a:latest", "C:latest")}
    found = _models.model_sources(hosts, hostvars, "h0", ["a", "b", "c"], hosts, "pull")
    assert found[0] == "http://h8:8140" and "http://h7:8140" in found and len(found) <= 4
    assert _models.model_sources(hosts, hostvars, "h0", ["b"], hosts, "pull")[0] == "http://h7:8140"


def test_a_mirror_on_loopback_is_no_source() -> None:
    with pytest.raises(_model.ModelError, match="set ollama_address of h0"):
        _models.model_sources(["h0"], {"h0": {"ansible_host": "127.0.0.1"}}, "h1")
