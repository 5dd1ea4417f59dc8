"""A fleet in which every row of the audit passes, as the audit's facts: gw (gateway, monitoring), gpu1 and gpu2 (ollama, one with GPUs)."""

from __future__ import annotations

import copy
from typing import Any

NOW = 1_800_000_000.0
DAY = 86400
# what comes of a port behind a packet filter
SILENT = {"answer": "silent", "control": "open", "source": "10.0.0.99"}
CONF = "/etc/nginx/conf.d/gpufleet-gateway.conf"


def unit(name: str, **more: Any) -> dict[str, Any]:
    """A unit of systemd that is as it should be."""
    return {
        "name": name, "active": "active", "enabled": "enabled", "type": "exec", "restart": "always", "user": "ollama", "dynamic_user": False, "uid": 990,
        "memory_max": str(64 << 30), "memory_swap_max": "0", "cpu_quota": "8s", "device_policy": "closed", "stale": False, "result": "success",
        "environment": {}, "configured": "", "exposure": None, **more,
    }


def directive(line: int, name: str, *args: str, server: int = 0) -> dict[str, Any]:
    """A line of the gateway's configuration."""
    return {"name": name, "args": list(args), "file": CONF, "line": line, "context": ["http", "server"], "server": server}


def ollama(name: str, address: str, gpus: int) -> dict[str, Any]:
    """An Ollama host."""
    models = ["llama3.1:8b", "bot:latest"]
    environment = {
        "OLLAMA_HOST": f"{address}:11434", "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_KEEP_ALIVE": "24h", "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_DEBUG": "0",
        "GPUFLEET_CONFIG_ID": "c0ffee",
    }
    cards = [
        {"uuid": f"GPU-{number}", "name": "NVIDIA H100", "vendor": "nvidia", "memory_bytes": 80 << 30, "temperature": 40, "memory_used_bytes": 0}
        for number in range(gpus)
    ]
    found = {
        "size": 5 << 30, "parameter_size": "8B", "quantization": "Q4_K_M", "capabilities": [], "loaded": True, "processor_gpu": 1.0 if gpus else 0.0,
        "stale": False, "complete": True, "weights_bytes": 5 << 30,
    }
    return {
        "groups": ["ollama"],
        "wanted": {
            "instances": [
                {"name": "default", "url": f"http://{address}:11434", "port": 11434, "gpus": "all", "models_dir": "/srv/models", "models": models}
            ],
            "custom": ["bot:latest"],
            "services": [
                {"name": "Ollama instance default", "port": 11434, "peers": ["gw"], "networks": []},
                {"name": "node_exporter", "port": 9100, "peers": ["gw"], "networks": []},
            ],
            "clients": [], "gateway": None, "receivers": [], "ssh_port": 22,
        },
        "facts": {
            "problems": {}, "virtual": "none", "memory": 512 << 30,
            "units": [
                unit("ollama@default.service", environment=environment, configured="c0ffee", exposure=1.6),
                unit("ollama-warm@default.service", type="oneshot", active="inactive", enabled="static", uid=None),
                unit("prometheus-node-exporter.service", restart="on-failure", user="prometheus"),
                unit("systemd-journal-upload.service", user="systemd-journal-upload"),
            ],
            "sockets": [
                {"address": address, "port": 11434, "pid": 10, "command": "ollama", "unit": "ollama@default.service"},
                {"address": address, "port": 9100, "pid": 11, "command": "prometheus-node", "unit": "prometheus-node-exporter.service"},
                {"address": "0.0.0.0", "port": 22, "pid": 12, "command": "sshd", "unit": "ssh.service"},
            ],
            "instances": [
                {
                    "name": "default", "url": f"http://{address}:11434", "version": "0.34.4", "problem": "", "absent": [], "broken": [],
                    "models": [{**found, "name": "llama3.1:8b", "digest": "a" * 64}, {**found, "name": "bot:latest", "digest": "b" * 64, "stale": None}],
                    "loaded": [{"name": "llama3.1:8b", "size": 5 << 30, "size_vram": 5 << 30, "context_length": 8192}],
                    "warm": ["llama3.1:8b"], "models_dir": "/srv/models", "mount": "/srv", "filesystem": "ext4", "device": "/dev/nvme0n1",
                }
            ],
            "disks": [{"path": "/", "size": 100 << 30, "free": 50 << 30}],
            "gpu": {
                "gpus": cards, "driver": {"loaded": "580.95.05"} if gpus else {"loaded": ""}, "verdict": "ok" if gpus else "none", "reasons": [],
                "reboot_reasons": [], "expected": gpus,
            },
            "secrets": [{"path": "/etc/ollama/default.env", "owner": "root", "group": "root", "mode": "0600", "open": False}],
            "nginx": [], "clients": [], "certificates": [], "rotated": [], "requests": {}, "prometheus": {},
            "time": {"synchronized": "yes", "service": "yes", "problem": ""}, "swap": [],
            "journal": {"storage": "persistent", "persistent": True, "rsyslog_forwards": False, "limits": {"SystemMaxUse": "2G"}},
            "firewall": {"loaded": True, "rules": ['tcp dport 11434 drop comment "Ollama: nobody else"'], "problem": ""},
            "textfile": [
                {"name": "ollama_backup_last_success_timestamp_seconds", "labels": "", "value": NOW - 3600, "path": "/var/lib/prometheus/node-exporter/b.prom"},
                {"name": "ollama_backup_drill_success", "labels": "", "value": 1.0, "path": "/var/lib/prometheus/node-exporter/b.prom"},
            ],
        },
    }


