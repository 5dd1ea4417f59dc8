"""The rows of the audit, one by one: each passes in a fleet that is well, fails with evidence when that is broken, and knows when it does not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from audit_fleet import CONF, DAY, NOW, data, directive, unit

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import Fleet, bytes_text

Data = dict[str, Any]
Break = Callable[[Data], None]


def rows(found: Data) -> dict[str, dict[str, Any]]:
    """The rows, by id."""
    return {row["id"]: row for row in _audit.evaluate(Fleet(found))}


def facts(found: Data, host: str) -> Data:
    """The facts of a host."""
    return found["hosts"][host]["facts"]


def of_unit(host: str, number: int, **values: Any) -> Break:
    """Properties of a unit are others."""
    return lambda found: facts(found, host)["units"][number].update(values)


def variable(name: str, value: str | None) -> Break:
    """A variable of the instance on gpu1 is another, or is not set."""
    def change(found: Data) -> None:
        environment = facts(found, "gpu1")["units"][0]["environment"]
        environment.pop(name, None)
        environment.update({name: value} if value is not None else {})
    return change


def instance(**values: Any) -> Break:
    """The instance on gpu1 says something else."""
    return lambda found: facts(found, "gpu1")["instances"][0].update(values)


def model(**values: Any) -> Break:
    """The first model on gpu1 is another."""
    return lambda found: facts(found, "gpu1")["instances"][0]["models"][0].update(values)


def both(*changes: Break) -> Break:
    """Several changes."""
    def change(found: Data) -> None:
        for one in changes:
            one(found)
    return change


def everywhere(name: str, value: Any) -> Break:
    """A part of the facts of all hosts is another."""
    def change(found: Data) -> None:
        for host in found["hosts"]:
            facts(found, host)[name] = value
    return change


def part(host: str, name: str, value: Any) -> Break:
    """A part of the facts is another."""
    return lambda found: facts(found, host).update({name: value})


def answer(name: str, **values: Any) -> Break:
    """The gateway answers something else to a stranger."""
    return lambda found: found["probes"]["gateways"][0]["answers"][name].update(values)


def old_tls(value: str) -> Break:
    """What came of TLS 1.1."""
    return lambda found: found["probes"]["gateways"][0]["answers"].update(old_tls=value)


def port(number: int, value: str, **more: Any) -> Break:
    """A port answers something else to another host."""
    return lambda found: found["probes"]["ports"][number].update(answer=value, **more)


def also(number: int, **values: Any) -> Break:
    """A port was asked at another address, too."""
    return lambda found: found["probes"]["ports"].append({**found["probes"]["ports"][number], **values})


def nginx(*lines: Data, without: tuple[str, ...] = ()) -> Break:
    """The gateway's nginx has other lines."""
    def change(found: Data) -> None:
        facts(found, "gw")["nginx"] = [line for line in facts(found, "gw")["nginx"] if line["name"] not in without] + list(lines)
    return change


def wanted(host: str, **values: Any) -> Break:
    """The inventory says something else."""
    return lambda found: found["hosts"][host]["wanted"].update(values)


def prometheus(name: str, value: Any) -> Break:
    """Prometheus says something else."""
    return lambda found: facts(found, "gw")["prometheus"].update({name: value})


def query(name: str, value: Any) -> Break:
    """Prometheus answers a query otherwise."""
    return lambda found: facts(found, "gw")["prometheus"]["queries"].update({name: value})


def without(*hosts: str) -> Break:
    """Hosts are not in the inventory."""
    def change(found: Data) -> None:
        limited(*hosts)(found)
        found["inventory"] = {group: [name for name in names if name not in hosts] for group, names in found["inventory"].items()}
    return change


def limited(*hosts: str) -> Break:
    """Hosts are not in the play, by --limit."""
    def change(found: Data) -> None:
        for host in hosts:
            del found["hosts"][host]
        found["probes"] = {kind: [item for item in items if item["host"] not in hosts] for kind, items in found["probes"].items()}
    return change


def unreached(found: Data, host: str = "gpu2") -> None:
    """A host could not be connected to."""
    found["hosts"][host].update(facts=None, problem="Connection timed out")


