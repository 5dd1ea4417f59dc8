"""Module ollama_audit_facts: a root made up, commands that stand in for systemd's, a server of the stand-in and a Prometheus made up, all on loopback."""

from __future__ import annotations

import base64
import json
import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _audit_facts
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_audit_facts

RunModule = Callable[..., dict[str, Any]]
SECRETS = ("hunter2-hunter2", "main-chain-test-key-0123456789abcdef", "6c52fe60acdf0ff5c52d176e3c5fdf6da1aa1ed6eaa2f8a90e6d209bbf03406b", "$6$salt$hash")
SHOW = """\
Id=ollama@default.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
Type=exec
Restart=always
User=ollama
DynamicUser=no
MainPID={pid}
MemoryMax=2147483648
MemorySwapMax=infinity
CPUQuotaPerSecUSec=4s
DevicePolicy=closed
NeedDaemonReload=no
Result=success

Id=ollama.service
LoadState=not-found
ActiveState=inactive

Id=nginx.service
LoadState=loaded
ActiveState=failed
UnitFileState=enabled
Type=forking
Restart=on-failure
User=
DynamicUser=no
MainPID=0
MemoryMax=infinity
CPUQuotaPerSecUSec=infinity
NeedDaemonReload=yes
Result=exit-code
"""
COMMANDS = {
    "systemctl": 'cat "$STAND_IN/show"',
    "systemd-analyze": 'echo "→ Overall exposure level for ollama@default.service: 1.6 OK :-)"',
    "systemd-detect-virt": "echo none; exit 1",
    "timedatectl": "echo NTP=yes; echo NTPSynchronized=no",
    "nft": 'echo "table inet gpufleet {"; echo "  tcp dport 11434 drop comment \\"nobody\\""; echo "}"',
}
FILES = {
    "etc/gpufleet/gateway/clients.json": json.dumps({
        "config_id": "abc",
        "clients": [{"name": "team-a", "classes": ["chat"], "rate": "10r/s", "burst": 20, "keys": [{"sha256": SECRETS[2], "expires": 0}]}],
        "users": [{"name": "dash", "classes": ["read"], "rate": "10r/s", "burst": 1}],
        "oauth2": {"name": "oauth2", "classes": ["chat"]},
    }),
    "etc/gpufleet/gateway/htpasswd": f"dash:{SECRETS[3]}\n",
    "etc/ollama/default.env": '# GPUFLEET_CONFIG_ID="no"\nOLLAMA_HOST="10.0.0.5:11434"\nGPUFLEET_CONFIG_ID="c0ffee"\n',
    "etc/ollama/proxied.env": f'HTTPS_PROXY="http://me:{SECRETS[0]}@proxy:3128"\n',
    "etc/nginx/nginx.conf": (
        "http { server { listen 443 ssl; ssl_certificate /etc/c.crt; ssl_certificate_key /etc/c.key; "
        f"access_by_lua_block {{ local key = '{SECRETS[1]}' }} "
        f"proxy_pass http://me:{SECRETS[0]}@10.0.0.5:11434/; proxy_set_header Authorization 'Bearer {SECRETS[1]}'; }} "
        "upstream mine { server 10.0.0.5:11434; } }"
    ),
    "etc/c.key": "-----BEGIN PRIVATE KEY-----\n",
    "etc/gpufleet/backup/restic-password": SECRETS[0],
    "etc/gpufleet/backup/config.json": "{}",
    "etc/c.crt": "no certificate\n",
    "etc/systemd/journald.conf": "[Journal]\n#Storage=none\nStorage=volatile\n",
    "etc/systemd/journald.conf.d/10-fleet.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=2G\n",
    "usr/lib/systemd/journald.conf.d/20-lib.conf": "[Journal]\nMaxRetentionSec=30day\n",
    "etc/logrotate.d/nginx": '/var/log/nginx/*.log {\n  daily\n}\n"/var/log/other.log" /var/log/third.log {\n}\n',
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1024 512 -2\n",
    "proc/meminfo": "MemFree: 1 kB\nMemTotal:       2048 kB\n",
    "var/lib/prometheus/node-exporter/backup.prom": (
        "# HELP x\nollama_backup_last_success_timestamp_seconds 1.8e9\nollama_backup_drill_success{host=\"gpu1\"} 1\nother_metric 3\n"
    ),
}


