"""The programs that set what GPUs forget, run as systemd runs them, against the stand-in of nvidia-smi: no board is told anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
STAND_IN = ROOT / "tests/double/nvidia"
FILES = ROOT / "roles/nvidia_driver/files"
FIRST, SECOND = "GPU-00000000-aaaa-bbbb-cccc-000000000000", "GPU-00000001-aaaa-bbbb-cccc-000000000001"


class Boards:
    """Boards that are described to the stand-in, and the programs that set them."""

    def __init__(self, folder: Path, scenario: str) -> None:
        self.folder = folder
        self.described: dict[str, Any] = json.loads((STAND_IN / f"scenarios/{scenario}.json").read_text(encoding="utf-8"))
        self.described["proc_dir"] = str(folder / "proc")
        self.describe()
        self.boot("first")
        self.smi = folder / "nvidia-smi"
        self.smi.write_text(f"#!/bin/sh\nexec {sys.executable} {STAND_IN / 'nvidia_smi.py'} \"$@\"\n", encoding="utf-8")
        self.smi.chmod(0o755)
        # which units there are is said by the machine that tests run on: nothing is restarted there
        (folder / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{folder}/systemctl.log\n', encoding="utf-8")
        (folder / "systemctl").chmod(0o755)
        self.environ = {**os.environ, "NVIDIA_STANDIN_DIR": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}

    def describe(self, **gpu: Any) -> None:
        """Change what the first board is."""
        self.described["gpus"][0].update(gpu)
        (self.folder / "smi.json").write_text(json.dumps(self.described), encoding="utf-8")

    def boot(self, boot_id: str) -> None:
        """Boot."""
        path = self.folder / "proc/sys/kernel/random/boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(boot_id, encoding="ascii")

    def run(self, program: str, *items: dict[str, Any], status: int = 0) -> str:
        """Run a program; what it says comes back."""
        config = self.folder / "config.json"
        config.write_text(json.dumps(items), encoding="utf-8")
        command = [sys.executable, "-I", str(FILES / program), "--smi", str(self.smi), str(config)]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, *arguments: str) -> str:
        """What the stand-in says."""
        return subprocess.run([str(self.smi), *arguments], env=self.environ, capture_output=True, text=True, timeout=60, check=True).stdout

    def mig(self) -> int:
        """How many MIG devices there are."""
        return self.ask("-L").count("  MIG ")

    def calls(self) -> list[str]:
        """What was set."""
        log = self.folder / "calls.log"
        return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []

    def refreshed(self) -> bool:
        """Whether the container toolkit was told."""
        log = self.folder / "systemctl.log"
        return log.is_file() and "restart nvidia-cdi-refresh.service" in log.read_text(encoding="utf-8")


@pytest.fixture(name="boards")
def two_boards(tmp_path: Path) -> Boards:
    """Two H100."""
    return Boards(tmp_path, "healthy")


def tuning(**more: Any) -> dict[str, Any]:
    """An entry as the role writes it."""
    return {"uuid": None, "name": None, "power_limit_watts": None, "graphics_clocks_mhz": None, **more}


def test_a_limit_is_set_once(boards: Boards) -> None:
    """On the GPU that is meant; a second run finds it set."""
    item = tuning(uuid=SECOND, power_limit_watts=400)
    assert f"{SECOND}: power limit 400 W" in boards.run("nvidia_tuning.py", item)
    assert boards.ask("--query-gpu=power.limit", "--format=csv,noheader").splitlines() == ["700.00 W", "400.00 W"]
    assert boards.run("nvidia_tuning.py", item) == ""
    boards.boot("second")
    assert "power limit 400 W" in boards.run("nvidia_tuning.py", item)


def test_all_of_a_model(boards: Boards) -> None:
    """By its name."""
    boards.run("nvidia_tuning.py", tuning(name="NVIDIA H100 80GB HBM3", graphics_clocks_mhz=[210, 1410]))
    assert boards.calls() == [f"-i {uuid} -lgc 210,1410" for uuid in (FIRST, SECOND)]


def test_a_gpu_that_is_not_there(boards: Boards) -> None:
    """The others are set all the same."""
    said = boards.run("nvidia_tuning.py", tuning(uuid="GPU-9", power_limit_watts=400), tuning(uuid=FIRST, power_limit_watts=500), status=1)
    assert "there is no GPU with the uuid GPU-9" in said and FIRST in said and "power limit 500 W" in said


def test_a_limit_that_the_board_refuses(boards: Boards) -> None:
    """Its own words are shown."""
    said = boards.run("nvidia_tuning.py", tuning(uuid=FIRST, power_limit_watts=900), status=1)
    assert "-pl 900: " in said and "700.00" in said, said


@pytest.mark.parametrize("program", ["nvidia_tuning.py", "nvidia_mig.py"])
def test_no_driver(tmp_path: Path, program: str) -> None:
    """The unit fails with what nvidia-smi says."""
    item = tuning(uuid=FIRST, power_limit_watts=400, profiles=[])
    assert "couldn't communicate with the NVIDIA driver" in Boards(tmp_path, "no_driver").run(program, item, status=1)


LAYOUT = {"uuid": FIRST, "profiles": ["3g.40gb", "1g.10gb", "1g.10gb"]}


def test_a_layout(boards: Boards) -> None:
    """Made once; the container toolkit is told; the other GPU stays whole."""
    assert "3g.40gb, 1g.10gb, 1g.10gb" in boards.run("nvidia_mig.py", LAYOUT)
    assert boards.mig() == 3 and boards.refreshed()
    made = boards.calls()
    assert boards.run("nvidia_mig.py", LAYOUT) == ""
    # in another order it is the same layout
    assert boards.run("nvidia_mig.py", {**LAYOUT, "profiles": ["1g.10gb", "3g.40gb", "1g.10gb"]}) == ""
    assert boards.calls() == made


def test_another_layout_and_none(boards: Boards) -> None:
    """The instances of before go."""
    boards.run("nvidia_mig.py", LAYOUT)
    boards.run("nvidia_mig.py", {"uuid": FIRST, "profiles": ["7g.80gb"]})
    assert boards.mig() == 1
    assert "MIG is off" in boards.run("nvidia_mig.py", {"uuid": FIRST, "profiles": []})
    assert boards.mig() == 0 and boards.ask("-i", FIRST, "--query-gpu=mig.mode.current", "--format=csv,noheader") == "Disabled\n"


def test_instances_come_back_after_a_boot(boards: Boards) -> None:
    """The mode stays, the instances do not."""
    boards.run("nvidia_mig.py", LAYOUT)
    boards.boot("second")
    assert boards.mig() == 0
    boards.run("nvidia_mig.py", LAYOUT)
    assert boards.mig() == 3


def test_a_mode_that_waits_for_a_boot(boards: Boards) -> None:
    """It is said, and the instances are made at the next start."""
    boards.describe(mig_needs_reboot=True)
    assert "MIG Enabled counts after a reboot" in boards.run("nvidia_mig.py", LAYOUT)
    assert boards.mig() == 0
    boards.boot("second")
    boards.run("nvidia_mig.py", LAYOUT)
    assert boards.mig() == 3


def test_a_gpu_in_use(boards: Boards) -> None:
    """Nothing is taken from a process that computes; the other GPU is nobody's."""
    boards.described["processes"] = [{"pid": 4201, "name": "/usr/bin/ollama", "uuid": FIRST, "used_memory_mib": 1}]
    boards.describe()
    said = boards.run("nvidia_mig.py", LAYOUT, {"uuid": SECOND, "profiles": ["7g.80gb"]}, status=1)
    assert f"{FIRST} is in use, so its MIG layout is not changed: 4201 /usr/bin/ollama" in said
    assert boards.mig() == 1


def test_a_layout_that_does_not_fit(boards: Boards) -> None:
    """The board's words are shown."""
    said = boards.run("nvidia_mig.py", {"uuid": FIRST, "profiles": ["4g.40gb", "4g.40gb"]}, status=1)
    assert "Insufficient Resources" in said


def test_a_card_without_mig(tmp_path: Path) -> None:
    """It says so."""
    boards = Boards(tmp_path, "consumer")
    uuid = boards.described["gpus"][0]["uuid"]
    assert "cannot do MIG" in boards.run("nvidia_mig.py", {"uuid": uuid, "profiles": ["1g.10gb"]}, status=1)
