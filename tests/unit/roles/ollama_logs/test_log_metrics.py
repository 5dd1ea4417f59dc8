# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The collector's metrics, run as systemd runs the program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[4] / "roles/ollama_logs/files/log_metrics.py"
SOURCES = [{"host": "gpu1", "address": "127.200.0.1"}, {"host": "gpu2", "address": "127.200.0.2"}, {"host": "gpu3", "address": "127.200.0.10"}]


def run(folder: Path) -> dict[str, float]:
    """Its metrics, by name and source."""
    config, path = folder / "config.json", folder / "ollama_logs.prom"
    (folder / "journals").mkdir(exist_ok=True)
    config.write_text(json.dumps({"directory": str(folder / "journals"), "path": str(path), "sources": SOURCES}), encoding="utf-8")
    subprocess.run([sys.executable, "-I", str(PROGRAM), str(config)], check=True)
    text = path.read_text(encoding="utf-8")
    assert [item.name for item in folder.iterdir() if item.suffix == ".new"] == []
    return {name: float(value) for name, value in re.findall(r"^(ollama_logs_\S+) (\S+)$", text, re.M)}


def touch(folder: Path, name: str, when: float) -> None:
    """A journal that was last written at a time."""
    (folder / "journals").mkdir(exist_ok=True)
    path = folder / "journals" / name
    path.write_bytes(b"x" * 10_000)
    os.utime(path, (when, when))


def received(host: str) -> str:
    """The name of a metric."""
    return f'ollama_logs_last_received_timestamp_seconds{{source="{host}"}}'


def test_a_host_that_never_sent_anything_is_named(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found == {**{received(host): 0.0 for host in ("gpu1", "gpu2", "gpu3")}, "ollama_logs_stored_bytes": 0.0}


def test_the_newest_file_of_each_counts(tmp_path: Path) -> None:
    """Right after a rotation there is only the one that was; the address of another begins with the same digits."""
    touch(tmp_path, "remote-127.200.0.1.journal", 1000.5)
    touch(tmp_path, "remote-127.200.0.1@0123-0-0.journal", 900)
    touch(tmp_path, "remote-127.200.0.2@0123-0-0.journal", 800)
    touch(tmp_path, "remote-127.200.0.9.journal", 9000)
    found = run(tmp_path)
    assert [found[received(host)] for host in ("gpu1", "gpu2", "gpu3")] == [1000.5, 800.0, 0.0]
    assert found["ollama_logs_stored_bytes"] >= 40_000