def gateway() -> dict[str, Any]:
    """The gateway, which has the Prometheus too."""
    host = ollama("gw", "10.0.0.1", 0)
    facts = host["facts"]
    facts.update(
        units=[
            unit("nginx.service", restart="on-failure", user=""),
            unit("prometheus.service", restart="on-failure", user="prometheus"),
            unit("prometheus-alertmanager.service", restart="on-failure", user="prometheus", exposure=1.1),
            unit("grafana-server.service", restart="on-failure", user="grafana"),
            unit("systemd-journal-remote.service", user="systemd-journal-remote"),
        ],
        sockets=[{"address": "10.0.0.1", "port": 9090, "pid": 5, "command": "prometheus", "unit": "prometheus.service"}],
        instances=[], textfile=[], gpu={"gpus": [], "driver": {}, "verdict": "none", "reasons": [], "reboot_reasons": [], "expected": 0},
        secrets=[{"path": "/etc/gpufleet/gateway/clients.json", "owner": "root", "group": "root", "mode": "0600", "open": False}],
        nginx=[
            directive(1, "log_format", "gw", "$time_iso8601 $gateway_client $gateway_route $status", server=-1),
            directive(2, "limit_req_zone", "$gateway_limit", "zone=gw_10:5m", "rate=10r/s", server=-1),
            directive(3, "listen", "0.0.0.0:443", "ssl"),
            directive(4, "ssl_protocols", "TLSv1.2", "TLSv1.3"),
            directive(5, "limit_req", "zone=gw_10", "burst=20", "nodelay"),
            directive(6, "access_log", "/var/log/nginx/gateway.log", "gw"),
            directive(7, "proxy_pass", "http://gpufleet_ollama/api/chat"),
        ],
        gateway_config="beef", rotated=["/var/log/nginx/*.log"],
        clients=[
            {"kind": "client", "name": "team-a", "classes": ["chat", "read"], "keys": 1},
            {"kind": "client", "name": "ops", "classes": ["chat", "admin"], "keys": 1},
        ],
        certificates=[{"path": "/etc/gpufleet/gateway/tls/server.crt", "not_after": NOW + 200 * DAY, "problem": ""}],
        requests={
            "ready": {"url": "http://10.0.0.1:9113/ready", "status": 200, "json": {"usable": 2}, "problem": ""},
            "upstreams": {
                "url": "http://10.0.0.1:9113/upstreams", "status": 200, "problem": "",
                "json": [{"host": name, "instance": "default", "state": "up"} for name in ("gpu1", "gpu2")],
            },
            "grafana": {"url": "http://10.0.0.1:3000/api/health", "status": 200, "json": {}, "problem": ""},
        },
        prometheus=prometheus(),
    )
    host.update(groups=["gateway", "monitoring"])
    host["wanted"].update(
        instances=[], services=[{"name": "Prometheus", "port": 9090, "peers": [], "networks": ["10.9.0.0/24"]}],
        clients=[{"name": "team-a", "keys": [{"id": "0a1b2c3d", "made": NOW - 30 * DAY}]}], gateway={"port": 443, "name": "llm.example.org"},
        receivers=["night"],
    )
    return host