@pytest.fixture(name="host")
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a host; commands that answer as systemd does come first in PATH."""
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    (tmp_path / "show").write_text(SHOW.format(pid=os.getpid()), encoding="utf-8")
    root = tmp_path / "root"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        (root / name).chmod(0o600)
    (root / "etc/gpufleet/gateway/htpasswd").chmod(0o640)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return root


class Prometheus(BaseHTTPRequestHandler):
    """Answers as Prometheus does to whoever knows the password."""

    answers: dict[str, Any] = {
        "targets": {"activeTargets": [{"labels": {"job": "ollama", "host": "gpu1"}, "health": "up", "lastError": ""}]},
        "rules": {"groups": [{"rules": [{"name": "HostDown", "health": "ok", "state": "inactive"}]}]},
        "alertmanagers": {"activeAlertmanagers": [{"url": f"http://me:{SECRETS[0]}@10.0.0.1:9093/api/v2/alerts"}]},
        "query": {"result": [{"metric": {"host": "gpu1"}, "value": [1, "NaN"]}, {"metric": {"host": "gpu2"}, "value": [1, "1.5"]}]},
        "query_range": {"result": [{"metric": {}, "values": [[1, "+Inf"], [2, "3"]]}]},
    }

    def do_GET(self) -> None:  # noqa: N802  pylint: disable=invalid-name
        """One answer."""
        allowed = self.headers.get("Authorization") == f"Basic {base64.b64encode(b'audit:hunter2-hunter2').decode()}"
        bad = "bad_query" in self.path
        name = self.path.split("?")[0].rpartition("/")[2]
        answer = {"status": "error", "error": "parse error"} if bad else {"status": "success", "data": self.answers.get(name)}
        status = 401 if not allowed else 400 if bad else 200
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Nothing."""