def no_gateway_reached(found: Data) -> None:
    """The gateway could not be connected to, and so nobody asked it."""
    unreached(found, "gw")
    found["probes"]["gateways"] = []


def no_gateway_asked(found: Data) -> None:
    """The host that was to ask the gateway failed."""
    found["probes"]["gateways"] = []


def no_monitoring(found: Data) -> None:
    """No host is in the group monitoring."""
    found["hosts"]["gw"].update(groups=["gateway"])
    found["inventory"]["monitoring"] = []


def no_probes(found: Data) -> None:
    """No other host could ask."""
    found["probes"]["ports"] = []


def no_rules_either(found: Data) -> None:
    """And no firewall of the fleet is loaded."""
    no_probes(found)
    facts(found, "gpu1")["firewall"] = {"loaded": False, "rules": [], "problem": "No such file or directory"}


SITE = {**directive(3, "proxy_pass", "http://10.0.0.11:11434", server=7), "file": "/etc/nginx/sites-enabled/other"}
OTHER_SITE = "/etc/nginx/sites-enabled/other"


def site(target: str, *lines: Data, listen: tuple[str, ...] = ("8082",)) -> Break:
    """Somebody else's site on the gateway, which passes requests on."""
    own = [directive(1, "listen", *listen, server=7), directive(2, "proxy_pass", target, server=7)]
    return nginx(*({**line, "file": OTHER_SITE} for line in [*own, *lines]))


UPSTREAM = {**directive(9, "server", "10.0.0.11:11434", "max_fails=3", server=-1), "context": ["http", "upstream mine"]}
BACKUP = {"name": "ollama_backup_last_success_timestamp_seconds", "labels": "", "path": "b.prom"}
OPENED = [
    {"name": "Prometheus", "port": 9090, "peers": [], "networks": []},
    {"name": "extra rule tcp 9000-9099", "port": 9000, "last": 9099, "peers": [], "networks": ["10.9.0.0/24"]},
]
SWAP = [{"path": "/dev/sda2", "size": 8 << 30, "used": 1 << 30}]
DRILLED = {"name": "ollama_backup_drill_last_success_timestamp_seconds", "labels": "", "path": "b.prom"}
DRILL = {"name": "ollama_backup_drill_success", "labels": "", "path": "b.prom"}

