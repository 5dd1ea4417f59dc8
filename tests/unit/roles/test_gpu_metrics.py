# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The program that writes the state of driver and GPUs, installed as the role installs it and run as the unit runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests/unit/plugins"))

import nvidia_standin  # noqa: E402

VARS = yaml.safe_load((ROOT / "roles/gpu_exporter/vars/main.yml").read_text(encoding="utf-8"))
SAMPLE = re.compile(r"^([a-z_]+(?:\{.*\})?) (\S+)$", re.M)
RELEASE = "6.1.0-42-amd64"


@pytest.fixture(name="root")
def host(tmp_path: Path) -> Path:
    """A healthy host with two GPUs, and the program with the files that the role puts beside it."""
    root = tmp_path / "host"
    for bus_id in ("0000:19:00.0", "0000:3b:00.0"):
        nvidia_standin.pci(root, bus_id)
    nvidia_standin.loaded(root)
    nvidia_standin.kernel(root, RELEASE, "580.95.05")
    nvidia_standin.running(root, RELEASE)
    nvidia_standin.write(root / "kernel.log")
    library = root / "program" / VARS["__gpu_exporter_library_dir"]
    library.mkdir(parents=True)
    shutil.copy(ROOT / "roles/gpu_exporter/files/gpu_metrics.py", root / "program")
    nvidia_standin.write(root / "program/ansible_collections/__init__.py")
    for name in VARS["__gpu_exporter_libraries"]:
        shutil.copy(ROOT / "plugins/module_utils" / name, library)
    (root / "out").mkdir()
    return root


def run(root: Path, described: dict[str, Any] | None = None, **config: Any) -> subprocess.CompletedProcess[str]:
    """Run it, without any package but Python's own."""
    values = {
        "output": f"{root}/out/gpu.prom", "dev_dir": f"{root}/dev", "proc_dir": f"{root}/proc", "sys_dir": f"{root}/sys", "root_dir": f"{root}/root",
        "command": nvidia_standin.smi(root, described or nvidia_standin.scenario("healthy")), "modinfo": nvidia_standin.modinfo(root),
        "kernel_log": f"cat {root}/kernel.log", **config,
    }  # fmt: skip
    path = nvidia_standin.write(root / "config.json", json.dumps(values))
    return subprocess.run([sys.executable, "-I", "-S", str(root / "program/gpu_metrics.py"), str(path)], capture_output=True, text=True, check=False)


def written(root: Path, described: dict[str, Any] | None = None, **config: Any) -> dict[str, float]:
    """What it writes."""
    done = run(root, described, **config)
    assert (done.returncode, done.stderr) == (0, ""), done
    return {match[1]: float(match[2]) for match in SAMPLE.finditer((root / "out/gpu.prom").read_text(encoding="utf-8"))}


def test_a_healthy_host(root: Path) -> None:
    found = written(root, expected_count=2)
    assert found['gpu_driver_info{loaded="580.95.05",installed="580.95.05",branch="580",flavour="open"}'] == 1
    assert (found["gpu_count"], found["gpu_usable_count"], found["gpu_expected_count"]) == (2, 2, 2)
    assert (found["gpu_driver_loaded"], found["gpu_driver_mismatch"], found["gpu_smi_success"], found["gpu_reboot_required"]) == (1, 0, 1, 0)
    assert {name: value for name, value in found.items() if name.startswith("gpu_health{")} == {
        f'gpu_health{{verdict="{verdict}"}}': int(verdict == "ok") for verdict in ("ok", "warn", "fail", "none")
    }
    assert abs(found["gpu_state_timestamp_seconds"] - time.time()) < 30
    assert not any(name.startswith(("gpu_xid", "gpu_health_reason_info", "gpu_reboot_reason_info")) for name in found)
    assert [path.name for path in (root / "out").iterdir()] == ["gpu.prom"]
    assert (root / "out/gpu.prom").stat().st_mode & 0o777 == 0o644


