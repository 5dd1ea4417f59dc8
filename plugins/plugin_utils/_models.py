# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The manifest of models: what the inventory says of them, and what of it is whose.

Each function takes plain inventory values and raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError, duration, suggestion
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import DEFAULT_INSTANCES, instances, model_name, reach_from_elsewhere, url_host

# what makes a model of one's own, besides from
_DEFINITION = ("sha256", "adapters", "template", "system", "license", "parameters", "messages", "quantize")
_OPTIONS = ("name", "state", "warm", "keep_alive", "keep", "from", *_DEFINITION)
_SHA256 = re.compile(r"(sha256:)?[0-9a-f]{64}")
_PROXIES = {"HTTPS_PROXY": "https", "HTTP_PROXY": "http", "NO_PROXY": "bypass"}
DEFAULT_MIRROR_PORT = 8140
DEFAULT_STORE = "/var/lib/ollama/models"
# finished hosts that one asks before the others: more would only be asked when these fail
_PEERS = 3


def manifest(models: Any) -> list[dict[str, Any]]:
    """C(ollama_models), checked: full names, each once, with all their options.

    Args: a list of names, or of mappings with C(name) and options.
    Returns dicts of name, state (present or absent), warm (bool), keep_alive (text; how long a warm model stays), keep (bool), and
    definition: None, or the mapping of what a model of one's own is made from.
    """
    if not isinstance(models, (list, tuple)):
        raise ModelError(f"ollama_models is {models!r}: give a list of names, or of mappings with name")
    result: dict[str, dict[str, Any]] = {}
    for item in models:
        entry = _entry(item)
        # Ollama matches names without case
        key = parse(entry["name"]).key
        if key in result:
            given = item if isinstance(item, str) else item["name"]
            raise ModelError(f"ollama_models has {entry['name']} twice: keep one of {result[key]['name']!r} and {given!r}")
        result[key] = entry
    for entry in result.values():
        _check_base(entry, result)
    return list(result.values())


def _entry(item: Any) -> dict[str, Any]:
    if not isinstance(item, (str, Mapping)):
        raise ModelError(f"ollama_models has {item!r}: give a name in quotes, or a mapping with name")
    given = {"name": item} if isinstance(item, str) else dict(item)
    if "name" not in given:
        raise ModelError(f"ollama_models has an entry without a name: {given!r}")
    name = model_name(given["name"])
    where = f"model {name}:"
    for option in given:
        if option not in _OPTIONS:
            raise ModelError(f"{where} unknown option {option}{suggestion(option, _OPTIONS)}: known are {', '.join(_OPTIONS)}")
    state = given.get("state", "present")
    if state not in ("present", "absent"):
        raise ModelError(f"{where} state is {state!r}: give present or absent")
    return {
        "name": name,
        "state": state,
        "warm": _flag(where, "warm", given),
        "keep_alive": duration(f"{where} keep_alive", given.get("keep_alive", -1)),
        "keep": _flag(where, "keep", given),
        "definition": _definition(where, given),
    }


def _flag(where: str, option: str, given: Mapping[str, Any]) -> bool:
    value = given.get(option, False)
    if not isinstance(value, bool):
        raise ModelError(f"{where} {option} is {value!r}: give true or false")
    return value