# row, what is broken, the host of the evidence, and what it says
FAILS: list[tuple[str, Break, str, str]] = [
    ("hosts-reached", unreached, "gpu2", "Connection timed out"),
    # it fell out between two tasks
    ("hosts-reached", lambda found: found["hosts"]["gpu2"].update(problem="Connection reset"), "gpu2", "ask other hosts Connection reset"),
    ("hosts-reached", part("gpu1", "problems", {"gpu": "no such device"}), "gpu1", "gpu: no such device"),
    ("restart-policy", of_unit("gpu1", 0, restart="no"), "gpu1", "Restart=no"),
    ("restart-policy", of_unit("gpu1", 0, restart="on-failure"), "gpu1", "Restart=on-failure"),
    ("restart-policy", of_unit("gw", 0, enabled="disabled"), "gw", "UnitFileState=disabled"),
    ("restart-policy", part("gpu1", "units", []), "gpu1", "no unit of an instance"),
    ("restart-policy", of_unit("gw", 0, enabled="disabled", active="inactive"), "gw", "UnitFileState=disabled"),
    ("restart-policy", of_unit("gpu1", 0, enabled="disabled", active="inactive"), "gpu1", "UnitFileState=disabled"),
    ("persistent-storage", instance(filesystem="tmpfs", device="tmpfs", mount="/srv/models"), "gpu1", "/srv/models from tmpfs"),
    ("resource-limits", of_unit("gpu1", 0, memory_max="infinity"), "gpu1", "MemoryMax=infinity"),
    ("resource-limits", of_unit("gpu1", 0, cpu_quota="infinity"), "gpu1", "CPUQuotaPerSecUSec=infinity"),
    ("resource-limits", of_unit("gpu1", 0, device_policy="auto"), "gpu1", "DevicePolicy=auto"),
    ("health-checks", instance(problem="no Ollama answers at http://10.0.0.11:11434"), "gpu1", "no Ollama answers"),
    ("health-checks", answer("health", status=503), "gw", "status 503"),
    ("health-checks", lambda found: facts(found, "gw")["requests"]["ready"].update(status=0, problem="refused"), "gw", "refused"),
    ("tls", answer("health", tls="", status=0, problem="no handshake"), "gw", "no handshake"),
    ("tls", answer("health", tls="TLSv1"), "gw", "TLSv1"),
    ("tls", answer("plain", status=200), "gw", "status 200"),
    ("tls", answer("wrong_host", status=200), "gw", "status 200"),
    ("tls", old_tls("accepted"), "gw", "accepted"),
    ("tls", nginx(directive(4, "ssl_protocols", "TLSv1.1", "TLSv1.2"), without=("ssl_protocols",)), "gw", "ssl_protocols TLSv1.1 TLSv1.2"),
    ("tls", nginx(directive(9, "ssl_protocols", "TLSv1", server=-1), directive(9, "listen", "443", "ssl", server=4)), "gw", "ssl_protocols TLSv1"),
    ("tls", site("http://gpufleet_ollama"), "gw", f"{OTHER_SITE}, line 1 listen 8082"),
    ("tls", site("http://mine", UPSTREAM), "gw", "listen 8082"),
    ("tls", nginx({**SITE, "server": 9}), "gw", "has no line listen"),
    ("tls", no_gateway_reached, "gw", "Connection timed out"),
    ("tls", no_gateway_asked, "gw", "no host could ask it"),
    ("tls", without("gw"), "gpu1", "there is no gateway, and Ollama listens on 10.0.0.11:11434"),
    ("authentication", answer("no_key", status=200), "gw", "status 200"),
    ("authentication", answer("wrong_key", status=200), "gw", "status 200"),
    ("authentication", nginx(SITE), "gw", "past the gateway's keys"),
    ("authentication", site("http://mine", UPSTREAM), "gw", "http://mine: it leads to Ollama past"),
    ("authentication", site("http://10.0.0.11:11434$request_uri"), "gw", "past the gateway's keys"),
    ("authentication", site("$scheme://mine$request_uri", UPSTREAM), "gw", "past the gateway's keys"),
    ("authentication", site("http://gpufleet_ollama"), "gw", f"{OTHER_SITE}, line 2"),
    ("authentication", no_gateway_reached, "gw", "Connection timed out"),
    ("authentication", no_gateway_asked, "gw", "no host could ask it"),
    ("authentication", without("gw"), "gpu1", "there is no gateway"),
    ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="0.0.0.0"), "gpu1", "listens on 0.0.0.0:11434"),
    ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="::"), "gpu1", "listens on [::]:11434"),
    ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="8.8.8.8", pid=0, unit="", command=""), "gpu1", "a process of no unit"),
    ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="::ffff:8.8.8.8"), "gpu1", "8.8.8.8"),
    ("rate-limiting", nginx(without=("limit_req",)), "gw", "has no limit_req"),
    ("rate-limiting", nginx(without=("limit_req_zone",)), "gw", "a zone that is not there"),
    ("rate-limiting", nginx(without=("proxy_pass",)), "gw", "nginx passes nothing on"),
    ("not-root", of_unit("gpu1", 0, user="root"), "gpu1", "User=root"),
    ("not-root", of_unit("gpu1", 0, uid=0), "gpu1", "uid 0"),
    ("not-root", of_unit("gpu1", 0, user=""), "gpu1", "User=root"),
    ("logs-without-prompts", variable("OLLAMA_DEBUG", "1"), "gpu1", "OLLAMA_DEBUG=1"),
    ("logs-without-prompts", variable("OLLAMA_DEBUG_LOG_REQUESTS", "no"), "gpu1", "OLLAMA_DEBUG_LOG_REQUESTS=no"),
    ("logs-without-prompts", nginx(directive(1, "log_format", "gw", "$request_body"), without=("log_format",)), "gw", "has $request_body"),
    ("logs-without-prompts", nginx(directive(1, "log_format", "gw", "x=${request_body}y"), without=("log_format",)), "gw", "has $request_body"),
    ("network-acl", port(0, "open"), "gpu1", "open"),
    # who asked had no way to the host, so that the rules must do as evidence
    ("network-acl", both(port(0, "silent", control="silent"), part("gpu1", "firewall", {"loaded": True, "rules": [], "problem": ""})), "gpu1", "no rule drops"),
    ("network-acl", also(0, answer="open", address="fd00::11"), "gpu1", "[fd00::11]"),
    ("network-acl", no_rules_either, "gpu1", "No such file or directory"),
    ("network-acl", both(no_probes, part("gpu1", "firewall", {"loaded": True, "rules": [], "problem": ""})), "gpu1", "no rule drops"),
    ("model-access", part("gw", "clients", [{"kind": "client", "name": "a", "classes": ["admin"], "keys": 1}]), "gw", "a of 1 with the class admin"),
    ("model-access", answer("no_key_pull", status=200), "gw", "status 200"),
    ("audit-log", nginx(without=("access_log",)), "gw", "written down nowhere"),
    ("audit-log", nginx(directive(6, "access_log", "off"), without=("access_log",)), "gw", "written down nowhere"),
    ("audit-log", nginx(directive(1, "log_format", "gw", "$status"), without=("log_format",)), "gw", "without a client's name"),
    ("other-ports", port(2, "open"), "gw", "open"),
    ("other-ports", port(2, "open", host="gpu1", port=8080, service=""), "gpu1", "open"),
    ("secret-files", lambda found: facts(found, "gw")["secrets"][0].update(mode="0644", open=True), "gw", "0644 root:root"),
    ("certificate", answer("health", not_after=NOW + 3 * DAY), "gw", "in 3 days"),
    ("certificate", part("gw", "certificates", [{"path": "/x.crt", "not_after": NOW - DAY, "problem": ""}]), "gw", "in -1 days"),
    ("certificate", part("gw", "certificates", [{"path": "/x.crt", "not_after": 0, "problem": "there is no certificate in the file"}]), "gw", "no certificate"),
    ("key-age", wanted("gw", clients=[{"name": "a", "keys": [{"id": "ffff0000", "made": NOW - 400 * DAY}]}]), "gw", "400 days ago"),
    ("key-age", wanted("gw", clients=[{"name": "a", "keys": [{"id": "ffff0000", "made": None}]}]), "gw", "unknown time"),
    ("sandbox", of_unit("gpu1", 0, exposure=8.7), "gpu1", "exposure 8.7"),
    ("several-instances", lambda found: facts(found, "gw")["requests"]["upstreams"]["json"][1].update(state="down"), "gw", "1 of 2 are up"),
    ("several-instances", lambda found: facts(found, "gw")["requests"]["upstreams"].update(status=502, json=None), "gw", "status 502"),
    ("several-instances", without("gw"), "", "no gateway"),
    ("models-pulled", instance(absent=["llama3.1:8b"]), "gpu1", "missing: llama3.1:8b"),
    ("warm-up", instance(warm=[]), "gpu1", "no model is loaded"),
    ("warm-up", of_unit("gpu1", 1, result="exit-code"), "gpu1", "exit-code"),
    ("backup", part("gpu1", "textfile", []), "gpu1", "no backup was made of bot:latest"),
    ("backup", part("gpu1", "textfile", [{**BACKUP, "value": NOW - 3 * DAY}]), "gpu1", "72 hours ago"),
    ("backup", part("gpu1", "textfile", [{**DRILL, "value": 0.0}]), "gpu1", "0"),
    ("backup", part("gpu1", "textfile", [{**DRILL, "value": 1.0}, {**DRILLED, "value": NOW - 41 * DAY}]), "gpu1", "41 days ago"),
    ("backup", everywhere("textfile", [{**BACKUP, "value": NOW}]), "", "restored for a try"),
    ("models-locked", model(stale=True), "gpu1", "the lock wants another one"),
    ("models-locked", model(stale=None), "gpu1", "no lock pins it"),
    ("models-locked", model(complete=False), "gpu1", "blobs of it are missing"),
    ("models-locked", instance(broken=["/srv/models/manifests/x"]), "gpu1", "is no manifest"),
    ("time-sync", part("gpu1", "time", {"synchronized": "no", "service": "no", "problem": ""}), "gpu1", "NTPSynchronized=no"),
    ("time-sync", lambda found: facts(found, "gpu1").pop("time"), "gpu1", "was not looked at"),
    ("swap", both(of_unit("gpu1", 0, memory_swap_max="infinity"), part("gpu1", "swap", SWAP)), "gpu1", "/dev/sda2: 1.0 GiB of 8.0 GiB used"),
    ("disk", part("gpu1", "disks", [{"path": "/srv", "size": 100 << 30, "free": 1 << 30}]), "gpu1", "1.0 GiB of 100.0 GiB free, 1%"),
    ("configuration", of_unit("gpu1", 0, stale=True), "gpu1", "NeedDaemonReload=yes"),
    ("configuration", of_unit("gpu1", 0, configured="decade"), "gpu1", "default.env decade, and the process of ollama@default.service runs with c0ffee"),
    ("configuration", variable("GPUFLEET_CONFIG_ID", None), "gpu1", "runs with none"),
    ("configuration", answer("health", config="old"), "gw", "X-Gateway-Config: old, and /etc/gpufleet/gateway/clients.json has beef"),
    ("configuration", of_unit("gpu1", 0, active="failed"), "gpu1", "failed now"),
    ("health-monitored", query("health", []), "gw", "no sample"),
    ("health-monitored", prometheus("targets", [{"job": "ollama", "host": "gpu2", "health": "down", "error": "refused"}]), "gw", "gpu2 is down: refused"),
    ("health-monitored", prometheus("targets", None), "gw", "no answer"),
    ("health-monitored", no_monitoring, "", "no host in the group monitoring"),
    ("health-monitored", no_gateway_reached, "gw", "Connection timed out"),
    ("health-monitored", prometheus("targets", [{"job": "own", "host": "", "health": "down", "error": "x"}]), "gw", "own of  is down"),
    ("latency-errors", query("gateways", []), "gw", "no sample"),
    ("latency-errors", lambda found: facts(found, "gw").pop("prometheus"), "gw", "was not looked at"),
    ("dashboards", lambda found: facts(found, "gw")["requests"].pop("grafana"), "gw", "Grafana is not wanted"),
    ("dashboards", query("gpu", []), "gw", "no series"),
    ("alerts", prometheus("rules", [{"name": "HostDown", "health": "ok", "state": "inactive"}]), "gw", "on error spikes: no alert"),
    ("alerts", prometheus("alertmanagers", []), "gw", "no Alertmanager"),
    ("alerts", of_unit("gw", 2, active="inactive"), "gw", "not running"),
    ("alerts", wanted("gw", receivers=[]), "gw", "nobody is told"),
    ("logs", part("gpu1", "journal", {"storage": "volatile", "persistent": False, "rsyslog_forwards": True, "limits": {}}), "gpu1", "in memory"),
    ("logs", of_unit("gpu1", 3, active="failed"), "gpu1", "no service sends logs"),
    ("logs", part("gw", "rotated", ["/var/log/other/*.log"]), "gw", "is never rotated"),
    ("model-sizes", model(quantization=""), "gpu1", "unknown quantization"),
    ("model-sizes", model(weights_bytes=400 << 30), "gpu1", "400.0 GiB for 160.0 GiB of GPU memory"),
    ("model-sizes", model(processor_gpu=0.4), "gpu1", "only 40% of it on GPUs"),
    ("context-length", variable("OLLAMA_CONTEXT_LENGTH", None), "gpu1", "not set: Ollama takes 4096 to 262144"),
    ("context-length", variable("OLLAMA_CONTEXT_LENGTH", "0"), "gpu1", "not set"),
    ("num-parallel", variable("OLLAMA_NUM_PARALLEL", None), "gpu1", "not set"),
    ("keep-alive", variable("OLLAMA_KEEP_ALIVE", None), "gpu1", "not set: Ollama takes 5m"),
    ("gpus", lambda found: facts(found, "gpu1")["gpu"].update(verdict="fail", reasons=["fail: XID 79"]), "gpu1", "XID 79"),
    ("gpus", lambda found: facts(found, "gpu1")["gpu"].update(reboot_reasons=["driver 570 is loaded and 580 is installed"]), "gpu1", "driver 570 is loaded"),
]


