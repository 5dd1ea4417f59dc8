"""Commands that are missing, fail, hang; files that are not there."""

from __future__ import annotations

import time
from pathlib import Path

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _probe


def test_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, output and errors, in English, whatever the user's language."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    command = standin.program(tmp_path / "tool", 'echo "$LC_ALL $1"; printf "\\377 wrong\\n" >&2; cat; exit 18')
    assert _probe.ask([command, "-x"]) == (18, "C -x\n", "\ufffd wrong\n", False)


@pytest.mark.parametrize("command", [["/nowhere/tool"], ["/"], [""], ["no\0tool"]], ids=["missing", "no program", "empty", "no name"])
def test_no_command(command: list[str]) -> None:
    """Not to have it is no error."""
    assert _probe.ask(command) == (None, "", "", False)


def test_hang(tmp_path: Path) -> None:
    """The time is kept although a child holds the output, and nothing is left behind."""
    command = standin.program(tmp_path / "tool", f"sleep 33 &\necho $! >{tmp_path}/child\necho half\nsleep 33")
    began = time.monotonic()
    assert _probe.ask([command], 0.3) == (None, "", "", True)
    assert time.monotonic() - began < 5
    child = Path("/proc") / (tmp_path / "child").read_text(encoding="utf-8").strip()
    until = time.monotonic() + 5
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text(encoding="utf-8"):
        assert time.monotonic() < until, "the child still runs"
        time.sleep(0.05)


def test_read(tmp_path: Path) -> None:
    """A file as it is, a folder and nothing as nothing."""
    (tmp_path / "file").write_bytes(b" 0x10de\n")
    assert [_probe.read(str(tmp_path / name)) for name in ("file", "", "none")] == ["0x10de", "", ""]
