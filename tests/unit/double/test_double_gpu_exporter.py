# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in for nvidia_gpu_exporter says what the real one was recorded to say in the same scenarios."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/double/nvidia"), str(ROOT / "tests/rules")]

# pylint: disable=wrong-import-position
import gpu_exporter  # noqa: E402
import record  # noqa: E402

SAMPLE = re.compile(r"^(\S+?)(\{.*\})? ([-+.0-9e]+)$")


def samples(text: str) -> dict[str, float]:
    """Series -> value; what differs in every scrape without its value."""
    found = {}
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            same = 0.0 if "duration_seconds" in match[1] or "timestamp_seconds" in match[1] else float(match[3])
            found[f"{match[1]}{match[2] or ''}"] = same
    return found


@pytest.mark.parametrize("scenario", record.ALERTS)
def test_it_says_what_the_real_one_says(scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same series with the same values, when all is well and when nvidia-smi fails."""
    failing = record.ALERTS[scenario] == "GpuCollectionFailing"
    monkeypatch.setenv("NVIDIA_STANDIN_DIR", str(tmp_path))
    record.play(str(tmp_path), "healthy" if failing else scenario)
    exporter = gpu_exporter.Exporter(shlex.join([sys.executable, str(ROOT / "tests/double/nvidia/nvidia_smi.py")]), 1.0 if scenario == "hang" else 20.0)
    exporter.metrics()
    record.play(str(tmp_path), scenario)
    real = samples((ROOT / f"tests/rules/recorded/{scenario}.prom").read_text(encoding="utf-8"))
    assert samples(exporter.metrics()) == pytest.approx(real) and real
