# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read files that may be missing, and ask commands that may be missing, fail, or hang in a driver."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import NamedTuple

# how long each may take: a driver in trouble leaves nvidia-smi hanging rather than failing
SECONDS = 20.0


def read(path: str) -> str:
    """The text of a file without the spaces around it; nothing when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


class Answer(NamedTuple):
    """What a command left: exit status (None when it is missing or was given up), output, errors, and whether it was given up."""

    status: int | None
    output: str = ""
    errors: str = ""
    late: bool = False


def ask(command: list[str], seconds: float | None = None) -> Answer:
    """Run a command, in English.

    A process that hangs in the driver cannot be killed, and its children keep a pipe open: hence the files and the group of its own.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except (OSError, ValueError):
            return Answer(None)
        try:
            process.wait(timeout=SECONDS if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                # it stays behind until the driver lets it go
                pass
            return Answer(None, late=True)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return Answer(process.returncode, texts[0], texts[1])
