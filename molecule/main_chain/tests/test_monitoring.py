# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Exporters and Prometheus: what is scraped, what is measured, and who listens where."""

from __future__ import annotations

import json
import re
import time
import urllib.parse

import dashboards
import pytest
from scenario import PROJECT, in_group, on_host, variables_of

OLLAMA = in_group("ollama")
MONITORING = in_group("monitoring")
GATEWAYS = in_group("gateway")
EVERY = sorted(set(OLLAMA) | set(MONITORING) | set(GATEWAYS))

# the rest of the chain may have been up for no more than a scrape interval
PATIENCE_SECONDS = 45

LISTENERS = (
    [(host, "prometheus-node-exporter.service", 9100) for host in EVERY]
    + [(host, "ollama_exporter.service", 9778) for host in OLLAMA]
    + [(host, "nginx.service", 9113) for host in GATEWAYS]
    + [(host, "prometheus.service", 9090) for host in MONITORING]
    + [(host, "prometheus-alertmanager.service", 9093) for host in MONITORING]
)


def journal(host, unit: str) -> str:
    """The last lines of a unit, for a failed assertion."""
    return host.run(f"journalctl --no-pager -n 20 -u {unit}").stdout


def prometheus(name: str, path: str, **arguments: str):
    """The data of an answer of the API of Prometheus on this host."""
    host = on_host(name)
    url = f"http://$(hostname -i):9090/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
    done = host.run(f'curl -sS --max-time 10 "{url}"')
    assert done.rc == 0, done.stderr + journal(host, "prometheus.service")
    answer = json.loads(done.stdout)
    assert answer["status"] == "success", answer
    return answer["data"]