@pytest.fixture(name="prometheus")
def prometheus_server() -> Iterator[str]:
    """Its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Prometheus)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_system(host: Path, run_module: RunModule) -> None:
    """What is read of a host, and that check mode reads the same."""
    found = run_module(ollama_audit_facts.main, root_dir=str(host))
    again = run_module(ollama_audit_facts.main, root_dir=str(host), check=True)
    facts = found["facts"]
    assert not found["changed"] and facts["problems"] == {} and facts["virtual"] == "none"
    # others use ports and the disk meanwhile
    fixed = set(facts) - {"sockets", "disks"}
    assert set(again["facts"]) == set(facts) and {key: again["facts"][key] for key in fixed} == {key: facts[key] for key in fixed}
    ollama, nginx = sorted(facts["units"], key=lambda item: item["name"], reverse=True)
    assert (ollama["name"], ollama["exposure"], ollama["uid"], ollama["memory_max"]) == ("ollama@default.service", 1.6, os.getuid(), "2147483648")
    assert (nginx["name"], nginx["exposure"], nginx["uid"], nginx["stale"], nginx["active"]) == ("nginx.service", None, None, True, "failed")
    assert (ollama["configured"], nginx["configured"], facts["gateway_config"]) == ("c0ffee", "", "abc")
    assert facts["time"] == {"synchronized": "no", "service": "yes", "problem": ""}
    assert facts["swap"] == [{"path": "/dev/sda2", "size": 1 << 20, "used": 1 << 19}] and facts["memory"] == 2 << 20
    assert facts["journal"] == {
        "storage": "persistent", "persistent": True, "rsyslog_forwards": False, "limits": {"SystemMaxUse": "2G", "MaxRetentionSec": "30day"},
    }
    assert facts["rotated"] == ["/var/log/nginx/*.log", "/var/log/other.log"]
    assert facts["firewall"]["loaded"] and facts["firewall"]["rules"] == ['tcp dport 11434 drop comment "nobody"']
    assert [(item["name"], item["labels"], item["value"]) for item in facts["textfile"]] == [
        ("ollama_backup_last_success_timestamp_seconds", "", 1.8e9), ("ollama_backup_drill_success", '{host="gpu1"}', 1.0),
    ]
    assert [(item["path"], item["problem"]) for item in facts["certificates"]] == [("/etc/c.crt", "there is no certificate in the file")]
    assert facts["disks"][0]["path"] == "/" and 0 < facts["disks"][0]["free"] < facts["disks"][0]["size"]
    assert facts["gpu"]["verdict"] in ("none", "ok", "warn", "fail")


def test_modes_of_secrets(host: Path) -> None:
    """Others may read none of them, a group only where it must; what has no secret is not looked at."""
    (host / "etc/c.key").chmod(0o640)
    found = {item["path"]: (item["mode"], item["open"]) for item in _audit_facts.secrets(str(host))}
    assert found == {
        "/etc/gpufleet/gateway/clients.json": ("0600", False), "/etc/gpufleet/gateway/htpasswd": ("0640", False),
        "/etc/ollama/proxied.env": ("0600", False), "/etc/c.key": ("0640", False), "/etc/gpufleet/backup/restic-password": ("0600", False),
    }
    (host / "etc/gpufleet/gateway/htpasswd").chmod(0o644)
    (host / "etc/c.key").chmod(0o644)
    assert [item["path"] for item in _audit_facts.secrets(str(host)) if item["open"]] == ["/etc/c.key", "/etc/gpufleet/gateway/htpasswd"]


def test_keys_of_other_sites(host: Path) -> None:
    """A path may be relative to /etc/nginx; a variable, or a key that stands in the line itself, is no file. The collection's own keys are for root."""
    values = ("ssl/site.key", "/etc/gpufleet/gateway/tls/given.pem", "$ssl_server_name.key", "data:$key", "engine:pkcs11:x", "store:x")
    lines = [f"ssl_certificate_key {value}; ssl_certificate {value};" for value in values]
    (host / "etc/nginx/nginx.conf").write_text(f"http {{ server {{ {' '.join(lines)} }} }}", encoding="utf-8")
    for name in ("etc/nginx/ssl/site.key", "etc/gpufleet/gateway/tls/given.pem"):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text("x", encoding="utf-8")
        (host / name).chmod(0o640)
    found = {item["path"]: item["open"] for item in _audit_facts.secrets(str(host))}
    assert found["/etc/nginx/ssl/site.key"] is False and found["/etc/gpufleet/gateway/tls/given.pem"] is True
    assert [item["path"] for item in _audit_facts.certificates(str(host))] == ["/etc/nginx/ssl/site.key", "/etc/gpufleet/gateway/tls/given.pem"]


