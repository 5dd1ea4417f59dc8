# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an audit wants to know of a host. Everything is read and nothing is written, and nothing that is secret is given on.

Each part is looked at by itself: one that cannot be read is a problem with a sentence, and hides nothing of the others.
"""

from __future__ import annotations

import configparser
import glob
import grp
import json
import os
import pwd
import re
import stat
import time
from http.client import HTTPException
from typing import Any, Callable, Mapping
from urllib.parse import urlencode

from ansible.module_utils.urls import open_url

from ansible_collections.gpufleet.ollama.plugins.module_utils import _der, _gpu_state, _models, _nginx_config, _ports, _probe, _units
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

# the units that make up a fleet, and those that keep its time and its logs
UNITS = (
    "ollama@*.service", "ollama-warm@*.service", "ollama.service", "ollama_exporter.service", "gpu_exporter.service", "nvidia-dcgm-exporter.service",
    "nginx.service", "ollama-mirror.service", "prometheus.service", "prometheus-alertmanager.service", "prometheus-node-exporter.service",
    "grafana-server.service", "gpufleet-firewall.service", "gpufleet-backup*.service", "gpufleet-backup*.timer", "gpufleet-logs-*.service", "loki.service",
    "alloy.service", "promtail.service", "vector.service", "fluent-bit.service", "rsyslog.service", "systemd-journal-upload.service",
    "systemd-journal-remote.service", "filebeat.service",
)
# whose sandbox is the collection's own work
SANDBOXED = re.compile(r"(ollama@.*|ollama_exporter|gpu_exporter|ollama-mirror|prometheus-alertmanager)\.service")
PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Type", "Restart", "User", "DynamicUser", "MainPID", "MemoryMax", "MemorySwapMax",
    "CPUQuotaPerSecUSec", "TasksMax", "DevicePolicy", "NeedDaemonReload", "Result",
)
# of an instance's environment nothing else leaves the host: proxies may have passwords
SHOWN = (
    "OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NUM_PARALLEL", "OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE",
    "OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS", "OLLAMA_NO_CLOUD", "OLLAMA_ORIGINS", "GPUFLEET_CONFIG_ID",
)
# directives of nginx that say who gets in, and what is written down
DIRECTIVES = (
    "listen", "server_name", "ssl_protocols", "ssl_certificate", "limit_req", "limit_req_zone", "auth_basic", "access_log", "log_format", "proxy_pass",
    "ssl_reject_handshake",
)
# what holds keys and passwords; the second part is who may read it beside its owner
SECRETS = (
    ("/etc/gpufleet/gateway/clients.json", ""), ("/etc/gpufleet/gateway/htpasswd", "group"), ("/etc/gpufleet/gateway/tls/*.key", ""),
    ("/etc/letsencrypt/live/*/privkey.pem", ""), ("/etc/prometheus/web.yml", "group"), ("/etc/prometheus/web-password", "group"),
    ("/etc/prometheus/alertmanager.yml", "group"), ("/etc/gpufleet/grafana.env", ""), ("/etc/grafana/provisioning/datasources/gpufleet.yml", "group"),
)
# and whatever else is named like that below /etc/gpufleet
_NAMED_SECRET = re.compile(r"environment|.*\.key|.*\.env|.*password.*|id_\w+|.*ssh[-_]key")
_IN_ENVIRONMENT = re.compile(r"^[A-Z_]*(TOKEN|SECRET|PASSW|PWD|CREDENTIAL|AUTH|KEY)[A-Z_]*=|://[^/@\s]+@", re.M)
_EXPOSURE = re.compile(r"Overall exposure level for (\S+?):? ([0-9.]+) (\w+)")
_METRIC = re.compile(r"^(ollama_backup_\w+)(\{[^}]*\})?\s+(\S+)", re.M)
ANSWER_SECONDS = 8
MAX_ANSWER = 4 << 20

Options = Mapping[str, Any]


def gather(options: Options) -> dict[str, Any]:
    """All facts, by part; C(problems) is part -> why it could not be looked at. C(options) are those of module C(ollama_audit_facts)."""
    root = options["root_dir"]
    parts: dict[str, Callable[[], Any]] = {
        "units": lambda: units([f"ollama@{wanted['name']}.service" for wanted in options["instances"]], options["sandbox"], root),
        "sockets": sockets,
        "instances": lambda: [instance(wanted, options["lock"]) for wanted in options["instances"]],
        "memory": lambda: memory(root),
        "disks": lambda: disks(["/", *(wanted["models_dir"] for wanted in options["instances"])]),
        "gpu": lambda: gpus(options["gpu"]),
        "secrets": lambda: secrets(root),
        "nginx": lambda: nginx(root),
        "clients": lambda: clients(root),
        "gateway_config": lambda: gateway_config(root),
        "certificates": lambda: certificates(root),
        "time": clock,
        "swap": lambda: swap(root),
        "journal": lambda: journal(root),
        "rotated": lambda: rotated(root),
        "firewall": firewall,
        "textfile": lambda: textfile(root),
        "requests": lambda: {name: request(url) for name, url in options["requests"].items()},
        "prometheus": lambda: prometheus(options["prometheus"]) if options["prometheus"] else {},
    }
    facts: dict[str, Any] = {"problems": {}, "virtual": _probe.ask(["systemd-detect-virt"]).output.strip()}
    for name, look in parts.items():
        if options["parts"] and name not in options["parts"]:
            continue
        try:
            facts[name] = look()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, HTTPException, OllamaError, _units.UnitError) as error:
            # what a file or a server says may have any form
            facts["problems"][name] = str(error) or type(error).__name__
    return facts


# -- units and processes --------------------------------------------------------

def units(names: list[str], with_exposure: bool = True, root: str = "/") -> list[dict[str, Any]]:
    """The units of the fleet that are there: their properties, the user of their process, and how exposed they are (0 to 10, None: not measured).

    C(names) are those of the instances: systemd finds no unit by a pattern that is stopped and that nobody needs.
    """
    blocks = _units.systemctl("show", "--no-pager", f"--property={','.join(PROPERTIES)}", "--", *UNITS, *names).split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    known = {values["Id"]: values for values in found if values.get("Id") and values.get("LoadState") not in ("not-found", None)}
    levels = exposure([name for name in known if SANDBOXED.fullmatch(name)]) if with_exposure else {}
    return [{**_unit(values, root), "exposure": levels.get(name)} for name, values in sorted(known.items())]


def _unit(values: Mapping[str, str], root: str) -> dict[str, Any]:
    pid = values.get("MainPID", "0")
    try:
        uid: int | None = os.stat(f"/proc/{pid}").st_uid if pid != "0" else None
    except OSError:
        uid = None
    name = values["Id"]
    environment = _units.process_environment(pid) if name.startswith("ollama@") and pid != "0" else {}
    return {
        "name": name,
        "active": values.get("ActiveState", ""),
        "enabled": values.get("UnitFileState", ""),
        "type": values.get("Type", ""),
        "restart": values.get("Restart", ""),
        "user": values.get("User", ""),
        "dynamic_user": values.get("DynamicUser") == "yes",
        "uid": uid,
        "memory_max": values.get("MemoryMax", ""),
        "memory_swap_max": values.get("MemorySwapMax", ""),
        "cpu_quota": values.get("CPUQuotaPerSecUSec", ""),
        "device_policy": values.get("DevicePolicy", ""),
        "stale": values.get("NeedDaemonReload") == "yes",
        "result": values.get("Result", ""),
        "environment": {key: environment[key] for key in SHOWN if key in environment},
        "configured": _configured(os.path.join(root, "etc/ollama", f"{name[len('ollama@'):-len('.service')]}.env")) if name.startswith("ollama@") else "",
    }


def _configured(path: str) -> str:
    """The id of the configuration that a file of variables names; nothing else of it, since it may hold passwords."""
    found = re.search(rf'^{_units.CONFIG_VARIABLE}="?([^"\s]*)"?$', _probe.read(path), re.M)
    return found[1] if found else ""


def exposure(names: list[str]) -> dict[str, float]:
    """What C(systemd-analyze security) says of units, by name."""
    if not names:
        return {}
    answer = _probe.ask(["systemd-analyze", "security", "--no-pager", *names])
    return {name: float(level) for name, level, _word in _EXPOSURE.findall(answer.output)}


def sockets() -> list[dict[str, Any]]:
    """Who listens on which TCP port."""
    return [listener._asdict() for listener in _ports.listeners()]


# -- Ollama ---------------------------------------------------------------------

def instance(wanted: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """An instance of the inventory (name, url, models_dir, models: names): what it answers, and what is in its store."""
    problem, server = "", None
    try:
        server = _models.ask(OllamaClient(wanted["url"], ANSWER_SECONDS))
        problem = "" if server else f"no Ollama answers at {wanted['url']}"
    except OllamaError as error:
        problem = str(error)
    survey = _models.Survey(Store(wanted["models_dir"]), server, lock)
    kept = ("name", "digest", "size", "parameter_size", "quantization", "capabilities", "loaded", "processor_gpu", "stale", "complete", "weights_bytes")
    found = survey.wanted(wanted["models"])
    return {
        "name": wanted["name"],
        "url": wanted["url"],
        "version": server.version if server else "",
        "problem": problem,
        "models": [{key: model[key] for key in kept} for model in survey.models()],
        "loaded": [{key: model[key] for key in ("name", "size", "size_vram", "context_length")} for model in (server.loaded if server else [])],
        "absent": found["absent"],
        "broken": survey.broken,
        "warm": _warm(wanted["name"]),
        **_mount(wanted["models_dir"]),
    }


def _warm(name: str) -> list[str]:
    text = _probe.read(f"/etc/ollama/{name}.warm.json")
    return [model["name"] for model in json.loads(text)["models"]] if text else []


def _mount(path: str) -> dict[str, str]:
    """Where a directory is mounted, as the kernel says (proc(5), mountinfo)."""
    real = os.path.realpath(path)
    best = {"mount": "", "filesystem": "", "device": ""}
    for line in _probe.read("/proc/self/mountinfo").splitlines():
        left, _separator, right = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        inside = mount == "/" or real == mount or real.startswith(f"{mount}/")
        # of two on one place the last one counts
        if inside and len(mount) >= len(best["mount"]):
            best = {"mount": mount, "filesystem": right.split()[0], "device": right.split()[1]}
    return {"models_dir": path, **best}


def disks(paths: list[str]) -> list[dict[str, Any]]:
    """Room where directories are, or will be; each filesystem once."""
    found: dict[int, dict[str, Any]] = {}
    for path in paths:
        there = path
        while not os.path.exists(there):
            there = os.path.dirname(there)
        room = os.statvfs(there)
        found.setdefault(os.stat(there).st_dev, {"path": path, "size": room.f_blocks * room.f_frsize, "free": room.f_bavail * room.f_frsize})
    return list(found.values())


def gpus(options: Options) -> dict[str, Any]:
    """The GPUs of the host, and what is known of their driver and health."""
    found = _gpu_state.look({**_gpu_state.DEFAULTS, **options})
    smi = {gpu["uuid"]: gpu for gpu in found["smi"]["gpus"]}
    return {
        "gpus": [
            {
                **{key: gpu[key] for key in ("uuid", "name", "vendor", "memory_bytes")},
                "temperature": smi.get(gpu["uuid"], {}).get("temperature"),
                "memory_used_bytes": smi.get(gpu["uuid"], {}).get("memory_used_bytes"),
            }
            for gpu in found["gpus"]
        ],
        "driver": {key: found["driver"][key] for key in ("loaded", "installed")},
        "verdict": found["health"]["verdict"],
        "reasons": [f"{reason['level']}: {reason['text']}" for reason in found["health"]["reasons"]],
        "reboot_reasons": found["reboot_reasons"],
        "expected": options.get("expected_count", 0),
    }


# -- secrets and nginx ------------------------------------------------------------

def secrets(root: str = "/") -> list[dict[str, Any]]:
    """Files with secrets: path, owner, group, mode, and whether others can read or change them (C(open))."""
    wanted = {path: also for pattern, also in SECRETS for path in glob.glob(os.path.join(root, pattern.lstrip("/")))}
    for path in glob.glob(os.path.join(root, "etc/gpufleet/**/*"), recursive=True):
        if _NAMED_SECRET.fullmatch(os.path.basename(path)) and os.path.isfile(path):
            wanted.setdefault(path, "")
    for path in glob.glob(os.path.join(root, "etc/ollama/*.env")):
        if _IN_ENVIRONMENT.search(_probe.read(path)):
            wanted[path] = ""
    for path in _nginx_files("ssl_certificate_key", root):
        # a key that was given may be for a group, as Debian's ssl-cert
        wanted.setdefault(os.path.join(root, path.lstrip("/")), "" if path.startswith("/etc/gpufleet/") else "group")
    result = []
    for path, also in sorted(wanted.items()):
        try:
            found = os.stat(path)
        except OSError:
            continue
        result.append({
            "path": "/" + os.path.relpath(path, root),
            "owner": _name(pwd.getpwuid, found.st_uid),
            "group": _name(grp.getgrgid, found.st_gid),
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
            "open": bool(found.st_mode & (0o037 if also == "group" else 0o077)),
        })
    return result


def _nginx_files(name: str, root: str) -> list[str]:
    """The files that the directives of a name give, each once. Values that are no path, or that only a request makes one, are left out."""
    values = [item.args[0] for item in _nginx_config.directives(root) if item.name == name and item.args]
    paths = [os.path.join("/etc/nginx", value) for value in values if "$" not in value and not value.startswith(("data:", "engine:", "store:"))]
    return list(dict.fromkeys(paths))


def _name(ask: Callable[[int], Any], number: int) -> str:
    try:
        return str(ask(number)[0])
    except KeyError:
        return str(number)


def nginx(root: str = "/") -> list[dict[str, Any]]:
    """The directives that matter, in nginx's order."""
    result = []
    for directive in _nginx_config.directives(root):
        # a line server names a host in an upstream; elsewhere it only opens a block
        in_upstream = directive.name == "server" and directive.args and directive.context and directive.context[-1].startswith("upstream ")
        if directive.name not in DIRECTIVES and not in_upstream:
            continue
        args = directive.args
        if directive.name == "proxy_pass":
            # an address may have a name and a password
            args = [re.sub(r"://[^/@]*@", "://", arg) for arg in args]
        result.append({**directive._asdict(), "args": [arg[:600] for arg in args], "context": list(directive.context)})
    return result


