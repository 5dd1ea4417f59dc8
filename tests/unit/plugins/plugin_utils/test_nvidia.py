"""The driver of a host: which one its GPUs take, its packages, what is to be done, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _nvidia
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

WANTED = {"branch": "580", "version": "", "flavor": "auto", "source": "cuda_repo"}
REPOSITORY = "https://developer.download.nvidia.com/compute/cuda/repos"
OPTIONS = {"upgrade": False, "branch_change": False, "downgrade": False}
UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"


def device(generation: str, driver: str = "", kind: str = "gpu", device_id: str = "2330", vendor: str = "nvidia") -> dict[str, Any]:
    """A device as gpu_info shows it."""
    return {"bus_id": "0000:19:00.0", "kind": kind, "vendor": vendor, "device_id": device_id, "generation": generation, "driver": driver}


def target(*generations: str, **wanted: str) -> dict[str, Any]:
    """The driver of a host with GPUs of these generations."""
    return _nvidia.nvidia_target([device(generation) for generation in generations], {**WANTED, **wanted})


@pytest.mark.parametrize(
    ("generations", "wanted", "flavor"),
    [
        (["hopper"], {}, "open"),
        (["turing"], {"branch": "550"}, "open"),
        (["turing"], {"flavor": "proprietary"}, "proprietary"),
        (["blackwell"], {}, "open"),
        (["grace_hopper"], {"branch": "595"}, "open"),
        (["ada"], {"branch": "620"}, "open"),
        (["pascal"], {}, "proprietary"),
        (["pascal", "ada"], {}, "proprietary"),
        (["volta"], {"branch": "550"}, "proprietary"),
    ],
)
def test_flavor(generations: list[str], wanted: dict[str, str], flavor: str) -> None:
    """Open modules where every GPU takes them, proprietary ones where one needs them."""
    assert target(*generations, **wanted)["flavor"] == flavor


@pytest.mark.parametrize(
    ("generations", "wanted", "text"),
    [
        (["pascal"], {"flavor": "open"}, "nvidia_driver_flavor is open, and the Pascal GPU 0000:19:00.0 has no GSP"),
        (["maxwell", "ada"], {"flavor": "open"}, "the Maxwell GPU 0000:19:00.0 has no GSP"),
        (["blackwell"], {"flavor": "proprietary"}, "the Blackwell GPU 0000:19:00.0 takes the open kernel modules only"),
        (["grace_hopper"], {"flavor": "proprietary"}, "the Grace Hopper GPU 0000:19:00.0 takes the open kernel modules only"),
        (["pascal"], {"branch": "590"}, "580 is the last branch that knows the Pascal GPU"),
        (["volta", "hopper"], {"version": "595.71.05"}, "nvidia_driver_version is 595.71.05, and 580 is the last branch"),
        (["ada"], {"branch": "620", "flavor": "proprietary"}, "nvidia_driver_branch 620 has open kernel modules only"),
        (["hopper"], {"branch": "535"}, "nvidia_driver_branch is 535, and Ollama needs 550 or newer"),
        (["pascal"], {"branch": "550"}, "on the Pascal GPU 0000:19:00.0 Ollama needs 570 or newer"),
        (["blackwell"], {"branch": "550"}, "the Blackwell GPU 0000:19:00.0 needs 570 or newer"),
        (["pascal", "blackwell"], {}, "no driver serves the Pascal GPU 0000:19:00.0 and the Blackwell GPU 0000:19:00.0 in one host"),
        (["kepler"], {}, "no driver that Ollama takes knows the Kepler GPU"),
        (["hopper"], {"branch": "latest"}, "nvidia_driver_branch is 'latest': give the first number of a version"),
        (["hopper"], {"branch": "580.95.05"}, "nvidia_driver_branch is '580.95.05'"),
        (["hopper"], {"version": "580"}, "nvidia_driver_version is '580': give a version of the driver such as 580.95.05"),
        (["hopper"], {"version": "580.95.05-1"}, "nvidia_driver_version is '580.95.05-1'"),
    ],
)
def test_impossible(generations: list[str], wanted: dict[str, str], text: str) -> None:
    """A combination that cannot work is refused with its reason."""
    with pytest.raises(ModelError) as error:
        target(*generations, **wanted)
    assert text in str(error.value)


def test_version_wins_over_the_branch() -> None:
    """And versions of two parts are versions."""
    assert target("hopper", branch="580", version="595.80")["branch"] == "595"


def test_unknown_gpu_is_taken_for_a_new_one() -> None:
    """With a warning that says what decides."""
    found = target("")
    assert found["flavor"] == "open" and "2330" in found["warnings"][0] and "nvidia_driver_flavor" in found["warnings"][0]
    assert target("hopper")["warnings"] == []


def test_only_own_devices_count() -> None:
    """Neither a GPU of a virtual machine nor an AMD card is ours."""
    others = [device("pascal", driver="vfio-pci"), device("", vendor="amd"), device("", kind="nvswitch")]
    assert _nvidia.nvidia_devices(others) == []
    assert _nvidia.nvidia_target([*others, device("hopper")], WANTED)["flavor"] == "open"


@pytest.mark.parametrize(
    ("option", "kind", "wanted"), [("auto", "nvswitch", True), ("auto", "gpu", False), ("present", "gpu", True), ("absent", "nvswitch", False)]
)
def test_fabricmanager(option: str, kind: str, wanted: bool) -> None:
    """Where there are NVSwitches, unless it is said otherwise."""
    assert _nvidia.nvidia_fabricmanager([device("", kind=kind)], option) is wanted


@pytest.mark.parametrize(
    ("family", "wanted", "packages"),
    [
        ("debian", {}, ["nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"]),
        ("debian", {"flavor": "proprietary", "branch": "595"}, ["nvidia-driver-cuda", "nvidia-kernel-dkms", "nvidia-persistenced"]),
        ("ubuntu", {}, ["nvidia-utils-580", "libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-compute-utils-580"]),
        ("ubuntu", {"flavor": "proprietary"}, ["nvidia-utils-580", "libnvidia-compute-580", "nvidia-dkms-580", "nvidia-compute-utils-580"]),
        ("ubuntu", {"branch": "590"}, ["nvidia-utils", "libnvidia-compute", "nvidia-dkms-open", "nvidia-compute-utils"]),
        (
            "ubuntu", {"source": "distro"},
            ["nvidia-utils-580-server", "nvidia-headless-no-dkms-580-server-open", "linux-modules-nvidia-580-server-open-generic",
             "nvidia-compute-utils-580-server"],
        ),
        ("el", {}, ["nvidia-driver-cuda", "kmod-nvidia-open-dkms", "nvidia-persistenced"]),
        ("el", {"flavor": "proprietary"}, ["nvidia-driver-cuda", "kmod-nvidia-latest-dkms", "nvidia-persistenced"]),
    ],
)
def test_packages(family: str, wanted: dict[str, str], packages: list[str]) -> None:
    """Names differ between families, and Ubuntu's lose the branch behind 580."""
    assert _nvidia.nvidia_packages(target("turing", **wanted), family, "6.8.0-45-generic") == packages