def until(ask, good):
    """Ask until the answer is good or patience ends; returns the last answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not good(answer := ask()) and time.monotonic() < deadline:
        time.sleep(2)
    return answer


@pytest.mark.parametrize("name", MONITORING)
def test_every_target_is_up(name: str) -> None:
    wanted = {("prometheus", name), ("alertmanager", name)}
    wanted |= {(job, host) for job, hosts in (("gateway", GATEWAYS), ("node", EVERY), ("ollama", OLLAMA)) for host in hosts}

    def health() -> dict[tuple[str, str], tuple[str, str]]:
        targets = prometheus(name, "targets", state="active")["activeTargets"]
        found = {
            (target["labels"]["job"], target["labels"]["host"]): (target["health"], target["lastError"])
            for target in targets
            if target["labels"]["job"] in ("prometheus", "alertmanager", "node", "ollama", "gateway")
        }
        return {target: found.get(target, ("missing", "")) for target in wanted | set(found)}

    found = until(health, lambda answer: all(state == "up" for state, _labels in answer.values()))
    assert found == dict.fromkeys(wanted, ("up", ""))


@pytest.mark.parametrize("name", MONITORING)
@pytest.mark.parametrize(
    "query",
    [
        "ollama_health_status == 1",
        "ollama_models_available > 0",
        "ollama_models_loaded",
        "count by (host) (ollama_model_size_bytes > 0)",
        'ollama_info{version!=""}',
        'ollama_health_checks_total{result="ok"} > 0',
        "ollama_exporter_scrape_duration_seconds < 3",
        "ollama_instance_gpu_expected == 0",
        "count by (host, ollama_instance) (ollama_model_missing == 0) == 2",
        "ollama_store_bytes > 0 and ollama_store_blobs > 2",
        "ollama_store_partial_bytes >= 0 and ollama_store_orphaned_bytes >= 0",
        "ollama_store_unreadable_manifests == 0 and ollama_store_scan_errors_total == 0",
        "time() - ollama_store_scan_timestamp_seconds < 120",
    ],
)
def test_metric_of_every_ollama_host(name: str, query: str) -> None:
    found = until(
        lambda: sorted({sample["metric"]["host"] for sample in prometheus(name, "query", query=query)["result"]}),
        lambda hosts: hosts == OLLAMA,
    )
    assert found == OLLAMA


@pytest.mark.parametrize("name", MONITORING)
@pytest.mark.parametrize(
    "query",
    [
        "ollama_health_status",
        "ollama_models_loaded",
        "rate(nginx_http_requests_total[5m])",
        'rate(nginx_http_requests_total{status=~"5.."}[5m])',
        "histogram_quantile(0.99, rate(nginx_http_request_duration_seconds_bucket[5m]))",
        "nginx_connections_active",
    ],
)
def test_a_panel_has_data(name: str, query: str) -> None:
    if "5.." in query:
        # with every host taken out nobody can answer
        gateway, files = on_host(GATEWAYS[0]), " ".join(f"/var/lib/gpufleet-gateway/drained/{host}" for host in OLLAMA)
        key = variables_of(name)["ollama_gateway_clients"][0]["key"]
        ask = f"curl -sk -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {key}' https://localhost/api/version"
        try:
            assert gateway.check_output(f"touch {files} && sleep 2 && {ask}") == "503"
        finally:
            gateway.check_output(f"rm {files} && sleep 2")
    assert until(lambda: prometheus(name, "query", query=query)["result"], bool), query


# panels that this fleet has nothing to show on, and why. Their queries must be right all the same
WITHOUT_DATA = {
    "gpus": "no host has a GPU",
    "Age of the last backup": "nothing is backed up here",
    "Failed connections to instances": "there may have been none",
    "Refused": "the same",
    "Generations of a client": "the same",
    "Missing or not as locked": "nothing is locked: no model can be stale",
    "Errors": "test_a_panel_has_data makes some",
    "Share in GPU memory": "a model is there for a moment only, see test_loaded_model_is_seen_where_it_runs",
    "In memory": "the same",
    "Free disk": "the disk of a container is an overlay, which node_exporter leaves out",
}
PANELS = dashboards.queries()


@pytest.fixture(scope="module", name="asked")
def generations() -> None:
    """Somebody uses the fleet, so that there is something to see: a stream and an answer of one piece from every gateway."""
    body = {"model": "smollm2:135m", "prompt": "a word", "options": {"num_predict": 8}}
    for gateway in GATEWAYS:
        key = next(client["key"] for client in variables_of(gateway)["ollama_gateway_clients"] if client["name"] == "load")
        for _unused in range(4):
            for stream in (True, False):
                command = f"curl -sk --fail --max-time 60 -H 'Authorization: Bearer {key}' https://localhost/api/generate -d"
                on_host(gateway).check_output(f"{command} '{json.dumps({**body, 'stream': stream})}'")
            # rates need series that were there before
            time.sleep(6)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", MONITORING)
@pytest.mark.parametrize("dashboard, panel, query", PANELS, ids=[f"{dashboard}-{panel}-{number}" for number, (dashboard, panel, _q) in enumerate(PANELS)])
def test_every_query_of_every_dashboard(name: str, dashboard: str, panel: str, query: str) -> None:
    # prometheus() itself refuses what is no PromQL
    found = prometheus(name, "query", query=query)["result"]
    if dashboard not in WITHOUT_DATA and panel not in WITHOUT_DATA:
        assert found or until(lambda: prometheus(name, "query", query=query)["result"], bool), query


# said in docs/operations; and those that are empty while all is well, or in a container
PAGES = sorted((PROJECT / "docs/operations").glob("*.md"))
OPERATIONS = [query for page in PAGES for query in re.findall(r"```promql\n(.*?)\n```", page.read_text(encoding="utf-8"), re.S)]
EMPTY_HERE = ('status=~"5.."', "ollama_model_gpu_ratio < 1", "ALERTS", "ollama_gateway_rejected_total", "node_filesystem")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", MONITORING)
@pytest.mark.parametrize("query", OPERATIONS)
def test_every_query_of_the_operations_guide(name: str, query: str) -> None:
    found = prometheus(name, "query", query=query)["result"]
    if not any(part in query for part in EMPTY_HERE):
        assert found or until(lambda: prometheus(name, "query", query=query)["result"], bool), query


def test_the_six_panels_are_on_the_dashboards() -> None:
    six = {query for _name, _panel, query in PANELS}
    assert {
        "ollama_health_status", "ollama_models_loaded", "rate(nginx_http_requests_total[5m])", 'rate(nginx_http_requests_total{status=~"5.."}[5m])',
        "histogram_quantile(0.99, rate(nginx_http_request_duration_seconds_bucket[5m]))", "nginx_connections_active",
    } <= six


@pytest.mark.parametrize("name", MONITORING)
def test_configuration_was_loaded(name: str) -> None:
    result = prometheus(name, "query", query="prometheus_config_last_reload_successful")["result"]
    assert [sample["value"][1] for sample in result] == ["1"]
    loaded = prometheus(name, "status/config")["yaml"]
    assert "/etc/prometheus/targets/ollama.yml" in loaded
    assert "scrape_interval: 5s" in loaded and "scrape_timeout: 4s" in loaded
    assert prometheus(name, "status/flags")["storage.tsdb.retention.time"] == "30d"


@pytest.mark.parametrize("name", MONITORING)
def test_targets_have_one_order_in_every_run(name: str) -> None:
    lines = on_host(name).file("/etc/prometheus/targets/node.yml").content_string.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("    host:")] == EVERY


@pytest.mark.parametrize("name, unit, port", LISTENERS)
def test_runs_at_boot_and_listens_on_the_management_address_only(name: str, unit: str, port: int) -> None:
    host = on_host(name)
    assert host.service(unit).is_running and host.service(unit).is_enabled, journal(host, unit)
    listening = host.check_output(f"ss -Hltn 'sport = :{port}'").splitlines()
    assert [line.split()[3] for line in listening] == [f"{host.check_output('hostname -i')}:{port}"]


@pytest.mark.parametrize("name", MONITORING)
def test_every_rule_is_evaluated(name: str) -> None:
    groups = prometheus(name, "rules")["groups"]
    bad = {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"}
    assert len(groups) > 9 and not bad, bad


@pytest.mark.parametrize("name", MONITORING)
def test_alertmanager_is_hardened_and_keeps_its_secrets(name: str) -> None:
    host = on_host(name)
    checked = host.run("systemd-analyze security --no-pager --threshold=20 prometheus-alertmanager.service")
    assert checked.rc == 0, checked.stdout.splitlines()[-1]
    config = host.file("/etc/prometheus/alertmanager.yml")
    assert (config.user, config.group, oct(config.mode)) == ("root", "prometheus", "0o640")
    assert host.run("amtool check-config /etc/prometheus/alertmanager.yml").rc == 0
    # no cluster, which would listen on all addresses
    assert not host.check_output("ss -Hltun 'sport = :9094'")


@pytest.mark.parametrize("name, unit, port", [listener for listener in LISTENERS if listener[1].startswith("prometheus")])
def test_never_listened_on_all_addresses(name: str, unit: str, port: int) -> None:
    # the packages start their daemons at installation
    host = on_host(name)
    logged = host.check_output(f"journalctl --no-pager -u {unit}")
    addresses = {word for line in logged.splitlines() if "isten" in line for word in line.split() if word.startswith("address=")}
    assert addresses == {f"address={host.check_output('hostname -i')}:{port}"}


@pytest.mark.parametrize("name, unit, port", LISTENERS)
def test_unit_waits_for_its_address_at_boot(name: str, unit: str, port: int) -> None:
    shown = on_host(name).check_output(f"systemctl show -p After,Restart,RestartUSec,StartLimitIntervalUSec {unit}")
    assert "network-online.target" in shown
    assert "Restart=no\n" not in shown and "Restart=on-abnormal\n" not in shown
    assert "RestartUSec=5s" in shown and "StartLimitIntervalUSec=0" in shown


@pytest.mark.parametrize("name", OLLAMA)
def test_hung_instance_is_a_metric(name: str) -> None:
    host = on_host(name)
    ask = "curl -sS --max-time 8 http://$(hostname -i):9778/metrics | grep '^ollama_health_status.*default'"
    unit = "ollama@default.service"
    assert host.run(f"systemctl kill --signal=STOP {unit}").rc == 0
    try:
        hung = host.check_output(ask)
    finally:
        host.run(f"systemctl kill --signal=CONT {unit}")
    assert hung == 'ollama_health_status{ollama_instance="default"} 0.0'
    assert until(lambda: host.check_output(ask), lambda answer: answer.endswith(" 1.0")) == 'ollama_health_status{ollama_instance="default"} 1.0'


@pytest.mark.parametrize("name", OLLAMA)
def test_loaded_model_is_seen_where_it_runs(name: str) -> None:
    host = on_host(name)
    load = "curl -sS --fail --max-time 20 http://$(hostname -i):11434/api/generate -d"
    body = {"model": "smollm2:135m", "stream": False}
    labels = 'model="smollm2:135m",ollama_instance="default"'
    host.check_output(f"{load} '{json.dumps({**body, 'keep_alive': 600})}'")
    try:
        lines = host.check_output("curl -sS --max-time 8 http://$(hostname -i):9778/metrics").splitlines()
    finally:
        host.check_output(f"{load} '{json.dumps({**body, 'keep_alive': 0})}'")
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    # a host without a GPU
    assert found[f"ollama_model_gpu_ratio{{{labels}}}"] == found[f"ollama_model_vram_bytes{{{labels}}}"] == 0
    assert found[f"ollama_model_loaded_size_bytes{{{labels}}}"] > 0
    assert 0 < found[f"ollama_model_expires_timestamp_seconds{{{labels}}}"] - time.time() < 660


@pytest.mark.parametrize("name", OLLAMA)
def test_exporter_is_hardened(name: str) -> None:
    host = on_host(name)
    checked = host.run("systemd-analyze security --no-pager --threshold=20 ollama_exporter.service")
    assert checked.rc == 0, checked.stdout.splitlines()[-1]
    verified = host.run("systemd-analyze verify --man=no ollama_exporter.service")
    assert verified.rc == 0 and not verified.stderr, verified.stderr
    pid = host.check_output("systemctl show -p MainPID --value ollama_exporter.service")
    assert host.check_output(f"stat -c %U /proc/{pid}") not in ("root", "ollama")


@pytest.mark.parametrize("name", OLLAMA)
def test_exporter_logs_no_traceback(name: str) -> None:
    assert "Traceback" not in on_host(name).check_output("journalctl --no-pager -u ollama_exporter.service")
