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
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import (
    ModelError,
    environment,
    extra_environment,
    holds_secret,
    integer,
    suggestion,
)

DEFAULT_PORT = 11434
DEFAULT_INSTANCES = [{"name": "default"}]
FLEET_GROUPS = ("ollama", "gateway", "mirror", "monitoring", "logs")
# what Prometheus, the collection and its exporters put on series themselves
TAKEN_LABELS = ("host", "role", "job", "instance", "ollama_instance", "model", "le", "quantile", "alertname", "severity")

_INSTANCE_OPTIONS = (
    "name", "port", "gpus", "models", "models_dir", "environment", "extra_environment", "memory_max", "cpu_quota", "tasks_max", "weight", "backup",
)
_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SIZE = re.compile(r"([0-9]+)([KMGT]?)")
# two underscores in front are Prometheus' own
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_GPU = re.compile(r"(GPU|MIG)-[0-9A-Za-z-]+(/[0-9]+/[0-9]+)?")
# what splits, quotes or expands a path in a unit file
_UNIT_UNSAFE = re.compile(r"[\s%\"'\\\x00-\x1f\x7f-\x9f]")
# ProtectHome= and PrivateTmp= of the units
_HIDDEN = re.compile(r"/(home|root|run/user|tmp|var/tmp)(/.*)?")
# the first part by itself, the second with all that is in it
_SYSTEM = re.compile(r"/(usr(/local|/share)?|var(/lib)?|opt(/ollama)?)?|/(etc|bin|sbin|lib|lib32|lib64|boot|dev|proc|sys|run)(/.*)?")
_NETWORK_FILESYSTEMS = (
    "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "s3fs", "smb3", "smbfs", "sshfs"
)
_MOUNT_OPTIONS = ("src", "fstype", "opts", "writer")

_NVIDIA_CONTROLS = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_NVIDIA_CLASSES = ("char-nvidia*", "char-nvidia-uvm", "char-nvidia-caps")


def model_name(name: Any) -> str:
    """The name of a model with its tag, as Ollama shows it."""
    try:
        return display_name(name)
    except ValueError as error:
        raise ModelError(str(error)) from None


def listen_address(host: str, gateways: list[str], explicit: str | None, default_ipv4: str | None) -> str:
    """The address that the instances of a host listen on.

    Loopback when the host is its own and only gateway; else the given address; else the host's default IPv4 address,
    as long as it is a private one. Never all addresses: Ollama has no authentication of its own.
    """
    own_gateway = gateways in ([], [host])
    if explicit:
        address = _checked_address("ollama_listen_address", host, explicit)
        if ipaddress.ip_address(address).is_loopback and not own_gateway:
            others = ", ".join(gateway for gateway in gateways if gateway != host)
            raise ModelError(f"ollama_listen_address of {host} is {address}, where {others} cannot reach it: give a private address, or leave it out")
        return address
    if own_gateway:
        return "127.0.0.1"
    return _private_address("ollama_listen_address", host, default_ipv4)


def management_address(host: str, explicit: str | None, default_ipv4: str | None) -> str:
    """The address that the exporters and Prometheus of a host listen on: the given one, or the private default IPv4 address."""
    if explicit:
        return _checked_address("ollama_management_address", host, explicit)
    return _private_address("ollama_management_address", host, default_ipv4)


def _checked_address(variable: str, host: str, text: str) -> str:
    try:
        # a number would be taken for an address too
        address = ipaddress.ip_address(str(text))
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


