"""A host that has another firewall, and a host from which the rules are taken."""

from __future__ import annotations

from typing import Any

from conftest import GATEWAY, MONITORING, converge, reached, table
from scenario import on_host


def on_monitoring(*options: str, **variables: Any) -> Any:
    """Run the role on the host of Prometheus."""
    return converge(*options, limit=MONITORING, **variables)


def left() -> str:
    """Files of the role."""
    return on_host(MONITORING).check_output("find /etc/gpufleet /etc/systemd/system -name '*firewall*'")


def test_absent_leaves_nothing() -> None:
    """Table, unit and files go; check mode foresees it."""
    before = left()
    assert before and on_monitoring("--check", ollama_firewall_state="absent").changed(MONITORING) == 2
    assert left() == before and table(MONITORING)
    assert on_monitoring(ollama_firewall_state="absent").changed(MONITORING) == 2
    assert left() == "" and table(MONITORING) == ""
    assert on_monitoring("--check", ollama_firewall_state="absent").changed(MONITORING) == 0
    assert reached(GATEWAY, f"{MONITORING}:9090")


def test_another_firewall_is_left_alone() -> None:
    """ufw, the real one, and a unit that is called ferm: a line says what they have to close, and nothing changes."""
    host = on_host(MONITORING)
    host.check_output("apt-get install -qq -y --no-install-recommends ufw >/dev/null 2>&1 && ufw allow 22/tcp && ufw allow 9090/tcp && ufw --force enable")
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
    host.check_output(f"printf '{unit}' >/etc/systemd/system/ferm.service && systemctl start ferm.service")
    done = on_monitoring()
    assert (done.status, done.changed(MONITORING)) == (0, 0), done
    says = f"{MONITORING} has another firewall, ufw, ferm, so no rules are applied there. It must open 9090 (Prometheus) only from the host itself;"
    assert done.says(says), done
    assert left() == "" and table(MONITORING) == ""


def test_present_applies_them_all_the_same() -> None:
    """Beside ufw, which lets 9090 in where ours does not. Once they are there, auto keeps them."""
    assert reached(GATEWAY, f"{MONITORING}:9090")
    assert on_monitoring(ollama_firewall_state="present").status == 0
    assert not reached(GATEWAY, f"{MONITORING}:9090")
    assert on_monitoring().changed(MONITORING) == 0 and table(MONITORING)
    assert "Status: active" in on_host(MONITORING).check_output("ufw status")
