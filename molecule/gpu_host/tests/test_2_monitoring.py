"""The exporter and the state of the driver, as Prometheus has them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import CPU, DEB12, HOSTS, metrics, scenario, until
from scenario import on_host, play

UUID = "00000000-aaaa-bbbb-cccc-000000000000"
VERSION = "/opt/gpu/root/lib/modules/6.1.0-42-amd64/nvidia.version"


@pytest.fixture(scope="module", name="prometheus", autouse=True)
def _prometheus() -> None:
    """Install it."""
    done = play("molecule/gpu_host/monitoring.yml")
    assert done.status == 0, done


def ask(path: str) -> Any:
    """Ask Prometheus."""
    address = on_host(CPU).check_output("hostname -i").split()[0]
    return json.loads(on_host(CPU).check_output(f"curl -sfG http://{address}:9090/api/v1/{path}"))["data"]


def query(expression: str) -> list[dict[str, Any]]:
    """What an expression gives now."""
    found: list[dict[str, Any]] = ask(f"query --data-urlencode 'query={expression}'")["result"]
    return found


def test_prometheus_asks_both() -> None:
    """One by its group, the other by its count, and not the one without a GPU; it took the rules."""
    until(lambda: sorted(item["metric"]["host"] for item in query('up{job="gpu"} == 1')) == list(HOSTS), "a GPU exporter is no target that is up")
    assert len(query('up{job="gpu"}')) == 2
    until(lambda: {item["metric"]["host"] for item in query('gpu_health{verdict="ok"} == 1')} == set(HOSTS), "the state of a host is not scraped")
    rules = next(group["rules"] for group in ask("rules")["groups"] if group["name"] == "gpu")
    assert rules and all(rule["health"] != "err" for rule in rules)


def test_the_state_changes_with_the_host() -> None:
    """A driver that was upgraded, memory errors, an error in the kernel's log."""
    host = on_host(DEB12)
    try:
        host.check_output(f"echo 580.105.08 >{VERSION}")
        host.check_output("echo 'NVRM: Xid (PCI:0000:19:00): 79, GPU has fallen off the bus.' >>/etc/nvidia-standin/kernel.log")
        scenario(DEB12, "ecc")
        found = metrics(DEB12, 9100)
        assert found['gpu_driver_info{branch="580",flavour="open",installed="580.105.08",loaded="580.95.05"}'] == 1
        assert (found["gpu_driver_mismatch"], found["gpu_reboot_required"], found['gpu_health{verdict="fail"}']) == (1, 1, 1)
        assert found['gpu_xid_errors{bus_id="0000:19:00.0",xid="79"}'] == 1
        assert any("uncorrectable" in series for series in found) and any("580.105.08 is installed" in series for series in found)
        assert metrics(DEB12, 9835)[f'nvidia_smi_ecc_errors_uncorrected_volatile_total{{uuid="{UUID}"}}'] == 2
        # the one alert without a delay, evaluated by the real Prometheus on what it scraped
        alert = "ALERTS{alertstate=\"firing\",alertname=\"GpuUncorrectableErrors\"}"
        assert until(lambda: query(alert), "the alert does not fire")[0]["metric"]["host"] == DEB12
    finally:
        host.check_output(f"echo 580.95.05 >{VERSION}; sed -i /Xid/d /etc/nvidia-standin/kernel.log")
        scenario(DEB12, "healthy")
    assert metrics(DEB12, 9100)['gpu_health{verdict="ok"}'] == 1
