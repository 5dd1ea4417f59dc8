"""The two hosts, and what has come of one to the other."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
sys.path[:0] = [str(PROJECT / "molecule/shared"), str(PROJECT / ".venv/collections")]

from scenario import on_host  # noqa: E402

COLLECTOR, CLIENT = "logs-collector", "logs-client"
CA_DIR = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "logs-ca"
CONVERGE = "molecule/logs/converge.yml"
REMOTE = "/var/log/journal/remote"


def received(*match: str) -> list[dict[str, Any]]:
    """The entries on the collector that match, in the order in which they are stored, duplicates too."""
    fields = "MESSAGE,REQUEST_ID,_HOSTNAME,_SYSTEMD_UNIT"
    done = on_host(COLLECTOR).run(f"journalctl --quiet --directory={REMOTE} --output=json --output-fields={fields} {' '.join(match)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_until(ask: Callable[[], Any], seconds: float = 15) -> Any:
    """Ask until the answer is true or time is up; the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def write_lines(tag: str, count: int) -> None:
    """Numbered lines into the client's journal."""
    on_host(CLIENT).check_output(f"seq 1 {count} | systemd-cat -t {tag}")


def numbers(tag: str) -> list[int]:
    """Which of them came, in the order of the collector's journal."""
    return [int(entry["MESSAGE"]) for entry in received("-t", tag)]


def came_in_order(tag: str) -> list[int]:
    """The same without repetitions: a batch whose confirmation was cut off is sent again as a whole."""
    return list(dict.fromkeys(numbers(tag)))


def why() -> str:
    """What both said last, for a failed assertion."""
    say = "journalctl --no-pager -n 15 -u"
    return on_host(CLIENT).run(f"{say} systemd-journal-upload").stdout + on_host(COLLECTOR).run(f"{say} gpufleet-logs-tls -u gpufleet-logs-receiver").stdout