def clients(root: str = "/") -> list[dict[str, Any]]:
    """Who may call the gateway, as its own file says: kind (client, user, oauth2), name, classes and limits. No key and no digest of one."""
    text = _probe.read(os.path.join(root, "etc/gpufleet/gateway/clients.json"))
    if not text:
        return []
    found = json.loads(text)
    everybody = [("client", item) for item in found.get("clients") or []] + [("user", item) for item in found.get("users") or []]
    if found.get("oauth2"):
        everybody.append(("oauth2", found["oauth2"]))
    kept = ("name", "classes", "rate", "burst", "max_context", "max_predict")
    return [{"kind": kind, **{key: item.get(key) for key in kept}, "keys": len(item.get("keys") or [])} for kind, item in everybody]


def gateway_config(root: str = "/") -> str:
    """The id of the configuration that the gateway's files are of; its answers say which one runs."""
    found = re.search(r'"config_id":\s*"([^"]*)"', _probe.read(os.path.join(root, "etc/gpufleet/gateway/clients.json")))
    return found[1] if found else ""


def certificates(root: str = "/") -> list[dict[str, Any]]:
    """When the certificates end that nginx names: path and not_after (seconds since 1970), or problem."""
    result = []
    for path in _nginx_files("ssl_certificate", root):
        try:
            result.append({"path": path, "not_after": _der.pem_not_after(_probe.read(os.path.join(root, path.lstrip("/")))), "problem": ""})
        except ValueError as error:
            result.append({"path": path, "not_after": 0, "problem": str(error)})
    return result