def _definition(where: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a model of one's own is made from, checked; None for a model of a registry."""
    if "from" not in given:
        lost = [option for option in _DEFINITION if option in given]
        if lost:
            raise ModelError(f"{where} {lost[0]} belongs to a model of your own: say what it is made from, such as from: llama3.2:1b")
        return None
    base = given["from"]
    if not isinstance(base, str) or not base:
        raise ModelError(f"{where} from is {base!r}: give a model of ollama_models, or the URL or the path of a GGUF file")
    if not is_file(base):
        base = model_name(base)
        if "sha256" in given:
            raise ModelError(f"{where} sha256 is that of a GGUF file, and from is a model: leave it out, the lock pins the model")
    _check_file(f"{where} from", base, given.get("sha256"))
    adapters = given.get("adapters", [])
    if not isinstance(adapters, (list, tuple)) or not all(isinstance(adapter, Mapping) for adapter in adapters):
        raise ModelError(f"{where} adapters is {adapters!r}: give a list of mappings with path, or with url and sha256")
    for adapter in adapters:
        place = adapter.get("url") or adapter.get("path")
        if set(adapter) - {"url", "path", "sha256"} or not is_file(place) or bool(adapter.get("url")) == bool(adapter.get("path")):
            raise ModelError(f"{where} adapters has {dict(adapter)!r}: give either path, or url and sha256")
        _check_file(f"{where} adapters", place, adapter.get("sha256"))
    for option, kinds, what in (
        ("template", str, "text"), ("system", str, "text"), ("license", (str, list), "text, or a list of texts"), ("parameters", Mapping, "a mapping"),
        ("messages", (list, tuple), "a list of mappings with role and content"), ("quantize", str, "a type such as q4_K_M"),
    ):
        if option in given and not isinstance(given[option], kinds):
            raise ModelError(f"{where} {option} is {given[option]!r}: give {what}")
    return {"from": base, **{option: given[option] for option in _DEFINITION if option in given}}


def is_file(place: Any) -> bool:
    """Whether a text is the path or the URL of a file, and not the name of a model."""
    return isinstance(place, str) and place.startswith(("/", "https://", "http://"))


def _check_file(where: str, place: str, sha256: Any) -> None:
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ModelError(f"{where}: sha256 is {sha256!r}: give 64 lower-case hex digits, in quotes")
    if place.startswith("http") and sha256 is None:
        raise ModelError(f"{where} is {place}, which may change: give its sha256")


def _check_base(entry: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    """What a model is made from must be there, and itself not be made from it."""
    seen = [entry["name"]]
    while entry["definition"] and entry["state"] == "present" and not is_file(entry["definition"]["from"]):
        base = models.get(parse(entry["definition"]["from"]).key)
        if base is None or base["state"] == "absent":
            raise ModelError(f"model {entry['name']}: {entry['definition']['from']}, which it is made from, is not in ollama_models: add it there")
        if base["name"] in seen:
            raise ModelError(f"model {seen[0]} is made from itself: {' from '.join([*seen, base['name']])}")
        seen.append(base["name"])
        entry = base


def store_models(
    fleet_instances: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]], host: str = "", hostvars: Mapping[str, Mapping[str, Any]] | None = None,
    hosts: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """What belongs into each store that a host writes to.

    Args: the host's completed instances, the checked manifest, and, for a store that other hosts read, the name of this C(host), the
    C(hostvars) of all, and the C(hosts) of the Ollama group.
    Returns a dict for each store: store (path), url (of the writer), present and absent (names), custom (definitions, each after what it
    is made from), keep (all names that have a place there). What any instance with the store
    serves belongs into it, with what that is made from, in the manifest's order.
    """
    by_key = {parse(model["name"]).key: model for model in models}
    stores: dict[str, dict[str, Any]] = {}
    wanted: dict[str, set[str]] = {}
    for item in [*fleet_instances, *_readers(host, hostvars or {}, hosts)]:
        wanted.setdefault(item["models_dir"], set()).update(_served_keys(item, by_key))
        if item["writer"]:
            stores[item["models_dir"]] = {"store": item["models_dir"], "url": item["url"]}
    absent = [model["name"] for model in by_key.values() if model["state"] == "absent"]
    return [{**store, **_split(by_key, wanted[path]), "absent": absent} for path, store in stores.items()]


def mirror_store(path: str, models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same for the store of a mirror that runs no Ollama: all models of registries, and no server."""
    by_key = {parse(model["name"]).key: model for model in models}
    kept = {key for key, model in by_key.items() if model["definition"] is None and model["state"] == "present"}
    absent = [model["name"] for model in by_key.values() if model["state"] == "absent"]
    return [{"store": path, "url": "", **_split(by_key, kept), "absent": absent}]


def store_proxies(fleet_instances: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The proxy of each store's writer, by the path of the store: https, http and bypass, as far as its environment has them.

    Apart from store_models, since a password may be in it.
    """
    return {
        item["models_dir"]: {option: item["environment"][name] for name, option in _PROXIES.items() if item["environment"].get(name)}
        for item in fleet_instances if item["writer"]
    }


def _served_keys(item: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Keys of the models that an instance serves, with what they are made from."""
    if item["models"] == "all":
        found = [model for model in models.values() if model["state"] == "present"]
    else:
        found = []
        for name in item["models"]:
            model = models.get(parse(model_name(name)).key)
            if model is None or model["state"] == "absent":
                raise ModelError(f"instance {item['name']}: {model_name(name)} is not in ollama_models: add it there, or take it out of the instance")
            found.append(model)
    keys = set()
    for model in found:
        keys.add(parse(model["name"]).key)
        while model["definition"] and not is_file(model["definition"]["from"]):
            model = models[parse(model["definition"]["from"]).key]
            keys.add(parse(model["name"]).key)
    return keys


def _split(models: Mapping[str, Mapping[str, Any]], keys: set[str]) -> dict[str, Any]:
    mine = [model for key, model in models.items() if key in keys]
    custom = [model for model in mine if model["definition"]]
    return {
        "present": [model["name"] for model in mine if not model["definition"]],
        "custom": [{"name": model["name"], **model["definition"]} for model in sorted(custom, key=lambda model: _depth(model, models))],
        "keep": [model["name"] for model in mine],
    }


def _depth(model: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> int:
    depth = 0
    while model["definition"] and not is_file(model["definition"]["from"]):
        model = models[parse(model["definition"]["from"]).key]
        depth += 1
    return depth


def _readers(host: str, hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> list[dict[str, Any]]:
    """The instances of other hosts that read what this host writes: nobody else pulls for them."""
    result = []
    for other in hosts:
        values = hostvars.get(other) if other != host else None
        if values and (values.get("ollama_models_mount") or {}).get("writer") == host:
            store = values.get("ollama_models_dir") or DEFAULT_STORE
            found = instances(values.get("ollama_instances") or DEFAULT_INSTANCES, "127.0.0.1", store, False)
            result += [{**item, "name": f"{item['name']} of {other}"} for item in found if not item["writer"]]
    return result


def warm_models(fleet_instances: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each instance loads after its start: dicts of name (of the instance), unit, url, models (name, keep_alive); no models for most."""
    wanted = [model for model in models if model["warm"] and model["state"] == "present"]
    result = []
    for item in fleet_instances:
        keys = None if item["models"] == "all" else {parse(model_name(name)).key for name in item["models"]}
        mine = [model for model in wanted if keys is None or parse(model["name"]).key in keys]
        result.append({
            "name": item["name"],
            "unit": item["unit"],
            "url": item["url"],
            "models": [{"name": model["name"], "keep_alive": model["keep_alive"]} for model in mine],
        })
    return result


def exporter_instances(
    fleet_instances: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]], lock: Mapping[str, Mapping[str, Any]], has_gpus: bool = False,
) -> list[dict[str, Any]]:
    """What the exporter of a host must know of its instances.

    Args: the completed instances, the checked manifest, the checked lock, and whether the host should have GPUs that Ollama can use.
    Returns dicts of name, url, store (path), gpu_expected (bool), and models: those that the instance should have, name -> the digest
    C(sha256:<hex>) that the lock pins, or None.
    """
    by_key = {parse(model["name"]).key: model for model in models}
    pinned = {parse(name).key: entry["manifest_digest"] for name, entry in lock.items()}
    result = []
    for item in fleet_instances:
        keys = _served_keys(item, by_key)
        result.append({
            "name": item["name"],
            "url": item["url"],
            "store": item["models_dir"],
            # whoever names GPUs counts on them
            "gpu_expected": item["gpus"] != "none" and (has_gpus or item["gpus"] != "all"),
            # one that is made here has no digest that anybody could know before
            "models": {model["name"]: None if model["definition"] else pinned.get(key) for key, model in by_key.items() if key in keys},
        })
    return result


def model_sources(
    mirrors: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], host: str, wanted: Iterable[str] = (), playing: Iterable[str] = (), result: str = "",
) -> list[str]:
    """Where a host can get blobs from inside the fleet, best first, as URLs.

    Args: the hosts of the group C(mirror), the C(hostvars) of all, this C(host), the names that are C(wanted), the hosts of the running play,
    and the name of the variable that holds the C(result) of the pull on those of them that have all their models by now.
    A few finished hosts come first, those that have most of it, and of these not the same for every host, so that no one of them gives to all.
    Then come the caches (pull_through), which fetch what they lack, then mirrors that are not in the play: they may have it. Mirrors that are
    still to be filled are left out.
    """
    finished: dict[str, set[str]] = {}
    caches, others = [], []
    for mirror in mirrors:
        values = hostvars[mirror]
        if mirror == host:
            continue
        url = mirror_url(mirror, values)
        if (values.get("ollama_mirror_mode") or "store") == "pull_through":
            caches.append(url)
        elif (values.get(result) or {"failed": True}).get("failed") is not True:
            finished[url] = _pulled(values[result])
        elif mirror not in set(playing):
            others.append(url)

    def spread(urls: Iterable[str]) -> list[str]:
        return sorted(urls, key=lambda url: hashlib.sha256(f"{host} {url}".encode()).digest())

    return [*_peers(spread(finished), finished, {parse(name).key for name in wanted}), *spread(caches), *spread(others)[:_PEERS]]


