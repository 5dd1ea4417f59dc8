# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings the MIG layouts of NVIDIA GPUs about: the mode stays over a reboot, the instances do not.

Reads a JSON list of uuid and profiles; no profiles switch MIG off. A GPU whose layout is right is left alone, and none is changed while
anything computes on it. A mode that counts only after a reset or a reboot is said so, and the instances are then made at the next start.
Exits with 1 when a layout could not be brought about.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

SECONDS = 120
# -cgi was seen to succeed without an instance
ATTEMPTS = 5
PAUSE = 1.0
REFRESH = "nvidia-cdi-refresh.service"
_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_MIG = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")


class Problem(Exception):
    """Why a layout was not brought about."""


def run(command: list[str], accept: tuple[int, ...] = (0,)) -> str:
    """What a command prints; its failure, with its own words, is a problem."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except FileNotFoundError:
        raise Problem(f"there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise Problem(f"{' '.join(command)} did not end within {SECONDS} s: see dmesg for NVRM and Xid lines") from None
    if done.returncode not in accept:
        raise Problem(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def layouts(text: str) -> dict[str, list[str]]:
    """UUID of each GPU -> profiles of its MIG devices, from C(nvidia-smi -L)."""
    result: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        gpu, mig = _GPU.match(line), _MIG.match(line)
        if gpu:
            current = result.setdefault(gpu[2], [])
        elif mig:
            current.append(mig[1])
    return result


def query(smi: str, uuid: str, fields: str) -> list[str]:
    """Values of a GPU."""
    return [value.strip() for value in run([smi, "-i", uuid, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]).split(",")]


def busy(smi: str, uuid: str) -> list[str]:
    """Processes on a GPU, as C(pid name)."""
    text = run([smi, "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader"])
    rows = [[value.strip() for value in line.split(",", 2)] for line in text.splitlines() if line.count(",") >= 2]
    # with MIG on, the UUID may be that of a MIG device, of which nothing says whose it is: all of those count
    return [f"{row[1]} {row[2]}" for row in rows if row[0] == uuid or row[0].startswith("MIG-")]


def set_mode(smi: str, uuid: str, wanted: bool) -> bool:
    """Switch MIG on or off; returns whether the mode is in force."""
    word = "Enabled" if wanted else "Disabled"
    current, pending = query(smi, uuid, "mig.mode.current,mig.mode.pending")
    if current not in ("Enabled", "Disabled"):
        raise Problem(f"{uuid} cannot do MIG (nvidia-smi says {current}): take it out of nvidia_driver_mig")
    if pending != word:
        run([smi, "-i", uuid, "-mig", str(int(wanted))])
        current, pending = query(smi, uuid, "mig.mode.current,mig.mode.pending")
        if pending != word:
            raise Problem(f"{uuid} does not take the MIG mode {word}")
    return current == word


def rebuild(smi: str, uuid: str, profiles: list[str]) -> None:
    """Replace the instances of a GPU."""
    for kind in ("-dci", "-dgi"):
        # 6: there is none
        run([smi, "mig", "-i", uuid, kind], accept=(0, 6))
    if not profiles:
        return
    run([smi, "mig", "-i", uuid, "-cgi", ",".join(profiles), "-C"])
    for _attempt in range(ATTEMPTS):
        found = layouts(run([smi, "-L"])).get(uuid, [])
        if Counter(found) == Counter(profiles):
            return
        time.sleep(PAUSE)
    raise Problem(f"{uuid} has the MIG devices {', '.join(found) or 'none'} after {', '.join(profiles)} were made: does the layout fit on it?")


def apply(smi: str, item: dict[str, Any]) -> bool:
    """Bring the layout of a GPU about; returns whether anything was changed."""
    uuid, profiles = item["uuid"], item["profiles"]
    found = layouts(run([smi, "-L"]))
    if uuid not in found:
        raise Problem(f"there is no GPU {uuid}: nvidia-smi -L shows {', '.join(found) or 'none'}")
    current, pending = query(smi, uuid, "mig.mode.current,mig.mode.pending")
    word = "Enabled" if profiles else "Disabled"
    if Counter(found[uuid]) == Counter(profiles) and (current, pending) == (word, word):
        return False
    processes = busy(smi, uuid)
    if processes:
        raise Problem(f"{uuid} is in use, so its MIG layout is not changed: {', '.join(processes)}. Stop these processes")
    if not profiles and found[uuid]:
        rebuild(smi, uuid, [])
    if not set_mode(smi, uuid, bool(profiles)):
        print(f"{uuid}: MIG {word} counts after a reboot")
        return True
    if profiles:
        rebuild(smi, uuid, profiles)
    print(f"{uuid}: {', '.join(profiles) or 'MIG is off'}")
    return True


def refresh() -> None:
    """Have the container toolkit describe the devices anew: it does not see that the layout has changed."""
    if subprocess.run(["systemctl", "cat", REFRESH], capture_output=True, check=False).returncode == 0:
        # it gives up after five starts in ten seconds
        subprocess.run(["systemctl", "reset-failed", REFRESH], capture_output=True, check=False)
        run(["systemctl", "--no-block", "restart", REFRESH])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smi", default="nvidia-smi")
    parser.add_argument("config")
    args = parser.parse_args()
    problems = []
    changed = False
    with open(args.config, encoding="utf-8") as file:
        items = json.load(file)
    for item in items:
        try:
            changed = apply(args.smi, item) or changed
        except Problem as problem:
            problems.append(str(problem))
    try:
        if changed:
            refresh()
    except Problem as problem:
        problems.append(str(problem))
    for text in problems:
        print(text, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
