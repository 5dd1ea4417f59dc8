# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The data model of a fleet: what the inventory says, checked and completed.

Everything that is derived (ports, units, URLs, upstreams, scrape targets) is computed here and nowhere else.
Each function takes plain inventory values and raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name

DEFAULT_PORT = 11434
DEFAULT_INSTANCES = [{"name": "default"}]

# one Go duration (time.ParseDuration), or whole seconds, as OLLAMA_KEEP_ALIVE takes them (envconfig/config.go)
_DURATION = re.compile(r"^-?(\d+|(\d+(\.\d+)?(ns|us|ms|s|m|h))+)$")
_INSTANCE_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")
_SIZE = re.compile(r"^\d+[KMGT]?$")
_GPU = re.compile(r"^(GPU|MIG)-[0-9A-Za-z-]+(/[0-9]+/[0-9]+)?$")


class ModelError(ValueError):
    """The inventory says something that cannot be."""


def _integer(key: str, value: Any, minimum: int) -> str:
    try:
        number = int(str(value))
    except ValueError:
        raise ModelError(f"{key} is {value!r}: give a whole number of at least {minimum}") from None
    if isinstance(value, bool) or number < minimum:
        raise ModelError(f"{key} is {value!r}: give a whole number of at least {minimum}")
    return str(number)


def _duration(key: str, value: Any) -> str:
    text = str(value)
    if isinstance(value, bool) or not _DURATION.match(text):
        # Ollama would silently take 5m for it
        raise ModelError(f"{key} is {value!r}: give a Go duration such as 30m or 24h, whole seconds, or -1 for ever")
    return text


def _boolean(key: str, value: Any) -> str:
    if str(value).lower() in ("true", "1"):
        return "1"
    if str(value).lower() in ("false", "0"):
        return "0"
    # Ollama reads every other word, "no" and "off" too, as true
    raise ModelError(f"{key} is {value!r}: give true or false")


def _origins(key: str, value: Any) -> str:
    entries = value.split(",") if isinstance(value, str) else list(value)
    for entry in entries:
        # an entry with no scheme and no *, or with two *, makes Ollama panic at start
        if ("://" not in entry and "*" not in entry) or entry.count("*") > 1 or "," in entry:
            raise ModelError(f"{key} has {entry!r}: give origins such as https://chat.example.org, with at most one * in each")
    return ",".join(entries)


def _cache_type(key: str, value: Any) -> str:
    if value not in ("f16", "q8_0", "q4_0"):
        raise ModelError(f"{key} is {value!r}: give f16, q8_0 or q4_0")
    return str(value)


# option of an instance's environment -> (variable, check). Meanings: docs of role ollama
_ENVIRONMENT = {
    "num_parallel": ("OLLAMA_NUM_PARALLEL", lambda k, v: _integer(k, v, 1)),
    "max_loaded_models": ("OLLAMA_MAX_LOADED_MODELS", lambda k, v: _integer(k, v, 0)),
    "max_queue": ("OLLAMA_MAX_QUEUE", lambda k, v: _integer(k, v, 1)),
    "context_length": ("OLLAMA_CONTEXT_LENGTH", lambda k, v: _integer(k, v, 0)),
    "keep_alive": ("OLLAMA_KEEP_ALIVE", _duration),
    "load_timeout": ("OLLAMA_LOAD_TIMEOUT", _duration),
    "flash_attention": ("OLLAMA_FLASH_ATTENTION", _boolean),
    "kv_cache_type": ("OLLAMA_KV_CACHE_TYPE", _cache_type),
    "debug": ("OLLAMA_DEBUG", _boolean),
    "no_cloud": ("OLLAMA_NO_CLOUD", _boolean),
    "origins": ("OLLAMA_ORIGINS", _origins),
}


def model_name(name: Any) -> str:
    """The name of a model with its tag, as Ollama shows it."""
    try:
        return display_name(name)
    except ValueError as error:
        raise ModelError(str(error)) from None


def manifest(models: Iterable[Any]) -> list[dict[str, Any]]:
    """C(ollama_models), checked: full names, each once.

    Source: an item is a name or a mapping with C(name) and options.
    """
    seen: dict[str, str] = {}
    result = []
    for item in models:
        entry = {"name": item} if isinstance(item, str) else dict(item)
        if "name" not in entry:
            raise ModelError(f"ollama_models has an entry without a name: {entry!r}")
        name = model_name(entry["name"])
        # Ollama matches names without case
        if name.lower() in seen:
            raise ModelError(f"ollama_models has {name} twice: keep one of {seen[name.lower()]!r} and {entry['name']!r}")
        seen[name.lower()] = entry["name"]
        result.append({"warm": False, **entry, "name": name})
    return result


