"""The gate before Ollama, run as systemd runs it, on fake device nodes and a stand-in for NVML."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Sequence

import pytest

GATE = Path(__file__).parents[3] / "roles/ollama/files/gpu_gate.py"
UUIDS = ["GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000001"]
NOBODY = 65534

# GATE_NVML: mode of this library
NVML = """
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
static int is(const char *mode) { const char *set = getenv("GATE_NVML"); return set && !strcmp(set, mode); }
static int ready;
static const char *uuids[] = {"GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000001"};
int nvmlInit_v2(void) { ready = 1; return is("mismatch") ? 18 : is("not loaded") ? 9 : is("unknown") ? 999 : 0; }
int nvmlShutdown(void) { ready = 0; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = is("none") ? 0 : is("fewer") ? 1 : 2; return ready ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(uintptr_t)(0x7f0000000001 + index);
    return is("lost") && index == 0 ? 15 : 0;
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    const char *found = is("foreign") ? "GPU-99999999-aaaa-bbbb-cccc-000000000000" : uuids[(uintptr_t)handle - 0x7f0000000001];
    if (length <= strlen(found)) return 7;
    strcpy(uuid, found);
    return 0;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    *minor = 1 - ((uintptr_t)handle - 0x7f0000000001);
    return is("no minor") ? 3 : 0;
}
const char *nvmlErrorString(int status) { return status == 15 ? "GPU is lost" : status == 9 ? "Driver Not Loaded" : "Unknown Error"; }
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that every user may enter, unlike tmp_path, with all the nodes of a host with two GPUs."""
    path = Path(tempfile.mkdtemp(prefix="gpu_gate"))
    path.chmod(0o755)
    (path / "dev/dri").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"):
        (path / "dev" / name).touch()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stand-in for NVML. The minors go the other way round than the indexes."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "nvml.c"], cwd=folder, check=True)
    return str(folder / "libnvidia-ml.so.1")


def gate(root: Path, *options: str, library: str = "", start: Sequence[str] = (sys.executable, str(GATE)), **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the gate; without a library there is no NVML."""
    folders = ["--dev-dir", f"{root}/dev", "--proc-dir", f"{root}/proc", "--library", library]
    return subprocess.run([*start, *folders, *options], capture_output=True, text=True, timeout=30, check=False, **more)


def passes(root: Path, *options: str, mode: str = "", **more: Any) -> str:
    """The gate lets it start; what it says about it."""
    done = gate(root, *options, env={**os.environ, "GATE_NVML": mode}, **more)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def refuses(root: Path, *options: str, mode: str = "", **more: Any) -> str:
    """The gate does not let it start; the one line that says why."""
    done = gate(root, *options, env={**os.environ, "GATE_NVML": mode}, **more)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    return line


def load() -> ModuleType:
    """The gate as a module, for errors that no tree gives."""
    spec = importlib.util.spec_from_file_location("gpu_gate", GATE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def information(root: Path, bus: str, uuid: str, minor: int) -> None:
    """What the driver shows of a GPU."""
    folder = root / "proc/driver/nvidia/gpus" / bus
    folder.mkdir(parents=True)
    (folder / "information").write_text(f"Model: \t\t NVIDIA H100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n", encoding="utf-8")


def test_passes(root: Path) -> None:
    """All nodes open."""
    assert "the nodes of 2 NVIDIA GPUs open" in passes(root, "--gpus", "all")
    assert passes(root, "--gpus", ",".join(UUIDS))
    assert passes(root, "--gpus", "all", library="libno-such-library.so.1")


@pytest.mark.parametrize(
    ("missing", "mend"),
    [
        (["nvidiactl"], "dev/nvidiactl does not exist: is the driver loaded?"),
        (["nvidia0", "nvidia1"], "there is no GPU node"),
        (["nvidia-uvm"], "dev/nvidia-uvm does not exist: nvidia-modprobe -u -c 0"),
        (["nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"], "modprobe nvidia"),
    ],
)
@pytest.mark.parametrize("gpus", ["all", UUIDS[0]])
def test_missing_nodes(root: Path, missing: list[str], mend: str, gpus: str) -> None:
    """It says which, and what helps."""
    for name in missing:
        (root / "dev" / name).unlink()
    assert mend in refuses(root, "--gpus", gpus)


@pytest.mark.parametrize("name", ["nvidiactl", "nvidia1", "nvidia-uvm"])
def test_a_node_that_the_user_may_not_open(root: Path, name: str) -> None:
    """To read is not enough. The line has the user, the mode and the group."""
    (root / "dev" / name).chmod(0o444)
    for other in {"nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"} - {name}:
        (root / "dev" / other).chmod(0o666)
    more: dict[str, Any] = {}
    if os.geteuid() == 0:
        # everything opens for root, and another user may not enter the folders of this Python and of this checkout
        copy = shutil.copy(GATE, root)
        python = next((path for path in (sys.executable, "/usr/bin/python3") if everybody_may_run(path)), None)
        if not python:
            pytest.skip("another user has no Python here")
        more = {"start": [python, copy], "user": NOBODY, "group": NOBODY, "extra_groups": []}
    line = refuses(root, "--gpus", "all", **more)
    assert f"may not open {root}/dev/{name} (mode 0444, owner " in line and "group of the node" in line


def everybody_may_run(program: str) -> bool:
    """Whether any user gets to a program."""
    path = Path(program).resolve()
    return all(part.exists() and part.stat().st_mode & stat.S_IXOTH for part in [path, *path.parents])


@pytest.mark.parametrize("name", ["nvidiactl", "nvidia0", "nvidia-uvm"])
def test_a_node_without_a_driver(root: Path, name: str) -> None:
    """The module was unloaded, the node stayed."""
    path = root / "dev" / name
    path.unlink()
    try:
        # a major that nobody has; NVIDIA's own, 195, has a driver on a host with a GPU
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(300, 250))
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        pytest.skip("device nodes cannot be made, or not be opened, here")
    except OSError as error:
        assert error.errno in (errno.ENXIO, errno.ENODEV)
    assert f"there is no driver behind {path}: modprobe" in refuses(root, "--gpus", "all")


