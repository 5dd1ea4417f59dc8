# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The checks of an audit. Each takes a fleet and yields its evidence; which row of which list each belongs to is said in C(_audit)."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import (
    NOT_REACHED,
    Finding,
    Fleet,
    Host,
    Missing,
    address_of,
    bytes_text,
    on,
    service_at,
)

# how exposed a unit of the collection may be, of 10; systemd calls less than 5.1 medium, less than 2 ok
MAX_EXPOSURE = 4.0
# an ACME authority renews 30 days before the end, and the role its own by the same
MIN_CERTIFICATE_DAYS = 14
MAX_KEY_DAYS = 365
MIN_FREE = 0.05
MAX_BACKUP_HOURS = 36
# as the alert BackupDrillTooOld says
MAX_DRILL_DAYS = 40
# of weights: what a context and the program itself need beside them
ROOM_BESIDE_WEIGHTS = 1.1
DAY = 86400

OLLAMA_UNIT = r"ollama@.*\.service"
_SERVERS = r"(ollama@.*|ollama_exporter|gpu_exporter|ollama-mirror|prometheus|prometheus-alertmanager|prometheus-node-exporter|grafana-server)\.service"
_COLLECTORS = r"(alloy|promtail|vector|fluent-bit|filebeat|systemd-journal-upload|systemd-journal-remote|gpufleet-logs-(receiver|rsyslog))\.service"
# what a unit of a fixed name is there for, as a group or a service of the inventory: others may be a distribution's own, stopped since nobody uses them
_NEEDED_FOR = {
    "nginx.service": "gateway", "ollama-mirror.service": "mirror", "prometheus.service": "monitoring", "ollama_exporter.service": "ollama_exporter",
    "prometheus-node-exporter.service": "node_exporter", "prometheus-alertmanager.service": "Alertmanager", "grafana-server.service": "Grafana",
}
_VOLATILE = ("tmpfs", "ramfs", "devtmpfs")
_CARRIERS = ipaddress.ip_network("100.64.0.0/10")
_UNLIMITED = ("", "infinity", "[not set]", "18446744073709551615")
# what the gateway's role writes: all else of nginx is somebody else's
GATEWAY_FILE = "/etc/nginx/conf.d/gpufleet-gateway.conf"
# what of a request or an answer may hold a prompt or a key
_TELLING = re.compile(r"\$\{?(request_body|args|query_string|arg_\w+|http_authorization|http_x_api_key|http_cookie|sent_http_\w*body)\b")
_ALERTS = {"downtime": ("HostDown", "InstanceDown", "GatewayDown"), "error spikes": ("GatewayErrorRate", "GatewayErrorRateSlowBurn")}


# -- infrastructure -------------------------------------------------------------

def reached(fleet: Fleet) -> Iterator[Finding]:
    """Every host of the inventory was looked at, and said everything."""
    for host in fleet.hosts.values():
        if host.facts is None:
            yield Finding(host.name, "connect to the host", host.problem or NOT_REACHED, False)
            continue
        if host.problem:
            yield Finding(host.name, "ask other hosts", host.problem, False)
        problems = host.facts.get("problems") or {}
        yield Finding(host.name, "look at the host", "; ".join(f"{part}: {why}" for part, why in problems.items()) or "all parts were read", not problems)