def listen_address(host: str, gateways: list[str], explicit: str | None, default_ipv4: str | None) -> str:
    """The address that the instances of a host listen on.

    Loopback when the host is its own and only gateway; else the given address; else the host's default IPv4 address,
    as long as it is a private one. Never all addresses: Ollama has no authentication of its own.
    """
    if explicit:
        return _checked_address("ollama_listen_address", host, explicit)
    if gateways in ([], [host]):
        return "127.0.0.1"
    return _private_address("ollama_listen_address", host, default_ipv4)


def management_address(host: str, explicit: str | None, default_ipv4: str | None) -> str:
    """The address that the exporters and Prometheus of a host listen on: the given one, or the private default IPv4 address."""
    if explicit:
        return _checked_address("ollama_management_address", host, explicit)
    return _private_address("ollama_management_address", host, default_ipv4)


def _checked_address(variable: str, host: str, text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ModelError(f"{variable} of {host} is {text!r}: give an IP address of the host") from None
    if address.is_unspecified:
        raise ModelError(f"{variable} of {host} is {text}, that is every network the host is in: give one private address")
    return text


def _private_address(variable: str, host: str, default_ipv4: str | None) -> str:
    if not default_ipv4:
        raise ModelError(f"{host} has no default IPv4 address: set {variable} to the private address that the fleet reaches it by")
    if not ipaddress.ip_address(default_ipv4).is_private:
        raise ModelError(f"the default IPv4 address of {host}, {default_ipv4}, is a public one: set {variable} to a private address")
    return default_ipv4


def instances(raw: Iterable[Mapping[str, Any]], address: str, models_dir: str = "") -> list[dict[str, Any]]:
    """C(ollama_instances) of one host, checked and completed.

    Args: what the inventory says, the C(address) that the host's instances listen on, and their store.
    The first instance is the store's only writer; the others leave its pruning alone.
    Returns dicts of name, port, address, url, unit, gpus, environment (variable -> text), models and the limits
    memory_max (bytes, or with K, M, G, T), cpu_quota (percent, 100 is one core), tasks_max (count), each possibly None.
    """
    result: list[dict[str, Any]] = []
    if re.match(r"^/(home|root|run/user|tmp|var/tmp)(/|$)", models_dir):
        raise ModelError(f"ollama_models_dir is {models_dir}, which the sandbox of the units hides: choose a directory such as /srv/ollama/models")
    for item in raw:
        name = item.get("name")
        if not isinstance(name, str) or not _INSTANCE_NAME.match(name):
            raise ModelError(f"ollama_instances has the name {name!r}: give lower-case letters, digits and -, at most 32")
        where = f"instance {name}:"
        unknown = set(item) - {"name", "port", "gpus", "memory_max", "cpu_quota", "tasks_max", "environment", "models"}
        if unknown:
            raise ModelError(f"{where} unknown option {', '.join(sorted(unknown))}")
        port = int(_integer(f"{where} port", item.get("port", DEFAULT_PORT), 1))
        if port > 65535:
            raise ModelError(f"{where} port is {port}: give a number up to 65535")
        for other in result:
            if other["name"] == name:
                raise ModelError(f"ollama_instances has two instances named {name}: rename one")
            if other["port"] == port:
                raise ModelError(f"instances {other['name']} and {name} both have port {port}: give each its own")
        memory_max = item.get("memory_max")
        if memory_max is not None and not _SIZE.match(str(memory_max)):
            raise ModelError(f"{where} memory_max is {memory_max!r}: give bytes, or a number with K, M, G or T such as 64G")
        result.append({
            "name": name,
            "port": port,
            "address": address,
            "url": f"http://{url_host(address)}:{port}",
            "unit": f"ollama@{name}.service",
            "gpus": (gpus := _gpus(where, item.get("gpus", "all"))),
            "environment": {
                "OLLAMA_HOST": f"{url_host(address)}:{port}",
                "OLLAMA_MODELS": models_dir,
                "OLLAMA_NO_CLOUD": "1",
                **({"OLLAMA_NOPRUNE": "1"} if result else {}),
                **_visible_devices(gpus),
                **_environment(where, item.get("environment") or {}),
            },
            "models": item.get("models", "all"),
            "memory_max": memory_max,
            "cpu_quota": item.get("cpu_quota"),
            "tasks_max": item.get("tasks_max"),
        })
    if not result:
        raise ModelError("ollama_instances is empty: name at least one instance, or take the host out of the group")
    return result


def listeners(fleet_instances: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the completed instances of a host listen on, in the form that module M(gpufleet.ollama.ollama_port_check) takes."""
    return [
        {"port": item["port"], "address": item["address"], "unit": "ollama@*.service", "option": f"the port of instance {item['name']} in ollama_instances"}
        for item in fleet_instances
    ]


def models_of(fleet_instances: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the manifest's models that any of a host's completed instances serves, in the manifest's order."""
    wanted: set[str] = set()
    names = [model["name"] for model in models]
    for item in fleet_instances:
        if item["models"] == "all":
            return names
        for name in map(model_name, item["models"]):
            if name not in names:
                raise ModelError(f"instance {item['name']}: {name} is not in ollama_models: add it there, or take it out of the instance")
            wanted.add(name)
    return [name for name in names if name in wanted]


def _gpus(where: str, value: Any) -> str | list[str]:
    if value in ("all", "none"):
        return value
    if isinstance(value, list) and value and all(isinstance(gpu, str) and _GPU.match(gpu) for gpu in value):
        return value
    # an index can mean another card after a reboot
    raise ModelError(f"{where} gpus is {value!r}: give all, none, or a list of GPU-… or MIG-… UUIDs as nvidia-smi -L shows them")


def _visible_devices(gpus: str | list[str]) -> dict[str, str]:
    """Variables that show an instance its GPUs only (docs/gpu.mdx). Vulkan would find the others on its own."""
    if gpus == "all":
        return {}
    mask = "-1" if gpus == "none" else ",".join(gpus)
    return {"CUDA_VISIBLE_DEVICES": mask, "GGML_VK_VISIBLE_DEVICES": "-1"}


def _environment(where: str, given: Mapping[str, Any]) -> dict[str, str]:
    result = {}
    for key, value in given.items():
        if key not in _ENVIRONMENT:
            raise ModelError(f"{where} environment has the unknown option {key}: known are {', '.join(sorted(_ENVIRONMENT))}")
        variable, check = _ENVIRONMENT[key]
        result[variable] = check(f"{where} environment.{key}", value)
    return result


def url_host(address: str) -> str:
    """An address as it stands in a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def reach(host: str, hostvars: Mapping[str, Any]) -> str:
    """The name or address that other hosts of the fleet reach a host by."""
    return hostvars.get("ollama_address") or hostvars.get("ansible_host") or host


def _reach_from_elsewhere(host: str, hostvars: Mapping[str, Any]) -> str:
    """The same, for another host: loopback would be that host itself."""
    address = reach(host, hostvars)
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = address == "localhost"
    if loopback:
        raise ModelError(f"the other hosts of the fleet cannot reach {host} by {address}: set ollama_address of {host} in the inventory")
    return address


def upstreams(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], gateway: str, own_address: str) -> list[dict[str, Any]]:
    """Every Ollama instance that a gateway balances over.

    Args: C(hosts) of the Ollama group, the C(hostvars) of all, the name of this C(gateway), and the address that its own
    instances listen on, if it has any.
    Returns dicts of host, instance, server (C(address:port) as nginx takes it), models.
    """
    result = []
    for host in hosts:
        values = hostvars[host]
        address = own_address if host == gateway else (values.get("ollama_listen_address") or _reach_from_elsewhere(host, values))
        for item in instances(values.get("ollama_instances") or DEFAULT_INSTANCES, address):
            result.append({
                "host": host,
                "instance": item["name"],
                "server": f"{url_host(address)}:{item['port']}",
                "models": item["models"],
            })
    return result


def scrape_targets(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], port_option: str, default_port: int, own_host: str, own_address: str
) -> list[dict[str, Any]]:
    """The hosts of one scrape job in Prometheus' file_sd form: a target each, labelled with the host's inventory name.

    The port is the host's C(port_option) in the inventory, or else C(default_port): another role's default is not to be seen.
    Prometheus' own host is asked at C(own_address), the one its exporters listen on: its name may mean loopback there.
    """
    result = []
    for host in hosts:
        values = hostvars[host]
        address = own_address if host == own_host else (values.get("ollama_management_address") or _reach_from_elsewhere(host, values))
        result.append({"targets": [f"{url_host(address)}:{values.get(port_option) or default_port}"], "labels": {"host": host}})
    return result


def config_id(parts: Iterable[Any]) -> str:
    """A short name for a configuration: 16 hex digits that change when any part of it does."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()[:16]


def service_units(fleet_instances: Iterable[Mapping[str, Any]], parts: list[Any]) -> list[dict[str, Any]]:
    """The completed instances of a host, each with the id of the configuration that its unit is to run with.

    The id covers C(parts), which all instances share (the release, the text of the unit), and the instance's environment and limits.
    """
    return [
        {**item, "config_id": config_id([*parts, item["environment"], item["memory_max"], item["cpu_quota"], item["tasks_max"]])}
        for item in fleet_instances
    ]