# -- the system -------------------------------------------------------------------

def clock() -> dict[str, str]:
    """What C(timedatectl) says of the clock."""
    answer = _probe.ask(["timedatectl", "show", "--property=NTP,NTPSynchronized"])
    values = dict(line.split("=", 1) for line in answer.output.splitlines() if "=" in line)
    return {"synchronized": values.get("NTPSynchronized", ""), "service": values.get("NTP", ""), "problem": answer.errors.strip()[:200]}


def memory(root: str = "/") -> int:
    """Bytes of main memory; 0 when the kernel does not say it."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _probe.read(os.path.join(root, "proc/meminfo")), re.M)
    return int(found[1]) * 1024 if found else 0


def swap(root: str = "/") -> list[dict[str, Any]]:
    """Places of swap: path, and size and used in bytes."""
    lines = [line.split() for line in _probe.read(os.path.join(root, "proc/swaps")).splitlines()[1:]]
    return [{"path": fields[0], "size": int(fields[2]) * 1024, "used": int(fields[3]) * 1024} for fields in lines if len(fields) > 3]


def journal(root: str = "/") -> dict[str, Any]:
    """How systemd keeps its logs: storage, whether they are on disk, and its limits; and whether rsyslog sends them on."""
    # the later file wins, whatever its folder (journald.conf(5))
    files = [os.path.join(root, "etc/systemd/journald.conf")]
    drop_ins: dict[str, str] = {}
    for folder in ("usr/lib", "run", "etc"):
        drop_ins.update((os.path.basename(path), path) for path in glob.glob(os.path.join(root, folder, "systemd/journald.conf.d/*.conf")))
    values: dict[str, str] = {}
    for path in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        try:
            parser.read_string(_probe.read(path))
        except configparser.Error:
            continue
        if parser.has_section("Journal"):
            values.update({key: value or "" for key, value in parser.items("Journal")})
    storage = values.get("Storage") or "auto"
    rsyslog = "\n".join(_probe.read(path) for path in glob.glob(os.path.join(root, "etc/rsyslog.d/*.conf")))
    # a comment sends nothing
    rsyslog = re.sub(r"(^|\s)#.*", "", rsyslog)
    on_disk = os.path.isdir(os.path.join(root, "var/log/journal"))
    return {
        "storage": storage,
        "persistent": storage == "persistent" or (storage == "auto" and on_disk),
        # by TCP or UDP to another host, or to a search engine
        "rsyslog_forwards": bool(re.search(r"omfwd|omrelp|omelasticsearch|omhttp|^[^#\s]\S*\s+@@?\S", rsyslog, re.M)),
        "limits": {key: values[key] for key in ("SystemMaxUse", "MaxRetentionSec") if values.get(key)},
    }


def rotated(root: str = "/") -> list[str]:
    """The patterns of files that logrotate cares for."""
    text = "\n".join(_probe.read(path) for path in sorted(glob.glob(os.path.join(root, "etc/logrotate.d/*"))))
    return re.findall(r"^\s*\"?(/[^\s{\"#]+)", text, re.M)


def firewall() -> dict[str, Any]:
    """Whether the fleet's table of nftables is loaded, and the rules in it."""
    answer = _probe.ask(["nft", "--stateless", "list", "table", "inet", "gpufleet"])
    rules = [line.strip() for line in answer.output.splitlines() if "dport" in line]
    return {"loaded": answer.status == 0, "rules": rules, "problem": (answer.errors.strip().splitlines() or [""])[0][:200]}


