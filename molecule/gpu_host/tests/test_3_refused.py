"""What the roles refuse, each on another host: a sentence says the mend, and nothing is changed."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple

import pytest
from conftest import CPU, DAEMON, DEB12, DEB13, KEYRING, MADE, PACKAGES, RELEASES, converge, installed, metrics
from scenario import Play, on_host, pid

OTHER_KEY = "0" * 40


class Refused(NamedTuple):
    """A play that was refused on every host, and what there was before it."""

    play: Play
    daemon: str
    exporter: str


@pytest.fixture(scope="module", name="refused")
def _refused() -> Iterator[Refused]:
    """A configuration of Docker that is no JSON; another key on a host that is bare; another sum of the exporter."""
    host = on_host(DEB12)
    host.check_output(f"cp -p {DAEMON} /root/daemon.json && echo 'live-restore: true' >>{DAEMON}")
    daemon = host.check_output(f"sha256sum {DAEMON}")
    values: dict[str, dict[str, Any]] = {
        DEB12: {"nvidia_container_toolkit_version": "1.19.1-1"},
        CPU: {"nvidia_container_toolkit_without_gpu_enabled": True, "nvidia_container_toolkit_key_fingerprint": OTHER_KEY},
        DEB13: {"nvidia_container_toolkit_enabled": False, "gpu_exporter_version": "1.13.0", "gpu_exporter_sha256": "0" * 64},
    }
    exporter = pid(DEB13, "gpu_exporter.service")
    done = converge(values)
    yield Refused(done, daemon, exporter)
    host.check_output(f"mv /root/daemon.json {DAEMON}")


def test_another_key(refused: Refused) -> None:
    """The file had it in no keyring, no list names the repository, no package came from it."""
    says = f"it holds the key {MADE['fingerprint']}, and {OTHER_KEY} is wanted. Nothing was trusted"
    assert refused.play.failed_with(says), refused.play
    assert on_host(CPU).run(f"ls {KEYRING} /etc/apt/*.d/nvidia-container-toolkit* /tmp/nvidia-container-toolkit.*").stdout == ""
    assert installed(CPU) == {}


def test_what_is_no_json(refused: Refused) -> None:
    """Said before anything else is done, and the file is as it was."""
    assert refused.play.failed_with(f"/etc/docker/daemon.json of {DEB12} is no JSON"), refused.play
    assert on_host(DEB12).check_output(f"sha256sum {DAEMON}") == refused.daemon
    assert refused.play.changed(DEB12) == 0 and installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")


def test_another_sum(refused: Refused) -> None:
    """Nothing is unpacked, and what serves goes on."""
    assert refused.play.failed_with("checksum"), refused.play
    assert on_host(DEB13).check_output(f"ls {RELEASES}/1.13.0-000000000000/ | wc -l") == "0"
    assert pid(DEB13, "gpu_exporter.service") == refused.exporter and metrics(DEB13, 9835)["nvidia_smi_last_collect_success"] == 1


def test_half_a_pin() -> None:
    """A version without its sum would be fetched unchecked."""
    done = converge({CPU: {"nvidia_container_toolkit_enabled": False, "gpu_exporter_sha256": ""}})
    assert done.failed_with("gpu_exporter_version is 1.14.0 and gpu_exporter_sha256 is (empty): give a version"), done
