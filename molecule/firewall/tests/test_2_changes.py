"""Connections survive a change of rules, rules survive a reboot, and all else can be closed."""

from __future__ import annotations

import subprocess
import time

from conftest import GATEWAY, OLLAMA, STRANGER, TABLE, converge, reached, table
from scenario import on_host

# a request that is ended only when the file is there
SLOW = f"""
import os, socket, time
connection = socket.create_connection(("{OLLAMA}", 8000))
connection.sendall(b"GET / HTTP/1.0\\r\\n")
open("/run/half", "w").close()
while not os.path.exists("/run/go"):
    time.sleep(0.1)
connection.settimeout(5)
connection.sendall(b"\\r\\n")
print(connection.recv(15).decode())
"""


def test_open_connections_survive_what_closes_their_port() -> None:
    """Everything else is dropped: a connection that was open goes on, a new one is refused, SSH, extra rules and name lookups work."""
    on_host(STRANGER).check_output("rm -f /run/half /run/go")
    with subprocess.Popen(["docker", "exec", "-i", STRANGER, "python3", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        process.stdin.write(SLOW)
        process.stdin.close()
        on_host(STRANGER).check_output("timeout 20 sh -c 'until [ -e /run/half ]; do sleep 0.1; done'")
        rules = [{"port": 11434, "networks": [on_host(STRANGER).check_output("hostname -i").split()[0]]}]
        done = converge("--diff", ollama_firewall_default_deny_enabled=True, ollama_firewall_extra_rules=rules)
        assert done.status == 0 and done.says("policy drop;"), done
        assert reached(STRANGER, f"{OLLAMA}:8000", f"{OLLAMA}:9100", f"{OLLAMA}:11434") == {f"{OLLAMA}:11434"}
        on_host(STRANGER).check_output("touch /run/go")
        assert process.stdout and process.stdout.read().startswith("HTTP/1.0 200")
    assert on_host(STRANGER).check_output(f"bash -c 'head -c 7 </dev/tcp/{OLLAMA}/22'") == "SSH-2.0"
    assert on_host(OLLAMA).check_output(f"getent hosts {GATEWAY}")
    assert converge().status == 0
    assert reached(STRANGER, f"{OLLAMA}:8000", f"{OLLAMA}:11434") == {f"{OLLAMA}:8000"}


def test_rules_come_back_at_boot() -> None:
    """After a restart of the host, and after nftables.service took our table."""
    before = table(OLLAMA)
    subprocess.run(["docker", "restart", OLLAMA], check=True, capture_output=True)
    until = time.monotonic() + 30
    while on_host(OLLAMA).run("systemctl is-system-running").stdout.strip() != "running":
        assert time.monotonic() < until, on_host(OLLAMA).run("systemctl --failed").stdout
        time.sleep(0.3)
    assert table(OLLAMA) == before
    assert reached(STRANGER, f"{OLLAMA}:11434", f"{OLLAMA}:8000") == {f"{OLLAMA}:8000"}
    # what "flush ruleset" does to our table, without what it does to Docker's, which the names of the hosts come from
    on_host(OLLAMA).check_output("printf 'table inet gpufleet\ndelete table inet gpufleet\n' >/etc/nftables.conf")
    for verb in ("start", "reload"):
        on_host(OLLAMA).check_output(f"systemctl {verb} nftables.service && sleep 1")
        assert on_host(OLLAMA).check_output(TABLE) == before.strip(), verb
    on_host(OLLAMA).check_output("systemctl reload gpufleet-firewall.service")
    assert table(OLLAMA) == before