def instances(raw: Any, address: str, models_dir: str = "", store_writer: bool = True) -> list[dict[str, Any]]:
    """C(ollama_instances) of one host, checked and completed.

    Args: what the inventory says, the C(address) that the host's instances listen on, the host's store (without it no store is
    checked), and whether this host may write to it.
    Instances with one store share it. The first of them is its only writer: a second one would remove what the first is pulling.
    Returns dicts of name, port, address, url, unit, gpus, environment (variable -> text), models, models_dir, writer (bool), weight (count),
    backup (bool or None) and the limits memory_max (bytes, or with K, M, G, T), cpu_quota (percent, 100 is one core), tasks_max (count), each possibly None.
    """
    if not isinstance(raw, (list, tuple)):
        raise ModelError(f"ollama_instances is {raw!r}: give a list of mappings with name")
    result: list[dict[str, Any]] = []
    host_store = _store("ollama_models_dir", models_dir) if models_dir else ""
    for item in raw:
        name = _instance_name(item)
        where = f"instance {name}:"
        port = _port(where, item.get("port", DEFAULT_PORT))
        for other in result:
            if other["name"] == name:
                raise ModelError(f"ollama_instances has two instances named {name}: rename one")
            if other["port"] == port:
                raise ModelError(f"instances {other['name']} and {name} both have port {port}: give each its own")
        store = item.get("models_dir") or host_store
        if host_store:
            store = _store(f"{where} models_dir", store)
        writer = not any(other["models_dir"] == store for other in result) and (store_writer or store != host_store)
        gpus = _gpus(where, item.get("gpus", "all"))
        # always with the port: Ollama would take 80 for a URL without one
        variables = {"OLLAMA_HOST": f"{url_host(address)}:{port}", "OLLAMA_MODELS": store, "OLLAMA_NO_CLOUD": "1", **_visible_devices(gpus)}
        result.append({
            "name": name,
            "port": port,
            "address": address,
            "url": f"http://{url_host(address)}:{port}",
            "unit": f"ollama@{name}.service",
            "gpus": gpus,
            "environment": _variables(where, item, variables, store, writer),
            "models": _served(where, item.get("models", "all")),
            "models_dir": store,
            "writer": writer,
            "weight": integer(f"{where} weight", item.get("weight", 1), 1),
            "backup": _backup(where, item.get("backup")),
            **_limits(where, item),
        })
    if not result:
        raise ModelError("ollama_instances is empty: name at least one instance, or take the host out of the group")
    if host_store:
        _refuse_nested(host_store, result)
    return result


def _instance_name(item: Any) -> str:
    if not isinstance(item, Mapping):
        raise ModelError(f"ollama_instances has {item!r}: give a mapping such as {{name: default}}")
    name = item.get("name")
    if not isinstance(name, str) or not _INSTANCE_NAME.fullmatch(name):
        raise ModelError(f"ollama_instances has the name {name!r}: give lower-case letters, digits and -, at most 32")
    for option in item:
        if option not in _INSTANCE_OPTIONS:
            known = ", ".join(_INSTANCE_OPTIONS)
            raise ModelError(f"instance {name}: unknown option {option}{suggestion(option, _INSTANCE_OPTIONS)}: known are {known}")
    return name


def _port(where: str, value: Any) -> int:
    port = integer(f"{where} port", value, 1)
    if port > 65535:
        raise ModelError(f"{where} port is {port}: give a number up to 65535")
    if port < 1024:
        raise ModelError(f"{where} port is {port}, which only root may open and the unit does not run as root: choose 1024 or above")
    return port


def _variables(where: str, item: Mapping[str, Any], derived: Mapping[str, str], store: str, writer: bool) -> dict[str, str]:
    result = {**derived, **environment(where, item.get("environment"))}
    if not writer:
        if result.get("OLLAMA_NOPRUNE") == "0":
            raise ModelError(
                f"{where} environment.noprune is false, but the writer of {store} is another instance, whose pulls this one could remove: "
                "take it out, or give the instance a models_dir of its own"
            )
        result["OLLAMA_NOPRUNE"] = "1"
    return {**result, **extra_environment(where, item.get("extra_environment"), result)}


def _limits(where: str, item: Mapping[str, Any]) -> dict[str, Any]:
    memory_max, cpu_quota, tasks_max = (item.get(option) for option in ("memory_max", "cpu_quota", "tasks_max"))
    if memory_max is not None:
        size = None if isinstance(memory_max, bool) else _SIZE.fullmatch(str(memory_max))
        if not size or int(size[1]) == 0:
            raise ModelError(f"{where} memory_max is {memory_max!r}: give bytes, or a number with K, M, G or T such as 64G")
        memory_max = size[0]
    return {
        "memory_max": memory_max,
        "cpu_quota": cpu_quota if cpu_quota is None else integer(f"{where} cpu_quota", cpu_quota, 1, ", in percent of one core"),
        "tasks_max": tasks_max if tasks_max is None else integer(f"{where} tasks_max", tasks_max, 16, ", since with fewer threads the server dies at start"),
    }


