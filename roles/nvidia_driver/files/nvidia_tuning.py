# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sets power limits and clocks of NVIDIA GPUs, which forget them with each reboot.

Reads a JSON list of uuid or name, power_limit_watts and graphics_clocks_mhz. What is set already is not set again. Prints what it does, and
exits with 1 when a GPU is not there or does not take a value.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

SECONDS = 60


class Problem(Exception):
    """Why something could not be set."""


def run(command: list[str]) -> str:
    """What a command prints; its failure, with its own words, is a problem."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except FileNotFoundError:
        raise Problem(f"there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise Problem(f"{' '.join(command)} did not end within {SECONDS} s: see dmesg for NVRM and Xid lines") from None
    if done.returncode:
        raise Problem(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def gpus(smi: str) -> list[dict[str, str]]:
    """uuid, name and power limit (watts, or nothing that is a number) of each GPU."""
    rows = [line.split(", ") for line in run([smi, "--query-gpu=uuid,name,power.limit", "--format=csv,noheader,nounits"]).splitlines()]
    return [{"uuid": row[0].strip(), "name": ", ".join(row[1:-1]).strip(), "power": row[-1].strip()} for row in rows if len(row) >= 3]


def chosen(item: dict[str, Any], found: list[dict[str, str]]) -> list[dict[str, str]]:
    """The GPUs that an entry means."""
    key = "uuid" if item["uuid"] else "name"
    result = [gpu for gpu in found if gpu[key] == item[key]]
    if not result:
        raise Problem(f"there is no GPU with the {key} {item[key]}: nvidia-smi -L shows {', '.join(gpu[key] for gpu in found) or 'none'}")
    return result


def is_number(text: str, wanted: int) -> bool:
    """Whether a value of nvidia-smi is this number already."""
    try:
        return abs(float(text) - wanted) < 0.5
    except ValueError:
        return False


def tune(smi: str, items: list[dict[str, Any]]) -> list[str]:
    """Set what is wanted; returns what is wrong, each GPU being tried whatever became of the others."""
    problems = []
    found = gpus(smi)
    for item in items:
        try:
            for gpu in chosen(item, found):
                watts, clocks = item["power_limit_watts"], item["graphics_clocks_mhz"]
                if watts is not None and not is_number(gpu["power"], watts):
                    run([smi, "-i", gpu["uuid"], "-pl", str(watts)])
                    print(f"{gpu['uuid']}: power limit {watts} W")
                if clocks is not None:
                    # nvidia-smi does not say what the clocks were locked to
                    run([smi, "-i", gpu["uuid"], "-lgc", ",".join(map(str, clocks))])
                    print(f"{gpu['uuid']}: clocks {clocks[0]} to {clocks[1]} MHz")
        except Problem as problem:
            problems.append(str(problem))
    return problems


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smi", default="nvidia-smi")
    parser.add_argument("config")
    args = parser.parse_args()
    try:
        with open(args.config, encoding="utf-8") as file:
            problems = tune(args.smi, json.load(file))
    except Problem as problem:
        problems = [str(problem)]
    for text in problems:
        print(text, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
