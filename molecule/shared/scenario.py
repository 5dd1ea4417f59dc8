"""What the tests of several scenarios do: run a playbook on the hosts of the scenario, with variables, and read what it said."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import testinfra
import yaml
from testinfra.backend import BACKENDS
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.utils.ansible_runner import AnsibleRunner

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
sys.path.insert(0, str(PROJECT / "tests/rig"))

import inside  # noqa: E402

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
# what Ollama hosts get, see there
OLLAMA = "molecule/shared/ollama.yml"


class Play(NamedTuple):
    """A run of a playbook: its exit status and what it printed."""

    status: int
    output: str

    def __repr__(self) -> str:
        """What went wrong, and neither the whole log nor how long each role took, in the message of a failed test."""
        return f"Play(status={self.status}, ...{self.output.partition('ROLES RECAP')[0][-2500:]})"

    def says(self, text: str) -> bool:
        """Whether a text is in the output, wherever Ansible broke the line."""
        return " ".join(text.split()) in " ".join(self.output.replace("''", "'").split())

    def failed_with(self, text: str) -> bool:
        """Whether the play failed and said so."""
        return self.status != 0 and self.says(text)

    def changed(self, host: str) -> int:
        """How many changes of a host the recap counts."""
        return self._recap(host, "changed")

    def failed(self, host: str) -> bool:
        """Whether the recap says that a host failed, where others may not have."""
        return self._recap(host, "failed") > 0

    def _recap(self, host: str, what: str) -> int:
        line = next(line for line in self.output.splitlines() if line.startswith(f"{host} ") and " ok=" in line)
        return int(line.split(f"{what}=")[1].split()[0])


def play(name: str, *options: str, inventory: str = INVENTORY, **variables: Any) -> Play:
    """Run a playbook, given by its path in the project, or by its name in the collection."""
    path = PROJECT / (name if name.endswith(".yml") else f"playbooks/{name}.yml")
    command = ["ansible-playbook", "-i", inventory, str(path), "-e", json.dumps(variables), *options]
    # what is read must not depend on who looks on
    plain = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    return Play(done.returncode, done.stdout + done.stderr)


def play_on(hosts: Mapping[str, Mapping[str, Any]], name: str, *options: str) -> Play:
    """Run a playbook on hosts, each with variables of its own over those of the scenario: a play on two takes hardly longer than one on either."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as inventory:
        json.dump({"all": {"hosts": hosts}}, inventory)
        inventory.flush()
        return play(name, "-i", inventory.name, "--limit", ",".join(hosts), *options)


def in_group(name: str) -> list[str]:
    """The hosts of a group, in order."""
    return sorted(yaml.safe_load(Path(INVENTORY).read_text(encoding="utf-8"))[name]["hosts"])


def variables_of(host: str) -> dict[str, Any]:
    """What the inventory says of a host."""
    variables: dict[str, Any] = AnsibleRunner(INVENTORY).get_variables(host)
    return variables


class HostBackend(BaseBackend):
    """How testinfra reaches a host: as Ansible does here."""

    NAME = "rig"

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        super().__init__(name, **options)

    def run(self, command: str, *args: str, **options: Any) -> CommandResult:
        """Run a command of a shell."""
        return self.run_local(shlex.join(inside.command(self.name, "/bin/sh", "-c", self.get_command(command, *args))))


BACKENDS[HostBackend.NAME] = "scenario.HostBackend"


def on_host(name: str) -> Any:
    """Commands on a host."""
    return testinfra.get_host(f"rig://{name}")


def pid(name: str, unit: str) -> str:
    """The main process of a unit."""
    return on_host(name).check_output(f"systemctl show --value --property=MainPID {unit}")
