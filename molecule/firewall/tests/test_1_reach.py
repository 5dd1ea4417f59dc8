"""Who reaches what, and that a second run changes only what somebody else changed."""

from __future__ import annotations

from conftest import GATEWAY, MONITORING, OLLAMA, STRANGER, converge, reached, table
from scenario import on_host

PORTS = {OLLAMA: (11434, 9778, 9100, 8140, 8000), GATEWAY: (443, 9113, 9100), MONITORING: (9090, 9100)}
EVERY = [f"{host}:{port}" for host, ports in PORTS.items() for port in ports]
OPEN = {f"{OLLAMA}:8000", f"{GATEWAY}:443"}
EXPORTERS = {f"{OLLAMA}:9778", f"{OLLAMA}:9100", f"{GATEWAY}:9113", f"{GATEWAY}:9100"}


def test_a_stranger_reaches_the_gateway_only() -> None:
    """And what is no concern of the fleet."""
    assert reached(STRANGER, *EVERY) == OPEN


def test_a_gateway_reaches_ollama() -> None:
    """Neither exporters nor the mirror; its own ports over its own address, too."""
    assert reached(GATEWAY, *EVERY) == OPEN | {f"{OLLAMA}:11434"} | {f"{GATEWAY}:{port}" for port in PORTS[GATEWAY]}


def test_monitoring_reaches_the_exporters() -> None:
    """And the instances."""
    assert reached(MONITORING, *EVERY) == OPEN | EXPORTERS | {f"{OLLAMA}:11434"} | {f"{MONITORING}:{port}" for port in PORTS[MONITORING]}


def test_ollama_reaches_itself_only() -> None:
    """An Ollama host has no business with others, but it reaches all of itself."""
    assert reached(OLLAMA, *EVERY) == OPEN | {f"{OLLAMA}:{port}" for port in PORTS[OLLAMA]}


def test_only_its_own_table() -> None:
    """Docker's DNS, which is a table of nftables in the container, still answers; SSH is open."""
    for name in PORTS:
        assert on_host(name).check_output(f"getent hosts {STRANGER}")
        assert 'tcp dport 22 accept comment "SSH"' in table(name)


def test_what_somebody_changed_is_put_right() -> None:
    """Check mode shows nothing on a converged host, and foresees what a rule added by hand needs; a table deleted by hand comes back, too."""
    host = on_host(OLLAMA)
    before = table(OLLAMA)
    assert converge("--check", "--diff").changed(OLLAMA) == 0
    host.check_output("nft insert rule inet gpufleet input tcp dport 11434 accept")
    changed = table(OLLAMA)
    assert converge("--check", "--diff").changed(OLLAMA) == 1 and table(OLLAMA) == changed != before
    for _change in range(2):
        done = converge()
        assert (done.status, done.changed(OLLAMA)) == (0, 1), done
        assert table(OLLAMA) == before
        host.check_output("nft delete table inet gpufleet")
    host.check_output("systemctl restart gpufleet-firewall.service")
    assert table(OLLAMA) == before