@pytest.mark.parametrize(
    ("family", "branch", "name"),
    [("debian", "580", "nvidia-fabricmanager-580"), ("ubuntu", "595", "nvidia-fabricmanager"), ("el", "580", "nvidia-fabricmanager")],
)
def test_package_of_the_fabricmanager(family: str, branch: str, name: str) -> None:
    """It comes with the others, since it must have their version."""
    assert _nvidia.nvidia_packages(target("hopper", branch=branch), family, "6.8.0-45-generic", True)[-1] == name


def test_signed_modules_are_of_ubuntu() -> None:
    """Nowhere else has the distribution a driver that Ollama takes."""
    with pytest.raises(ModelError, match="only Ubuntu has signed modules"):
        _nvidia.nvidia_packages(target("hopper", source="distro"), "debian", "6.12.48+deb13-amd64")


@pytest.mark.parametrize(
    ("family", "release", "kernel", "packages"),
    [
        ("debian", "12", "6.1.0-40-amd64", ["linux-headers-6.1.0-40-amd64", "linux-headers-amd64"]),
        ("debian", "13", "6.12.48+deb13-cloud-amd64", ["linux-headers-6.12.48+deb13-cloud-amd64", "linux-headers-cloud-amd64"]),
        ("debian", "13", "6.18.1-own", ["linux-headers-6.18.1-own"]),
        ("ubuntu", "24", "6.8.0-45-generic", ["linux-headers-6.8.0-45-generic"]),
        ("el", "8", "4.18.0-553.el8_10.x86_64", ["kernel-devel-4.18.0-553.el8_10.x86_64", "kernel-headers"]),
        ("el", "9", "5.14.0-503.el9.x86_64", ["kernel-devel-matched-5.14.0-503.el9.x86_64", "kernel-headers"]),
        ("el", "10", "6.12.0-55.el10.x86_64", ["kernel-devel-matched-6.12.0-55.el10.x86_64", "kernel-headers"]),
    ],
)
def test_headers(family: str, release: str, kernel: str, packages: list[str]) -> None:
    """Of the kernel that runs; EL 10 is newer than 9, though '10' < '9'."""
    assert _nvidia.nvidia_headers(family, release, kernel) == packages


