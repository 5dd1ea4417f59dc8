"""The exporter and the state of the driver, as node_exporter and Prometheus have them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import DEB12, DEB13, HOSTS, MADE, TEXTFILE, converge, metrics, scenario, until
from scenario import on_host, pid

UUID = "00000000-aaaa-bbbb-cccc-000000000000"


def exposure(host: str, unit: str) -> float:
    """What systemd-analyze security gives."""
    return float(re.findall(r"level for \S+ ([0-9.]+)", on_host(host).check_output(f"systemd-analyze security --no-pager {unit}"))[0].rstrip("."))


def query(expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus."""
    address = on_host(DEB13).check_output("hostname -i").split()[0]
    text = on_host(DEB13).check_output(f"curl -sfG http://{address}:9090/api/v1/query --data-urlencode 'query={expression}'")
    return json.loads(text)["data"]["result"]


@pytest.mark.parametrize("name", HOSTS)
def test_the_exporter(name: str) -> None:
    """It answers on the management address only, as a user of its own, and may open the nodes of GPUs and no others."""
    host = on_host(name)
    found = metrics(name, 9835)
    assert found["nvidia_smi_last_collect_success"] == 1 and found[f'nvidia_smi_temperature_gpu{{uuid="{UUID}"}}'] == 41
    address = host.check_output("hostname -i").split()[0]
    assert host.check_output("ss -Hltn sport = :9835").split()[3] == f"{address}:9835"
    # an id of those that systemd gives to dynamic users; the images lack the library that tells their names
    assert 61184 <= int(host.check_output(f"ps -o uid= -p {pid(name, 'gpu_exporter.service')}")) <= 65519
    assert "/dev/nvidiactl rw" in host.check_output("systemctl show --property=DeviceAllow,DevicePolicy gpu_exporter.service")
    assert exposure(name, "gpu_exporter.service") < 2.5
    assert exposure(name, "gpufleet-gpu-metrics.service") < 3.5


@pytest.mark.parametrize("name", HOSTS)
def test_the_state_of_the_driver(name: str) -> None:
    """node_exporter has what was written; the fixture is healthy."""
    found = metrics(name, 9100)
    assert found['gpu_driver_info{branch="580",flavour="open",installed="580.95.05",loaded="580.95.05"}'] == 1
    assert found["gpu_count"] == found["gpu_usable_count"] == 2
    assert found["gpu_expected_count"] == (2 if name == DEB13 else 0)
    assert (found['gpu_health{verdict="ok"}'], found["gpu_driver_mismatch"], found["gpu_reboot_required"]) == (1, 0, 0)
    assert on_host(name).file(TEXTFILE).mode == 0o644
    assert on_host(name).service("gpufleet-gpu-metrics.timer").is_enabled


def test_the_state_changes_with_the_host() -> None:
    """A driver that was upgraded, memory errors, an error in the kernel's log."""
    host = on_host(DEB12)
    try:
        host.check_output("echo 580.105.08 >/opt/gpu/root/lib/modules/6.1.0-42-amd64/nvidia.version")
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
        host.check_output("echo 580.95.05 >/opt/gpu/root/lib/modules/6.1.0-42-amd64/nvidia.version; sed -i /Xid/d /etc/nvidia-standin/kernel.log")
        scenario(DEB12, "healthy")
    assert metrics(DEB12, 9100)['gpu_health{verdict="ok"}'] == 1


def test_prometheus_asks_both() -> None:
    """One by its group, the other by its count; it took the rules."""
    until(lambda: sorted(item["metric"]["host"] for item in query('up{job="gpu"} == 1')) == list(HOSTS), "a GPU exporter is no target that is up")
    until(lambda: {item["metric"]["host"] for item in query('gpu_health{verdict="ok"} == 1')} == set(HOSTS), "the state of a host is not scraped")
    address = on_host(DEB13).check_output("hostname -i").split()[0]
    rules = json.loads(on_host(DEB13).check_output(f"curl -sf http://{address}:9090/api/v1/rules"))["data"]["groups"]
    assert [group["name"] for group in rules] == ["gpu"] and all(rule["health"] != "err" for rule in rules[0]["rules"])


def test_a_wrong_sum_is_refused() -> None:
    """Nothing is unpacked, and what serves goes on."""
    before = pid(DEB12, "gpu_exporter.service")
    done = converge(limit=DEB12, gpu_exporter_version="1.13.0", gpu_exporter_sha256="0" * 64)
    assert done.failed_with("checksum"), done
    assert on_host(DEB12).run("ls /opt/nvidia_gpu_exporter/1.13.0-000000000000/").stdout == ""
    assert pid(DEB12, "gpu_exporter.service") == before and metrics(DEB12, 9835)["nvidia_smi_last_collect_success"] == 1
    done = converge(limit=DEB12, gpu_exporter_sha256="")
    assert done.failed_with("gpu_exporter_version is 1.14.0 and gpu_exporter_sha256 is (empty): give a version"), done


def test_another_release_and_back() -> None:
    """Both lie beside one another; a damaged binary is put right, and one that was switched by hand."""
    host = on_host(DEB12)
    assert converge(limit=DEB12, gpu_exporter_version="1.13.0").status == 0
    current = "/opt/nvidia_gpu_exporter/current"
    assert host.check_output(f"readlink {current}") == f"1.13.0-{MADE['exporter']['1.13.0'][:12]}"
    process = pid(DEB12, "gpu_exporter.service")
    host.check_output(f"echo >>/opt/nvidia_gpu_exporter/1.14.0-{MADE['exporter']['1.14.0'][:12]}/nvidia_gpu_exporter")
    assert converge(limit=DEB12).status == 0
    assert host.check_output(f"readlink {current}") == f"1.14.0-{MADE['exporter']['1.14.0'][:12]}"
    assert pid(DEB12, "gpu_exporter.service") != process
    assert converge("--check", "--diff", limit=DEB12).changed(DEB12) == 0


def test_absent_leaves_nothing() -> None:
    """Check mode foresees it; and a host without a device, of which the inventory says none, gets nothing again."""
    host = on_host(DEB12)
    left = "find /opt/nvidia_gpu_exporter /etc/systemd/system/gpu* /usr/local/lib/gpufleet/gpu_metrics /etc/gpufleet/gpu_metrics.json 2>/dev/null | wc -l"
    before = host.check_output(left)
    assert converge("--check", limit=DEB12, gpu_exporter_state="absent").status == 0 and host.check_output(left) == before != "0"
    assert converge(limit=DEB12, gpu_exporter_state="absent").status == 0
    assert host.check_output(left) == "0" and not host.file(TEXTFILE).exists
    assert not host.socket("tcp://0.0.0.0:9835").is_listening and metrics(DEB12, 9100) == {}
    done = converge(limit=DEB12, ollama_gpu_sys_dir="/opt/none", groups={"ollama": list(HOSTS)})
    assert done.status == 0 and host.check_output(left) == "0", done
