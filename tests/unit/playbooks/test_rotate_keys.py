"""What playbook rotate_keys says before it asks any host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

ROOT = Path(__file__).resolve().parents[3]
OWN = {"key": "o" * 40}
FROM_THE_FILE = "{{ vault_gateway_keys['team-a'] }}"


@pytest.fixture(name="rotate")
def playbook(tmp_path: Path) -> Any:
    """Run the playbook on a gateway that nobody could connect to; what it says when it stops."""

    def run(client: dict[str, Any], *options: str, kept: dict[str, Any] | None = None) -> str:
        group = tmp_path / "prod/group_vars/all"
        group.mkdir(parents=True)
        (tmp_path / "password").write_text("secret", encoding="utf-8")
        vault = VaultLib([("default", VaultSecret(b"secret"))])
        if kept is not None:
            (group / "gateway_keys.yml").write_bytes(vault.encrypt(yaml.safe_dump({"vault_gateway_keys": kept})))
        (group / "fleet.yml").write_text(yaml.safe_dump({"ollama_gateway_clients": [{"name": "team-a", **client}]}), encoding="utf-8")
        hosts = {"all": {"children": {"gateway": {"hosts": {"gw1": {"ansible_host": "192.0.2.1", "ansible_ssh_timeout": 1}}}}}}
        (tmp_path / "prod/hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
        (tmp_path / "ansible.cfg").write_text("[defaults]\nvault_password_file=password\n", encoding="utf-8")
        before = {path.name: path.read_bytes() for path in group.iterdir()}
        ours = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"), "PWD": str(tmp_path)}
        environ = {**os.environ, **ours}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "gpufleet.ollama.rotate_keys", "-i", "prod", *options]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode and "Make the new keys" not in done.stdout and OWN["key"] not in done.stdout + done.stderr, done.stdout
        assert {path.name: path.read_bytes() for path in group.iterdir()} == before
        return " ".join((done.stdout + done.stderr).replace("\\", "").split())

    return run


def test_there_is_no_file(rotate: Any) -> None:
    """How a client gets its first key, and the line to write."""
    said = rotate({"keys": FROM_THE_FILE})
    assert "gateway_keys.yml: a client gets its first key by ansible localhost -m gpufleet.ollama.ollama_gateway_keys -a 'path=" in said
    assert "vault_gateway_keys['NAME'] }}" in said


def test_a_client_without_a_key_in_the_file(rotate: Any) -> None:
    """The same; Ansible's own words are before it."""
    said = rotate({"keys": FROM_THE_FILE}, kept={"team-b": [OWN]})
    assert "ollama_gateway_clients cannot be read" in said and "a client gets its first key by ansible localhost" in said


def test_a_key_from_elsewhere(rotate: Any) -> None:
    """The line for this client."""
    said = rotate(OWN, kept={"team-a": [OWN]})
    assert "the keys of team-a do not come from vault_gateway_keys" in said and "vault_gateway_keys['team-a'] }}" in said


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("rotate_clients=team-x", "ollama_gateway_clients has no team-x: it has team-a"),
        ("rotate_grace=30m", "rotate_grace is 30m: give at least an hour"),
        ("rotate_grace=soon", "rotate_grace is soon: give at least an hour"),
        ("rotate_path=other.yml", "there is no "),
    ],
)
def test_wrong_options(rotate: Any, option: str, sentence: str) -> None:
    """A sentence each."""
    assert sentence in rotate({"keys": FROM_THE_FILE}, "-e", option, kept={"team-a": [OWN]})


def test_what_is_right_goes_on(rotate: Any) -> None:
    """To the check of the hosts, which this one does not pass."""
    said = rotate({"keys": FROM_THE_FILE}, "-e", "rotate_grace=12h", kept={"team-a": [OWN]})
    assert "UNREACHABLE" in said
