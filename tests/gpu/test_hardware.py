# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What module gpu_info says of real GPUs, that the stand-in of nvidia-smi speaks as the real one does, and that Ollama computes on them."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests/double/nvidia/nvidia_smi.py"
OLLAMA_URL = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
# of a device that a model lies in
FIELDS = "index,name,uuid,driver_version,pci.bus_id,memory.total,persistence_mode,mig.mode.current,ecc.mode.current,temperature.gpu,power.limit"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command and what it printed."""
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module", name="info")
def gpu_info() -> dict[str, Any]:
    """What the module says of this host."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible.cli.adhoc", "localhost", "-c", "local", "-m", "gpufleet.ollama.gpu_info", "-o",
         "-e", f"ansible_python_interpreter={sys.executable}"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.split("=>", 1)[1])
    return found


def tags(xml: str) -> set[str]:
    """The paths of all elements of one GPU."""
    def walk(element: ElementTree.Element, path: str) -> set[str]:
        return {path}.union(*(walk(child, f"{path}/{child.tag}") for child in element))

    gpu = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", xml)).find("gpu")
    assert gpu is not None
    return walk(gpu, "gpu")


def test_every_way_counts_the_same_gpus(info: dict[str, Any]) -> None:
    """Kernel, driver and nvidia-smi agree."""
    listed = re.findall(r"^GPU \d+: .* \(UUID: (GPU-[0-9a-f-]+)\)", run("nvidia-smi", "-L").stdout, re.M)
    assert listed
    assert sorted(gpu["uuid"] for gpu in info["gpus"] if gpu["vendor"] == "nvidia") == sorted(listed)
    assert sorted(gpu["uuid"] for gpu in info["smi"]["gpus"]) == sorted(listed)
    kernel = {device["bus_id"] for device in info["devices"] if device["kind"] == "gpu" and device["vendor"] == "nvidia"}
    assert kernel >= {gpu["bus_id"] for gpu in info["smi"]["gpus"]}


def test_generation_is_the_architecture_that_the_driver_names(info: dict[str, Any]) -> None:
    """The table of device ids against the driver's own word."""
    by_bus = {device["bus_id"]: device for device in info["devices"]}
    for gpu in info["smi"]["gpus"]:
        generation = by_bus[gpu["bus_id"]]["generation"]
        assert generation and gpu["architecture"].lower().startswith(generation), (gpu["name"], gpu["architecture"], generation)


def test_the_driver_needs_no_reboot_and_is_healthy(info: dict[str, Any]) -> None:
    """A host that is as it should be: nothing is found that is not there."""
    assert info["driver"]["loaded"] == info["smi"]["driver_version"]
    assert info["smi"]["status"] == 0 and info["smi"]["problem"] == ""
    assert info["health"]["verdict"] in ("ok", "warn"), info["health"]
    assert [reason for reason in info["reboot_reasons"] if "loaded" in reason] == []


def test_the_stand_in_answers_as_nvidia_smi_does(tmp_path: Path) -> None:
    """What is read of the real answer is in the stand-in's, under the same names."""
    real = tags(run("nvidia-smi", "-q", "-x").stdout)
    (tmp_path / "smi.json").write_bytes((STANDIN.parent / "scenarios/healthy.json").read_bytes())
    ours = tags(run(sys.executable, str(STANDIN), "-q", "-x", NVIDIA_STANDIN_DIR=str(tmp_path)).stdout)
    # a branch may have dropped a field, and a board has not all of them: what the parser needs must be there
    assert {"gpu/uuid", "gpu/product_name", "gpu/fb_memory_usage/total", "gpu/ecc_mode/current_ecc", "gpu/mig_mode/current_mig"} <= real & ours
    assert not ours - real, "the stand-in has elements that this nvidia-smi has not"


def test_the_stand_in_has_the_same_columns(tmp_path: Path) -> None:
    """Every field that the stand-in knows is one of this nvidia-smi, under the same heading and with the same unit; so is what it says to another."""
    (tmp_path / "smi.json").write_bytes((STANDIN.parent / "scenarios/healthy.json").read_bytes())

    def ours(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, str(STANDIN), *arguments, NVIDIA_STANDIN_DIR=str(tmp_path))

    known = [set(re.findall(r'"([\w.]+)"', done.stdout)) for done in (ours("--help-query-gpu"), run("nvidia-smi", "--help-query-gpu"))]
    assert len(known[0]) > 20 and not known[0] - known[1]
    query = [f"--query-gpu={','.join(sorted(known[0]))}", "--format=csv"]
    assert ours(*query).stdout.splitlines()[0] == run("nvidia-smi", *query).stdout.splitlines()[0]
    wrong = ["--query-gpu=no.such.field", "--format=csv"]
    said = [(done.returncode, done.stdout) for done in (ours(*wrong), run("nvidia-smi", *wrong))]
    assert said[0] == said[1]


def test_csv_has_the_form_that_is_read() -> None:
    """Comma and blank, a unit in the header, nothing else."""
    done = run("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv")
    assert done.returncode == 0, done.stdout
    header, *rows = done.stdout.splitlines()
    assert re.sub(r" \[[^]]*\]", "", header).split(", ") == FIELDS.split(",")
    assert rows and all(len(row.split(", ")) == len(FIELDS.split(",")) for row in rows)


def test_the_limit_of_a_board_is_understood(tmp_path: Path) -> None:
    """The program of role nvidia_driver: the limit that a board has is found set, and a board that is not there is seen. Nothing is changed."""
    uuid, limit = run("nvidia-smi", "--query-gpu=uuid,power.limit", "--format=csv,noheader,nounits").stdout.splitlines()[0].split(", ")
    nobody = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
    for item, status in (((uuid, round(float(limit))), 0), ((nobody, 1), 1)):
        settings = {"uuid": item[0], "name": None, "power_limit_watts": item[1], "graphics_clocks_mhz": None}
        config = tmp_path / "config.json"
        config.write_text(json.dumps([settings]), encoding="utf-8")
        assert run(sys.executable, "-I", str(ROOT / "roles/nvidia_driver/files/nvidia_tuning.py"), str(config)).returncode == status


def test_ollama_computes_on_the_gpus() -> None:
    """A model of the store answers, and lies in the memory of a GPU."""
    def ask(path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(OLLAMA_URL + path, data=data), timeout=300) as answer:
            return json.load(answer)

    try:
        models = ask("/api/tags")["models"]
    except OSError as error:
        pytest.skip(f"no Ollama at {OLLAMA_URL}: {error}")
    if not models:
        pytest.skip(f"the Ollama at {OLLAMA_URL} has no model")
    name = min(models, key=lambda model: model["size"])["name"]
    ask("/api/generate", {"model": name, "prompt": "hi", "stream": False, "options": {"num_predict": 4}})
    loaded = next(model for model in ask("/api/ps")["models"] if model["name"] == name)
    assert loaded["size_vram"] > 0, loaded