def _backup(where: str, value: Any) -> bool | None:
    if value not in (None, True, False):
        raise ModelError(f"{where} backup is {value!r}: give true or false")
    return value


def _served(where: str, value: Any) -> Any:
    if value == "all":
        return value
    # a text would be taken for a list of letters
    if not isinstance(value, (list, tuple)):
        raise ModelError(f"{where} models is {value!r}: give all, or a list of names from ollama_models")
    for name in value:
        try:
            model_name(name)
        except ModelError as error:
            raise ModelError(f"{where} models: {error}") from None
    return value


def _store(option: str, path: Any) -> str:
    """The directory of a store, checked, in its shortest form."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise ModelError(f"{option} is {path!r}: give an absolute path such as /srv/ollama/models")
    if _UNIT_UNSAFE.search(path):
        raise ModelError(f"{option} is {path!r}, which cannot stand in a unit file: choose a path without blanks, %, quotes and backslashes")
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise ModelError(f"{option} is {path}: write the path without . and ..")
    result = f"/{'/'.join(parts)}"
    if _HIDDEN.fullmatch(result):
        raise ModelError(f"{option} is {result}, which the sandbox of the units hides: choose a directory such as /srv/ollama/models")
    if _SYSTEM.fullmatch(result):
        raise ModelError(f"{option} is {result}, a directory of the system that would be given to Ollama: choose one such as /srv/ollama/models")
    return result


def _refuse_nested(host_store: str, fleet_instances: list[dict[str, Any]]) -> None:
    """Whoever empties, mounts or copies the outer of two nested stores does it to the inner one too."""
    options = {f"instance {item['name']}: models_dir": item["models_dir"] for item in fleet_instances if item["models_dir"] != host_store}
    options["ollama_models_dir"] = host_store
    for option, inner in options.items():
        for other, outer in options.items():
            if inner.startswith(f"{outer}/"):
                raise ModelError(f"{option} is {inner}, inside {outer} ({other}): give each store a directory outside the other")


def _mount(mount: Any) -> dict[str, str]:
    """C(ollama_models_mount) with all its options, checked; not empty."""
    if not isinstance(mount, Mapping):
        raise ModelError(f"ollama_models_mount is {mount!r}: give a mapping with src and fstype")
    for option in mount:
        if option not in _MOUNT_OPTIONS:
            raise ModelError(f"ollama_models_mount has the unknown option {option}{suggestion(option, _MOUNT_OPTIONS)}: known are {', '.join(_MOUNT_OPTIONS)}")
    result = {"opts": "defaults", **mount, "writer": mount.get("writer") or ""}
    for option in ("src", "fstype", "opts"):
        value = result.get(option)
        if not isinstance(value, str) or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", value):
            # a blank would begin the next column of /etc/fstab
            raise ModelError(f"ollama_models_mount: {option} is {value!r}: give text without blanks, as in /etc/fstab")
    if "ro" in result["opts"].split(","):
        raise ModelError("ollama_models_mount has ro in opts, so that no host could pull: leave it out, the hosts that only read get it by themselves")
    return result


def _is_network(mount: Mapping[str, str]) -> bool:
    return mount["fstype"].removeprefix("fuse.") in _NETWORK_FILESYSTEMS


def store_writer(host: str, mount: Any, hosts: Iterable[str]) -> bool:
    """Whether a host may write to its store, C(ollama_models_dir).

    Args: the C(host), C(ollama_models_mount) of it (empty: no mount, the store is the host's own), and the C(hosts) of the Ollama group.
    Ollama has no locks on a store, so a filesystem that several hosts mount needs exactly one of them as its writer.
    """
    if not mount:
        return True
    checked = _mount(mount)
    writer = checked["writer"]
    if not writer and _is_network(checked):
        raise ModelError(
            f"ollama_models_mount has {checked['fstype']} and no writer, and two hosts that write to one store destroy each other's pulls: "
            "set writer to the inventory name of the only host that pulls"
        )
    if writer and writer not in hosts:
        hint = suggestion(writer, hosts)
        raise ModelError(f"ollama_models_mount has the writer {writer!r}, which is no host of the group ollama{hint}: give an inventory name")
    return writer in ("", host)


def mount_options(mount: Any, is_writer: bool) -> str:
    """The options that C(ollama_models_mount) is mounted with: C(_netdev) for a network filesystem, C(ro) on a host that only reads."""
    checked = _mount(mount)
    options = [option for option in checked["opts"].split(",") if is_writer or option != "rw"]
    added = ["_netdev"] if _is_network(checked) else []
    return ",".join(dict.fromkeys([*options, *added, *([] if is_writer else ["ro"])]))


def listeners(fleet_instances: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the completed instances of a host listen on, in the form that module M(gpufleet.ollama.ollama_port_check) takes."""
    return [
        {"port": item["port"], "address": item["address"], "unit": "ollama@*.service", "option": f"the port of instance {item['name']} in ollama_instances"}
        for item in fleet_instances
    ]


def _gpus(where: str, value: Any) -> str | list[str]:
    if value in ("all", "none"):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(gpu, str) and _GPU.fullmatch(gpu) for gpu in value):
        # an index can mean another card after a reboot
        raise ModelError(f"{where} gpus is {value!r}: give all, none, or a list of GPU-… or MIG-… UUIDs as nvidia-smi -L shows them")
    for gpu in value:
        if value.count(gpu) > 1:
            raise ModelError(f"{where} gpus has {gpu} twice: keep one")
    return value


