"""Drivers, kernels, Secure Boot and reasons for a reboot, from trees like those of a host."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _driver_state, _pci, _smi_xml

UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
OLD, NEW = "6.1.0-30-amd64", "6.1.0-31-amd64"
VERSION = "580.95.05"


def driver(root: Path) -> dict[str, Any]:
    """The driver of a tree."""
    return _driver_state.driver(f"{root}/proc", f"{root}/root", str(root / "modinfo"))


def kernel(root: Path) -> dict[str, Any]:
    """The kernels of a tree."""
    return _driver_state.kernel(f"{root}/proc", f"{root}/root")


@pytest.mark.parametrize(
    "versions",
    [
        ["6.1.0-9-amd64", "6.1.0-13-amd64", "6.1.0-31-amd64", "6.12.43+deb13-amd64", "6.12.43+deb13+1-amd64"],
        [
            "5.14.0-427.el9.x86_64", "5.14.0-427.9.1.el9_4.x86_64", "5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64",
            "6.12.0-55.9.1.el10_0.x86_64",
        ],
        ["5.15.0-97-generic", "5.15.0-119-generic", "6.8.0-9-generic", "6.8.0-45-generic", "6.11.0-17-generic"],
        ["6.12~rc1", "6.12-rc5-amd64", "6.12-amd64", "6.12.1-amd64"],
        ["535.309.01", "580.9", "580.65.06", "580.95", "580.95.05", "580.159.04", "595.80", "610.57.04"],
    ],
    ids=["Debian", "EL", "Ubuntu", "candidates", "drivers"],
)  # fmt: skip
def test_order_of_versions(versions: list[str]) -> None:
    """Numbers are numbers, in every pair."""
    for first, second in itertools.combinations(versions, 2):
        assert _driver_state.version_key(first) < _driver_state.version_key(second), (first, second)


@pytest.mark.parametrize("root", ["", "/"], ids=["", "with a slash behind"])
def test_kernels(tmp_path: Path, root: str) -> None:
    """The newest that can be booted, by its version and not by its name; headers over a link from the root of the host."""
    standin.running(tmp_path, "6.1.0-9-amd64")
    standin.kernel(tmp_path, "6.1.0-9-amd64")
    standin.kernel(tmp_path, "6.1.0-13-amd64", headers=False)
    # removed but for what was built for it
    standin.kernel(tmp_path, "6.1.0-40-amd64", image=False)
    assert _driver_state.kernel(f"{tmp_path}/proc", f"{tmp_path}/root{root}") == {
        "running": "6.1.0-9-amd64", "newest": "6.1.0-13-amd64", "headers": True, "newest_headers": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("running", "other", "newest"),
    [
        (OLD, "6.1.0-31-cloud-amd64", OLD), ("6.1.0-30-rt-amd64", "6.1.0-31-rt-amd64", "6.1.0-31-rt-amd64"),
        ("6.8.0-45-generic", "6.8.0-1015-aws", "6.8.0-45-generic"), ("5.14.0-427.el9.x86_64", "5.14.0-503.el9.x86_64+debug", "5.14.0-427.el9.x86_64"),
        ("5.14.0-427.el9.aarch64+64k", "5.14.0-503.el9.aarch64", "5.14.0-427.el9.aarch64+64k"),
        ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64", "5.14.0-503.11.1.el9_5.x86_64"),
        ("6.12-rc5-amd64", "6.12-amd64", "6.12-amd64"),
    ],
)  # fmt: skip
def test_kinds_of_kernels(tmp_path: Path, running: str, other: str, newest: str) -> None:
    """A kernel of another kind is not what the host boots next."""
    standin.running(tmp_path, running)
    for release in (running, other):
        standin.kernel(tmp_path, release)
    assert kernel(tmp_path)["newest"] == newest


@pytest.mark.parametrize("image", ["vmlinuz-{}", "vmlinux-{}", "0123456789abcdef/{}/linux", "efi/0123456789abcdef/{}/linux"])
def test_images(tmp_path: Path, image: str) -> None:
    """Where boot loaders have their kernels."""
    standin.running(tmp_path, OLD)
    standin.kernel(tmp_path, NEW, image=False)
    assert kernel(tmp_path)["newest"] == OLD
    standin.write(tmp_path / "root/boot" / image.format(NEW))
    assert kernel(tmp_path)["newest"] == NEW


def test_headers(tmp_path: Path) -> None:
    """A link that leads nowhere is none; a folder is as good as a link."""
    standin.running(tmp_path, OLD)
    (tmp_path / f"root/lib/modules/{OLD}").mkdir(parents=True)
    (tmp_path / f"root/lib/modules/{OLD}/build").symlink_to("/usr/src/linux-headers-gone")
    assert not kernel(tmp_path)["headers"]
    (tmp_path / f"root/lib/modules/{OLD}/build").unlink()
    standin.write(tmp_path / f"root/lib/modules/{OLD}/build/Makefile")
    assert kernel(tmp_path)["headers"]


def test_no_kernels(tmp_path: Path) -> None:
    """A container has no folder of modules, and maybe no /proc."""
    assert kernel(tmp_path) == {"running": "", "newest": "", "headers": False, "newest_headers": False}
    standin.running(tmp_path, NEW)
    assert kernel(tmp_path) == {"running": NEW, "newest": NEW, "headers": False, "newest_headers": False}
    standin.modinfo(tmp_path)
    assert driver(tmp_path) == {"loaded": "", "open": None, "installed": "", "modules": {}}


@pytest.mark.parametrize("module", ["nvidia", "nvidia-current"])
@pytest.mark.parametrize("open_modules", [True, False])
def test_driver(tmp_path: Path, module: str, open_modules: bool) -> None:
    """For each kernel that has one, under NVIDIA's name and under Debian's."""
    standin.running(tmp_path, OLD)
    standin.loaded(tmp_path, "570.195.03", open_modules)
    standin.kernel(tmp_path, OLD, VERSION)
    standin.kernel(tmp_path, NEW)
    standin.kernel(tmp_path, "6.1.0-29-amd64", "580.82.07")
    standin.modinfo(tmp_path, module)
    assert driver(tmp_path) == {
        "loaded": "570.195.03", "open": open_modules, "installed": VERSION, "modules": {"6.1.0-29-amd64": "580.82.07", OLD: VERSION},
    }  # fmt: skip


def test_driver_of_another_kernel(tmp_path: Path) -> None:
    """What is installed for a kernel that does not run is not installed for the one that does."""
    standin.running(tmp_path, OLD)
    standin.kernel(tmp_path, NEW, VERSION)
    standin.modinfo(tmp_path)
    assert (driver(tmp_path)["installed"], driver(tmp_path)["modules"]) == ("", {NEW: VERSION})


def test_own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the own root modinfo is asked without a root: old ones have no such option."""
    monkeypatch.setattr(_driver_state, "releases", lambda root: [NEW])
    command = standin.program(tmp_path / "modinfo", f'[ "$*" = "-k {NEW} -F version nvidia" ] && echo {VERSION}')
    assert _driver_state.driver(f"{tmp_path}/proc", "/", command)["modules"] == {NEW: VERSION}


