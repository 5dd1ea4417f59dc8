"""A single box: Ollama on loopback behind its own gateway, with the secrets of the operator's vault."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

testinfra_hosts = ["rig://box"]
FLEET = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "fleet"


@pytest.fixture(name="secrets")
def vault() -> dict[str, str]:
    """The operator's secrets: the key of team-a and the password of the dashboard."""

    def view(name: str) -> Any:
        command = ["ansible-vault", "view", f"prod/group_vars/all/{name}.yml"]
        done = subprocess.run(command, cwd=FLEET, env={**os.environ, "ANSIBLE_CONFIG": "ansible.cfg"}, capture_output=True, text=True, check=True)
        return yaml.safe_load(done.stdout)

    return {"key": view("gateway_keys")["vault_gateway_keys"]["team-a"][0]["key"], "password": view("vault")["vault_dashboard_password"]}


def ask(host: Any, *options: str) -> str:
    """Status and body of a request to the gateway, from the box itself."""
    ca = (FLEET / "ca/ca.crt").read_text(encoding="utf-8")
    command = " ".join(("curl -sS --max-time 60 --cacert /dev/stdin -w '%{http_code}'", *options))
    return host.check_output(f"echo '{ca}' | {command}")


def test_ollama_is_on_loopback_only(host: Any) -> None:
    """Nobody but the gateway reaches Ollama."""
    listening = host.check_output("ss -Hltn sport = :11434").split()
    assert listening[3] == "127.0.0.1:11434"


def test_answer_with_the_vaults_key(host: Any, secrets: dict[str, str]) -> None:
    """The key from the vault gets an answer; no key gets none."""
    body = '{"model": "smollm2:135m", "prompt": "hi", "stream": false}'
    url = "https://box/api/generate"
    assert ask(host, f"-H 'Authorization: Bearer {secrets['key']}'", url, f"-d '{body}'").endswith("200")
    assert ask(host, url, f"-d '{body}'").endswith("401")
    assert ask(host, f"-u 'dashboard:{secrets['password']}'", url, f"-d '{body}'").endswith("200")


def test_a_given_certificate_may_be_a_link(host: Any) -> None:
    """As certbot keeps it in live/; the plan is enough, since the check is in it."""
    host.check_output("mkdir -p /root/live && ln -sf /etc/gpufleet/gateway/tls/server.crt /etc/gpufleet/gateway/tls/server.key /root/live/")
    given = [f"-eollama_gateway_tls_{name}_path=/root/live/server.{end}" for name, end in (("certificate", "crt"), ("key", "key"))]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(FLEET / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(FLEET / "collections")}
    command = ["ansible-playbook", "site.yml", "-i", "prod", "--check", "--tags", "ollama_gateway", *given]
    done = subprocess.run(command, cwd=FLEET, env=environment, capture_output=True, text=True, check=False)
    host.check_output("rm -r /root/live")
    assert done.returncode == 0, done.stdout[-3000:]


def test_secrets_are_encrypted_in_the_folder(secrets: dict[str, str]) -> None:
    """No secret stands in clear text in the operator's folder, and git does not get what opens them."""
    for path in FLEET.rglob("*"):
        if path.is_file() and path.parts[-2] != "ca" and "collections" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(secret in text for secret in secrets.values()), path
    assert ".vault-password" in (FLEET / ".gitignore").read_text(encoding="utf-8")
    assert (FLEET / ".vault-password").stat().st_mode & 0o077 == 0


def test_second_run_of_new_fleet_keeps_everything(secrets: dict[str, str]) -> None:
    """new_fleet never overwrites: hosts and secrets stay."""
    hosts = (FLEET / "prod/hosts.yml").read_text(encoding="utf-8")
    playbook = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "playbooks/new_fleet.yml"
    done = subprocess.run(["ansible-playbook", str(playbook), "-e", f"fleet_dir={FLEET}"], capture_output=True, text=True, check=True)
    assert "changed=0" in done.stdout
    assert (FLEET / "prod/hosts.yml").read_text(encoding="utf-8") == hosts
