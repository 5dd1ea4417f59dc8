"""The whole of ollama_gateway_keys, in real plays on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
BIN = Path(sys.executable).parent


class Operator:
    """A folder with a vault password."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "group_vars/all/gateway_keys.yml"
        self.file.parent.mkdir(parents=True)
        (path / "password").write_text("secret\n", encoding="utf-8")
        (path / "hosts.yml").write_text("all: {hosts: {gw1: {ansible_host: 192.0.2.1}, gw2: {ansible_host: 192.0.2.1}}}\n", encoding="utf-8")
        self.environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"), "ANSIBLE_LOCAL_TEMP": str(path / "tmp")}
        self.config(True)

    def config(self, password: bool) -> None:
        """The configuration, with a password or without."""
        line = f"vault_password_file={self.path}/password\n" * password
        (self.path / "ansible.cfg").write_text(f"[defaults]\n{line}", encoding="utf-8")

    def run(self, *command: str) -> str:
        """Run a tool of Ansible; what it says. No key is in it."""
        environ = {**self.environ, "ANSIBLE_CONFIG": str(self.path / "ansible.cfg")}
        done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=self.path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def keys(self) -> dict[str, Any]:
        """The keys in the file."""
        environ = {**self.environ, "ANSIBLE_CONFIG": str(self.path / "ansible.cfg")}
        command = [str(BIN / "ansible-vault"), "view", str(self.file)]
        done = subprocess.run(command, cwd=self.path, env=environ, capture_output=True, text=True, check=True)
        return yaml.safe_load(done.stdout)["vault_gateway_keys"]

    def play(self, *tasks: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """Run tasks on hosts that nobody could connect to; their results and what Ansible shows with -vvv and --diff."""
        registered: list[dict[str, Any]] = [{**task, "register": f"result{number}", "ignore_errors": True} for number, task in enumerate(tasks)]
        results = "{{ [" + ", ".join(f"result{number}" for number in range(len(tasks))) + "] | to_json }}"
        write = {"ansible.builtin.copy": {"content": results, "dest": str(self.path / "results.json"), "mode": "0600"}}
        registered.append({**write, "delegate_to": "localhost", "run_once": True, "vars": {"ansible_python_interpreter": sys.executable}})
        play = {"hosts": "all", "gather_facts": False, "become": True, "tasks": registered}
        (self.path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        shown = self.run("ansible-playbook", "-i", "hosts.yml", "-vvv", "--diff", "play.yml")
        return json.loads((self.path / "results.json").read_text(encoding="utf-8")), shown


def task(**options: Any) -> dict[str, Any]:
    """A task of the module."""
    keywords = {name: options.pop(name) for name in ("run_once", "check_mode", "vars") if name in options}
    return {"gpufleet.ollama.ollama_gateway_keys": {"path": "group_vars/all/gateway_keys.yml", "clients": ["team-a"], **options}, "run_once": True, **keywords}


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """No keys yet."""
    return Operator(tmp_path)


def test_life_of_a_key(operator: Operator) -> None:
    """Made, rotated, retired; nothing is shown, nothing is left, and no host is asked."""
    name = {"clients": ["{{ 'team-' ~ 'a' }}", "team-b"], "vars": {"x": 1}}
    (plan, made, again, rotated), shown = operator.play(task(check_mode=True), task(**name), task(), task(rotate=True, grace_seconds=3600))
    assert [result["changed"] for result in (plan, made, again, rotated)] == [True, True, False, True]
    assert [client["count"] for client in rotated["clients"]] == [2] and made["path"] == str(operator.file)
    keys = operator.keys()
    assert [len(entries) for entries in keys.values()] == [2, 1] and rotated["clients"][0]["keys"][1]["id"] == made["clients"][0]["keys"][0]["id"]
    assert f"+team-a {made['clients'][0]['keys'][0]['id']}, made " in shown
    assert not any(entry["key"] in shown for entries in keys.values() for entry in entries)
    # the variables of the inventory were read before; a play that reads the file has the new ones
    read = {"ansible.builtin.include_vars": {"file": str(operator.file)}, "no_log": True}
    told = {"ansible.builtin.debug": {"msg": "{{ vault_gateway_keys['team-a'] | map(attribute='key') | map('gpufleet.ollama.api_key_sha256') }}"}}
    (before, added, _read, after, retired), _shown = operator.play(told, task(retire=True), read, told, task(retire=True))
    assert len(before["msg"]) == 2 and added["removed"] and len(after["msg"]) == 1 and not retired["changed"] and after["msg"] == before["msg"][:1]
    assert operator.file.stat().st_mode & 0o777 == 0o600 and [path.name for path in operator.file.parent.iterdir()] == ["gateway_keys.yml"]
    assert not (operator.path / "tmp").exists() or not [path for path in (operator.path / "tmp").rglob("*") if path.is_file()]


def test_all_hosts_at_once(operator: Operator) -> None:
    """Without run_once the forks wait for one another, and only the first makes a key."""
    operator.play(task(run_once=False))
    assert len(operator.keys()["team-a"]) == 1


def test_ad_hoc(operator: Operator) -> None:
    """A new client's key, from the command line."""
    module = "gpufleet.ollama.ollama_gateway_keys"
    shown = operator.run("ansible", "localhost", "-m", module, "-a", "path=group_vars/all/gateway_keys.yml clients=team-b,team-c")
    assert list(operator.keys()) == ["team-b", "team-c"] and operator.keys()["team-b"][0]["key"] not in shown


def test_refused(operator: Operator) -> None:
    """Sentences."""
    (both, gone, negative, name), _shown = operator.play(
        task(rotate=True, retire=True), task(state="absent", rotate=True), task(grace_seconds=-1), task(clients=["Team"])
    )
    assert "rotate|retire" in both["msg"] and "need state=present" in gone["msg"] and "give 0 or more" in negative["msg"]
    assert name["msg"].startswith("'Team' is no name of a client") and not operator.file.exists()
    operator.config(False)
    [locked], _shown = operator.play(task())
    assert locked["failed"] and "set vault_password_file in ansible.cfg" in locked["msg"] and not operator.file.exists()