@on()
def restart_policy(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """What serves is started again when it ends, and at boot."""
    found = [unit for unit in host.units(rf"{_SERVERS}|nginx\.service") if unit["type"] != "oneshot"]
    if "ollama" in host.groups and not any(re.fullmatch(OLLAMA_UNIT, unit["name"]) for unit in found):
        yield Finding(host.name, "systemctl show 'ollama@*.service'", "no unit of an instance is there", False)
    for unit in found:
        if not _needed(host, unit["name"]) and unit["active"] in ("inactive", "failed") and unit["enabled"] in ("disabled", "masked"):
            answer = f"{unit['active']} and {unit['enabled']}, and nothing that the inventory wants of the host needs it"
            yield Finding(host.name, f"systemctl show {unit['name']}", answer, None)
            continue
        wanted = ("always",) if unit["name"].startswith("ollama@") else ("always", "on-failure", "on-abnormal")
        # an instance of a template says enabled, a unit that something else starts static
        good = unit["restart"] in wanted and unit["enabled"] in ("enabled", "enabled-runtime", "static")
        yield Finding(host.name, f"systemctl show {unit['name']}", f"Restart={unit['restart']}, UnitFileState={unit['enabled']}", good)


def _needed(host: Host, unit: str) -> bool:
    """Whether the host is to have a unit running."""
    services = {service["name"] for service in host.wanted.get("services") or []}
    return unit.startswith("ollama@") or _NEEDED_FOR.get(unit) in {*host.groups, *services}


@on("ollama")
def persistent_store(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The models lie where a reboot leaves them."""
    for instance in host.part("instances"):
        answer = f"mounted at {instance['mount']} from {instance['device']}, {instance['filesystem']}"
        yield Finding(host.name, f"/proc/self/mountinfo for {instance['models_dir']}", answer, instance["filesystem"] not in _VOLATILE)


@on("ollama")
def limits(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """An instance cannot take all memory, all cores, or devices that are not its own."""
    for unit in host.units(OLLAMA_UNIT):
        answer = f"MemoryMax={unit['memory_max']}, CPUQuotaPerSecUSec={unit['cpu_quota']}, DevicePolicy={unit['device_policy']}"
        good = unit["memory_max"] not in _UNLIMITED and unit["cpu_quota"] not in _UNLIMITED and unit["device_policy"] in ("closed", "strict")
        yield Finding(host.name, f"systemctl show {unit['name']}", answer, good)


def health_checks(fleet: Fleet) -> Iterator[Finding]:
    """Every instance answers, and the gateways say in /health and /ready whether there is one that does."""
    yield from _alive(fleet)
    yield from _ready(fleet)


@on("ollama")
def _alive(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    for instance in host.part("instances"):
        answer = instance["problem"] or f"Ollama {instance['version']}"
        yield Finding(host.name, f"GET {instance['url']}/api/version", answer, not instance["problem"])


@on("gateway")
def _ready(fleet: Fleet, host: Host) -> Iterator[Finding]:
    yield _answered(host, host.part("requests").get("ready"), "ready")
    for asker, where, answers in fleet.answers(host):
        found = answers["health"]
        yield Finding(host.name, f"{asker}: GET https://{where}/health without a key", _status(found), found["status"] == 200)


def _answered(host: Host, found: Mapping[str, Any] | None, name: str) -> Finding:
    if not found:
        return Finding(host.name, f"GET /{name}", "was not asked", False)
    return Finding(host.name, f"GET {found['url']}", f"status {found['status']}" if found["status"] else found["problem"], found["status"] == 200)


def _status(found: Mapping[str, Any]) -> str:
    return f"status {found['status']}" if found["status"] else f"no answer ({found['problem']})"


# -- security -------------------------------------------------------------------

@on("ollama")
def bound(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Ollama, which asks nobody for a key, listens on loopback or on an address of a private network."""
    ports = {instance["port"] for instance in host.wanted.get("instances") or []}
    for socket in host.part("sockets"):
        # without the right to see the process its port tells
        of_ollama = socket["unit"].startswith("ollama@") or socket["command"] == "ollama" or (not socket["pid"] and socket["port"] in ports)
        if not of_ollama:
            continue
        answer = f"{socket['command'] or 'a process'} of {socket['unit'] or 'no unit'} listens on {_at(socket)}"
        address = address_of(socket["address"])
        # Python calls the network of carriers (RFC 6598), which VPNs use too, neither private nor global
        internal = address.is_private or address.is_loopback or address in _CARRIERS
        yield Finding(host.name, "/proc/net/tcp", answer, not address.is_unspecified and internal)


def _at(socket: Mapping[str, Any]) -> str:
    address = socket["address"]
    return f"[{address}]:{socket['port']}" if ":" in address else f"{address}:{socket['port']}"


def tls(fleet: Fleet) -> Iterator[Finding]:
    """Clients get TLS 1.2 or newer, and nothing without it."""
    yield from _gateways_not_asked(fleet)
    yield from _tls(fleet)


def _gateways_not_asked(fleet: Fleet) -> Iterator[Finding]:
    """Why there are no answers of a gateway: what nobody could look at proves nothing."""
    if not fleet.has_group("gateway"):
        yield from _without_gateway(fleet)
    elif fleet.is_outside("gateway"):
        yield _outside("gateway")
    for host in fleet.hosts.values():
        if "gateway" in host.groups and host.facts is None:
            yield Finding(host.name, "look at the gateway", host.problem or NOT_REACHED, False)
        elif "gateway" in host.groups and not list(fleet.answers(host)):
            yield Finding(host.name, "ask the gateway", "no host could ask it", False)


def _outside(group: str) -> Finding:
    return Finding("", "groups of the inventory", f"the hosts of the group {group} are outside of --limit", None)


def _without_gateway(fleet: Fleet) -> Iterator[Finding]:
    """A fleet without a gateway is one whose instances nobody else may reach."""
    for host in fleet.group("ollama"):
        open_sockets = [
            _at(socket) for socket in (host.facts or {}).get("sockets") or []
            if socket["unit"].startswith("ollama@") and not address_of(socket["address"]).is_loopback
        ]
        if open_sockets:
            yield Finding(host.name, "groups of the inventory, /proc/net/tcp", f"there is no gateway, and Ollama listens on {', '.join(open_sockets)}", False)
        else:
            yield Finding(host.name, "groups of the inventory, /proc/net/tcp", "there is no gateway, and Ollama listens on loopback only", None)


@on("gateway")
def _tls(fleet: Fleet, host: Host) -> Iterator[Finding]:
    for asker, where, answers in fleet.answers(host):
        found = answers["health"]
        answer = found["tls"] or f"no TLS ({found['problem']})"
        yield Finding(host.name, f"{asker}: handshake with {where}", answer, found["tls"] in ("TLSv1.2", "TLSv1.3"))
        # 400 is how nginx says that it wants TLS
        plain = answers["plain"]
        yield Finding(host.name, f"{asker}: GET http://{where}/health", _status(plain), not 200 <= plain["status"] < 300)
        old = {"refused": True, "accepted": False}.get(answers["old_tls"])
        said = "the library of the host that asked cannot try" if old is None else answers["old_tls"]
        yield Finding(host.name, f"{asker}: handshake of TLS 1.1 with {where}", said, old)
        other = answers["wrong_host"]
        yield Finding(host.name, f"{asker}: GET https://{where}/health for another name", _status(other), other["status"] != 200)
    for item in _protocols(host):
        good = not {"SSLv2", "SSLv3", "TLSv1", "TLSv1.0", "TLSv1.1"} & set(item["args"])
        yield Finding(host.name, _place(item), _line(item), good)
    yield from _listens(fleet, host)


def _listens(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Every server that passes requests on to Ollama takes them over TLS only."""
    lines = _directives(host, "listen")
    for item in lines:
        if item["server"] in _serving(fleet, host):
            yield Finding(host.name, _place(item), _line(item), bool({"ssl", "quic"} & set(item["args"])))
    for item in _to_ollama(fleet, host):
        if item["server"] not in {line["server"] for line in lines}:
            yield Finding(host.name, _place(item), f"{_line(item)}: its server has no line listen, so nginx takes port 80 without TLS", False)


def _protocols(host: Host) -> list[dict[str, Any]]:
    """The lines ssl_protocols that count: those of servers with TLS, and the one around them where such a server has none."""
    lines = _directives(host, "ssl_protocols")
    servers = {item["server"] for item in _directives(host, "listen") if "ssl" in item["args"] or "quic" in item["args"]}
    own = {item["server"] for item in lines}
    return [item for item in lines if item["server"] in servers or (item["server"] == -1 and servers - own)]


def _directives(host: Host, *names: str) -> list[dict[str, Any]]:
    return [item for item in host.part("nginx") if item["name"] in names]


def _place(item: Mapping[str, Any]) -> str:
    return f"{item['file']}, line {item['line']}"


def _line(item: Mapping[str, Any]) -> str:
    return " ".join([item["name"], *item["args"]])


def _serving(fleet: Fleet, host: Host) -> set[int]:
    """The numbers of nginx's servers that pass requests on to Ollama."""
    return {item["server"] for item in _to_ollama(fleet, host)}


def _to_ollama(fleet: Fleet, host: Host) -> list[dict[str, Any]]:
    """The lines proxy_pass that lead to Ollama: to the port of an instance, or to an upstream with one, of which the gateway's own is chosen in Lua."""
    ports = {str(instance["port"]) for other in fleet.hosts.values() for instance in other.wanted.get("instances") or []}
    names = {"gpufleet_ollama"}
    for item in _directives(host, "server"):
        if item["context"] and item["context"][-1].startswith("upstream ") and _port_of(item["args"][0]) in ports:
            names.add(item["context"][-1].split()[1])
    return [item for item in _directives(host, "proxy_pass") if _port_of(item["args"][0]) in ports or _name_of(item["args"][0]) in names]


def _port_of(target: str) -> str:
    found = re.search(r":(\d+)(?=[/$]|$)", target)
    return found[1] if found else ""


def _name_of(target: str) -> str:
    found = re.match(r"(?:[^/]+://)?([^/:$]+)", target)
    return found[1] if found else ""


def authentication(fleet: Fleet) -> Iterator[Finding]:
    """Nobody without a good key gets anything of Ollama."""
    yield from _gateways_not_asked(fleet)
    yield from _authentication(fleet)


@on("gateway")
def _authentication(fleet: Fleet, host: Host) -> Iterator[Finding]:
    for asker, where, answers in fleet.answers(host):
        for name, what in (("no_key", "GET /api/tags without a key"), ("wrong_key", "GET /api/tags with a key that nobody has")):
            yield Finding(host.name, f"{asker}: {what} at {where}", _status(answers[name]), _unless_limited(answers[name], 401))
    for item in _to_ollama(fleet, host):
        # a site of somebody else, which asks for no key
        if item["file"] != GATEWAY_FILE:
            yield Finding(host.name, _place(item), f"{_line(item)}: it leads to Ollama past the gateway's keys", False)


def _unless_limited(found: Mapping[str, Any], *good: int) -> bool | None:
    """Whether an answer is good; one of the rate limit says nothing."""
    return None if found["status"] == 429 else found["status"] in good


@on("gateway")
def rate_limit(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Whoever asks too often is told to wait."""
    serving = _serving(fleet, host)
    if not serving:
        yield Finding(host.name, "/etc/nginx/nginx.conf and what it includes", "nginx passes nothing on to Ollama", False)
    zones = {arg.partition("=")[2].partition(":")[0]: item for item in _directives(host, "limit_req_zone") for arg in item["args"] if arg.startswith("zone=")}
    for number in sorted(serving):
        found = [item for item in _directives(host, "limit_req") if item["server"] in (number, -1)]
        if not found:
            yield Finding(host.name, "/etc/nginx/nginx.conf and what it includes", "the server that passes requests on to Ollama has no limit_req", False)
        for item in found:
            zone = next((arg.partition("=")[2] for arg in item["args"] if arg.startswith("zone=")), "")
            rate = " ".join(zones[zone]["args"][1:]) if zone in zones else "a zone that is not there"
            yield Finding(host.name, _place(item), f"{_line(item)} ({rate})", zone in zones)


@on()
def not_root(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """What answers requests has no rights of root. The master of nginx has, and its workers have not."""
    for unit in host.units(_SERVERS):
        user = "a user of its own" if unit["dynamic_user"] else unit["user"] or "root"
        process = "" if unit["uid"] is None else f", the process has uid {unit['uid']}"
        yield Finding(host.name, f"systemctl show {unit['name']}", f"User={user}{process}", user != "root" and unit["uid"] != 0)


def logs_without_prompts(fleet: Fleet) -> Iterator[Finding]:
    """Neither Ollama nor the gateway writes down what was asked."""
    yield from _quiet_instances(fleet)
    yield from _quiet_gateways(fleet)


@on("ollama")
def _quiet_instances(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    for unit in host.units(OLLAMA_UNIT):
        if unit["uid"] is None:
            continue
        loud = {key: unit["environment"].get(key, "") for key in ("OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS")}
        answer = ", ".join(f"{key}={value or '(not set)'}" for key, value in loud.items())
        # Ollama takes every other word for true
        good = all(value.lower() in ("", "0", "f", "false") for value in loud.values())
        yield Finding(host.name, f"environment of the process of {unit['name']}", answer, good)


@on("gateway")
def _quiet_gateways(fleet: Fleet, host: Host) -> Iterator[Finding]:
    formats = {item["args"][0]: item for item in _directives(host, "log_format") if item["args"]}
    for item in _access_logs(host, _serving(fleet, host)):
        name = item["args"][1] if len(item["args"]) > 1 else "combined"
        text = " ".join(formats[name]["args"][1:]) if name in formats else ""
        told = sorted(set(_TELLING.findall(text)))
        yield Finding(host.name, _place(item), f"log_format {name}" + (f" has ${', $'.join(told)}" if told else " has no body, no query and no key"), not told)


def _access_logs(host: Host, servers: Iterable[int]) -> list[dict[str, Any]]:
    """Where the requests to these servers are written down: by their own lines, or else by those around them."""
    lines = _directives(host, "access_log")
    own = {item["server"] for item in lines}
    wanted = {number if number in own else -1 for number in servers}
    return [item for item in lines if item["server"] in wanted and item["args"][:1] != ["off"]]


@on("ollama")
def network_acl(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Only gateways and Prometheus reach Ollama."""
    for instance in host.wanted.get("instances") or []:
        port = instance["port"]
        own = [socket for socket in host.part("sockets") if socket["port"] == port]
        seen = [item for item in fleet.ports if item["host"] == host.name and item["port"] == port]
        if own and all(address_of(socket["address"]).is_loopback for socket in own):
            yield Finding(host.name, "/proc/net/tcp", f"{_at(own[0])}: loopback, which no other host reaches", True)
            continue
        found = [_seen(host, item) for item in seen]
        yield from found
        if all(finding.good is None for finding in found):
            yield _by_rules(host, port)


def _seen(host: Host, item: Mapping[str, Any]) -> Finding:
    asked = f"{item['from']}: connect to {_at(item)} ({item['service'] or 'of no service of the inventory'})"
    if item.get("source") == item["address"]:
        return Finding(host.name, asked, f"{item['from']} has this address, too, and asked itself", None)
    if _may(host, item):
        return Finding(host.name, asked, f"{item['answer']}; {item['source']} is in a network that may", None)
    if item["answer"] in ("silent", "unreachable") and item["control"] not in ("open", "refused"):
        answer = f"{item['answer']}, and so is SSH on port {item['ssh_port']}: {item['from']} may have no way to it"
        return Finding(host.name, asked, answer, None)
    # any other answer is an error of who asked, which proves nothing
    return Finding(host.name, asked, item["answer"], {"open": False, "refused": True, "silent": True, "unreachable": True}.get(item["answer"]))


def _may(host: Host, item: Mapping[str, Any]) -> bool:
    """Whether who asked may reach the port: the plan asks only those who may not by their name, and here is their address."""
    service = service_at(host.wanted.get("services") or [], item["port"])
    if not service or not item.get("source"):
        return False
    return any(address_of(item["source"]) in ipaddress.ip_network(network, strict=False) for network in service["networks"])


def _by_rules(host: Host, port: int) -> Finding:
    """Nobody could ask: then the rules must do as evidence."""
    rules = host.part("firewall")
    asked = "nft list table inet gpufleet"
    if not rules["loaded"]:
        return Finding(host.name, asked, f"{rules['problem'] or 'there is no such table'}, and no host that may not reach port {port} could try it", False)
    dropped = [rule for rule in rules["rules"] if re.search(rf"\bdport {port}\b", rule) and "drop" in rule]
    return Finding(host.name, asked, dropped[0] if dropped else f"no rule drops connections to port {port}", bool(dropped))


@on()
def other_ports(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """No port but those of services that are for everybody answers a host that may not reach it."""
    own = {instance["port"] for instance in host.wanted.get("instances") or []}
    yield from (_seen(host, item) for item in fleet.ports if item["host"] == host.name and item["port"] not in own)


@on("gateway")
def model_access(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Only those who are meant to may pull, push and delete models."""
    clients = host.part("clients")
    admins = [client["name"] for client in clients if "admin" in (client["classes"] or [])]
    answer = f"{', '.join(admins) or 'nobody'} of {len(clients)} with the class admin"
    yield Finding(host.name, "/etc/gpufleet/gateway/clients.json", answer, bool(clients) and len(admins) < len(clients))
    for asker, where, answers in fleet.answers(host):
        found = answers["no_key_pull"]
        yield Finding(host.name, f"{asker}: GET /api/pull without a key at {where}", _status(found), _unless_limited(found, 401, 403, 404, 405))


@on("gateway")
def audit_log(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Who asked for what is written down, by name."""
    formats = {item["args"][0]: " ".join(item["args"][1:]) for item in _directives(host, "log_format") if item["args"]}
    serving = _serving(fleet, host)
    found = _access_logs(host, serving)
    if not found:
        yield Finding(host.name, "/etc/nginx/nginx.conf and what it includes", "the requests to Ollama are written down nowhere", False)
    for item in found:
        text = formats.get(item["args"][1] if len(item["args"]) > 1 else "combined", "$remote_user")
        named = re.search(r"\$(gateway_client|remote_user|ssl_client_s_dn)\b", text)
        yield Finding(host.name, _place(item), f"{_line(item)}" + ("" if named else ": without a client's name"), bool(named))


@on()
def secret_files(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Files with keys and passwords are for those who need them."""
    for item in host.part("secrets"):
        yield Finding(host.name, f"stat {item['path']}", f"{item['mode']} {item['owner']}:{item['group']}", not item["open"])


@on("gateway")
def certificate(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The certificate that clients see does not end soon."""
    for asker, where, answers in fleet.answers(host):
        if answers["health"]["not_after"]:
            yield _ends(fleet, host, f"{asker}: certificate of {where}", answers["health"]["not_after"])
    for item in host.part("certificates"):
        if item["problem"]:
            yield Finding(host.name, item["path"], item["problem"], False)
        else:
            yield _ends(fleet, host, item["path"], item["not_after"])


def _ends(fleet: Fleet, host: Host, asked: str, not_after: float) -> Finding:
    days = (not_after - fleet.now) / DAY
    return Finding(host.name, asked, f"ends on {_date(not_after)}, in {days:.0f} days", days >= MIN_CERTIFICATE_DAYS)


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")


@on("gateway")
def key_age(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """API keys are changed now and then."""
    for client in host.wanted.get("clients") or []:
        for key in client["keys"]:
            if not key["made"]:
                answer, good = "made at an unknown time", False
            else:
                days = (fleet.now - key["made"]) / DAY
                answer, good = f"made on {_date(key['made'])}, {days:.0f} days ago", days <= MAX_KEY_DAYS
            yield Finding(host.name, f"key {key['id']} of {client['name']} in the inventory", answer, good)


@on()
def sandbox(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """What the units of the collection could do to the host is little."""
    for unit in host.part("units"):
        if unit.get("exposure") is not None:
            answer = f"exposure {unit['exposure']} of 10"
            yield Finding(host.name, f"systemd-analyze security {unit['name']}", answer, unit["exposure"] <= MAX_EXPOSURE)


# -- reliability ----------------------------------------------------------------

def several_instances(fleet: Fleet) -> Iterator[Finding]:
    """One instance may be down without anybody noticing."""
    if not fleet.has_group("gateway"):
        yield Finding("", "groups of the inventory", "there is no gateway that could choose among instances", False)
    elif fleet.is_outside("gateway"):
        yield _outside("gateway")
    yield from _several(fleet)


@on("gateway")
def _several(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    found = host.part("requests").get("upstreams") or {}
    if not isinstance(found.get("json"), list):
        yield Finding(host.name, f"GET {found.get('url', '/upstreams')}", found.get("problem") or f"status {found.get('status')}", False)
        return
    up = sorted(f"{item['host']}/{item['instance']}" for item in found["json"] if item.get("state") == "up")
    answer = f"{len(up)} of {len(found['json'])} are up: {', '.join(up)}"
    yield Finding(host.name, f"GET {found['url']}", answer, len({item.partition("/")[0] for item in up}) > 1)


@on("ollama")
def models_there(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The models of the manifest are where they are served."""
    wanted = {instance["name"]: instance["models"] for instance in host.wanted.get("instances") or []}
    for instance in host.part("instances"):
        names = wanted.get(instance["name"], [])
        answer = f"{len(names) - len(instance['absent'])} of {len(names)} models of the inventory are there"
        missing = f"; missing: {', '.join(instance['absent'])}" if instance["absent"] else ""
        good = None if not names else not instance["absent"]
        yield Finding(host.name, f"store {instance['models_dir']} and GET {instance['url']}/api/tags", answer + missing, good)


@on("ollama")
def warm_up(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The first request after a start need not wait for a model."""
    wanted = {instance["name"]: instance["models"] for instance in host.wanted.get("instances") or []}
    for instance in host.part("instances"):
        path = f"/etc/ollama/{instance['name']}.warm.json"
        if not wanted.get(instance["name"]):
            yield Finding(host.name, path, "the instance has no models", None)
            continue
        unit = next(iter(host.units(re.escape(f"ollama-warm@{instance['name']}.service"))), None)
        result = f"; ollama-warm@{instance['name']}: {unit['result']}" if unit else ""
        answer = f"{', '.join(instance['warm']) or 'no model'} is loaded after each start{result}"
        yield Finding(host.name, path, answer, bool(instance["warm"]) and (not unit or unit["result"] == "success"))


def backup(fleet: Fleet) -> Iterator[Finding]:
    """What no registry has is backed up, and the way back was tried."""
    yield from _backup(fleet)
    drills = _figures(fleet, "ollama_backup_drill_success")
    if not any(host.wanted.get("custom") for host in fleet.group("ollama")) and not drills:
        return
    for host, item in drills:
        yield Finding(host.name, f"{item['path']}: {item['name']}{item['labels']}", f"{item['value']:g}", item["value"] == 1)
    for host, item in _figures(fleet, "ollama_backup_drill_last_success_timestamp_seconds"):
        days = (fleet.now - item["value"]) / DAY
        answer = f"{days:.0f} days ago" if item["value"] else "never"
        yield Finding(host.name, f"{item['path']}: {item['name']}{item['labels']}", answer, days <= MAX_DRILL_DAYS)
    if not drills:
        yield Finding("", "ollama_backup_drill_success of all hosts", "no host has it: no backup was ever restored for a try", False)


def _figures(fleet: Fleet, name: str) -> list[tuple[Host, Mapping[str, Any]]]:
    """What the hosts give Prometheus of backups, by the name of the metric."""
    return [(host, item) for host in fleet.group() for item in (host.facts or {}).get("textfile") or [] if item["name"] == name]


@on("ollama")
def _backup(fleet: Fleet, host: Host) -> Iterator[Finding]:
    made = [item for item in host.part("textfile") if item["name"] == "ollama_backup_last_success_timestamp_seconds"]
    custom = host.wanted.get("custom") or []
    for item in made:
        hours = (fleet.now - item["value"]) / 3600
        answer = f"{hours:.0f} hours ago" if item["value"] else "never"
        yield Finding(host.name, f"{item['path']}: {item['name']}{item['labels']}", answer, hours <= MAX_BACKUP_HOURS)
    if not made and custom:
        yield Finding(host.name, "textfiles of node_exporter", f"no backup was made of {', '.join(custom)}, which no registry has", False)
    elif not made:
        yield Finding(host.name, "ollama_models of the inventory", "all models are of registries: manifest and lock bring them back", None)


@on("ollama")
def models_locked(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The models are whole, and the ones that the lock pins."""
    wanted = {instance["name"]: {name.lower() for name in instance["models"]} for instance in host.wanted.get("instances") or []}
    custom = {name.lower() for name in host.wanted.get("custom") or []}
    for instance in host.part("instances"):
        asked = f"manifests in {instance['models_dir']}"
        for path in instance["broken"]:
            yield Finding(host.name, asked, f"{path} is no manifest", False)
        for model in instance["models"]:
            if model["name"].lower() not in wanted.get(instance["name"], set()):
                continue
            digest = f"{model['name']} is {model['digest'][:12]}"
            if model["complete"] is False:
                yield Finding(host.name, asked, f"{digest}, and blobs of it are missing", False)
            elif model["stale"]:
                yield Finding(host.name, asked, f"{digest}, and the lock wants another one", False)
            elif model["stale"] is None and model["name"].lower() not in custom:
                yield Finding(host.name, asked, f"{digest}, and no lock pins it", False)
            else:
                yield Finding(host.name, asked, f"{digest}, " + ("as locked" if model["stale"] is False else "made here"), True)


@on()
def clock(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The clock is right: certificates, keys that end, and logs hang on it."""
    if host.is_container:
        yield Finding(host.name, "systemd-detect-virt", "a container, whose clock is its machine's", None)
        return
    found = host.part("time")
    answer = f"NTPSynchronized={found['synchronized'] or 'unknown'}, NTP={found['service'] or 'unknown'}"
    yield Finding(host.name, "timedatectl show", answer + (f" ({found['problem']})" if found["problem"] else ""), found["synchronized"] == "yes")


@on("ollama")
def swap(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Models are never in swap, from where no answer comes in time."""
    if host.is_container:
        yield Finding(host.name, "systemd-detect-virt", "a container, whose swap is its machine's", None)
        return
    places = host.part("swap")
    units = host.units(OLLAMA_UNIT)
    if places and units and all(unit["memory_swap_max"] == "0" for unit in units):
        yield Finding(host.name, f"systemctl show {units[0]['name']}", "MemorySwapMax=0", True)
        return
    answer = ", ".join(f"{item['path']}: {bytes_text(item['used'])} of {bytes_text(item['size'])} used" for item in places)
    yield Finding(host.name, "/proc/swaps", answer or "no swap", not places)


@on()
def disk(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """There is room on the disks."""
    for item in host.part("disks"):
        share = item["free"] / item["size"] if item["size"] else 0
        yield Finding(host.name, f"statvfs {item['path']}", f"{bytes_text(item['free'])} of {bytes_text(item['size'])} free, {share:.0%}", share >= MIN_FREE)


@on()
def configuration_runs(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """What runs is what the files say."""
    for unit in host.part("units"):
        if unit["stale"]:
            yield Finding(host.name, f"systemctl show {unit['name']}", "NeedDaemonReload=yes: its files changed since systemd read them", False)
    for unit in host.units(rf"{_SERVERS}|nginx\.service"):
        if unit["enabled"] == "enabled" and unit["active"] != "active":
            yield Finding(host.name, f"systemctl show {unit['name']}", f"enabled at boot, and {unit['active']} now", False)
    yield from _old_configuration(fleet, host)
    yield Finding(host.name, "systemctl show", f"{len(host.part('units'))} units looked at", True)


def _old_configuration(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Instances and gateways that were not started or reloaded since their files were written: each names the id of what it runs."""
    for unit in host.units(OLLAMA_UNIT):
        running = unit["environment"].get("GPUFLEET_CONFIG_ID", "")
        # the environment of a process may not be seen
        if unit["configured"] and unit["environment"] and running != unit["configured"]:
            path = f"/etc/ollama/{unit['name'].partition('@')[2].removesuffix('.service')}.env"
            answer = f"{unit['configured']}, and the process of {unit['name']} runs with {running or 'none'}"
            yield Finding(host.name, f"GPUFLEET_CONFIG_ID in {path}", answer, False)
    if "gateway" not in host.groups:
        return
    configured = host.part("gateway_config")
    for asker, where, answers in fleet.answers(host):
        running = answers["health"]["config"]
        if configured and running and running != configured:
            answer = f"X-Gateway-Config: {running}, and /etc/gpufleet/gateway/clients.json has {configured}"
            yield Finding(host.name, f"{asker}: GET https://{where}/health", answer, False)


# -- monitoring -----------------------------------------------------------------

def _prometheus(fleet: Fleet) -> Iterator[tuple[Host, Mapping[str, Any] | None, Finding | None]]:
    """Each Prometheus that answers; for the others, or where there is none, the evidence that says so."""
    if not fleet.has_group("monitoring"):
        yield Host("", {}), None, Finding("", "groups of the inventory", "there is no host in the group monitoring", False)
    elif fleet.is_outside("monitoring"):
        yield Host("", {}), None, _outside("monitoring")
    for host in fleet.hosts.values():
        if "monitoring" not in host.groups:
            continue
        if host.facts is None:
            yield host, None, Finding(host.name, "ask Prometheus", host.problem or NOT_REACHED, False)
            continue
        try:
            found = host.part("prometheus")
        except Missing as error:
            yield host, None, Finding(host.name, "ask Prometheus", str(error), False)
            continue
        if found.get("targets") is None:
            yield host, None, Finding(host.name, f"GET {found.get('url', '')}/api/v1/targets", (found.get("problems") or {}).get("targets", "no answer"), False)
        else:
            yield host, found, None


def health_monitored(fleet: Fleet) -> Iterator[Finding]:
    """Prometheus asks every instance whether it is well."""
    wanted = {(host.name, instance["name"]) for host in fleet.hosts.values() if "ollama" in host.groups for instance in host.wanted.get("instances") or []}
    for host, found, problem in _prometheus(fleet):
        if problem or found is None:
            yield from [problem] if problem else []
            continue
        for target in found["targets"]:
            if target["health"] != "up":
                asked = f"GET {found['url']}/api/v1/targets"
                answer = f"{target['job']} of {target['host']} is {target['health']}: {target['error']}"
                if fleet.is_left_out(target["host"]):
                    yield Finding(host.name, asked, f"{answer}; the host is outside of --limit", None)
                else:
                    yield Finding(host.name, asked, answer, False)
        health = {(sample["labels"].get("host"), sample["labels"].get("ollama_instance")): sample["value"] for sample in _samples(found, "health")}
        for name, instance in sorted(wanted):
            value = health.get((name, instance))
            yield Finding(host.name, f'query ollama_health_status{{host="{name}",ollama_instance="{instance}"}}', _value(value), value == 1)


def _value(value: float | None) -> str:
    return "no sample" if value is None else f"{value:g}"


def _samples(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return (found.get("queries") or {}).get(name) or []


def latency_tracked(fleet: Fleet) -> Iterator[Finding]:
    """Prometheus knows how many requests of each gateway failed, and how long they took."""
    gateways = [host.name for host in fleet.hosts.values() if "gateway" in host.groups]
    for host, found, problem in _prometheus(fleet):
        if problem or found is None:
            yield from [problem] if problem else []
            continue
        scraped = {sample["labels"].get("host"): sample["value"] for sample in _samples(found, "gateways")}
        for gateway in gateways:
            yield Finding(host.name, f'query up{{job="gateway",host="{gateway}"}}', _value(scraped.get(gateway)), scraped.get(gateway) == 1)
        for name, metric in (("requests", "nginx_http_requests_total"), ("latency", "nginx_http_request_duration_seconds_bucket")):
            seen = {sample["labels"].get("host") for sample in _samples(found, name)}
            for gateway in gateways:
                # a gateway that nobody has asked since its start has none, and is no worse for that
                good = True if gateway in seen else None
                yield Finding(host.name, f'query count({metric}{{host="{gateway}"}})', "there are series" if good else "no series: no request yet", good)


def dashboards(fleet: Fleet) -> Iterator[Finding]:
    """Somebody can look at processors, memory and GPUs over time."""
    for host, found, problem in _prometheus(fleet):
        if problem or found is None:
            yield from [problem] if problem else []
            continue
        for name in ("cpu", "memory", *(["gpu"] if any(_has_nvidia(other) for other in fleet.group("ollama")) else [])):
            hosts = sorted({str(sample["labels"].get("host")) for sample in _samples(found, name)})
            yield Finding(host.name, f"query for {name}", f"series of {', '.join(hosts)}" if hosts else "no series", bool(hosts))
        grafana = (host.facts or {}).get("requests", {}).get("grafana")
        if grafana:
            yield _answered(host, grafana, "api/health")
        else:
            yield Finding(host.name, "ollama_monitoring_grafana_enabled of the inventory", "Grafana is not wanted", False)


def alerts(fleet: Fleet) -> Iterator[Finding]:
    """Somebody hears of downtime and of errors."""
    for host, found, problem in _prometheus(fleet):
        if problem or found is None:
            yield from [problem] if problem else []
            continue
        rules = {rule["name"]: rule["health"] for rule in found.get("rules") or []}
        asked = f"GET {found['url']}/api/v1/rules"
        for what, names in _ALERTS.items():
            # a rule that was not evaluated yet says unknown
            good = [name for name in names if rules.get(name) in ("ok", "unknown")]
            yield Finding(host.name, asked, f"on {what}: {', '.join(good) or 'no alert'}", bool(good))
        to = found.get("alertmanagers") or []
        yield Finding(host.name, f"GET {found['url']}/api/v1/alertmanagers", ", ".join(to) or "no Alertmanager", bool(to))
        running = [unit for unit in host.units(r"prometheus-alertmanager\.service") if unit["active"] == "active"]
        yield Finding(host.name, "systemctl show prometheus-alertmanager.service", "active" if running else "not running", bool(running))
        receivers = host.wanted.get("receivers") or []
        yield Finding(host.name, "ollama_monitoring_receivers of the inventory", ", ".join(receivers) or "nobody is told", bool(receivers))


@on()
def logs_kept(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Logs outlive a reboot, and the host that wrote them."""
    found = host.part("journal")
    limits_text = "".join(f", {key}={value}" for key, value in found["limits"].items())
    where = "on disk" if found["persistent"] else "in memory"
    yield Finding(host.name, "journald.conf", f"Storage={found['storage']}, {where}{limits_text}", found["persistent"])
    senders = [unit["name"] for unit in host.units(_COLLECTORS) if unit["active"] == "active"] + (["rsyslog.service"] if found["rsyslog_forwards"] else [])
    yield Finding(host.name, "systemctl show", f"{', '.join(senders) or 'no service'} sends logs to another host or keeps those of others", bool(senders))
    if "gateway" in host.groups:
        patterns = host.part("rotated")
        for item in _access_logs(host, _serving(fleet, host)):
            good = any(re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), item["args"][0]) for pattern in patterns)
            yield Finding(host.name, f"/etc/logrotate.d for {item['args'][0]}", "is rotated" if good else "is never rotated", good)


# -- performance ----------------------------------------------------------------

@on("ollama")
def model_sizes(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """Each model has a known quantization, and room in the memory that it is to run in."""
    gpu = host.part("gpu")
    wanted = {instance["name"]: instance for instance in host.wanted.get("instances") or []}
    for instance in host.part("instances"):
        mine = wanted.get(instance["name"], {"models": [], "gpus": "none"})
        room, where = _room(host, instance, mine, gpu)
        names = {name.lower() for name in mine["models"]}
        for model in instance["models"]:
            if model["name"].lower() not in names:
                continue
            need = (model["weights_bytes"] or 0) * ROOM_BESIDE_WEIGHTS
            answer = (
                f"{model['name']} {model['parameter_size'] or '?'} {model['quantization'] or 'of unknown quantization'}, {bytes_text(model['weights_bytes'])} "
                f"for {bytes_text(room)} of {where}"
            )
            good = bool(model["quantization"]) and (not room or need <= room)
            if model["loaded"] and where == "GPU memory" and (model["processor_gpu"] or 0) < 1:
                answer, good = f"{answer}; loaded, and only {model['processor_gpu'] or 0:.0%} of it on GPUs", False
            yield Finding(host.name, f"{instance['url']}/api/tags and the store", answer, good)


def _room(host: Host, instance: Mapping[str, Any], mine: Mapping[str, Any], gpu: Mapping[str, Any]) -> tuple[int, str]:
    """Bytes that the models of an instance may have, and what they are of; 0 when it is not known."""
    chosen = [card for card in gpu["gpus"] if mine["gpus"] == "all" or (isinstance(mine["gpus"], list) and card["uuid"] in mine["gpus"])]
    if chosen and mine["gpus"] != "none":
        return sum(card["memory_bytes"] or 0 for card in chosen), "GPU memory"
    unit = host.unit_of(instance)
    limit = unit["memory_max"] if unit else ""
    if limit.isdigit() and limit not in _UNLIMITED:
        return int(limit), "MemoryMax"
    return host.part("memory"), "main memory"


def context_length(fleet: Fleet) -> Iterator[Finding]:
    """The context is a number that somebody chose: it costs memory for each parallel request."""
    return _set(fleet, "OLLAMA_CONTEXT_LENGTH", "Ollama takes 4096 to 262144, by the memory of the GPUs")


def num_parallel(fleet: Fleet) -> Iterator[Finding]:
    """How many requests a model answers at once was chosen."""
    return _set(fleet, "OLLAMA_NUM_PARALLEL", "Ollama takes 1")


def keep_alive(fleet: Fleet) -> Iterator[Finding]:
    """How long an idle model stays loaded was chosen."""
    return _set(fleet, "OLLAMA_KEEP_ALIVE", "Ollama takes 5m")


def _set(fleet: Fleet, variable: str, otherwise: str) -> Iterator[Finding]:
    @on("ollama")
    def check(_fleet: Fleet, host: Host) -> Iterator[Finding]:
        for unit in host.units(OLLAMA_UNIT):
            if unit["uid"] is None:
                continue
            value = unit["environment"].get(variable, "")
            automatic = value in ("", "0") and variable != "OLLAMA_KEEP_ALIVE" or not value
            answer = f"{variable}={value}" if not automatic else f"{variable} is not set: {otherwise}"
            yield Finding(host.name, f"environment of the process of {unit['name']}", answer, not automatic)

    yield from check(fleet)


def _has_nvidia(host: Host) -> bool:
    return any(card["vendor"] == "nvidia" for card in ((host.facts or {}).get("gpu") or {}).get("gpus") or [])


@on("ollama")
def gpu_state(_fleet: Fleet, host: Host) -> Iterator[Finding]:
    """The driver that is loaded is the one that is installed, all GPUs are there, and they are well."""
    found = host.part("gpu")
    if found["verdict"] == "none":
        yield Finding(host.name, "PCI devices of the kernel", "no NVIDIA GPU", None)
        return
    driver = found["driver"]
    answer = f"driver {driver.get('loaded') or 'not loaded'}, {len(found['gpus'])} GPUs, health {found['verdict']}"
    reasons = "; ".join([*found["reasons"], *found["reboot_reasons"]])
    good = found["verdict"] in ("ok", "warn") and not found["reboot_reasons"]
    yield Finding(host.name, "nvidia-smi and the kernel", answer + (f": {reasons}" if reasons else ""), good)
