# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lets an instance of Ollama start only when the GPUs that it is to have are usable.

Ollama looks for GPUs once, at its start, and without them it serves from the CPU without a word. So this runs as ExecStartPre= of the
unit, as its user and within its sandbox: what it can open, Ollama can. It prints one line and exits with 1 when a GPU is not usable.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import glob
import grp
import os
import pwd
import re
import stat
import sys
import time
from typing import Any, Callable

LIBRARY = "libnvidia-ml.so.1"
# nvml.h
NVML_DRIVER_NOT_LOADED = 9
NVML_LIB_RM_VERSION_MISMATCH = 18
NVML_UUID_BYTES = 96

NO_DRIVER = "is the driver loaded? See nvidia-smi; modprobe nvidia"
BROKEN = "see dmesg for NVRM and Xid lines; reset the GPU, or reboot"
NO_UVM = "nvidia-modprobe -u -c 0"
NO_AMD_DRIVER = "is the driver loaded? modprobe amdgpu"


class Problem(Exception):
    """Why the GPUs are not usable, and the mend. With C(final) waiting does not help."""

    def __init__(self, what: str, mend: str, final: bool = False) -> None:
        super().__init__(f"{what}: {mend}")
        self.final = final


class NvmlError(Exception):
    """An error of NVML: its number, and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (NVML error {status})")
        self.status = status


def named(number: int, lookup: Callable[[int], Any]) -> str:
    """Name of a user or group; the number when it has none."""
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def open_node(path: str, missing: str) -> None:
    """Open a device node as Ollama will; Problem when that fails. C(missing) is the mend where there is no such node."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise problem_of(path, error, missing) from None


def problem_of(path: str, error: OSError, missing: str) -> Problem:
    """What the error says about the node."""
    if error.errno == errno.ENOENT:
        return Problem(f"{path} does not exist", missing)
    if error.errno == errno.EPERM:
        # systemd looks up the numbers of DeviceAllow= when it starts the unit, so a driver that was loaded since is not among them
        return Problem(
            f"the unit's DeviceAllow= does not let it open {path}",
            "start the unit again, it may have been started before the driver; if that does not help, run the playbook again",
            final=True,
        )
    if error.errno == errno.EACCES:
        return Problem(
            f"{named(os.geteuid(), pwd.getpwuid)} may not open {path} ({permissions(path)})",
            "put the user into the group of the node, or mend the mode that the driver or udev gives it",
        )
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return Problem(f"there is no driver behind {path}", "modprobe the driver; after an update of the driver, reboot")
    if error.errno == errno.EIO:
        return Problem(f"the GPU behind {path} does not come up", BROKEN)
    return Problem(f"{path} cannot be opened ({os.strerror(error.errno or 0)})", "see dmesg, and nvidia-smi on this host")


def permissions(path: str) -> str:
    """Mode, owner and group of a file, for a message."""
    try:
        status = os.stat(path)
    except OSError:
        return "its folder is closed"
    owner, group = named(status.st_uid, pwd.getpwuid), named(status.st_gid, grp.getgrgid)
    return f"mode {stat.S_IMODE(status.st_mode):04o}, owner {owner}, group {group}"


def open_one(paths: list[str], missing: str) -> None:
    """Open nodes until one of them can be opened; the Problem of the first when none can."""
    problems = []
    for path in paths:
        try:
            open_node(path, missing)
            return
        except Problem as problem:
            problems.append(problem)
    raise problems[0]