def containers(found: Data) -> None:
    """All hosts are containers."""
    for host in found["hosts"]:
        facts(found, host)["virtual"] = "docker"


def on_loopback(found: Data) -> None:
    """A single box without a gateway, which nobody else reaches."""
    without("gw", "gpu2")(found)
    facts(found, "gpu1")["sockets"][0]["address"] = "127.0.0.1"


def only_registries(found: Data) -> None:
    """No model is one's own, and nothing is backed up."""
    for host in ("gpu1", "gpu2"):
        found["hosts"][host]["wanted"]["custom"] = []
        facts(found, host)["textfile"] = []


def no_ollama(found: Data) -> None:
    """A gateway before Ollama hosts of somebody else."""
    without("gpu1", "gpu2")(found)


def no_models(found: Data) -> None:
    """The inventory wants no models."""
    for host in ("gpu1", "gpu2"):
        found["hosts"][host]["wanted"]["instances"][0]["models"] = []
        facts(found, host)["instances"][0]["models"] = []


def no_gpus(found: Data) -> None:
    """No host has one."""
    without("gpu1")(found)


def nothing_sandboxed(found: Data) -> None:
    """No unit was measured."""
    for host in found["hosts"]:
        for item in facts(found, host)["units"]:
            item["exposure"] = None


