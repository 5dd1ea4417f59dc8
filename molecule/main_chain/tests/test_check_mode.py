"""Check mode tells the truth on the converged fleet: it shows nothing, and it shows what has drifted."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Iterator

import pytest
from scenario import on_host

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
CONVERGE = os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared/converge.yml")
DRIFTED = "/etc/ollama/default.env"


def plan(*options: str) -> str:
    """Output of the playbook with --check --diff."""
    command = ["ansible-playbook", "-i", INVENTORY, CONVERGE, "--check", "--diff", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def changes(output: str) -> dict[str, int]:
    """Host -> number of changes that the recap foresees."""
    return {host: int(number) for host, number in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.M)}


@pytest.fixture(name="drift")
def change_by_hand() -> Iterator[str]:
    """A file of one host that somebody edited; mended afterwards."""
    host = on_host("main-gpu1")
    host.check_output(f"cp -p {DRIFTED} {DRIFTED}.kept && echo 'OLLAMA_DEBUG=\"1\"' >>{DRIFTED}")
    yield "main-gpu1"
    host.check_output(f"mv {DRIFTED}.kept {DRIFTED}")


def test_converged_fleet_shows_nothing() -> None:
    """No change is foreseen. The two hosts have all roles of the four; that a run changes nothing was shown of all."""
    assert changes(plan("--limit", "main-gpu2,main-monitoring")) == {"main-gpu2": 0, "main-monitoring": 0}


def test_drift_is_shown(drift: str) -> None:
    """The one edited file with its difference, the restart that it needs, and nothing else."""
    output = plan("--limit", drift, "--tags", "ollama")
    assert {host: number for host, number in changes(output).items() if number} == {drift: 2}
    assert '-OLLAMA_DEBUG="1"' in output
    assert re.search(r"^-ollama@default\.service running with configuration \w+, release [\w-]+, its files changed since$", output, re.M)