class Nvml:
    """The library of the driver. OSError where it is not installed."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.functions = ctypes.CDLL(library)

    def call(self, name: str, *args: Any) -> None:
        """Call a function; NvmlError when it fails."""
        try:
            function = getattr(self.functions, name)
            text_of = self.functions.nvmlErrorString
        except AttributeError:
            raise Problem(f"{self.library} is not NVML, or too old", "install the libraries of the driver that is loaded") from None
        text_of.restype = ctypes.c_char_p
        status = function(*args)
        if status:
            raise NvmlError(status, (text_of(status) or b"unknown error").decode("utf-8", "replace"))

    def gpus(self) -> tuple[dict[str, int], list[str]]:
        """The GPUs, minor by UUID in lower case (-1 when it has none), and what was wrong with others."""
        self.call("nvmlInit_v2")
        try:
            found: dict[str, int] = {}
            problems = []
            count = ctypes.c_uint()
            self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
            for index in range(count.value):
                # one lost GPU is no matter of the instances on the others
                try:
                    uuid, minor = self.gpu(index)
                    found[uuid.lower()] = minor
                except NvmlError as error:
                    problems.append(f"GPU {index}: {error}")
            return found, problems
        finally:
            self.functions.nvmlShutdown()

    def gpu(self, index: int) -> tuple[str, int]:
        """UUID and minor of a GPU."""
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        uuid = ctypes.create_string_buffer(NVML_UUID_BYTES)
        self.call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(NVML_UUID_BYTES))
        minor = ctypes.c_uint()
        try:
            self.call("nvmlDeviceGetMinorNumber", handle, ctypes.byref(minor))
        except NvmlError:
            return uuid.value.decode(), -1
        return uuid.value.decode(), minor.value


def gpus_of_nvml(library: str) -> dict[str, int] | None:
    """Minor by UUID; None where the library is not installed. Problem when the driver does not do, or has no usable GPU."""
    if not library:
        return None
    try:
        nvml = Nvml(library)
    except OSError:
        return None
    try:
        found, problems = nvml.gpus()
    except NvmlError as error:
        if error.status == NVML_LIB_RM_VERSION_MISMATCH:
            raise Problem(
                "the NVIDIA driver that is loaded and its libraries have different versions",
                "reboot, or stop all that uses the GPUs and reload the modules nvidia_uvm and nvidia",
                final=True,
            ) from None
        mend = NO_DRIVER if error.status == NVML_DRIVER_NOT_LOADED else "see nvidia-smi on this host, and dmesg for NVRM and Xid lines"
        raise Problem(f"the NVIDIA driver does not work: {error}", mend) from None
    if not found:
        raise Problem(f"the NVIDIA driver has no usable GPU ({'; '.join(problems) or 'it sees none'})", BROKEN)
    for text in problems:
        print(f"gpu_gate: warning: {text}", file=sys.stderr)
    return found


def gpus_of_kernel(proc: str) -> dict[str, int] | None:
    """Minor by UUID from the driver's files; None when they are not readable, or do not name every GPU."""
    found = {}
    for path in glob.glob(f"{glob.escape(proc)}/driver/nvidia/gpus/*/information"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            return None
        uuid = re.search(r"^GPU UUID:\s*(\S+)", text, re.M)
        minor = re.search(r"^Device Minor:\s*(\d+)", text, re.M)
        # question marks until the driver has brought the GPU up
        if not uuid or "?" in uuid[1]:
            return None
        found[uuid[1].lower()] = int(minor[1]) if minor else -1
    return found or None


def check_nvidia(wanted: list[str], dev: str, proc: str, library: str) -> str:
    """Check NVIDIA GPUs; an empty list wants all. Returns what was found; Problem when they are not usable."""
    open_node(f"{dev}/nvidiactl", NO_DRIVER)
    nodes = sorted(glob.glob(f"{glob.escape(dev)}/nvidia[0-9]*"))
    if not nodes:
        raise Problem(f"there is no GPU node {dev}/nvidia0", NO_DRIVER)
    if wanted:
        # the others may be closed to this instance: which node is the wanted one comes out below
        open_one(nodes, NO_DRIVER)
    else:
        for path in nodes:
            open_node(path, NO_DRIVER)
    open_node(f"{dev}/nvidia-uvm", NO_UVM)
    found = gpus_of_nvml(library)
    if found is None:
        found = gpus_of_kernel(proc)
    if found is None:
        return f"the nodes of {len(nodes)} NVIDIA GPUs open; there is no NVML to ask for more"
    for uuid in wanted:
        # a slice belongs to a GPU that has another UUID
        if uuid.startswith("MIG-"):
            continue
        minor = found.get(uuid.lower())
        if minor is None:
            raise Problem(
                f"{uuid} is not among the usable GPUs of this host ({', '.join(sorted(found))})",
                "a card was lost (see dmesg for Xid lines), moved or exchanged; nvidia-smi -L shows the UUIDs to give to the playbook",
            )
        if minor >= 0:
            open_node(f"{dev}/nvidia{minor}", NO_DRIVER)
    return f"{', '.join(wanted) or f'{len(found)} NVIDIA GPUs'} usable"


def check_amd(dev: str) -> str:
    """Check AMD GPUs. Returns what was found; Problem when none is usable."""
    open_node(f"{dev}/kfd", NO_AMD_DRIVER)
    nodes = sorted(glob.glob(f"{glob.escape(dev)}/dri/renderD*"))
    if not nodes:
        raise Problem(f"there is no GPU node {dev}/dri/renderD128", NO_AMD_DRIVER)
    open_one(nodes, NO_AMD_DRIVER)
    return "AMD GPUs usable"


def check(wanted: list[str], dev: str, proc: str, library: str) -> str:
    """Check the GPUs of the vendor that this host has, or that the UUIDs are of."""
    # UUIDs of AMD have no more dashes
    nvidia = any(uuid.count("-") > 1 for uuid in wanted) or glob.glob(f"{glob.escape(dev)}/nvidia*")
    if os.path.exists(f"{dev}/kfd") and not nvidia:
        return check_amd(dev)
    return check_nvidia(wanted, dev, proc, library)


def gpus_argument(text: str) -> list[str]:
    """V(all) as an empty list, or the UUIDs."""
    wanted = [] if text == "all" else text.split(",")
    if not all(re.fullmatch(r"(GPU|MIG)-[\w/-]+", uuid) for uuid in wanted):
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor a list of UUIDs such as GPU-...,MIG-...")
    return wanted


def main() -> int:
    """Check, and again until the time is over: at boot the driver may come late."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=gpus_argument, required=True, metavar="all|UUID[,UUID...]", help="the GPUs that must be usable")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to wait for them")
    parser.add_argument("--dev-dir", default="/dev", help=argparse.SUPPRESS)
    parser.add_argument("--proc-dir", default="/proc", help=argparse.SUPPRESS)
    parser.add_argument("--library", default=LIBRARY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    until = time.monotonic() + options.wait
    while True:
        try:
            print(f"gpu_gate: {check(options.gpus, options.dev_dir, options.proc_dir, options.library)}")
            return 0
        except Problem as problem:
            if problem.final or time.monotonic() >= until:
                print(f"gpu_gate: {problem}", file=sys.stderr)
                return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