def prometheus() -> dict[str, Any]:
    """What Prometheus says."""
    def of_host(name: str, **labels: str) -> dict[str, Any]:
        return {"labels": {"host": name, **labels}, "value": 1.0}

    return {
        "url": "http://10.0.0.1:9090", "problems": {},
        "targets": [{"job": "ollama", "host": "gpu1", "health": "up", "error": ""}],
        "rules": [{"name": name, "health": "ok", "state": "inactive"} for name in ("HostDown", "GatewayErrorRate")],
        "alertmanagers": ["http://10.0.0.1:9093/api/v2/alerts"],
        "queries": {
            "health": [of_host("gpu1", ollama_instance="default"), of_host("gpu2", ollama_instance="default")],
            "gateways": [of_host("gw")], "requests": [of_host("gw")], "latency": [of_host("gw")], "cpu": [of_host("gpu1")], "memory": [of_host("gpu1")],
            "gpu": [of_host("gpu1")],
        },
        "plots": {"Processors in use": [{"labels": {"host": "gpu1"}, "points": [[NOW - 1800, 0.25], [NOW - 900, 0.5], [NOW, 0.25]]}]},
    }


def answers() -> dict[str, Any]:
    """What a gateway answers to a stranger."""
    def answer(status: int, problem: str = "") -> dict[str, Any]:
        return {"status": status, "body": "", "tls": "TLSv1.3", "not_after": NOW + 200 * DAY, "config": "", "problem": problem}

    return {
        "health": {**answer(200), "config": "beef"}, "no_key": answer(401), "no_key_pull": answer(401), "wrong_key": answer(401), "plain": answer(400),
        "wrong_host": answer(0, "the connection was closed"), "old_tls": "refused",
    }


def data() -> dict[str, Any]:
    """The whole fleet, anew for each who asks, so that a test may break it."""
    seen = [
        ("gpu1", "gpu2", "10.0.0.11", 11434, "Ollama instance default"), ("gpu2", "gpu1", "10.0.0.12", 11434, "Ollama instance default"),
        ("gw", "gpu1", "10.0.0.1", 9090, "Prometheus"),
    ]
    return copy.deepcopy({
        "now": NOW,
        "hosts": {"gw": gateway(), "gpu1": ollama("gpu1", "10.0.0.11", 2), "gpu2": ollama("gpu2", "10.0.0.12", 0)},
        "inventory": {"ollama": ["gpu1", "gpu2"], "gateway": ["gw"], "monitoring": ["gw"]},
        "probes": {
            "ports": [
                {"host": host, "from": asker, "address": address, "port": port, "service": service, "ssh_port": 22, **SILENT}
                for host, asker, address, port, service in seen
            ],
            "gateways": [{"host": "gw", "from": "gpu1", "address": "10.0.0.1", "port": 443, "name": "llm.example.org", "answers": answers()}],
        },
    })