@pytest.mark.parametrize(
    ("release", "flavor", "stream"), [("8", "open", "nvidia-driver:580-open"), ("9", "proprietary", "nvidia-driver:580"), ("10", "open", "")]
)
def test_dnf_module(release: str, flavor: str, stream: str) -> None:
    """EL 10 has no modules."""
    assert _nvidia.nvidia_dnf_module(target("turing", flavor=flavor), release) == stream


def test_dnf_specs() -> None:
    """NVIDIA's packages have the epoch 3; the fabric manager gets the version of the driver that is there."""
    names = ["nvidia-driver-cuda", "nvidia-fabricmanager"]
    assert _nvidia.nvidia_dnf_specs(target("hopper"), names, "") == names
    assert _nvidia.nvidia_dnf_specs(target("hopper"), names, "580.95.05") == ["nvidia-driver-cuda", "nvidia-fabricmanager-3:580.95.05"]
    exact = target("hopper", version="580.105.08")
    assert _nvidia.nvidia_dnf_specs(exact, names, "580.95.05") == ["nvidia-driver-cuda-3:580.105.08", "nvidia-fabricmanager-3:580.105.08"]
    assert _nvidia.nvidia_versionlock(exact, ["kmod-nvidia-open-dkms"])[0] == "kmod-nvidia-open-dkms-3:580.105.08-*"
    assert _nvidia.nvidia_versionlock(target("hopper"), ["kmod-nvidia-open-dkms"])[0] == "kmod-nvidia-open-dkms-3:580.*-*"


def test_versions() -> None:
    """The distribution's packages of the same names do not count, nor those of a host with a longer name."""
    text = f"""\
 nvidia-driver-cuda | 595.71.05-1 | {REPOSITORY}/debian12/x86_64  Packages
 nvidia-driver-cuda | 580.95.05-1 | {REPOSITORY}/debian12/x86_64  Packages
 nvidia-driver-cuda | 535.309.01-1 | http://deb.example.org/debian bookworm/non-free amd64 Packages
 nvidia-driver-cuda | 580.1-1 | {REPOSITORY}.example.org/x Packages
"""
    assert _nvidia.nvidia_versions(text, REPOSITORY) == {"nvidia-driver-cuda": ["595.71.05-1", "580.95.05-1"]}
    assert _nvidia.nvidia_versions(text, REPOSITORY, "distro") == {"nvidia-driver-cuda": ["535.309.01-1", "580.1-1"]}
    assert _nvidia.nvidia_versions("", REPOSITORY) == {}


def test_installed() -> None:
    """What was removed and left its configuration is not installed; rpm says no state."""
    text = "nvidia-driver-cuda 580.95.05-1 installed\nnvidia-smi 535.1-1 config-files\nlibcuda1  not-installed\n"
    assert _nvidia.nvidia_installed(text) == {"nvidia-driver-cuda": "580.95.05-1"}
    assert _nvidia.nvidia_installed("nvidia-driver-cuda 580.95.05-1.el9\n") == {"nvidia-driver-cuda": "580.95.05-1.el9"}


PACKAGES = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"]
AVAILABLE = {name: ["595.71.05-1", "580.105.08-1", "580.95.05-1"] for name in PACKAGES}


