"""What the role made of hosts that had no driver."""

from __future__ import annotations

import pytest
from conftest import HOSTS, MARK, installed, loaded
from scenario import on_host

VERSION = "580.95.05"

each_host = pytest.mark.parametrize("name", HOSTS)


@each_host
def test_packages(name: str) -> None:
    """The open modules and the programs, all of one version."""
    assert set(installed(name)) == {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced", "libcuda1"}
    assert set(installed(name).values()) == {f"{VERSION}-1"}
    assert on_host(name).check_output("modinfo -F version -k $(uname -r) nvidia") == VERSION


@each_host
def test_rebooted_into_the_driver(name: str) -> None:
    """It is loaded, nvidia-smi shows both GPUs, and no mark of a reboot is left."""
    assert f"Open Kernel Module for x86_64  {VERSION}" in loaded(name)
    assert on_host(name).check_output("nvidia-smi -L").count("H100") == 2
    assert on_host(name).service("nvidia-persistenced").is_running
    assert not on_host(name).file(MARK).exists


@each_host
def test_what_the_boot_needs(name: str) -> None:
    """Other drivers are kept off, and the initramfs was made once for it."""
    host = on_host(name)
    assert host.check_output("modprobe --showconfig | grep -c -E '^(blacklist|install) (nouveau|nova_core|nova_drm)'") == "6"
    assert host.check_output("cat /var/log/initramfs.log") == "-u"


@each_host
def test_nobody_else_moves_the_driver(name: str) -> None:
    """Neither a dist-upgrade, though the repository has newer ones, nor an unattended one; the host does not sleep."""
    host = on_host(name)
    simulated = host.check_output("apt-get -s dist-upgrade")
    assert "nvidia" not in simulated and "libcuda" not in simulated, simulated
    policy = host.check_output("apt-cache policy nvidia-driver-cuda")
    assert f"Candidate: {VERSION}-1" in policy and "595.71.05-1 -1" in policy, policy
    listed = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert all(f'"^{start}";' in listed for start in ("nvidia-", "libnvidia-", "libcuda", "linux-image-")), listed
    for target in ("sleep", "suspend", "hibernate", "hybrid-sleep"):
        assert host.run(f"systemctl is-enabled {target}.target").stdout.strip() == "masked"


@each_host
def test_a_branch_that_is_lost_is_not_replaced(name: str) -> None:
    """apt with the role's own pin, of a version that the repository no longer has: it has no candidate, where without the pin it takes the newest."""
    host = on_host(name)
    host.check_output("sed 's/580.95.05/590.48.01/' /etc/apt/preferences.d/gpufleet-nvidia >/root/lost")
    policy = "apt-cache -o Dir::Etc::PreferencesParts=/nonexistent -o Dir::Etc::Preferences=%s policy nvidia-kernel-dkms"
    assert "Candidate: (none)" in host.check_output(policy, "/root/lost")
    assert "Candidate: 595.71.05-1" in host.check_output(policy, "/nonexistent")


@each_host
def test_apt_trusts_the_key_for_this_repository_alone(name: str) -> None:
    """And finds the lists signed by it."""
    host = on_host(name)
    assert "Signed-By: /usr/share/keyrings/gpufleet-nvidia.asc" in host.file("/etc/apt/sources.list.d/gpufleet-nvidia.sources").content_string
    assert "NO_PUBKEY" not in host.check_output("apt-get update 2>&1")