def textfile(root: str = "/") -> list[dict[str, Any]]:
    """What node_exporter is given of backups: name, labels, value."""
    result = []
    for path in sorted(glob.glob(os.path.join(root, "var/lib/prometheus/node-exporter/*.prom"))):
        for name, labels, value in _METRIC.findall(_probe.read(path)):
            result.append({"name": name, "labels": labels, "value": float(value), "path": "/" + os.path.relpath(path, root)})
    return result


# -- questions over HTTP ------------------------------------------------------------

def request(url: str) -> dict[str, Any]:
    """A GET of the host's own service: status (0 when nothing answers), the JSON of its answer (None when it is none), and problem."""
    try:
        response = open_url(url, timeout=ANSWER_SECONDS, use_proxy=False, validate_certs=False, follow_redirects="none")
        status, body = response.getcode(), response.read(MAX_ANSWER)
    except (OSError, HTTPException) as error:
        # what answers may be no server of HTTP
        status = getattr(error, "code", 0)
        body = error.read(MAX_ANSWER) if status else b""  # type: ignore[attr-defined]
        if not status:
            return {"url": url, "status": 0, "json": None, "problem": str(getattr(error, "reason", error)) or type(error).__name__}
    try:
        return {"url": url, "status": status, "json": json.loads(body), "problem": ""}
    except ValueError:
        return {"url": url, "status": status, "json": None, "problem": ""}