def plan(wanted: dict[str, str] | None = None, installed: str = "", loaded: str = "", flavor: str = "open", **more: Any) -> dict[str, Any]:
    """The plan of a host with this driver."""
    module = {"open": "nvidia-kernel-open-dkms", "proprietary": "nvidia-kernel-dkms"}[flavor]
    packages = {"nvidia-driver-cuda": f"{installed}-1", module: f"{installed}-1"} if installed else {}
    host = {
        "installed": {**packages, **more.pop("also", {})}, "versions": more.pop("versions", AVAILABLE), "fetched": more.pop("fetched", True), "loaded": loaded,
        "known": more.pop("known", ""), "reboot": more.pop("reboot", []),
    }
    return _nvidia.nvidia_plan(target("turing", **(wanted or {})), more.pop("packages", PACKAGES), host, {**OPTIONS, **more})


def test_plan_of_a_bare_host() -> None:
    """The newest of the branch, not of the repository, each package at its version."""
    found = plan()
    assert found["packages"] == ["nvidia-driver-cuda=580.105.08-1", "nvidia-kernel-open-dkms=580.105.08-1"]
    assert (found["installed"], found["wanted"], found["action"], found["needed"], found["refused"]) == ("", "580.105.08", "install", True, "")
    assert "is to be installed" in found["reboot"][0] and "a reboot is needed" in found["text"]


def test_plan_before_the_repository_is_there() -> None:
    """In check mode the branch alone is known."""
    found = plan(versions={}, fetched=False)
    assert (found["packages"], found["wanted"], found["refused"]) == (PACKAGES, "580", "")


def test_plan_of_a_host_that_has_what_is_wanted() -> None:
    """A newer version of the branch changes nothing unless somebody upgrades."""
    found = plan(installed="580.95.05", loaded="580.95.05")
    assert (found["needed"], found["action"], found["deferred"], found["reboot"]) == (False, "none", "", [])
    assert found["packages"] == ["nvidia-driver-cuda=580.95.05-1", "nvidia-kernel-open-dkms=580.95.05-1"]
    found = plan(installed="580.95.05", loaded="580.95.05", upgrade=True)
    assert (found["needed"], found["action"], found["wanted"], found["refused"]) == (True, "upgrade", "580.105.08", "")


def test_a_version_that_the_repository_has_lost_stays() -> None:
    """What is installed is not asked for again by a version that nobody has."""
    found = plan(installed="580.65.06", loaded="580.65.06")
    assert (found["needed"], found["packages"], found["refused"]) == (False, PACKAGES, "")


def test_a_loaded_driver_is_left_alone() -> None:
    """It is said what would change, and which playbook does it."""
    found = plan({"version": "580.105.08"}, installed="580.95.05", loaded="580.95.05")
    assert found["needed"] and not found["refused"]
    assert "the driver 580.95.05 is loaded and stays as it is" in found["deferred"] and "gpufleet.ollama.gpu_upgrade" in found["deferred"]
    assert plan({"version": "580.105.08"}, installed="580.95.05", loaded="580.95.05", upgrade=True)["deferred"] == ""
    assert plan({"version": "580.105.08"}, installed="580.95.05")["deferred"] == ""


def test_another_branch_needs_leave() -> None:
    """Both ways; back is a downgrade, too."""
    found = plan({"branch": "595"}, installed="580.95.05", upgrade=True)
    assert found["action"] == "branch" and "nvidia_driver_allow_branch_change: true" in found["refused"] and 'nvidia_driver_branch: "580"' in found["refused"]
    assert plan({"branch": "595"}, installed="580.95.05", upgrade=True, branch_change=True)["refused"] == ""
    found = plan(installed="595.71.05", upgrade=True, branch_change=True)
    assert "nvidia_driver_allow_downgrade: true" in found["refused"]
    assert plan(installed="595.71.05", upgrade=True, branch_change=True, downgrade=True)["refused"] == ""


def test_an_older_version_needs_leave() -> None:
    """Within the branch."""
    found = plan({"version": "580.95.05"}, installed="580.105.08", upgrade=True)
    assert found["action"] == "downgrade" and "nvidia_driver_allow_downgrade: true" in found["refused"]
    assert plan({"version": "580.95.05"}, installed="580.105.08", upgrade=True, downgrade=True)["refused"] == ""


