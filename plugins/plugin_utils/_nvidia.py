# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The NVIDIA driver of a host: which one its GPUs take, the packages that bring it, and what is to be done.

A branch is the first number of a version: V(580) of V(580.95.05). There are versions of two parts (V(595.80)), so they are compared as
lists of numbers. Every function raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils._pci import nvidia_devices
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

# these have no GSP, which the open kernel modules need, and 580 is the last branch for them
LEGACY = ("maxwell", "pascal", "volta")
LAST_LEGACY_BRANCH = 580
# compute capability below 7
_OLD_COMPUTE = ("maxwell", "pascal")
# these have no proprietary modules
OPEN_ONLY = ("grace_hopper", "blackwell", "rubin")
# which no branch that Ollama takes knows
TOO_OLD = ("kepler",)
FIRST_BLACKWELL_BRANCH = 570
LAST_PROPRIETARY_BRANCH = 619
# what Ollama takes, by its runtime for CUDA 12; below it serves from the CPU without a word
OLLAMA_FLOOR = 550
OLLAMA_FLOOR_OLD_COMPUTE = 570
# behind this one Ubuntu's names of packages have no branch in them
LAST_SUFFIXED_BRANCH = 580
OPEN, PROPRIETARY = "open", "proprietary"

_BRANCH = re.compile(r"[1-9][0-9]{2}")
_VERSION = re.compile(r"[1-9][0-9]{2}(\.[0-9]{1,3}){1,2}")
_UPSTREAM = re.compile(r"(?:[0-9]+:)?([0-9]+(?:\.[0-9]+)*)")
# whose version is the driver's, wherever it comes from; the order says which one is believed first
_DRIVER_PACKAGES = (r"nvidia-driver-cuda", r"nvidia-utils(-.+)?", r"nvidia-smi")
_MODULE_PACKAGES = {
    OPEN: r"nvidia-kernel-open-dkms|nvidia-dkms(-[0-9]+)?(-server)?-open|kmod-nvidia-open-dkms|linux-modules-nvidia-.+-open-.+",
    PROPRIETARY: r"nvidia-kernel-dkms|nvidia-dkms(-[0-9]+)?(-server)?|kmod-nvidia-latest-dkms",
}