def test_beside_an_ansible_of_the_host(root: Path, tmp_path: Path) -> None:
    """Whose package of collections, a whole one, stands behind ours in the path."""
    (tmp_path / "site/ansible_collections").mkdir(parents=True)
    (tmp_path / "site/ansible_collections/__init__.py").touch()
    assert run(root).returncode == 0
    program = f"import runpy, sys; sys.path.append({str(tmp_path / 'site')!r}); runpy.run_path(sys.argv[1])"
    command = [sys.executable, "-I", "-S", "-c", program, str(root / "program/gpu_metrics.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
    # the mark is what does it
    (root / "program/ansible_collections/__init__.py").unlink()
    assert "ModuleNotFoundError" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_a_host_without_a_gpu(root: Path) -> None:
    """Nothing of NVIDIA is run there."""
    shutil.rmtree(root / "sys")
    shutil.rmtree(root / "proc/driver")
    found = written(root)
    assert (found["gpu_count"], found['gpu_health{verdict="none"}'], found["gpu_reboot_required"]) == (0, 1, 0)
    assert not (root / "asked").exists()
    # the same, where there must be some
    found = written(root, {**nvidia_standin.scenario("healthy"), "gpus": []}, expected_count=2)
    assert (found['gpu_health{verdict="fail"}'], found["gpu_usable_count"] < found["gpu_expected_count"]) == (1, True)


def test_an_upgraded_driver(root: Path) -> None:
    nvidia_standin.kernel(root, "6.1.0-43-amd64", "580.105.08")
    nvidia_standin.write(root / f"root/lib/modules/{RELEASE}/nvidia.version", "580.105.08\n")
    found = written(root, nvidia_standin.scenario("mismatch"))
    assert (found["gpu_driver_mismatch"], found["gpu_smi_success"], found["gpu_reboot_required"], found['gpu_health{verdict="fail"}']) == (1, 0, 1, 1)
    assert found["gpu_reboot_reasons"] == sum(name.startswith("gpu_reboot_reason_info{") for name in found) >= 2


@pytest.mark.parametrize("name, metric", [("no_driver", "gpu_smi_success"), ("mismatch", "gpu_smi_success"), ("lost", "gpu_smi_success")])
def test_a_driver_in_trouble(root: Path, name: str, metric: str) -> None:
    found = written(root, nvidia_standin.scenario(name))
    assert (found[metric], found['gpu_health{verdict="fail"}']) == (0, 1)
    assert found['gpu_health_reasons{level="fail"}'] >= 1


def test_errors_of_the_kernel(root: Path) -> None:
    """By GPU and number, all of them; two of a kind are counted."""
    line = "[ 12.5] NVRM: Xid (PCI:0000:{}:00): {}, pid=1, name=llama-server\n"
    nvidia_standin.write(root / "kernel.log", line.format("19", 79) + line.format("19", 79) + line.format("3b", 13))
    found = written(root)
    xids = {name: value for name, value in found.items() if name.startswith("gpu_xid")}
    assert xids == {'gpu_xid_errors{bus_id="0000:19:00.0",xid="79"}': 2, 'gpu_xid_errors{bus_id="0000:3b:00.0",xid="13"}': 1}
    # without the right to read it nothing is known, which is no error
    assert not any(name.startswith("gpu_xid") for name in written(root, kernel_log="false"))


def test_many_reasons_are_bounded(root: Path) -> None:
    """Text in labels is short, each once, and of a small number; the count says how many there are."""
    described = nvidia_standin.scenario("hgx")
    for gpu in described["gpus"]:
        gpu.update(ecc_uncorrected=3, remap_failure="Yes", recovery_action="Reboot")
    found = written(root, described)
    texts = [name for name in found if name.startswith("gpu_health_reason_info{")]
    assert len(texts) == 8 < found['gpu_health_reasons{level="fail"}'] and all(len(text) < 250 for text in texts)
    assert found["gpu_reboot_reasons"] == sum(name.startswith("gpu_reboot_reason_info{") for name in found) == 8


def test_text_that_would_break_the_file(root: Path) -> None:
    """Quotes, backslashes and half a character in what packages and drivers say."""
    nvidia_standin.write(root / "root/run/reboot-required", "")
    (root / "root/run/reboot-required.pkgs").write_bytes(b'li"nux\\image\n\xff\n')
    found = written(root)
    reason = next(name for name in found if name.startswith("gpu_reboot_reason_info{"))
    assert r"li\"nux\\image" in reason


def test_an_old_file_stays_when_something_is_wrong(root: Path) -> None:
    """One line says what; no half file is left."""
    written(root)
    before = (root / "out/gpu.prom").read_text(encoding="utf-8")
    for config in ({"max_temperature": "hot"}, {"output": f"{root}/none/gpu.prom"}):
        done = run(root, **config)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "cannot write the state" in done.stderr
    assert (root / "out/gpu.prom").read_text(encoding="utf-8") == before
    assert [path.name for path in (root / "out").iterdir()] == ["gpu.prom"]


def test_usage(root: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(root / "program/gpu_metrics.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: gpu_metrics.py CONFIG" in done.stderr


def test_the_role_installs_what_the_library_needs() -> None:
    """Every file that one of them imports is installed too."""
    names = set(VARS["__gpu_exporter_libraries"])
    for name in names:
        text = (ROOT / "plugins/module_utils" / name).read_text(encoding="utf-8")
        assert "ansible.module_utils" not in text
        for line in re.findall(r"^from ansible_collections\.gpufleet\.ollama\.plugins\.module_utils import (.+)$", text, re.M):
            assert {f"{part.strip()}.py" for part in line.split(",")} <= names, name