def test_a_branch_that_the_repository_has_not() -> None:
    """Nothing else is installed in its place."""
    found = plan({"branch": "590"})
    assert "no nvidia-driver-cuda of the branch 590 (it has 595.71.05-1, 580.105.08-1, 580.95.05-1)" in found["refused"]
    assert "no nvidia-driver-cuda of 580.65.06" in plan({"version": "580.65.06"})["refused"]
    assert "it has none at all" in plan(versions={})["refused"]
    # one package of two has come
    assert "no nvidia-kernel-open-dkms" in plan(versions={"nvidia-driver-cuda": ["580.95.05-1"]})["refused"]
    torn = {"nvidia-driver-cuda": ["580.95.05-1"], "nvidia-kernel-open-dkms": ["580.105.08-1"]}
    assert "no version of the branch 580 that all of nvidia-driver-cuda, nvidia-kernel-open-dkms have" in plan(versions=torn)["refused"]


def test_modules_of_the_other_kind() -> None:
    """A change of its own, at the same version."""
    found = plan(installed="580.95.05", flavor="proprietary", upgrade=True, versions={name: ["580.95.05-1"] for name in PACKAGES})
    assert (found["action"], found["needed"]) == ("flavor", True) and "open ones" in found["text"]


def test_a_package_that_is_missing() -> None:
    """The fabric manager comes at the driver's own version, not at the newest."""
    versions = {**AVAILABLE, "nvidia-fabricmanager-580": ["580.105.08-1", "580.95.05-1"]}
    found = plan(installed="580.95.05", packages=[*PACKAGES, "nvidia-fabricmanager-580"], versions=versions)
    assert (found["action"], found["missing"]) == ("complete", ["nvidia-fabricmanager-580"])
    assert found["packages"][-1] == "nvidia-fabricmanager-580=580.95.05-1"


def test_a_driver_of_another_hand_counts() -> None:
    """Debian's own packages, or modules without packages: what modinfo says is installed."""
    assert "nvidia_driver_allow_branch_change" in plan(also={"nvidia-smi": "535.309.01-1"})["refused"]
    assert plan(known="535.309.01")["installed"] == "535.309.01"


def test_reasons_of_the_host_are_kept() -> None:
    """They stand before those of the plan."""
    assert plan(installed="580.95.05", reboot=["nouveau holds the GPU"])["reboot"] == ["nouveau holds the GPU"]


def test_preferences() -> None:
    """The branch is let in, and nothing else of the repository; others' packages of like names are."""
    records = _nvidia.nvidia_preferences(target("hopper"), "developer.download.nvidia.com", False, "Debian")
    assert [(record["pin"], record["priority"]) for record in records] == [
        ("origin developer.download.nvidia.com", 500),
        ("version 580.*", 990),
        ("origin developer.download.nvidia.com", -1),
        ("release o=Debian", -1),
    ]
    exact = _nvidia.nvidia_preferences(target("hopper", version="580.95.05"), "mirror.example.org", True, "Debian")
    assert (exact[1]["pin"], exact[1]["priority"], exact[2]["pin"]) == ("version 580.95.05-*", 1001, "origin mirror.example.org")
    signed = _nvidia.nvidia_preferences(target("hopper", source="distro"), "", False, "Ubuntu")
    # else the modules, whose version is the kernel's, would be shut out
    assert not any("*nvidia*" in record["packages"] for record in signed) and signed[-1]["pin"] == "release o=Ubuntu"


def gpu(**more: Any) -> dict[str, Any]:
    """What gpu_info says of a host with one H100 that is well."""
    item = {"uuid": UUID, "persistence": True, "fabric_state": ""}
    return {
        "devices": [device("hopper", "nvidia")], "nodes": [{"path": "/dev/nvidia-uvm"}], "kernel": {"running": "6.1", "newest": "6.1"},
        "driver": {"loaded": "580.95.05", "open": True, "installed": "580.95.05", "modules": {"6.1": "580.95.05"}},
        "smi": {"status": 0, "problem": "", "gpus": [item]}, "secure_boot": {"enabled": False, "lockdown": ""}, **more,
    }