def test_no_modinfo(tmp_path: Path) -> None:
    """Not there, or not wanted: nothing is known, and nothing fails."""
    standin.kernel(tmp_path, NEW, VERSION)
    assert driver(tmp_path)["modules"] == {}
    assert _driver_state.driver(f"{tmp_path}/proc", f"{tmp_path}/root", "")["modules"] == {}


@pytest.mark.parametrize(
    ("variable", "enabled"),
    [(b"\x06\0\0\0\1", True), (b"\x06\0\0\0\0", False), (b"", False), (b"\1\0\0\0\0", False), (None, False)],
    ids=["on", "off", "empty", "attributes", "no EFI"],
)
@pytest.mark.parametrize(
    ("text", "lockdown"),
    [("[none] integrity confidentiality\n", "none"), ("none [integrity] confidentiality\n", "integrity"), (None, "")],
    ids=["none", "integrity", "unknown"],
)
def test_secure_boot(tmp_path: Path, variable: bytes | None, enabled: bool, text: str | None, lockdown: str) -> None:
    """The last byte of the variable, and the word in brackets."""
    if variable is not None:
        folder = tmp_path / "sys/firmware/efi/efivars"
        folder.mkdir(parents=True)
        (folder / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(variable)
        # of another vendor
        (folder / "SecureBoot-00000000-0000-0000-0000-000000000000").write_bytes(b"\x06\0\0\0\1")
    if text is not None:
        standin.write(tmp_path / "sys/kernel/security/lockdown", text)
    assert _driver_state.secure_boot(f"{tmp_path}/sys") == {"enabled": enabled, "lockdown": lockdown}


@pytest.mark.parametrize(("body", "root", "found"), [("echo docker", "/", True), ("echo none; exit 1", "/", False), ("echo docker", "/srv", False)])
def test_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, root: str, found: bool) -> None:
    """What systemd-detect-virt says of the own root."""
    standin.program(tmp_path / "systemd-detect-virt", f'[ "$*" = -c ] || exit 9\n{body}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert _driver_state.container(root) is found


def test_no_detect_virt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without systemd."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert _driver_state.container() is False


def healthy(root: Path, scenario: str = "healthy", **of_first: Any) -> dict[str, Any]:
    """A host that needs no reboot; keys of its first GPU may be given."""
    described = standin.scenario(scenario)
    described["gpus"][0].update(of_first)
    for gpu in described["gpus"]:
        standin.pci(root, gpu["bus_id"])
    standin.loaded(root, VERSION)
    standin.running(root, OLD)
    standin.kernel(root, OLD, VERSION)
    standin.modinfo(root)
    return described


def reasons(root: Path, described: dict[str, Any]) -> list[str]:
    """Why the host must be rebooted."""
    devices = _pci.devices(f"{root}/sys")
    return _driver_state.reboot_reasons(devices, driver(root), kernel(root), _smi_xml.read(standin.smi(root, described)), f"{root}/root")


@pytest.mark.parametrize("scenario", ["healthy", "hgx", "mig", "consumer", "ecc", "remap", "lost", "no_driver", "fabric_waiting", "busy", "hot"])
def test_no_reason(tmp_path: Path, scenario: str) -> None:
    """Neither a healthy host nor one with a fault that a reboot does not mend."""
    assert not reasons(tmp_path, healthy(tmp_path, scenario))


@pytest.mark.parametrize(
    ("of_first", "reason"),
    [
        ({"ecc_pending": "Disabled"}, f"ECC of {UUID} is to be off after the reboot"),
        ({"ecc_current": "Disabled", "ecc_pending": "Enabled"}, f"ECC of {UUID} is to be on after the reboot"),
        ({"mig_pending": "Enabled"}, f"MIG of {UUID} is to be on after the reboot"),
        ({"recovery_action": "Reboot"}, f"the driver asks for a reboot for {UUID}"),
        ({"recovery_action": "Node Reboot Required"}, f"the driver asks for a reboot for {UUID}"),
        ({"recovery_action": "GPU Reset"}, ""),
        ({"mig_current": None, "mig_pending": None}, ""),
        ({"ecc_pending": None}, ""),
    ],
)
def test_reasons_of_a_gpu(tmp_path: Path, of_first: dict[str, Any], reason: str) -> None:
    """Modes that wait, and what the driver asks for."""
    assert reasons(tmp_path, healthy(tmp_path, **of_first)) == ([reason] if reason else [])


@pytest.mark.parametrize("held_by", ["nouveau", "nova_core"])
def test_foreign_driver(tmp_path: Path, held_by: str) -> None:
    """A driver of the kernel that holds a GPU; one of a virtual machine is left alone."""
    described = healthy(tmp_path)
    standin.pci(tmp_path, "0000:c1:00.0", driver=held_by)
    standin.pci(tmp_path, "0000:c2:00.0", driver="vfio-pci")
    assert reasons(tmp_path, described) == [f"{held_by} holds the GPU 0000:c1:00.0"]


def test_driver_not_loaded(tmp_path: Path) -> None:
    """Installed, and nothing is loaded."""
    described = healthy(tmp_path, "no_driver")
    (tmp_path / "proc/driver/nvidia/version").unlink()
    assert reasons(tmp_path, described) == [f"driver {VERSION} is installed and none is loaded"]
    # the module is for another kernel: loading is not what a reboot mends
    standin.running(tmp_path, "6.1.0-29-amd64")
    standin.kernel(tmp_path, "6.1.0-29-amd64")
    assert reasons(tmp_path, described) == [f"kernel 6.1.0-29-amd64 runs and {OLD} is installed"]


def test_driver_of_another_version(tmp_path: Path) -> None:
    """Loaded and installed differ, as after an upgrade; versions of two parts too."""
    described = healthy(tmp_path)
    standin.loaded(tmp_path, "580.95")
    assert reasons(tmp_path, described) == [f"driver 580.95 is loaded and {VERSION} is installed"]


def test_programs_of_another_version(tmp_path: Path) -> None:
    """Only nvidia-smi knows it."""
    assert reasons(tmp_path, healthy(tmp_path, "mismatch")) == [f"the driver's programs and the loaded driver {VERSION} have different versions"]


def test_programs_of_another_version_with_another_status(tmp_path: Path) -> None:
    """The words count as well as the status: only one driver was seen with it."""
    healthy(tmp_path)
    said = standin.program(tmp_path / "smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 1")
    found = _driver_state.reboot_reasons(_pci.devices(f"{tmp_path}/sys"), driver(tmp_path), kernel(tmp_path), _smi_xml.read(said), f"{tmp_path}/root")
    assert found == [f"the driver's programs and the loaded driver {VERSION} have different versions"]


def test_newer_kernel(tmp_path: Path) -> None:
    """By its version."""
    described = healthy(tmp_path)
    standin.kernel(tmp_path, "6.1.0-9-amd64")
    assert not reasons(tmp_path, described)
    standin.kernel(tmp_path, NEW)
    assert reasons(tmp_path, described) == [f"kernel {OLD} runs and {NEW} is installed"]


@pytest.mark.parametrize(
    ("packages", "reason"),
    [("linux-base\ndbus\ndbus\n", "packages ask for it: dbus, linux-base"), ("", "packages ask for it (/run/reboot-required)")],
    ids=["named", "not named"],
)
def test_packages(tmp_path: Path, packages: str, reason: str) -> None:
    """Debian's note."""
    described = healthy(tmp_path)
    standin.write(tmp_path / "root/run/reboot-required.pkgs", packages)
    assert not reasons(tmp_path, described)
    standin.write(tmp_path / "root/run/reboot-required")
    assert reasons(tmp_path, described) == [reason]


def test_no_gpu(tmp_path: Path) -> None:
    """A host without an NVIDIA GPU is none of our business."""
    standin.running(tmp_path, OLD)
    standin.kernel(tmp_path, NEW)
    standin.write(tmp_path / "root/run/reboot-required")
    standin.pci(tmp_path, "0000:c1:00.0", vendor="1002", driver="amdgpu")
    standin.modinfo(tmp_path)
    assert not reasons(tmp_path, standin.scenario("healthy"))