def _pulled(result: Mapping[str, Any]) -> set[str]:
    """Keys of the models that a pull brought or found."""
    return {parse(model["name"]).key for item in result.get("results") or [] for model in item.get("models") or []}


def _peers(urls: list[str], has: Mapping[str, set[str]], wanted: set[str]) -> list[str]:
    """Some of the finished hosts, so that each wanted model is at one of them at least where anybody has it."""
    best = sorted(urls, key=lambda url: -len(has[url] & wanted))
    found = best[:_PEERS]
    for url in best[_PEERS:]:
        if has[url] & wanted - set().union(*(has[peer] for peer in found)):
            found.append(url)
    return found


def mirror_url(mirror: str, values: Mapping[str, Any]) -> str:
    """The address that the other hosts of the fleet ask a mirror at."""
    address = values.get("ollama_mirror_listen_address") or values.get("ollama_management_address") or reach_from_elsewhere(mirror, values)
    return f"http://{url_host(address)}:{values.get('ollama_mirror_port') or DEFAULT_MIRROR_PORT}"


def resolved_models(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each tag that was looked up, from the results of a loop of M(gpufleet.ollama.ollama_model): what it means now."""
    models = [model for result in results for model in result.get("models") or []]
    lines = [f"{model['name']} is sha256:{model['digest']} now, and not locked" for model in models if model["source"] == "resolved"]
    return list(dict.fromkeys(lines))