def changed(key: str, **more: Any) -> dict[str, Any]:
    """The same with a part of it changed."""
    return gpu(**{key: {**gpu()[key], **more}})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (changed("driver", loaded=""), "no driver is loaded"),
        (changed("driver", installed="580.105.08"), "580.95.05 is loaded, and 580.105.08 is installed: reboot"),
        (changed("driver", loaded="595.71.05", installed="595.71.05"), "595.71.05 is loaded, and the branch 580 is wanted"),
        (changed("driver", open=False), "the loaded kernel modules are proprietary, and open ones are wanted"),
        (changed("kernel", newest="6.2"), "the kernel 6.2, which comes with the next boot, has no module"),
        (changed("smi", status=9, problem="no driver"), "nvidia-smi does not answer: no driver"),
        (changed("smi", gpus=[]), "nvidia-smi shows 0 GPUs, and the bus has 1"),
        (gpu(nodes=[]), "no /dev/nvidia-uvm"),
        (changed("smi", gpus=[{"uuid": UUID, "persistence": False, "fabric_state": ""}]), "persistence mode off"),
        (gpu(devices=[device("hopper", "nvidia"), device("", "nvidia", "nvswitch")]), "has not joined the fabric (unknown)"),
    ],
)
def test_verify(found: dict[str, Any], text: str) -> None:
    """Each fault is seen, and a host that is well has none."""
    options = {"expected_count": 1, "persistence": True}
    problems = _nvidia.nvidia_verify(found, target("hopper"), options)
    assert any(text in problem for problem in problems), problems
    assert _nvidia.nvidia_verify(gpu(), target("hopper"), options) == []


def test_verify_counts() -> None:
    """Against what the inventory says."""
    problems = _nvidia.nvidia_verify(gpu(), target("hopper"), {"expected_count": 2, "persistence": True})
    assert problems == ["nvidia-smi shows 1 GPUs, and ollama_gpu_expected_count is 2"]


def test_verify_of_another_hands_driver() -> None:
    """Branch and flavour are its own; a card that does not tell its persistence is no fault."""
    found = changed("driver", loaded="595.80", installed="595.80", open=False)
    found["smi"]["gpus"][0]["persistence"] = None
    assert _nvidia.nvidia_verify(found, None, {"expected_count": 0, "persistence": False}) == []


@pytest.mark.parametrize(
    ("found", "host", "wanted", "text"),
    [
        (gpu(), {"runfile": True}, {}, "run /usr/bin/nvidia-uninstall"),
        (changed("secure_boot", enabled=True), {}, {}, "nvidia_driver_secure_boot: mok_enrolled"),
        (changed("secure_boot", enabled=True), {"secure_boot": "mok_enrolled"}, {}, ""),
        (changed("secure_boot", enabled=True), {"secure_boot": "ignore"}, {}, ""),
        (changed("secure_boot", enabled=True), {}, {"source": "distro"}, ""),
        (gpu(), {"boot_free": 10 << 20}, {}, "/boot has 10 MiB left, and 200 MiB are needed"),
        (gpu(), {"usr_free": 1 << 30}, {}, "/usr has 1024 MiB left"),
        (gpu(), {"boot_free": -1}, {}, ""),
    ],
)
def test_problems(found: dict[str, Any], host: dict[str, Any], wanted: dict[str, str], text: str) -> None:
    """What keeps a driver from being installed; what was not measured does not."""
    facts = {"secure_boot": "fail", "runfile": False, "boot_free": 1 << 30, "usr_free": 8 << 30, **host}
    problems = _nvidia.nvidia_problems(target("hopper", **wanted), found, facts)
    assert [text in problem for problem in problems] == ([True] if text else [])


def test_in_use() -> None:
    """Processes are named. Where nvidia-smi does not answer for a loaded driver, they are unknown, and no instance may be active."""
    process = {"pid": 4201, "name": "/usr/bin/python3", "uuid": UUID}
    answers = {"status": 0, "problem": "", "processes": []}
    silent = {"status": None, "problem": "it gave no answer within 30 seconds", "processes": []}
    units = ["ollama@default.service", "ollama@large.service"]

    def use(smi: dict[str, Any], active: list[str], loaded: str = "580.95.05") -> str:
        return _nvidia.nvidia_in_use({"smi": smi, "driver": {"loaded": loaded}}, active)

    assert use({**answers, "processes": [process]}, []) == "the GPUs are in use by 4201 /usr/bin/python3: stop these processes"
    assert use(answers, units) == ""
    assert use(silent, []) == ""
    assert use({**silent, "status": 18}, units) == use(silent, units)
    refused = use(silent, units)
    assert "nvidia-smi does not answer (it gave no answer within 30 seconds)" in refused
    assert "only when no instance of Ollama is active, and ollama@default.service, ollama@large.service is" in refused
    assert use(silent, units, loaded="") == ""