def _visible_devices(gpus: str | list[str]) -> dict[str, str]:
    """Variables that show an instance its GPUs only (docs/gpu.mdx). Vulkan would find the others on its own."""
    if gpus == "all":
        return {}
    mask = "-1" if gpus == "none" else ",".join(gpus)
    return {"CUDA_VISIBLE_DEVICES": mask, "GGML_VK_VISIBLE_DEVICES": "-1"}


def url_host(address: str) -> str:
    """An address as it stands in a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def reach(host: str, hostvars: Mapping[str, Any]) -> str:
    """The name or address that other hosts of the fleet reach a host by."""
    return hostvars.get("ollama_address") or hostvars.get("ansible_host") or host


def reach_from_elsewhere(host: str, hostvars: Mapping[str, Any]) -> str:
    """The same, for another host: loopback would be that host itself."""
    address = reach(host, hostvars)
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = address == "localhost"
    if loopback:
        raise ModelError(f"the other hosts of the fleet cannot reach {host} by {address}: set ollama_address of {host} in the inventory")
    return address


def scrape_targets(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], port_option: str, default_port: int, own_host: str, own_address: str
) -> list[dict[str, Any]]:
    """The hosts of one scrape job in Prometheus' file_sd form: a target each, labelled with the host's inventory name (host), the groups of the
    fleet that it is in (role), and what C(ollama_monitoring_labels) of the host says.

    The port is the host's C(port_option) in the inventory, or else C(default_port): another role's default is not to be seen.
    Prometheus' own host is asked at C(own_address), the one its exporters listen on: its name may mean loopback there.
    """
    result = []
    for host in hosts:
        values = hostvars[host]
        address = own_address if host == own_host else (values.get("ollama_management_address") or reach_from_elsewhere(host, values))
        labels = {**_own_labels(host, values.get("ollama_monitoring_labels") or {}), "host": host}
        role = "+".join(group for group in FLEET_GROUPS if group in (values.get("group_names") or []))
        if role:
            labels["role"] = role
        result.append({"targets": [f"{url_host(address)}:{values.get(port_option) or default_port}"], "labels": labels})
    return result


def _own_labels(host: str, given: Any) -> dict[str, str]:
    where = f"ollama_monitoring_labels of {host}"
    if not isinstance(given, Mapping):
        raise ModelError(f"{where} is {given!r}: give names and values such as {{team: search}}")
    for name in given:
        if not _LABEL.fullmatch(str(name)) or name in TAKEN_LABELS:
            raise ModelError(f"{where} has {name!r}: give a name of letters, digits and _, other than {', '.join(TAKEN_LABELS)}")
    return {str(name): str(value) for name, value in given.items()}


def config_id(parts: Iterable[Any]) -> str:
    """A short name for a configuration: 16 hex digits that change when any part of it does."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()[:16]


