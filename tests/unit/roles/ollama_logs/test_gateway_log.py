# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The program that brings the gateway's log into the journal: real files, and a socket that stands in for the journal's."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

ROLES = Path(__file__).parents[4] / "roles"
PROGRAM = ROLES / "ollama_logs/files/gateway_log.py"
SPEC = importlib.util.spec_from_file_location("gateway_log", PROGRAM)
assert SPEC and SPEC.loader
gateway_log = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gateway_log)


class Recording:
    """What would be sent."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def send(self, data: bytes) -> None:
        """Note the number of the line."""
        message = data.split(b"\n")[0].removeprefix(b"MESSAGE=")
        self.numbers.append(json.loads(message)["n"])


class Rig:
    """A log with numbered lines, and a follower with what it has sent, over all its starts."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "gateway.log"
        self.state = folder / "state"
        self.sent = Recording()
        self.follower: Any = None
        self.number = 0

    def write(self, path: Path | None = None, count: int = 1, end: str = "\n") -> None:
        """Write lines, as nginx appends them."""
        with (path or self.log).open("a", encoding="utf-8") as file:
            for _line in range(count):
                self.number += 1
                file.write(json.dumps({"n": self.number}) + end)

    def start(self) -> None:
        """A new process."""
        self.follower = gateway_log.Follower(str(self.log), str(self.state), self.sent)

    def step(self, now: float = 0.0) -> None:
        """Read what is there."""
        while self.follower.step(now):
            pass

    def rotate(self) -> Path:
        """As logrotate renames it."""
        renamed = self.log.with_name("gateway.log.1")
        self.log.rename(renamed)
        return renamed

    def check(self) -> None:
        """Every line once and in order."""
        assert self.sent.numbers == list(range(1, self.number + 1))


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_an_entry_has_the_line_and_the_id_of_its_request() -> None:
    line = b'{"id":"0123456789abcdef0123456789abcdef","status":200}'
    assert gateway_log.entry(line).decode() == (
        f"MESSAGE={line.decode()}\nPRIORITY=6\nSYSLOG_IDENTIFIER=gpufleet-gateway\nREQUEST_ID=0123456789abcdef0123456789abcdef\n"
    )


@pytest.mark.parametrize("line", [b"no JSON", b"[1]", b'{"id":7}', b'{"id":"a b"}', b'{"id":""}', b"{", b"\xff\xfe", b"[" * 50_000])
def test_a_line_without_an_id_is_sent_all_the_same(line: bytes) -> None:
    found = gateway_log.entry(line)
    assert found.startswith(b"MESSAGE=" + line + b"\n") and b"REQUEST_ID" not in found


def test_lines_come_once_over_stops_and_starts(rig: Rig) -> None:
    rig.write(count=3)
    rig.start()
    rig.step()
    rig.check()
    rig.write(count=2)
    rig.start()
    rig.write()
    rig.step()
    rig.check()


def test_half_a_line_waits_for_its_end(rig: Rig) -> None:
    rig.write(end="")
    rig.start()
    rig.step()
    assert not rig.sent.numbers
    with rig.log.open("a", encoding="utf-8") as file:
        file.write("\n")
    rig.step()
    rig.check()


def test_more_than_is_read_at_once(rig: Rig) -> None:
    rig.write(count=150_000)
    rig.start()
    rig.step()
    rig.check()


def test_what_nginx_writes_into_the_renamed_file_is_not_lost(rig: Rig) -> None:
    """Before the new file is there, and beside it."""
    rig.write()
    rig.start()
    rig.step()
    old = rig.rotate()
    rig.write(old)
    rig.step(now=1.0)
    rig.write()
    rig.step(now=2.0)
    rig.write(old)
    rig.step(now=3.0)
    rig.write()
    rig.step(now=4.0)
    rig.check()
    # at last it is left alone
    rig.step(now=100.0)
    assert len(rig.follower.files) == 1
    rig.write()
    rig.step(now=101.0)
    rig.check()


def test_a_rotation_while_it_does_not_run_loses_nothing(rig: Rig) -> None:
    rig.write(count=2)
    rig.start()
    rig.step()
    rig.write(count=2)
    rig.rotate()
    rig.write(count=2)
    rig.start()
    rig.step()
    rig.check()


def test_a_file_rotated_before_its_first_start_is_none_of_its(rig: Rig) -> None:
    rig.write(rig.log.with_name("gateway.log.1"))
    rig.number = 0
    rig.write()
    rig.start()
    rig.step()
    rig.check()


def test_an_emptied_file_is_read_from_its_beginning(rig: Rig) -> None:
    rig.write(count=5)
    rig.start()
    rig.step()
    rig.log.write_text("", encoding="utf-8")
    rig.write()
    rig.step()
    rig.check()


def test_it_waits_for_a_log_that_is_not_there_and_mends_a_broken_state(rig: Rig) -> None:
    rig.state.write_text("{broken", encoding="ascii")
    rig.start()
    rig.step()
    rig.write()
    rig.step()
    rig.check()


class Receiver:
    """A stand-in for the journal's socket, which has little room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[bytes] = []
        self.open()

    def open(self) -> None:
        """Listen, anew too."""
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))

    def receive(self, count: int) -> None:
        """Wait for so many entries."""
        self.socket.settimeout(10)
        for _entry in range(count):
            self.entries.append(self.socket.recv(1 << 20))


@pytest.fixture(name="receiver")
def _receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "journal")
    yield receiver
    receiver.socket.close()


def test_a_full_queue_is_waited_for(receiver: Receiver) -> None:
    """Many more than the queue of a socket holds; nobody reads at first."""
    journal = gateway_log.Journal(str(receiver.path))
    sender = threading.Thread(target=lambda: [journal.send(b"%d" % number) for number in range(3000)], daemon=True)
    sender.start()
    time.sleep(0.2)
    assert sender.is_alive(), "the queue was never full"
    receiver.receive(3000)
    assert receiver.entries == [b"%d" % number for number in range(3000)]


def test_a_journal_that_is_away_is_waited_for(receiver: Receiver) -> None:
    journal = gateway_log.Journal(str(receiver.path))
    journal.send(b"1")
    receiver.receive(1)
    receiver.socket.close()
    sender = threading.Thread(target=journal.send, args=(b"2",), daemon=True)
    sender.start()
    time.sleep(0.3)
    receiver.open()
    receiver.receive(1)
    assert receiver.entries == [b"1", b"2"]


def test_a_stop_in_between_sends_nothing_twice(tmp_path: Path, receiver: Receiver) -> None:
    """As systemd starts and stops it."""
    log, state = tmp_path / "log", tmp_path / "state"
    for number in range(2):
        with log.open("a", encoding="utf-8") as file:
            file.write(f'{{"id":"{number}"}}\n')
        process = subprocess.Popen([sys.executable, "-I", str(PROGRAM), str(log), str(state), str(receiver.path)])
        receiver.receive(1)
        # past the writing of the state, which is followed by a pause
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert [entry.split(b"REQUEST_ID=")[1] for entry in receiver.entries] == [b"0\n", b"1\n"]
    assert list(json.loads(state.read_text(encoding="ascii"))) == [str(os.stat(log).st_ino)]


def test_it_reads_the_file_that_the_gateway_writes() -> None:
    def variables(role: str) -> dict[str, Any]:
        return yaml.safe_load((ROLES / role / "vars/main.yml").read_text(encoding="utf-8"))

    assert variables("ollama_logs")["__ollama_logs_gateway_log_path"] == variables("ollama_gateway")["__ollama_gateway_log_path"]