def test_real_nodes(root: Path) -> None:
    """Character devices, which open."""
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"):
        path = root / "dev" / name
        path.unlink()
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.close(os.open(path, os.O_RDWR))
        except PermissionError:
            pytest.skip("device nodes cannot be made, or not be opened, here")
    assert passes(root, "--gpus", "all")


@pytest.mark.parametrize(
    ("number", "words", "final"),
    [
        (errno.EPERM, "the unit's DeviceAllow= does not let it open", True),
        (errno.EIO, "does not come up: see dmesg", False),
        (errno.ENODEV, "there is no driver behind", False),
        (errno.EBUSY, "cannot be opened (Device or resource busy)", False),
    ],
)
def test_other_errors(root: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, final: bool) -> None:
    """Each has its own mend; for a closed sandbox there is no waiting, since only a new start opens it."""
    module = load()
    opened: list[str] = []

    def fail(path: str, _flags: int) -> int:
        opened.append(path)
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(module.os, "open", fail)
    with pytest.raises(module.Problem) as problem:
        module.check([], f"{root}/dev", f"{root}/proc", "")
    assert words in str(problem.value) and problem.value.final is final
    assert opened == [f"{root}/dev/nvidiactl"]


def test_one_gpu_of_two(root: Path, nvml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance may be kept from the GPUs of the others; the one that it is to have must open."""
    module = load()
    closed = f"{root}/dev/nvidia0"
    real_open = os.open

    def fail(path: str, *args: Any) -> int:
        if path == closed:
            raise OSError(errno.EPERM, "closed", path)
        return real_open(path, *args)

    monkeypatch.setattr(module.os, "open", fail)
    # the first UUID is /dev/nvidia1: see the stand-in
    assert module.check([UUIDS[0]], f"{root}/dev", f"{root}/proc", nvml)
    # nothing says here which node is whose
    assert module.check([UUIDS[1]], f"{root}/dev", f"{root}/proc", "")
    (root / "dev/nvidia1").unlink()
    with pytest.raises(module.Problem, match="dev/nvidia0"):
        module.check([UUIDS[1]], f"{root}/dev", f"{root}/proc", "")
    (root / "dev/nvidia1").touch()
    for wanted in ([UUIDS[1]], []):
        with pytest.raises(module.Problem, match="dev/nvidia0"):
            module.check(wanted, f"{root}/dev", f"{root}/proc", nvml)


@pytest.mark.parametrize(
    ("mode", "gpus"),
    [("ok", "all"), ("ok", ",".join(UUIDS)), ("ok", UUIDS[0].upper()), ("ok", "MIG-1234"), ("no minor", UUIDS[1]), ("fewer", UUIDS[0])],
)
def test_nvml_passes(root: Path, nvml: str, mode: str, gpus: str) -> None:
    """The driver works, and the GPUs that are wanted are among its own."""
    assert "usable" in passes(root, "--gpus", gpus, library=nvml, mode=mode)


@pytest.mark.parametrize(
    ("mode", "gpus", "words"),
    [
        ("mismatch", "all", "different versions: reboot"),
        ("mismatch", UUIDS[0], "different versions: reboot"),
        ("not loaded", "all", "Driver Not Loaded (NVML error 9): is the driver loaded?"),
        ("unknown", "all", "Unknown Error (NVML error 999)"),
        ("none", "all", "no usable GPU (it sees none)"),
        ("none", "MIG-1234", "no usable GPU"),
        ("fewer", UUIDS[1], f"{UUIDS[1]} is not among the usable GPUs of this host ({UUIDS[0].lower()})"),
        ("foreign", UUIDS[0], f"{UUIDS[0]} is not among the usable GPUs"),
    ],
)
def test_nvml_refuses(root: Path, nvml: str, mode: str, gpus: str, words: str) -> None:
    """What the nodes alone do not tell."""
    assert words in refuses(root, "--gpus", gpus, library=nvml, mode=mode)


def test_a_lost_gpu_is_the_matter_of_its_instance(root: Path, nvml: str) -> None:
    """The others start, with a warning in the journal."""
    more = {"library": nvml, "env": {**os.environ, "GATE_NVML": "lost"}}
    good, bad = gate(root, "--gpus", UUIDS[1], **more), gate(root, "--gpus", UUIDS[0], **more)
    assert good.returncode == 0 and "warning: GPU 0: GPU is lost (NVML error 15)" in good.stderr
    assert bad.returncode == 1 and f"{UUIDS[0]} is not among" in bad.stderr


def test_node_of_the_wanted_gpu_is_missing(root: Path, nvml: str) -> None:
    """NVML knows the GPU, but Ollama needs its node."""
    (root / "dev/nvidia1").unlink()
    assert "dev/nvidia1 does not exist" in refuses(root, "--gpus", UUIDS[0], library=nvml, mode="ok")
    assert passes(root, "--gpus", UUIDS[1], library=nvml, mode="ok")


def test_another_library(root: Path) -> None:
    """A library that is none of NVIDIA's."""
    assert "libc.so.6 is not NVML" in refuses(root, "--gpus", "all", library="libc.so.6")


def test_uuids_without_nvml(root: Path) -> None:
    """The driver's own files name the GPUs, unless it has not brought them up yet."""
    information(root, "0000:19:00.0", UUIDS[0], 1)
    assert passes(root, "--gpus", UUIDS[0])
    assert f"{UUIDS[1]} is not among" in refuses(root, "--gpus", UUIDS[1])
    information(root, "0000:4b:00.0", "GPU-????????-????-????-????-????????????", 0)
    assert passes(root, "--gpus", UUIDS[1])
    (root / "dev/nvidia1").unlink()
    assert passes(root, "--gpus", UUIDS[1])


def test_node_of_the_wanted_gpu_without_nvml(root: Path) -> None:
    """The same by the driver's files."""
    information(root, "0000:19:00.0", UUIDS[0], 1)
    (root / "dev/nvidia1").unlink()
    assert "dev/nvidia1 does not exist" in refuses(root, "--gpus", UUIDS[0])


def test_amd(root: Path) -> None:
    """The compute node and a render node; an NVIDIA GPU that is wanted is not found there."""
    for path in (root / "dev").glob("nvidia*"):
        path.unlink()
    (root / "dev/kfd").touch()
    assert "dev/dri/renderD128: is the driver loaded? modprobe amdgpu" in refuses(root, "--gpus", "all")
    (root / "dev/dri/renderD128").touch()
    assert passes(root, "--gpus", "all")
    assert passes(root, "--gpus", "GPU-0123456789abcdef")
    assert "nvidiactl does not exist" in refuses(root, "--gpus", UUIDS[0])


def test_waits(root: Path) -> None:
    """The driver comes late at boot."""
    (root / "dev/nvidia-uvm").unlink()
    timer = threading.Timer(1.5, (root / "dev/nvidia-uvm").touch)
    timer.start()
    assert passes(root, "--gpus", "all", "--wait", "20")
    timer.join()


def test_waits_no_longer(root: Path, nvml: str) -> None:
    """The time is kept; without it, and for what no waiting mends, it gives up at once."""
    (root / "dev/nvidia-uvm").unlink()
    for seconds, wait in ((2, ["--wait", "2"]), (0, [])):
        began = time.monotonic()
        assert "nvidia-uvm" in refuses(root, "--gpus", "all", *wait)
        assert seconds <= time.monotonic() - began < seconds + 1.9
    (root / "dev/nvidia-uvm").touch()
    began = time.monotonic()
    assert "reboot" in refuses(root, "--gpus", "all", "--wait", "20", library=nvml, mode="mismatch")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("gpus", ["", "0", "ALL", f"{UUIDS[0]},", "GPU-1 GPU-2"])
def test_bad_arguments(root: Path, gpus: str) -> None:
    """A list that is none is no reason to let it start."""
    assert gate(root, "--gpus", gpus).returncode == 2


def test_it_is_a_plain_file() -> None:
    """The unit runs the interpreter."""
    assert not GATE.stat().st_mode & 0o111 and not GATE.read_bytes().startswith(b"#!")