def service_units(fleet_instances: Iterable[Mapping[str, Any]], parts: list[Any], gpus: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The completed instances of a host, each with its devices and with the id of the configuration that its unit is to run with.

    Args: C(parts) which all instances share (the text of the unit), and what module M(gpufleet.ollama.gpu_info) says of the host: a mapping
    of C(gpus), a list of uuid (possibly empty), minor and memory_bytes, and C(nodes), a list of path and group. Without it there are none yet.
    Adds device_rules (values of systemd's DeviceAllow=), device_groups (groups that own these nodes, root left out), secret (whether the
    environment must not be shown) and config_id, which covers C(parts) and everything that the files of the instance say.
    """
    result = []
    for item in fleet_instances:
        rules = _device_rules(item, gpus or {})
        secret = holds_secret(item["environment"])
        unit = {**item, "device_rules": rules, "device_groups": _device_groups(item, rules, gpus or {}), "secret": secret}
        written = ("environment", "memory_max", "cpu_quota", "tasks_max", "models_dir", "writer", "device_rules", "device_groups")
        result.append({**unit, "config_id": config_id([*parts, *(unit[key] for key in written)])})
    return result


def _device_rules(item: Mapping[str, Any], gpus: Mapping[str, Any]) -> list[str]:
    """What systemd lets the processes of an instance open.

    Nodes that a driver makes later are named all the same: systemd passes over the ones that are missing, and a second run finds no
    difference. For single GPUs only their own nodes are named: a class would open the others.
    """
    if item["gpus"] == "none":
        return []
    cards = [gpu for gpu in gpus.get("gpus") or [] if gpu.get("vendor", "nvidia") == "nvidia"]
    by_node = (re.fullmatch(r"/dev/nvidia([0-9]+)", node["path"]) for node in gpus.get("nodes") or [])
    every_minor = {*(gpu.get("minor") for gpu in cards), *(int(match[1]) for match in by_node if match)}
    if item["gpus"] == "all":
        return _rules([*_NVIDIA_CONTROLS, "/dev/kfd"], every_minor, [*_NVIDIA_CLASSES, "char-drm", "char-kfd"])
    minors = {gpu["uuid"]: gpu.get("minor") for gpu in cards if gpu["uuid"]}
    mine = {minors.get(uuid) for uuid in item["gpus"]}
    for uuid in item["gpus"]:
        # a driver that has not woken a card yet does not tell its UUID
        if uuid.startswith("GPU-") and uuid not in minors and len(minors) == len(cards) > 0:
            raise ModelError(f"instance {item['name']}: gpus has {uuid}, which the host does not have: give some of {', '.join(sorted(minors))}")
    if any(uuid.startswith("MIG-") for uuid in item["gpus"]) or cards and None in mine:
        # only the driver knows the nodes of a MIG device; CUDA_VISIBLE_DEVICES alone keeps the others away
        return _rules(_NVIDIA_CONTROLS, every_minor, _NVIDIA_CLASSES)
    return _rules(_NVIDIA_CONTROLS, mine, [])


def _rules(controls: Iterable[str], minors: Iterable[int | None], classes: Iterable[str]) -> list[str]:
    cards = [f"/dev/nvidia{minor}" for minor in sorted(minor for minor in minors if minor is not None)]
    return [f"{device} rw" for device in (*controls, *cards, *classes)]


def _device_groups(item: Mapping[str, Any], rules: list[str], gpus: Mapping[str, Any]) -> list[str]:
    """The groups of the nodes that the rules let the instance open."""
    by_class = "char-nvidia* rw" in rules
    groups = {
        node.get("group") for node in gpus.get("nodes") or []
        if f"{node['path']} rw" in rules or by_class and (item["gpus"] == "all" or node["path"].startswith("/dev/nvidia"))
    }
    return sorted(group for group in groups if group and group != "root")