NOT_APPLICABLE: list[tuple[str, Break]] = [
    ("persistent-storage", no_ollama), ("resource-limits", no_ollama), ("tls", on_loopback), ("authentication", on_loopback), ("bound", no_ollama),
    ("rate-limiting", without("gw")), ("not-root", everywhere("units", [])),
    ("logs-without-prompts", both(without("gw"), of_unit("gpu1", 0, uid=None), of_unit("gpu2", 0, uid=None))),
    ("network-acl", no_ollama), ("model-access", without("gw")), ("audit-log", without("gw")), ("other-ports", no_probes),
    # a host may reach what the inventory lets its network reach
    ("other-ports", port(2, "open", source="10.9.0.4")),
    ("other-ports", both(wanted("gw", services=OPENED), port(2, "open", source="10.9.0.4"))),
    # who asked had no way to the host
    ("other-ports", port(2, "silent", control="unreachable")), ("other-ports", port(2, "[Errno 101] Network is unreachable", control="")),
    # the limit of the gateway, which says nothing of keys
    ("authentication", both(answer("no_key", status=429), answer("wrong_key", status=429))),
    # a bridge that every host with containers has: who asked met himself
    ("other-ports", port(2, "open", address="172.17.0.1", source="172.17.0.1")),
    ("other-ports", port(2, "[Errno -2] Name or service not known")),
    ("secret-files", everywhere("secrets", [])),
    ("certificate", without("gw")), ("key-age", wanted("gw", clients=[])), ("sandbox", nothing_sandboxed), ("models-pulled", no_models), ("warm-up", no_models),
    ("backup", only_registries), ("models-locked", no_models), ("time-sync", containers), ("swap", containers), ("model-sizes", no_models),
    ("context-length", no_ollama), ("num-parallel", no_ollama), ("keep-alive", no_ollama), ("gpus", no_gpus),
]
GROUP_OF = {"tls": "gateway", "authentication": "gateway", "several-instances": "gateway"}
# every fleet has hosts with disks and units, and needs to be watched and balanced
ALWAYS = {
    "hosts-reached", "restart-policy", "health-checks", "several-instances", "disk", "configuration", "health-monitored", "latency-errors", "dashboards",
    "alerts", "logs",
}


