"""What differs between distributions, for those that no container is at hand of as well: repository, key and manager, as Ansible renders them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

VARS = Path(__file__).parents[3] / "roles/nvidia_driver/vars"
OLD, EL = "EB693B3035CD5710E231E123A4B469963BF863CC", "610C7B14E068A878070DA4E99CD0A493D42D0685"
TRIXIE = "02182E60104FCDC26EAE1B8597A5D4CB8793F200"


def rendered(name: str, version: str, distribution: str = "", **variables: Any) -> dict[str, Any]:
    """The variables of a distribution over those of all, as the role has them."""
    loader = DataLoader()
    values: dict[str, Any] = {}
    for path in (VARS / "main.yml", VARS / f"{name}.yml"):
        values.update(loader.load_from_file(str(path), trusted_as_template=True))
    facts = {
        "distribution": distribution or name, "distribution_version": version, "distribution_major_version": version.split(".")[0], "architecture": "x86_64",
        **variables.pop("facts", {}),
    }
    options = {
        "nvidia_driver_repo_url": "https://host/repos", "nvidia_driver_repo_key_fingerprint": "", "nvidia_driver_blacklist_modules": ["nouveau", "nova_core"],
    }
    templar = Templar(loader=loader, variables={**values, **options, "ansible_facts": facts, **variables})
    wanted = ("family", "manager", "repo_dir", "repo_key", "keyring_path", "kernel_arguments", "fingerprint")
    return {key: templar.template(values[f"__nvidia_driver_{key}"]) for key in wanted}


@pytest.mark.parametrize(
    ("name", "version", "folder", "file", "fingerprint"),
    [
        ("Debian", "12.13", "debian12", "3bf863cc.pub", OLD),
        ("Debian", "13", "debian13", "8793F200.pub", TRIXIE),
        ("Ubuntu", "22.04", "ubuntu2204", "3bf863cc.pub", OLD),
        ("Ubuntu", "24.04", "ubuntu2404", "3bf863cc.pub", OLD),
        ("RedHat", "8.10", "rhel8", "D42D0685.pub", EL),
        ("RedHat", "9.6", "rhel9", "D42D0685.pub", EL),
        ("RedHat", "10.0", "rhel10", "CDF6BA43.pub", ""),
    ],
)
def test_repository(name: str, version: str, folder: str, file: str, fingerprint: str) -> None:
    """Its directory and the file of its key; a fingerprint that is not known is left to the operator."""
    found = rendered(name, version, "Rocky" if name == "RedHat" else "")
    assert found["repo_dir"] == f"https://host/repos/{folder}/x86_64"
    assert (found["repo_key"]["file"], found["fingerprint"]) == (file, fingerprint)
    assert found["manager"] == ("dnf" if name == "RedHat" else "apt")
    assert found["keyring_path"].startswith("/etc/pki/rpm-gpg/" if name == "RedHat" else "/usr/share/keyrings/")


def test_the_operators_fingerprint_wins() -> None:
    """Where one is known, too."""
    assert rendered("Debian", "13", nvidia_driver_repo_key_fingerprint="A" * 40)["fingerprint"] == "A" * 40
    assert rendered("Debian", "12.1", nvidia_driver_repo_key_fingerprint="A" * 40)["fingerprint"] == "A" * 40


@pytest.mark.parametrize(("name", "version"), [("Debian", "11.9"), ("Ubuntu", "20.04"), ("RedHat", "7.9")])
def test_a_release_that_is_not_known(name: str, version: str) -> None:
    """It has no key, which the preflight refuses."""
    assert rendered(name, version)["repo_key"] == {}


def test_arm() -> None:
    """NVIDIA calls servers of that kind sbsa."""
    assert rendered("Ubuntu", "24.04", facts={"architecture": "aarch64"})["repo_dir"] == "https://host/repos/ubuntu2404/sbsa"


def test_kernel_arguments() -> None:
    """On EL the initramfs is told by the kernel's command line; nothing to keep off is nothing to say."""
    found = rendered("RedHat", "9.6")["kernel_arguments"]
    assert found == ["rd.driver.blacklist=nouveau,nova_core", "modprobe.blacklist=nouveau,nova_core"]
    assert rendered("RedHat", "9.6", nvidia_driver_blacklist_modules=[])["kernel_arguments"] == []
    assert rendered("Debian", "12.1")["kernel_arguments"] == []
