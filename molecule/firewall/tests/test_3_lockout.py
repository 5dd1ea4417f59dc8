"""Over real SSH: rules that lock Ansible out are taken back by the host itself, and the play says so."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import KEPT, OLLAMA, STRANGER, converge, reached, table
from scenario import on_host

SECONDS = 12


@pytest.fixture(name="over_ssh", scope="module")
def inventory_of_ssh(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An inventory that reaches the host over SSH, and the address that this machine then comes from."""
    folder = tmp_path_factory.mktemp("ssh")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    key = (folder / "key.pub").read_text(encoding="utf-8").strip()
    host = on_host(OLLAMA)
    host.check_output(f"install -d -m 700 /root/.ssh && echo '{key}' >>/root/.ssh/authorized_keys")
    variables = {
        "ansible_connection": "ansible.builtin.ssh",
        "ansible_host": host.check_output("hostname -i").split()[0],
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(folder / "key"),
        # a connection that stays open proves nothing: the role must give it up
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=5s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
    }
    (folder / "ssh.yml").write_text(yaml.safe_dump({"all": {"hosts": {OLLAMA: variables}}}), encoding="utf-8")
    return str(folder / "ssh.yml"), host.check_output("ip -4 route show default | cut -d' ' -f3")


def apply(inventory: str, **variables: Any) -> Any:
    """Run the role over SSH."""
    return converge("-i", inventory, ollama_firewall_rollback_seconds=SECONDS, **variables)


def test_rules_that_let_ansible_in_stay(over_ssh: tuple[str, str]) -> None:
    """SSH from one address only, this one."""
    done = apply(over_ssh[0], ollama_firewall_ssh_networks=[over_ssh[1]])
    assert done.status == 0, done
    assert f'ip saddr {over_ssh[1]} tcp dport 22 accept comment "SSH"' in table(OLLAMA)
    assert reached(STRANGER, f"{OLLAMA}:22", f"{OLLAMA}:8000") == {f"{OLLAMA}:8000"}
    # stopped, not on its way
    assert on_host(OLLAMA).check_output("systemctl list-units --all --plain --no-legend 'gpufleet-firewall-rollback*'") == ""


def test_rules_that_lock_ansible_out_are_taken_back(over_ssh: tuple[str, str]) -> None:
    """What ran before runs again and is what the next boot loads; the wanted rules are tried again by the next run."""
    before, kept = table(OLLAMA), on_host(OLLAMA).file(KEPT).content_string
    for _run in range(2):
        done = apply(over_ssh[0], ollama_firewall_ssh_networks=["192.0.2.0/24"])
        assert done.failed_with(f"Ansible did not get into {OLLAMA} within {SECONDS} seconds after the new rules were loaded"), done
        assert table(OLLAMA) == before and on_host(OLLAMA).file(KEPT).content_string == kept


def test_the_first_rules_are_taken_back(over_ssh: tuple[str, str]) -> None:
    """A host that had none has none again, also after the next boot."""
    assert converge(ollama_firewall_state="absent").status == 0
    done = apply(over_ssh[0], ollama_firewall_ssh_networks=["192.0.2.0/24"])
    assert done.failed_with("so the host went back to those that it had"), done
    host = on_host(OLLAMA)
    assert table(OLLAMA) == "" and not host.file(KEPT).exists and not host.service("gpufleet-firewall").is_enabled
    assert converge().status == 0 and converge().changed(OLLAMA) == 0