@pytest.mark.parametrize("row", ["tls", "authentication", "several-instances", "health-monitored", "latency-errors", "dashboards", "alerts"])
def test_outside_of_the_limit(row: str) -> None:
    """What the inventory has and the play has not is neither good nor bad."""
    other = data()
    limited("gw")(other)
    found = rows(other)[row]
    assert found["verdict"] == _audit.NOT_APPLICABLE
    assert [item["answer"] for item in found["evidence"]] == [f"the hosts of the group {GROUP_OF.get(row, 'monitoring')} are outside of --limit"]


def test_both_lists_are_there_whole() -> None:
    """Every row of the two lists is in exactly one row here; the stricter priority wins."""
    sources = sorted(source for row in _audit.ROWS for source in row.sources if source != "fleet")
    assert sources == sorted([f"security {number}" for number in range(1, 11)] + [f"readiness {number}" for number in range(1, 23)])
    required = {row.id for row in _audit.ROWS if row.priority == "required" and row.sources != ("fleet",)}
    assert required == {
        "restart-policy", "persistent-storage", "resource-limits", "health-checks", "tls", "authentication", "bound", "health-monitored", "model-sizes",
        "context-length",
    }
    assert {row.id for row in _audit.ROWS if row.priority == "optional"} == {"model-access", "audit-log"}