class Prometheus:
    """The API of a Prometheus. C(options): url, user and password_path (empty: it asks for none)."""

    def __init__(self, options: Options) -> None:
        self.url = options["url"].rstrip("/")
        self.user = options.get("user") or ""
        self.password = _probe.read(options["password_path"]) if self.user else ""

    def get(self, path: str, **arguments: Any) -> Any:
        """The data of an answer; ValueError with a sentence when it is none."""
        query = f"?{urlencode(arguments)}" if arguments else ""
        try:
            response = open_url(
                f"{self.url}/api/v1/{path}{query}", timeout=ANSWER_SECONDS, use_proxy=False, validate_certs=False, url_username=self.user or None,
                url_password=self.password or None, force_basic_auth=bool(self.user),
            )
            answer = json.loads(response.read(MAX_ANSWER))
        except (OSError, HTTPException) as error:
            raise ValueError(f"GET {self.url}/api/v1/{path}: {error}") from None
        if answer.get("status") != "success":
            raise ValueError(f"GET {self.url}/api/v1/{path}: {answer.get('error', 'no success')}")
        return answer["data"]


def prometheus(options: Options) -> dict[str, Any]:
    """What Prometheus knows: the health of its targets, its alerts, where they go, and the answers to C(queries) and C(plots).

    A query gives samples (labels and value), a plot series (labels and points of time and value). What cannot be asked is a problem, by its name.
    """
    server = Prometheus(options)
    now = time.time()
    result: dict[str, Any] = {"url": server.url, "problems": {}, "queries": {}, "plots": {}}

    def keep(name: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            result["problems"][name] = str(error)
            return None

    result["targets"] = keep("targets", lambda: [
        {"job": item["labels"].get("job", ""), "host": item["labels"].get("host", ""), "health": item["health"], "error": item["lastError"][:200]}
        for item in server.get("targets", state="active")["activeTargets"]
    ])
    if result["targets"] is None:
        return result
    result["rules"] = keep("rules", lambda: [
        {"name": rule["name"], "health": rule["health"], "state": rule["state"]}
        for group in server.get("rules", type="alert")["groups"] for rule in group["rules"]
    ])
    result["alertmanagers"] = keep("alertmanagers", lambda: [item["url"].rpartition("@")[2] for item in server.get("alertmanagers")["activeAlertmanagers"]])
    for name, query in options["queries"].items():
        result["queries"][name] = keep(name, lambda query=query: [
            {"labels": item["metric"], "value": _number(item["value"][1])} for item in server.get("query", query=query)["result"]
        ])
    step = options["seconds"] / options["points"]
    for name, query in options["plots"].items():
        result["plots"][name] = keep(name, lambda query=query: [
            {"labels": item["metric"], "points": [[point[0], _number(point[1])] for point in item["values"]]}
            for item in server.get("query_range", query=query, start=now - options["seconds"], end=now, step=step)["result"]
        ])
    return result


def _number(text: str) -> float | None:
    """JSON has no infinity."""
    value = float(text)
    return value if abs(value) < float("inf") else None