def test_no_secret_leaves_the_host(host: Path, run_module: RunModule, prometheus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, passwords, and digests of keys are in the files that are read, and in nothing that is returned."""
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.5:11434")
    (host / "password").write_text("hunter2-hunter2\n", encoding="utf-8")
    options = {"url": prometheus, "user": "audit", "password_path": str(host / "password"), "queries": {"a": "up"}, "plots": {"b": "up"}}
    facts = run_module(ollama_audit_facts.main, root_dir=str(host), prometheus=options)["facts"]
    assert facts["clients"] == [
        {"kind": "client", "name": "team-a", "classes": ["chat"], "rate": "10r/s", "burst": 20, "max_context": None, "max_predict": None, "keys": 1},
        {"kind": "user", "name": "dash", "classes": ["read"], "rate": "10r/s", "burst": 1, "max_context": None, "max_predict": None, "keys": 0},
        {"kind": "oauth2", "name": "oauth2", "classes": ["chat"], "rate": None, "burst": None, "max_context": None, "max_predict": None, "keys": 0},
    ]
    assert ["http://10.0.0.5:11434/"] in [item["args"] for item in facts["nginx"]]
    # the block of a server is none of an upstream
    assert [(item["args"], item["context"]) for item in facts["nginx"] if item["name"] == "server"] == [(["10.0.0.5:11434"], ["http", "upstream mine"])]
    text = json.dumps(facts)
    assert all(secret not in text for secret in SECRETS) and "PRIVATE KEY" not in text
    assert facts["prometheus"]["alertmanagers"] == ["10.0.0.1:9093/api/v2/alerts"]


def test_environment_is_that_of_the_process(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of that only what was chosen."""
    environment = {"OLLAMA_NUM_PARALLEL": "4", "HTTPS_PROXY": "http://me:hunter2-hunter2@proxy", "GPUFLEET_CONFIG_ID": "abc"}
    monkeypatch.setattr(_audit_facts._units, "process_environment", lambda _pid: environment)
    assert host.is_dir()
    assert _audit_facts.units([], False)[1]["environment"] == {"OLLAMA_NUM_PARALLEL": "4", "GPUFLEET_CONFIG_ID": "abc"}


def test_instance(pulled: Callable[..., Any], host: Path, run_module: RunModule, tmp_path: Path) -> None:
    """An instance that answers, its store, and one that does not answer."""
    store = tmp_path / "models"
    server, name = pulled(OLLAMA_MODELS=str(store))
    instances = [
        {"name": "default", "url": server.url, "models_dir": str(store), "models": [name, "llama3.2:1b"]},
        {"name": "gone", "url": "http://127.0.0.1:9", "models_dir": str(tmp_path / "nothing")},
    ]
    facts = run_module(ollama_audit_facts.main, root_dir=str(host), instances=instances, parts=["instances", "disks"])["facts"]
    assert set(facts) == {"problems", "virtual", "instances", "disks"} and not facts["problems"]
    here, gone = facts["instances"]
    assert here["version"] and not here["problem"] and here["absent"] == ["llama3.2:1b"] and here["mount"] and here["filesystem"]
    model = next(item for item in here["models"] if item["name"] == name)
    assert model["complete"] and model["quantization"] and model["stale"] is None and model["weights_bytes"] > 0
    assert "no Ollama answers" in gone["problem"] and gone["models"] == [] and gone["version"] == ""


@pytest.mark.parametrize("installed", ["580.95.05", "580.105.08"])
def test_gpus(tmp_path: Path, installed: str) -> None:
    """The GPUs with their memory, and whether the driver that is installed is the one that is loaded."""
    for name in ("dev", "root", "sys"):
        (tmp_path / name).mkdir()
    described = standin.scenario("healthy")
    for index, gpu in enumerate(described["gpus"]):
        standin.pci(tmp_path, gpu["bus_id"])
        standin.write(
            tmp_path / f"proc/driver/nvidia/gpus/{gpu['bus_id']}/information",
            f"Model: \t\t {gpu['model']}\nGPU UUID: \t {gpu['uuid']}\nBus Location: \t {gpu['bus_id']}\nDevice Minor: \t {index}\n",
        )
    standin.loaded(tmp_path, "580.95.05")
    standin.running(tmp_path, "6.1.0-31-amd64")
    standin.kernel(tmp_path, "6.1.0-31-amd64", installed)
    standin.modinfo(tmp_path)
    standin.smi(tmp_path, described)
    options = {f"{name}_dir": str(tmp_path / name) for name in ("dev", "proc", "sys", "root")}
    found = _audit_facts.gpus({**options, "command": str(tmp_path / "nvidia-smi"), "modinfo": str(tmp_path / "modinfo"), "kernel_log": "", "expected_count": 2})
    assert found["driver"] == {"loaded": "580.95.05", "installed": installed} and found["verdict"] == "ok"
    assert len(found["gpus"]) == 2 and {(card["vendor"], card["memory_bytes"]) for card in found["gpus"]} == {("nvidia", 81559 << 20)}
    assert all(card["temperature"] is not None for card in found["gpus"])
    assert bool(found["reboot_reasons"]) is (installed != "580.95.05")


def test_prometheus(prometheus: str, tmp_path: Path) -> None:
    """Targets, alerts, queries and plots; a query that is refused is a problem of its own, and a wrong password one of all."""
    (tmp_path / "password").write_text("hunter2-hunter2\n", encoding="utf-8")
    options = {
        "url": prometheus, "user": "audit", "password_path": str(tmp_path / "password"), "seconds": 100, "points": 10,
        "queries": {"good": "up", "bad": "bad_query"}, "plots": {"Line": "up"},
    }
    found = _audit_facts.prometheus(options)
    assert found["targets"] == [{"job": "ollama", "host": "gpu1", "health": "up", "error": ""}]
    assert found["rules"] == [{"name": "HostDown", "health": "ok", "state": "inactive"}]
    # JSON has neither
    assert [item["value"] for item in found["queries"]["good"]] == [None, 1.5]
    assert found["plots"]["Line"] == [{"labels": {}, "points": [[1, None], [2, 3.0]]}]
    assert found["queries"]["bad"] is None and list(found["problems"]) == ["bad"]
    (tmp_path / "password").write_text("wrong\n", encoding="utf-8")
    refused = _audit_facts.prometheus(options)
    assert refused["targets"] is None and "401" in refused["problems"]["targets"] and "wrong" not in json.dumps(refused)


def test_requests(prometheus: str) -> None:
    """A status that is no success is an answer, too; a port where nobody is has none."""
    assert _audit_facts.request(f"{prometheus}/ready")["status"] == 401
    gone = _audit_facts.request("http://127.0.0.1:9/ready")
    assert gone["status"] == 0 and gone["problem"] and gone["json"] is None


@pytest.fixture(name="babble")
def no_server_of_http() -> Iterator[str]:
    """The URL of something that speaks another protocol."""
    class Babble(socketserver.StreamRequestHandler):
        """One line, whatever is asked."""

        def handle(self) -> None:
            """Answer."""
            self.rfile.readline()
            self.wfile.write(b"220 mail.example.org\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Babble) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_what_is_no_server_of_http(babble: str, host: Path, run_module: RunModule) -> None:
    """It is a problem of this request, and hides nothing of the host."""
    options = {"url": babble, "queries": {"a": "up"}}
    facts = run_module(ollama_audit_facts.main, root_dir=str(host), requests={"ready": babble}, prometheus=options)["facts"]
    assert facts["requests"]["ready"]["status"] == 0 and "220 mail" in facts["requests"]["ready"]["problem"]
    assert facts["prometheus"]["targets"] is None and "220 mail" in facts["prometheus"]["problems"]["targets"]
    assert facts["problems"] == {} and facts["units"]


def test_a_file_of_another_form(host: Path, run_module: RunModule) -> None:
    """JSON, but not what the role writes."""
    (host / "etc/gpufleet/gateway/clients.json").write_text('["x"]', encoding="utf-8")
    assert set(run_module(ollama_audit_facts.main, root_dir=str(host))["facts"]["problems"]) == {"clients"}


def test_a_part_that_fails_hides_no_other(host: Path, run_module: RunModule) -> None:
    """It is named, with the reason."""
    (host / "etc/gpufleet/gateway/clients.json").write_text("no JSON", encoding="utf-8")
    facts = run_module(ollama_audit_facts.main, root_dir=str(host))["facts"]
    assert set(facts["problems"]) == {"clients"} and "clients" not in facts and facts["units"]


@pytest.mark.parametrize(
    ("text", "forwards"),
    [
        ("*.* @@logs.example.org:514\n", True), ('action(type="omfwd" target="x")', True), ("# *.* @@logs\n", False),
        ("# omfwd is not used\n*.* /x # omrelp\n", False),
    ],
)
def test_rsyslog(tmp_path: Path, text: str, forwards: bool) -> None:
    """Whether it sends logs on."""
    (tmp_path / "etc/rsyslog.d").mkdir(parents=True)
    (tmp_path / "etc/rsyslog.d/50.conf").write_text(text, encoding="utf-8")
    found = _audit_facts.journal(str(tmp_path))
    assert found["rsyslog_forwards"] is forwards and not found["persistent"]
    (tmp_path / "var/log/journal").mkdir(parents=True)
    assert _audit_facts.journal(str(tmp_path))["persistent"]