def test_every_row_is_tested() -> None:
    """A row that no test sees fail may be one that cannot."""
    every = [row.id for row in _audit.ROWS]
    assert len(every) == len(set(every))
    assert {row for row, *_rest in FAILS} == set(every)
    assert {row for row, _change in NOT_APPLICABLE} | ALWAYS == set(every)
    assert all(row.mend.endswith(".") and row.priority in _audit.PRIORITIES for row in _audit.ROWS)


@pytest.mark.parametrize("row", [row.id for row in _audit.ROWS])
def test_pass(row: str) -> None:
    """A fleet that is well, with evidence for it."""
    found = rows(data())[row]
    bad = [item for item in found["evidence"] if item["good"] is False]
    assert found["verdict"] == _audit.PASS and not bad, bad
    assert all(item["asked"] and item["answer"] for item in found["evidence"])


@pytest.mark.parametrize(("row", "change", "host", "says"), FAILS, ids=[f"{row}-{number}" for number, (row, *_rest) in enumerate(FAILS)])
def test_fail(row: str, change: Break, host: str, says: str) -> None:
    """What is broken fails this row, and the first evidence says where and what."""
    broken = data()
    change(broken)
    found = rows(broken)[row]
    assert found["verdict"] == _audit.FAIL
    bad = [item for item in found["evidence"] if item["good"] is False]
    assert any(item["host"] == host and says in f"{item['asked']} {item['answer']}" for item in bad), bad
    # for whoever reads on from the top
    assert found["evidence"][0]["good"] is False


@pytest.mark.parametrize(("row", "change"), NOT_APPLICABLE)
def test_not_applicable(row: str, change: Break) -> None:
    """Where there is nothing that a row is about, it neither passes nor fails."""
    other = data()
    change(other)
    found = rows(other)[row]
    assert found["verdict"] == _audit.NOT_APPLICABLE, found["evidence"]


