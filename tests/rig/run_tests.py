"""Run the tests, step by step, each with its time; ends with a line that counts them.

usage: run_tests.py lint | fast | all
  lint  the linters
  fast  linters, contract, unit and conformance tests, the collection built, installed and its playbooks parsed: no containers
  all   fast, ansible-test sanity, every Molecule scenario, the demo, the audit's page in a browser
A step that is no pytest run counts as one test. Logs are in tests/output.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests/output"
BIN = Path(sys.executable).parent
COLLECTIONS = ROOT / ".venv/collections"
# scenarios by how long they take
LONG = ("main_chain", "models", "instances", "gpu_upgrade", "operator_folder")
PYTEST = [str(BIN / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")
CLOSING = re.compile(r"^(=+ )?\d+ (passed|failed|skipped|error).* in [\d.]+s", re.M)


class Result(NamedTuple):
    """What a step did: seconds, tests by outcome."""

    name: str
    seconds: float
    passed: int
    failed: int
    skipped: int


RESULTS: list[Result] = []
PRINTING = threading.Lock()


def environment(**more: str) -> dict[str, str]:
    """Environment of every step: our tools first, no colours, this checkout as the collection."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "PY_COLORS": "0",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "PYTHONPATH": str(COLLECTIONS),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


def step(name: str, command: list[str], cwd: Path = ROOT) -> bool:
    """Run a command; what it printed is shown when it fails. Returns True when it passed."""
    log = OUTPUT / f"{name.replace(' ', '_')}.log"
    started = time.monotonic()
    with log.open("wb") as file:
        code = subprocess.run(command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    seconds = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    closings = [match.group(0) for match in CLOSING.finditer(text)]
    counts = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    for closing in closings:
        for number, what in COUNT.findall(closing):
            counts[what.removesuffix("s")] += int(number)
    if not closings:
        counts["passed" if code == 0 else "failed"] = 1
    if code and not counts["failed"] and not counts["error"]:
        counts["failed"] = 1
    with PRINTING:
        RESULTS.append(Result(name, seconds, counts["passed"], counts["failed"] + counts["error"], counts["skipped"]))
        print(f"{'ok    ' if code == 0 else 'FAILED'} {name:28} {seconds:6.1f} s  {'; '.join(closings).replace('=', '').strip()}", flush=True)
        if code:
            lines = text.splitlines()
            print("\n".join([line for line in lines[:-80] if line.startswith(("ERROR", "FATAL"))][:60] + lines[-80:]), flush=True)
            print(f"--- the whole log is {log.relative_to(ROOT)}", flush=True)
    return code == 0


def lint() -> None:
    """The linters."""
    python = str(BIN / "python")
    step("yamllint", [str(BIN / "yamllint"), "-s", "."])
    step("ansible-lint", [str(BIN / "ansible-lint"), "-q", "--offline", "--profile", "production"])
    step("role READMEs", [python, "tests/rig/role_docs.py", "--check"])
    step("plugin documentation", [str(BIN / "antsibull-docs"), "lint-collection-docs", "--plugin-docs", "."])
    step("changelog", [str(BIN / "antsibull-changelog"), "lint"])


def fast() -> None:
    """What needs no container."""
    lint()
    step("contract", [*PYTEST, "tests/contract"])
    # half of them wait for something
    step("unit", [*PYTEST, "-n", "2", "--dist", "loadfile", "tests/unit"])
    step("conformance", [*PYTEST, "tests/conformance"])
    collection()


def collection() -> None:
    """Build the collection, install the archive elsewhere, and parse every playbook from there."""
    galaxy = str(BIN / "ansible-galaxy")
    with tempfile.TemporaryDirectory() as folder:
        if not step("collection build", [galaxy, "collection", "build", "--force", "--output-path", folder]):
            return
        archive = next(Path(folder).glob("*.tar.gz"))
        # env: the installed copy alone, not the checkout
        alone = ["env", "-u", "PYTHONPATH", f"ANSIBLE_COLLECTIONS_PATH={folder}"]
        if not step("collection install", [*alone, galaxy, "collection", "install", "--offline", "-p", folder, str(archive)]):
            return
        playbooks = sorted((Path(folder) / "ansible_collections/gpufleet/ollama/playbooks").glob("*.yml"))
        step("playbook syntax", [*alone, str(BIN / "ansible-playbook"), "--syntax-check", "-i", "inventories/prod", *map(str, playbooks)])


def scenario(name: str) -> None:
    """One Molecule scenario, whole."""
    step(f"molecule {name}", [str(BIN / "molecule"), "test", "-s", name, "--no-command-borders"])


def everything() -> None:
    """All of it. Scenarios, the demo and what has one process run three at a time: each of them waits for something half of the time."""
    fast()
    names = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    # the longest first: else one of them runs alone at the end
    names.sort(key=lambda name: LONG.index(name) if name in LONG else len(LONG))
    jobs: list[Callable[[], object]] = [partial(scenario, name) for name in names]
    jobs[2:2] = [partial(step, "demo", [*PYTEST, "tests/demo"])]
    jobs.append(partial(step, "browser", [*PYTEST, "tests/browser"]))
    jobs.append(partial(step, "ansible-test sanity", [str(BIN / "python"), "tests/rig/run_ansible_test.py", "sanity"]))
    with ThreadPoolExecutor(max_workers=3) as pool:
        list(pool.map(lambda job: job(), jobs))


def main() -> int:
    """Run, and print the sum."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("lint", "fast", "all"):
        print(__doc__)
        return 2
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    started = time.monotonic()
    {"lint": lint, "fast": fast, "all": everything}[sys.argv[1]]()
    failed = [result.name for result in RESULTS if result.failed]
    print(f"\n{len(RESULTS)} steps in {time.monotonic() - started:.0f} s" + (f"; failed: {', '.join(failed)}" if failed else ""))
    skipped = sum(result.skipped for result in RESULTS)
    print(f"{sum(result.passed for result in RESULTS)} passed, {sum(result.failed for result in RESULTS)} failed" + (f", {skipped} skipped" if skipped else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
