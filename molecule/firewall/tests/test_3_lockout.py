"""Over real SSH: rules that lock Ansible out are taken back by the host itself, and the play says so."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import KEPT, OLLAMA, STRANGER, converge, reached, table
from scenario import on_host

SECONDS = 10


@pytest.fixture(name="over_ssh", scope="module")
def inventory_of_ssh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory that reaches two hosts over SSH, and has the stranger as an Ollama host."""
    folder = tmp_path_factory.mktemp("ssh")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    key = (folder / "key.pub").read_text(encoding="utf-8").strip()
    hosts = {}
    for name in (OLLAMA, STRANGER):
        on_host(name).check_output(f"install -d -m 700 /root/.ssh && echo '{key}' >>/root/.ssh/authorized_keys")
        hosts[name] = {
            "ansible_connection": "ansible.builtin.ssh",
            "ansible_host": on_host(name).check_output("hostname -i").split()[0],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(folder / "key"),
            # a connection that stays open proves nothing: the role must give it up
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=20s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        }
    inventory = {"all": {"hosts": hosts, "children": {"ollama": {"hosts": {STRANGER: {}}}}}}
    (folder / "ssh.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    return folder / "ssh.yml"


def apply(inventory: Path, host: str, *options: str, **variables: Any) -> Any:
    """Run the role over SSH."""
    return converge("-i", str(inventory), *options, limit=host, ollama_firewall_rollback_seconds=SECONDS, **variables)


def test_rules_that_let_ansible_in_stay(over_ssh: Path) -> None:
    """SSH from one address only, this machine's."""
    here = on_host(OLLAMA).check_output("ip -4 route show default | cut -d' ' -f3")
    done = apply(over_ssh, OLLAMA, ollama_firewall_ssh_networks=[here])
    assert done.status == 0, done
    assert f'ip saddr {here} tcp dport 22 accept comment "SSH"' in table(OLLAMA)
    assert reached(STRANGER, f"{OLLAMA}:22", f"{OLLAMA}:8000") == {f"{OLLAMA}:8000"}
    # stopped, not on its way
    assert on_host(OLLAMA).check_output("systemctl list-units --all --plain --no-legend 'gpufleet-firewall-rollback*'") == ""


def test_rules_that_lock_ansible_out_are_taken_back(over_ssh: Path) -> None:
    """What ran before runs again, and is what the next boot loads."""
    before, kept = table(OLLAMA), on_host(OLLAMA).file(KEPT).content_string
    done = apply(over_ssh, OLLAMA, ollama_firewall_ssh_networks=["192.0.2.0/24"])
    assert done.failed_with(f"Ansible did not get into {OLLAMA} within {SECONDS} seconds after the new rules were loaded"), done
    assert table(OLLAMA) == before and on_host(OLLAMA).file(KEPT).content_string == kept


def test_the_first_rules_are_taken_back(over_ssh: Path) -> None:
    """A bare host: check mode shows all and changes nothing; after rules that locked Ansible out it has none again, nor has the next boot."""
    host = on_host(STRANGER)
    done = apply(over_ssh, STRANGER, "--check", "--diff")
    assert done.status == 0 and done.says('tcp dport 11434 drop comment "Ollama instance default: nobody else"'), done
    # the package, a directory, the rules, their load, another directory, the units and the start
    assert done.changed(STRANGER) == 7
    assert not host.package("nftables").is_installed and not host.file("/etc/gpufleet").exists
    done = apply(over_ssh, STRANGER, ollama_firewall_ssh_networks=["192.0.2.0/24"])
    assert done.failed_with("so the host went back to those that it had"), done
    assert table(STRANGER) == "" and not host.file(KEPT).exists and not host.service("gpufleet-firewall").is_enabled