@pytest.mark.parametrize(
    ("row", "change"),
    [
        ("network-acl", port(0, "silent", control="silent")),
        ("network-acl", lambda found: facts(found, "gpu1")["sockets"][0].update(address="::ffff:127.0.0.1")),
        ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="100.64.0.7")),
        ("bound", lambda found: facts(found, "gpu1")["sockets"][0].update(address="::ffff:10.0.0.11")),
        ("model-access", answer("no_key_pull", status=429)),
        # nobody may see the environment of the process, or the gateway says nothing, which other rows are about
        ("configuration", of_unit("gpu1", 0, environment={})), ("configuration", answer("health", config="")),
        ("backup", lambda found: facts(found, "gpu1")["textfile"].append({**DRILLED, "value": NOW - 39 * DAY})),
        # a host that is taken out of the run for a while
        ("health-monitored", both(limited("gpu2"), prometheus("targets", [{"job": "ollama", "host": "gpu2", "health": "down", "error": "x"}]))),
        # nobody could try, and the rules say that it is closed
        ("network-acl", no_probes),
        ("network-acl", lambda found: facts(found, "gpu1")["sockets"][0].update(address="127.0.0.1")),
        ("tls", old_tls("unknown")),
        # what a server has itself counts, not what stands around it
        ("tls", nginx(directive(9, "ssl_protocols", "TLSv1", server=-1))),
        # a server without a line of its own has that around it
        ("audit-log", nginx(directive(1, "access_log", "/var/log/nginx/access.log", server=-1), without=("access_log",))),
        ("swap", part("gpu1", "swap", SWAP)),
        ("latency-errors", query("requests", [])),
        ("gpus", lambda found: facts(found, "gpu1")["gpu"].update(verdict="warn", reasons=["warn: hot"])),
        ("not-root", of_unit("gpu1", 0, user="", dynamic_user=True)),
        # the gateway's own nginx has a master of root
        ("not-root", of_unit("gw", 0, uid=0)),
        ("model-sizes", lambda found: facts(found, "gpu2")["units"][0].update(memory_max="infinity")),
        ("restart-policy", lambda found: facts(found, "gpu1")["units"].append(unit("ollama_backup.service", type="oneshot", restart="no", enabled="static"))),
        # a distribution's own, which a mirror's host has stopped: it only needs the program
        ("restart-policy", lambda found: facts(found, "gpu1")["units"].append(unit("nginx.service", active="inactive", enabled="disabled", restart="no"))),
        ("restart-policy", of_unit("gw", 2, active="inactive", enabled="disabled", restart="no")),
        # a site that leads elsewhere
        ("authentication", site("http://127.0.0.1:3000$request_uri")), ("tls", site("http://other/")),
        # of a host that was not reached nothing is claimed
        ("restart-policy", unreached),
    ],
)
def test_still_pass(row: str, change: Break) -> None:
    """What looks bad and is not."""
    other = data()
    change(other)
    found = rows(other)[row]
    assert found["verdict"] == _audit.PASS, [item for item in found["evidence"] if item["good"] is False]


def test_a_part_that_was_not_read_proves_nothing() -> None:
    """Each row says why it could not find out, and none passes for the want of evidence."""
    broken = data()
    for host in broken["hosts"]:
        facts(broken, host).clear()
        facts(broken, host)["problems"] = {"units": "systemctl is not there"}
    found = rows(broken)
    assert found["restart-policy"]["evidence"][0]["answer"] == "systemctl is not there"
    # what other hosts saw and what the inventory says is known all the same
    assert {name for name, row in found.items() if row["verdict"] == _audit.PASS} <= {"other-ports", "key-age", "network-acl"}


def test_summary() -> None:
    """The counts, by which the play fails."""
    broken = data()
    of_unit("gpu1", 0, restart="no")(broken)
    port(0, "open")(broken)
    counts = _audit.summary(_audit.evaluate(Fleet(broken)))
    assert (counts["required failed"], counts["recommended failed"], counts["optional failed"]) == (1, 1, 0)
    assert counts["pass"] + counts["fail"] + counts["not applicable"] == len(_audit.ROWS)


@pytest.mark.parametrize(("count", "text"), [(None, "unknown"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")])
def test_bytes(count: int | None, text: str) -> None:
    """Bytes for people."""
    assert bytes_text(count) == text


def test_the_readme_counts_right() -> None:
    """It says how many rows there are, and of which lists."""
    text = " ".join((Path(__file__).resolve().parents[4] / "README.md").read_text(encoding="utf-8").split())
    listed = [row for row in _audit.ROWS if row.sources != ("fleet",)]
    both = sum(len(row.sources) == 2 for row in listed)
    assert f"Each of {len(_audit.ROWS)} rows" in text
    assert f"{len(listed)} rows of two checklists for running Ollama in production (22 of readiness, 10 of security, {both} of them in both)" in text


def test_place_of_a_line() -> None:
    """The evidence of a line of nginx says where it stands."""
    broken = data()
    nginx(directive(4, "ssl_protocols", "TLSv1"), without=("ssl_protocols",))(broken)
    assert rows(broken)["tls"]["evidence"][0]["asked"] == f"{CONF}, line 4"