def numbers(version: str) -> tuple[int, ...]:
    """A version of the driver or of a package, as it is compared: V((580, 95, 5)) of V(3:580.95.05-1.el9)."""
    found = _UPSTREAM.match(version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def upstream_version(version: str) -> str:
    """The driver's version in that of a package: V(580.95.05) of V(3:580.95.05-1.el9)."""
    found = _UPSTREAM.match(version)
    return found[1] if found else ""


def _branch_of(version: str) -> int:
    return (numbers(version) or (0,))[0]


def nvidia_target(devices: Iterable[Mapping[str, Any]], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The driver that the GPUs of a host are to have.

    Args: the C(devices) of M(gpufleet.ollama.gpu_info), and what is C(wanted): the options branch, version (empty, or an exact one, which
    wins), flavor and source.
    Returns branch (str), version (str, possibly empty), flavor (V(open) or V(proprietary)), source, and warnings (sentences).
    """
    branch, version = _wanted_branch(wanted)
    gpus = nvidia_devices(devices)
    generations = {gpu["generation"] for gpu in gpus}
    old = [gpu for gpu in gpus if gpu["generation"] in LEGACY]
    new = [gpu for gpu in gpus if gpu["generation"] in OPEN_ONLY]
    ancient = [gpu for gpu in gpus if gpu["generation"] in TOO_OLD]
    if ancient:
        raise ModelError(
            f"no driver that Ollama takes knows {_named(ancient)}: remove it, or set nvidia_driver_state: unmanaged, and ollama_instances to gpus: none"
        )
    option = "nvidia_driver_version" if version else "nvidia_driver_branch"
    if old and new:
        raise ModelError(
            f"no driver serves {_named(old)} and {_named(new)} in one host: the first takes proprietary kernel modules only, the second open ones only. "
            "Move one of them to another host"
        )
    if branch < OLLAMA_FLOOR:
        raise ModelError(f"{option} is {version or branch}, and Ollama needs {OLLAMA_FLOOR} or newer: with less it serves from the CPU. Use 580")
    if generations & set(_OLD_COMPUTE) and branch < OLLAMA_FLOOR_OLD_COMPUTE:
        raise ModelError(f"{option} is {version or branch}, and on {_named(old)} Ollama needs {OLLAMA_FLOOR_OLD_COMPUTE} or newer. Use 580")
    if old and branch > LAST_LEGACY_BRANCH:
        raise ModelError(f"{option} is {version or branch}, and 580 is the last branch that knows {_named(old)}. Use 580")
    if "blackwell" in generations and branch < FIRST_BLACKWELL_BRANCH:
        raise ModelError(f"{option} is {version or branch}, and {_named(new)} needs {FIRST_BLACKWELL_BRANCH} or newer. Use 580")
    unknown = [gpu["device_id"] for gpu in gpus if not gpu["generation"]]
    warnings = [f"the device id {text} is not known here: taken for Turing or newer; nvidia_driver_flavor decides" for text in sorted(set(unknown))]
    return {
        "branch": str(branch), "version": version, "flavor": _flavor(branch, str(wanted["flavor"]), old, new, option),
        "source": wanted["source"], "warnings": warnings,
    }


def _wanted_branch(wanted: Mapping[str, Any]) -> tuple[int, str]:
    branch, version = str(wanted["branch"]).strip(), str(wanted["version"] or "").strip()
    if version and not _VERSION.fullmatch(version):
        raise ModelError(f"nvidia_driver_version is {version!r}: give a version of the driver such as 580.95.05, or leave it empty")
    if not version and not _BRANCH.fullmatch(branch):
        raise ModelError(f'nvidia_driver_branch is {branch!r}: give the first number of a version as a string, such as "580"')
    return int(version.partition(".")[0] or branch) if version else int(branch), version


def _flavor(branch: int, wanted: str, old: list[dict[str, Any]], new: list[dict[str, Any]], option: str) -> str:
    result = wanted if wanted != "auto" else PROPRIETARY if old else OPEN
    if result == OPEN and old:
        raise ModelError(f"nvidia_driver_flavor is open, and {_named(old)} has no GSP, which the open kernel modules need. Use auto")
    if result == PROPRIETARY and new:
        raise ModelError(f"nvidia_driver_flavor is proprietary, and {_named(new)} takes the open kernel modules only. Use auto")
    if result == PROPRIETARY and branch > LAST_PROPRIETARY_BRANCH:
        raise ModelError(f"nvidia_driver_flavor is proprietary, and {option} {branch} has open kernel modules only. Use auto, or the branch 580")
    return result


def _named(gpus: list[dict[str, Any]]) -> str:
    """V(the Pascal GPU 0000:19:00.0)."""
    return ", ".join(f"the {gpu['generation'].replace('_', ' ').title()} GPU {gpu['bus_id']}" for gpu in gpus)


def nvidia_packages(target: Mapping[str, Any], family: str, kernel: str, fabricmanager: bool = False) -> list[str]:
    """Names of the packages that bring a target, without anything that draws.

    Args: the C(family) of distributions (V(debian), V(ubuntu) or V(el)), the running C(kernel), and whether NVSwitches need their manager.
    The first one carries the driver's version.
    """
    branch, is_open = int(target["branch"]), target["flavor"] == OPEN
    suffix = f"-{branch}" if branch <= LAST_SUFFIXED_BRANCH else ""
    if target["source"] == "distro":
        if family != "ubuntu":
            raise ModelError("nvidia_driver_source is distro, and only Ubuntu has signed modules of a driver that Ollama takes. Use cuda_repo")
        # modules that Canonical has built and signed, for the flavour of kernel that runs: generic of 6.8.0-45-generic
        server, end, flavour = f"{branch}-server", "-open" if is_open else "", re.sub(r"^[0-9.]+-[0-9]+-", "", kernel)
        result = [f"nvidia-utils-{server}", f"nvidia-headless-no-dkms-{server}{end}", f"linux-modules-nvidia-{server}{end}-{flavour}",
                  f"nvidia-compute-utils-{server}"]
    elif family == "debian":
        result = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms", "nvidia-persistenced"]
    elif family == "ubuntu":
        # nvidia-utils has nvidia-smi, nvidia-compute-utils has nvidia-persistenced: nothing else pulls them
        result = [f"nvidia-utils{suffix}", f"libnvidia-compute{suffix}", f"nvidia-dkms{suffix}{'-open' if is_open else ''}", f"nvidia-compute-utils{suffix}"]
    elif family == "el":
        result = ["nvidia-driver-cuda", "kmod-nvidia-open-dkms" if is_open else "kmod-nvidia-latest-dkms", "nvidia-persistenced"]
    else:
        raise ModelError(f"the family {family!r} of distributions is not known")
    return result + ([f"nvidia-fabricmanager{'' if family == 'el' else suffix}"] if fabricmanager else [])


def nvidia_headers(family: str, release: Any, kernel: str) -> list[str]:
    """Packages with the headers that modules of the running C(kernel) are built with, and, where there is one, that pulls those of each newer kernel."""
    if family == "debian":
        # 6.12.48+deb13-cloud-amd64: the last part, with the flavour before it
        flavour = re.search(r"(?:-(cloud|rt))?-(amd64|arm64)$", kernel)
        return [f"linux-headers-{kernel}", *([f"linux-headers{flavour[0]}"] if flavour else [])]
    if family == "ubuntu":
        return [f"linux-headers-{kernel}"]
    if family == "el":
        # as numbers: '10' > '7' is false for strings
        return [f"kernel-devel-{kernel}", "kernel-headers"] if int(release) < 9 else [f"kernel-devel-matched-{kernel}", "kernel-headers"]
    raise ModelError(f"the family {family!r} of distributions is not known")


def nvidia_dnf_module(target: Mapping[str, Any], release: Any) -> str:
    """The stream of EL's module that holds the branch; empty where there is no modularity, from EL 10 on."""
    if int(release) >= 10:
        return ""
    return f"nvidia-driver:{target['branch']}{'-open' if target['flavor'] == OPEN else ''}"


def nvidia_versionlock(target: Mapping[str, Any], packages: Iterable[str]) -> list[str]:
    """Lines of dnf's versionlock that hold the packages of a target; NVIDIA's have the epoch 3."""
    return [f"{name}-3:{target['version'] or target['branch'] + '.*'}-*" for name in [*packages, "nvidia-driver*", "libnvidia-*", "nvidia-modprobe"]]


def nvidia_dnf_specs(target: Mapping[str, Any], packages: Iterable[str], installed: str) -> list[str]:
    """Packages as dnf takes them: with the epoch and an exact version, or else those of the branch.

    One that is added later gets the version of what is C(installed), since a fabric manager of another version refuses to start.
    """
    version = target["version"] or (installed if _fits(target, installed or "0") else "")
    return [f"{name}-3:{version}" if version and name.startswith("nvidia-fabricmanager") or target["version"] else name for name in packages]


def nvidia_versions(text: str, url: str, source: str = "cuda_repo") -> dict[str, list[str]]:
    """Package -> versions that are to be had, the newest first, from C(apt-cache madison).

    Lines are V(nvidia-driver-cuda | 580.95.05-1 | https://developer.download.nvidia.com/… Packages). The distribution has packages of the
    same names, so only those from below C(url) count, or, where C(source) is V(distro), only the others.
    """
    result: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[2].startswith(url.rstrip("/") + "/") == (source != "distro"):
            result.setdefault(parts[0], []).append(parts[1])
    return result


def nvidia_installed(text: str) -> dict[str, str]:
    """Package -> version of what is installed, from lines of name, version and state of dpkg-query; rpm has no state."""
    result = {}
    for line in text.splitlines():
        # a package that is only known has no version, and two blanks
        name, version, state = (line.split(" ") + ["", "", ""])[:3]
        if version and state in ("", "installed"):
            result[name] = version
    return result


def nvidia_plan(target: Mapping[str, Any], packages: list[str], host: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What is installed, what is wanted, and what has to be done.

    Args: the C(target) and its C(packages); of the C(host) installed (package -> version), versions (package -> list of those that are to be
    had), fetched (whether an empty one says that there are none), loaded (version of the driver that runs, possibly empty), known (the version that
    modinfo says) and reboot (reasons of the host's state); the C(options) upgrade, branch_change and downgrade.
    Returns packages (as the package manager takes them), installed and wanted (versions; a branch where none is known), available (the newest
    version of the branch), missing (names), action (V(none), V(install), V(upgrade), V(downgrade), V(branch), V(flavor) or V(complete)), needed,
    refused (a sentence, or empty), deferred (a sentence, or empty), reboot (reasons) and text (all that in a sentence).
    """
    installed = dict(host["installed"])
    present = _driver_of(installed) or host["known"] or host["loaded"]
    flavor = _flavor_of(installed)
    available = _available(target, packages, host["versions"])
    newer = options["upgrade"] and not target["version"] and available and numbers(available) > numbers(present)
    keeps = present and _fits(target, present) and not newer
    wanted = present if keeps else target["version"] or available or target["branch"]
    missing = [name for name in packages if upstream_version(installed.get(name, "")) != wanted]
    action = _action(present, wanted, flavor and flavor != target["flavor"], missing)
    specs = [_spec(name, wanted, host["versions"]) for name in packages]
    refused = _refusal(target, packages, host["versions"], present, wanted, options, host["fetched"]) if action != "none" else ""
    deferred = ""
    if action != "none" and host["loaded"] and not options["upgrade"]:
        deferred = (
            f"the driver {host['loaded']} is loaded and stays as it is; {_what(action, present, wanted, target)}: run the playbook "
            "gpufleet.ollama.gpu_upgrade, which drains the host before"
        )
    reboot = list(host["reboot"])
    if action != "none":
        reboot.append(f"the driver {wanted} ({target['flavor']} kernel modules) is to be installed")
    return {
        "packages": specs, "names": list(packages), "installed": present, "wanted": wanted, "available": available, "missing": missing, "action": action,
        "needed": action != "none", "refused": "" if deferred else refused, "deferred": deferred, "reboot": reboot,
        "text": _what(action, present, wanted, target) + ("; a reboot is needed: " + "; ".join(reboot) if reboot else ""),
    }


def _driver_of(installed: Mapping[str, str]) -> str:
    for pattern in _DRIVER_PACKAGES:
        for name, version in sorted(installed.items()):
            if re.fullmatch(pattern, name):
                return upstream_version(version)
    return ""


def _flavor_of(installed: Mapping[str, str]) -> str:
    for flavor, pattern in _MODULE_PACKAGES.items():
        if any(re.fullmatch(pattern, name) for name in installed):
            return flavor
    return ""


def _fits(target: Mapping[str, Any], version: str) -> bool:
    return version == target["version"] if target["version"] else _branch_of(version) == int(target["branch"])


def _available(target: Mapping[str, Any], packages: list[str], versions: Mapping[str, list[str]]) -> str:
    """The newest version of the target that every package has; empty when there is none, or when nobody has looked."""
    found = [{upstream_version(version) for version in versions.get(name, [])} for name in packages if not name.startswith("linux-modules-")]
    fitting = [version for version in set.intersection(*found) if _fits(target, version)] if found else []
    return max(fitting, key=numbers, default="")


def _spec(name: str, wanted: str, versions: Mapping[str, list[str]]) -> str:
    """C(name=version) of apt, with the newest revision; the name alone where the version is not its own or not known yet."""
    exact = next((version for version in versions.get(name, []) if upstream_version(version) == wanted), "")
    return f"{name}={exact}" if exact else name


def _action(present: str, wanted: str, other_flavor: bool | str, missing: list[str]) -> str:
    if not present:
        return "install"
    if present != wanted and not (numbers(wanted) == numbers(present)[:1] and len(numbers(wanted)) == 1):
        if _branch_of(present) != _branch_of(wanted):
            return "branch"
        return "downgrade" if len(numbers(wanted)) > 1 and numbers(wanted) < numbers(present) else "upgrade"
    if other_flavor:
        return "flavor"
    return "complete" if [name for name in missing if not name.startswith("linux-modules-")] else "none"


def _what(action: str, present: str, wanted: str, target: Mapping[str, Any]) -> str:
    new = f"{wanted} with {target['flavor']} kernel modules"
    return {
        "none": f"the driver {present} is installed, as wanted",
        "install": f"the driver {new} would be installed",
        "upgrade": f"the driver {present} would be replaced by the newer {new}",
        "downgrade": f"the driver {present} would be replaced by the older {new}",
        "branch": f"the driver {present} would be replaced by {new}, of another branch",
        "flavor": f"the kernel modules of the driver {present} would be replaced by {target['flavor']} ones",
        "complete": f"the driver {present} is installed, and packages of it would be added",
    }[action]


def _refusal(
    target: Mapping[str, Any], packages: list[str], versions: Mapping[str, list[str]], present: str, wanted: str, options: Mapping[str, Any],
    fetched: bool
) -> str:
    if present and _branch_of(present) != _branch_of(wanted) and not options["branch_change"]:
        return (
            f"the driver {present} is installed, and {wanted} is of another branch: set nvidia_driver_allow_branch_change: true for the run that is to "
            f'change it, or nvidia_driver_branch: "{_branch_of(present)}" to keep it'
        )
    if present and numbers(wanted) < numbers(present)[:len(numbers(wanted))] and not options["downgrade"]:
        return (
            f"the driver {present} is installed, and {wanted} is older: set nvidia_driver_allow_downgrade: true for the run that is to go back, "
            "or ask for a newer one"
        )
    if versions or fetched:
        whole = target["version"] or f"the branch {target['branch']}"
        for name in packages:
            found = versions.get(name, [])
            # without a version that all of them have, the branch alone is known here
            versions_found = [upstream_version(version) for version in found]
            fits = wanted in versions_found or wanted == target["branch"] and any(_fits(target, version) for version in versions_found)
            if not fits and not name.startswith("linux-modules-"):
                return f"the repository has no {name} of {whole} (it has {', '.join(found[:6]) or 'none at all'}): ask for one that it has"
        if wanted == target["branch"]:
            return f"the repository has no version of {whole} that all of {', '.join(packages)} have: ask for another branch, or wait until it is whole again"
    return ""


def nvidia_preferences(target: Mapping[str, Any], host: str, downgrade: bool, distribution: str = "") -> list[dict[str, Any]]:
    """The records of apt's preferences that hold a host on its branch, or on its exact version; they fail closed.

    The deny record is what keeps apt from the newest branch when the repository has lost the pinned one. It is limited to packages from
    C(host), the repository's name, since the same pattern would keep the container toolkit and exporters of other repositories away; with
    nothing there, from the C(distribution). apt takes the first record that fits a version.
    Returns dicts of packages, pin, priority and why.
    """
    version = target["version"] or f"{target['branch']}.*"
    # the revision of the package comes behind it
    pin = f"version {target['version']}-*" if target["version"] else f"version {version}"
    # above 1000 apt goes back, too
    allowed = 1001 if downgrade else 990
    if target["source"] == "distro":
        # not *nvidia*: the version of linux-modules-nvidia-… is the kernel's
        names = "nvidia-* libnvidia-* libcuda*"
        return [
            {"packages": names, "pin": pin, "priority": allowed, "why": "the version that is wanted"},
            {"packages": names, "pin": f"release o={distribution}", "priority": -1, "why": "no other one"},
        ]
    names = "*nvidia* libcuda* cuda-drivers*"
    return [
        # these count their versions on their own
        {"packages": "libnvidia-egl-*", "pin": f"origin {host}", "priority": 500, "why": "whose versions are their own"},
        {"packages": names, "pin": pin, "priority": allowed, "why": "the version that is wanted"},
        {"packages": names, "pin": f"origin {host}", "priority": -1, "why": "no other one of the repository"},
        {
            "packages": "nvidia-driver* nvidia-kernel-dkms nvidia-kernel-open-dkms nvidia-dkms-* nvidia-utils-* libcuda1",
            "pin": f"release o={distribution}", "priority": -1, "why": "nor one of the distribution, which has the same names",
        },
    ]


def nvidia_fabricmanager(devices: Iterable[Mapping[str, Any]], option: str) -> bool:
    """Whether the host needs the fabric manager: V(auto) says yes where there are NVSwitches."""
    return option == "present" or option == "auto" and bool(nvidia_devices(devices, "nvswitch"))


def nvidia_problems(target: Mapping[str, Any], gpu: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """What keeps a driver from being installed on a host, each with its mend; empty when nothing does.

    Args: what M(gpufleet.ollama.gpu_info) says, and of the C(host) secure_boot (the option), runfile (whether an installer of NVIDIA's own
    left its uninstaller), boot_free and usr_free (bytes).
    """
    problems = []
    if host["runfile"]:
        problems.append(
            "a driver of NVIDIA's .run installer is there, which packages do not replace: run /usr/bin/nvidia-uninstall, then this again "
            "(or set nvidia_driver_state: unmanaged)"
        )
    if gpu["secure_boot"]["enabled"] and host["secure_boot"] == "fail" and target["source"] != "distro":
        problems.append(
            "Secure Boot is on, and the kernel refuses modules that DKMS has built unless their key was confirmed at the firmware's screen. "
            "Enroll it (mokutil --import /var/lib/dkms/mok.pub, then a reboot at the console) and set nvidia_driver_secure_boot: mok_enrolled; or use "
            "nvidia_driver_source: distro on Ubuntu, whose modules are signed; or switch Secure Boot off"
        )
    for path, key, wanted in (("/boot", "boot_free", 200 << 20), ("/usr", "usr_free", 3 << 30)):
        if 0 <= host[key] < wanted:
            problems.append(f"{path} has {host[key] >> 20} MiB left, and {wanted >> 20} MiB are needed: make room")
    return problems


def nvidia_verify(gpu: Mapping[str, Any], target: Mapping[str, Any] | None, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the driver that runs; empty when all is well.

    Args: what M(gpufleet.ollama.gpu_info) says; the C(target), or nothing where the driver is not ours; the C(options) expected_count and
    persistence (whether it is to be on).
    """
    driver, smi = gpu["driver"], gpu["smi"]
    gpus = nvidia_devices(gpu["devices"])
    problems = []
    if not driver["loaded"]:
        return ["no driver is loaded: modprobe nvidia, and see dmesg for lines of NVRM"]
    if driver["installed"] and driver["installed"] != driver["loaded"]:
        problems.append(f"the driver {driver['loaded']} is loaded, and {driver['installed']} is installed: reboot")
    if target and not _fits(target, driver["loaded"]):
        problems.append(f"the driver {driver['loaded']} is loaded, and {target['version'] or 'the branch ' + target['branch']} is wanted")
    if target and driver["open"] is not None and driver["open"] != (target["flavor"] == OPEN):
        problems.append(f"the loaded kernel modules are {'open' if driver['open'] else 'proprietary'}, and {target['flavor']} ones are wanted")
    kernel = gpu["kernel"]
    if kernel["newest"] != kernel["running"] and driver["modules"] and kernel["newest"] not in driver["modules"]:
        problems.append(f"the kernel {kernel['newest']}, which comes with the next boot, has no module: dkms autoinstall -k {kernel['newest']}")
    if smi["status"] != 0:
        return [*problems, f"nvidia-smi does not answer: {smi['problem']}"]
    count = len(smi["gpus"])
    if gpus and count < len(gpus):
        problems.append(f"nvidia-smi shows {count} GPUs, and the bus has {len(gpus)}")
    if count < int(options["expected_count"]):
        problems.append(f"nvidia-smi shows {count} GPUs, and ollama_gpu_expected_count is {options['expected_count']}")
    if not any(node["path"].endswith("/nvidia-uvm") for node in gpu["nodes"]):
        problems.append("there is no /dev/nvidia-uvm, without which nothing computes: nvidia-modprobe -u -c 0")
    switches = nvidia_devices(gpu["devices"], "nvswitch")
    for item in smi["gpus"]:
        if options["persistence"] and item["persistence"] is False:
            problems.append(f"{item['uuid']} has persistence mode off: is nvidia-persistenced.service active?")
        if switches and item["fabric_state"] != "Completed":
            problems.append(f"{item['uuid']} has not joined the fabric ({item['fabric_state'] or 'unknown'}): is nvidia-fabricmanager.service active?")
    return problems


def nvidia_in_use(gpu: Mapping[str, Any], active: list[str]) -> str:
    """Why the driver cannot be taken away now: who uses the GPUs, and how to free them. Empty when nobody does.

    Only nvidia-smi knows all processes. Where it does not answer for a driver that is loaded, which a new driver may be the mend for, the
    C(active) instances of Ollama (their units) are all that is known.
    Args: what M(gpufleet.ollama.gpu_info) says, and these units.
    """
    smi, loaded = gpu["smi"], gpu["driver"]["loaded"]
    processes = ", ".join(f"{item['pid']} {item['name']}" for item in smi["processes"])
    if processes:
        return f"the GPUs are in use by {processes}: stop these processes"
    if loaded and smi["status"] != 0 and active:
        return (
            f"the driver {loaded} is loaded and nvidia-smi does not answer ({smi['problem'] or 'it was not asked'}), so nobody knows which processes use the "
            f"GPUs. It goes ahead only when no instance of Ollama is active, and {', '.join(active)} is: stop it, and whatever else computes"
        )
    return ""


def nvidia_reboot_refusal(reasons: list[str], marker: Any, boot_id: str) -> str:
    """Why a host is not rebooted: it was before, for one of these reasons, and it did not help. Empty when it may be.

    Args: the C(reasons) of now, the C(marker) that was left before the last automatic reboot (reasons and boot_id; or nothing), and the
    C(boot_id) of now. A marker of this very boot says that the reboot did not happen.
    """
    if not isinstance(marker, Mapping) or marker.get("boot_id") == boot_id:
        return ""
    again = [reason for reason in reasons if reason in marker.get("reasons", [])]
    if not again:
        return ""
    return (
        f"it was rebooted, and is still as it was before: {'; '.join(again)}. No second reboot is made for the same reason: look at dmesg and at "
        "journalctl -b, mend it, and reboot by hand"
    )


def nvidia_removable(installed: Mapping[str, str]) -> list[str]:
    """Installed packages of the driver, which all carry its version: not the container toolkit, nor exporters, whose names are alike."""
    version = _driver_of(installed)
    return sorted(
        name for name, found in installed.items()
        if version and upstream_version(found) == version and re.search(r"nvidia|^libcuda|^cuda-drivers", name) or name.startswith("linux-modules-nvidia-")
    )


def nvidia_persistence(unit: str) -> str:
    """The command of nvidia-persistenced with persistence mode on, from the text of its unit; empty when the unit has it on as it is.

    Ubuntu's unit switches it off. The command is kept else: its user differs between distributions.
    """
    command = re.search(r"^ExecStart=(.+)$", unit, re.M)
    if not command or "--no-persistence-mode" not in command[1]:
        return ""
    return command[1].replace("--no-persistence-mode", "--persistence-mode").strip()


def nvidia_tuning(items: Any) -> list[dict[str, Any]]:
    """C(nvidia_driver_tuning), checked: dicts of uuid, name, power_limit_watts and graphics_clocks_mhz ([lowest, highest]); None where not given."""
    result: list[dict[str, Any]] = []
    for number, item in enumerate(items, 1):
        where = f"entry {number} of nvidia_driver_tuning"
        uuid, name = item.get("uuid") or None, item.get("name") or None
        watts, clocks = item.get("power_limit_watts"), item.get("graphics_clocks_mhz") or None
        if (uuid is None) == (name is None):
            raise ModelError(f"{where}: give either the uuid of a GPU or the name of a model, as nvidia-smi -L shows them")
        if uuid is not None:
            _uuid(where, uuid)
        if watts is None and clocks is None:
            raise ModelError(f"{where}: give power_limit_watts or graphics_clocks_mhz")
        if watts is not None and not 1 <= int(watts) <= 5000:
            raise ModelError(f"{where}: power_limit_watts is {watts}; give the watts, within the limits that nvidia-smi -q -d POWER shows")
        if clocks is not None and (len(clocks) != 2 or not 0 < int(clocks[0]) <= int(clocks[1])):
            raise ModelError(f"{where}: graphics_clocks_mhz is {clocks}; give the lowest and the highest clock, such as [210, 1410]")
        result.append({"uuid": uuid, "name": name, "power_limit_watts": watts and int(watts), "graphics_clocks_mhz": clocks and list(map(int, clocks))})
    return result


def nvidia_mig(items: Any) -> list[dict[str, Any]]:
    """C(nvidia_driver_mig), checked: dicts of uuid and profiles, which are empty where MIG is to be off."""
    result: list[dict[str, Any]] = []
    for number, item in enumerate(items, 1):
        where = f"entry {number} of nvidia_driver_mig"
        _uuid(where, item["uuid"])
        wrong = [profile for profile in item["profiles"] if not re.fullmatch(r"[1-7]g\.[0-9]{1,3}gb(\+[a-z.]+)?", str(profile))]
        if wrong:
            raise ModelError(f"{where} has the profile {wrong[0]!r}: give names as nvidia-smi mig -lgip shows them, such as 3g.40gb")
        if any(item["uuid"] == other["uuid"] for other in result):
            raise ModelError(f"{where}: {item['uuid']} is there twice")
        result.append({"uuid": item["uuid"], "profiles": list(item["profiles"])})
    return result


def _uuid(where: str, value: Any) -> None:
    if not re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(value)):
        raise ModelError(f"{where}: {value!r} is no UUID of a GPU: nvidia-smi -L shows them, GPU- and 32 hex digits")