def test_reboot_refusal() -> None:
    """One that was made and did not help is not made again; one that did not happen is."""
    marker = {"boot_id": "a", "reasons": ["x"]}
    assert "No second reboot" in _nvidia.nvidia_reboot_refusal(["x", "y"], marker, "b")
    assert _nvidia.nvidia_reboot_refusal(["x"], marker, "a") == ""
    assert _nvidia.nvidia_reboot_refusal(["y"], marker, "b") == ""
    assert _nvidia.nvidia_reboot_refusal(["x"], {}, "b") == ""
    assert _nvidia.nvidia_reboot_refusal(["x"], None, "b") == ""


def test_removable() -> None:
    """The driver's packages have its version, whatever they are called; the toolkit and exporters do not."""
    installed = {
        "nvidia-driver-cuda": "580.95.05-1", "libcuda1": "580.95.05-1", "nvidia-container-toolkit": "1.20.0-1", "libnvidia-container1": "1.20.0-1",
        "nvidia-gpu-exporter": "1.14.0", "linux-modules-nvidia-580-server-open-generic": "6.8.0-45.45",
    }
    assert _nvidia.nvidia_removable(installed) == ["libcuda1", "linux-modules-nvidia-580-server-open-generic", "nvidia-driver-cuda"]
    assert _nvidia.nvidia_removable({"nvidia-container-toolkit": "1.20.0-1"}) == []


def test_persistence() -> None:
    """Ubuntu's unit switches it off; a unit that has it on is left alone. The user stays its own."""
    off = "[Service]\nType=forking\nExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose\n"
    assert _nvidia.nvidia_persistence(off) == "/usr/bin/nvidia-persistenced --user nvidia-persistenced --persistence-mode --verbose"
    assert _nvidia.nvidia_persistence("[Service]\nExecStart=/usr/bin/nvidia-persistenced --user nvpd\n") == ""
    assert _nvidia.nvidia_persistence("") == ""


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"power_limit_watts": 300}, "give either the uuid of a GPU or the name of a model"),
        ({"uuid": UUID, "name": "NVIDIA L40S", "power_limit_watts": 300}, "give either the uuid"),
        ({"uuid": "0", "power_limit_watts": 300}, "'0' is no UUID of a GPU"),
        ({"uuid": UUID}, "give power_limit_watts or graphics_clocks_mhz"),
        ({"uuid": UUID, "power_limit_watts": 0}, "power_limit_watts is 0"),
        ({"uuid": UUID, "graphics_clocks_mhz": [1410, 210]}, "graphics_clocks_mhz is [1410, 210]"),
        ({"uuid": UUID, "graphics_clocks_mhz": [1410]}, "graphics_clocks_mhz is [1410]"),
    ],
)
def test_wrong_tuning(item: dict[str, Any], text: str) -> None:
    """An entry that says nothing, or nonsense."""
    with pytest.raises(ModelError) as error:
        _nvidia.nvidia_tuning([item])
    assert "entry 1 of nvidia_driver_tuning" in str(error.value) and text in str(error.value)


def test_tuning() -> None:
    """Entries are made complete for the program that reads them."""
    assert _nvidia.nvidia_tuning([{"name": "NVIDIA L40S", "power_limit_watts": 300}, {"uuid": UUID, "graphics_clocks_mhz": [210, 1410]}]) == [
        {"uuid": None, "name": "NVIDIA L40S", "power_limit_watts": 300, "graphics_clocks_mhz": None},
        {"uuid": UUID, "name": None, "power_limit_watts": None, "graphics_clocks_mhz": [210, 1410]},
    ]


def test_mig() -> None:
    """Profiles by name; a GPU stands once in the list."""
    item = {"uuid": UUID, "profiles": ["3g.40gb", "1g.10gb+me"]}
    assert _nvidia.nvidia_mig([item]) == [item]
    for wrong, text in (
        ([{"uuid": UUID, "profiles": ["19"]}], "has the profile '19'"),
        ([item, item], "is there twice"),
        ([{"uuid": "MIG-1", "profiles": []}], "'MIG-1' is no UUID of a GPU"),
    ):
        with pytest.raises(ModelError) as error:
            _nvidia.nvidia_mig(wrong)
        assert text in str(error.value)
