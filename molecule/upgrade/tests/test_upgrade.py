"""A release that does not serve leaves the one that does; a good one comes with a restart and nothing more."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import ARCHIVE, HOSTS, PORT, Requests
from scenario import OLLAMA, on_host, pid, play

OLD = "0.32.9"
UNIT = "ollama@default.service"
# a restart of the service, and its first answer
RESTART_SECONDS = 4.0
Loops = Callable[[], dict[str, Requests]]


def version(name: str) -> str:
    """What the API of a host answers."""
    return json.loads(on_host(name).check_output(f"curl -fsS --max-time 10 http://127.0.0.1:{PORT}/api/version"))["version"]


def releases(name: str) -> list[str]:
    """What lies on the disk of a host."""
    return on_host(name).check_output("ls -A /opt/ollama").split()


def sums(release: str, digest: str) -> dict[str, Any]:
    """The variables that make a play want a release."""
    return {"ollama_version": release, "ollama_checksums": {release: {ARCHIVE: digest}}}


# version, options of the builder (None: not there), checksum (empty: the right one), what the play says
NEVER_STARTED = {
    "missing": ("0.35.1", None, "0" * 64, "answered 404: is there an Ollama 0.35.1?"),
    "checksum": ("0.35.2", (), "0" * 64, "is not the archive that was pinned"),
    "truncated": ("0.35.3", ("--truncate",), "", "cannot be unpacked"),
    "says_another_version": ("0.35.4", ("--answers-version", "9.9.9"), "", "does not say that it is 0.35.4"),
}
TAKEN_BACK = {
    "does_not_start": ("0.36.1", ("--exit-at-start", "panic: no such luck"), "panic: no such luck"),
    "serves_another_version": ("0.36.2", ("--serves-version", "9.9.9"), "answers that it is Ollama 9.9.9, and not 0.36.2"),
    "loses_the_models": ("0.36.3", ("--hide-models",), "lists 0 models and listed 1 before: smollm2:135m lost"),
    "dies_after_a_second": ("0.36.4", ("--dies-after", "1"), "ollama@default.service"),
}


def test_archives_that_never_start(publish: Callable[..., str], loops: Loops) -> None:
    """Nothing is touched: not one request fails, no process is restarted, nothing new lies on the disk. All are tried under one loop."""
    before = {name: (pid(name, UNIT), releases(name)) for name in HOSTS}
    for kind, (wanted, options, digest, message) in NEVER_STARTED.items():
        built = publish(wanted, *options) if options is not None else ""
        done = play(OLLAMA, **sums(wanted, digest or built))
        assert done.failed_with(message), (kind, done)
    assert {name: (pid(name, UNIT), releases(name)) for name in HOSTS} == before
    for name, seen in loops().items():
        assert seen.failed == 0 and seen.answered > 50, (name, seen)


@pytest.mark.parametrize("kind", TAKEN_BACK)
def test_a_release_that_does_not_serve_is_taken_back(kind: str, publish: Callable[..., str], loops: Loops) -> None:
    """The play fails with the cause and says what serves; requests see no more than the restarts, and then the old release."""
    wanted, options, message = TAKEN_BACK[kind]
    done = play(OLLAMA, **sums(wanted, publish(wanted, *options)))
    assert done.failed_with(message) and done.failed_with(f"The host went back to Ollama {OLD}"), done
    for name, seen in loops().items():
        assert version(name) == OLD
        assert seen.last_is_good and seen.longest_silence < 2 * RESTART_SECONDS + 5, (name, seen)
        assert on_host(name).file("/opt/ollama/current").linked_to == f"/opt/ollama/{OLD}"


def test_what_was_taken_back_is_no_drift() -> None:
    """After all of that the old version is what it was: the playbook deletes the releases that are too many, and then finds nothing to do."""
    before = {name: pid(name, UNIT) for name in HOSTS}
    assert play(OLLAMA).status == 0
    assert {name: pid(name, UNIT) for name in HOSTS} == before
    done = play(OLLAMA)
    assert done.status == 0 and [done.changed(name) for name in HOSTS] == [0, 0], done


def test_a_configuration_that_does_not_serve_is_taken_back() -> None:
    """Not only releases: a memory limit under which the service cannot live leaves the configuration that it had."""
    before = {name: on_host(name).check_output(f"systemctl show --property=MemoryMax,LimitNOFILE {UNIT}") for name in HOSTS}
    done = play(OLLAMA, ollama_instances=[{"name": "default", "memory_max": "3M"}], ollama_ready_timeout_seconds=15)
    assert done.failed_with(f"The host went back to Ollama {OLD}, with the configuration that it had"), done
    for name in HOSTS:
        assert version(name) == OLD
        assert on_host(name).check_output(f"systemctl show --property=MemoryMax,LimitNOFILE {UNIT}") == before[name]
    assert play(OLLAMA).status == 0


def test_rolling_upgrade_stops_at_the_canary(publish: Callable[..., str]) -> None:
    """The first host fails and goes back; the second has the release on its disk and was not restarted. The report names both."""
    untouched = pid(HOSTS[1], UNIT)
    done = play("upgrade", **sums("0.36.5", publish("0.36.5", "--hide-models")))
    assert done.failed_with(f"{HOSTS[0]} runs {OLD}; {HOSTS[1]} runs {OLD}") and done.failed_with("The upgrade to 0.36.5 stopped here"), done
    assert pid(HOSTS[1], UNIT) == untouched
    assert "0.36.5" in releases(HOSTS[1])


def test_a_killed_rollout_is_taken_up(publish: Callable[..., str]) -> None:
    """Killed between the switch and the tests: the next run knows that the release never proved itself, tests it and takes it back."""
    wanted = sums("0.36.6", publish("0.36.6", "--hide-models"))
    # a module comes over stdin, so its process is a bare interpreter
    kill = 'until [ "$(readlink /opt/ollama/current)" = 0.36.6 ]; do :; done; pkill -9 -f "^/usr/bin/python3[.0-9]*$"'
    killers = [subprocess.Popen(["docker", "exec", name, "sh", "-c", kill]) for name in HOSTS]  # pylint: disable=consider-using-with
    done = play(OLLAMA, **wanted)
    for killer in killers:
        killer.wait(timeout=10)
    assert done.status != 0 and not done.says("went back"), done
    assert [on_host(name).file("/opt/ollama/current").linked_to for name in HOSTS] == ["/opt/ollama/0.36.6"] * 2
    done = play(OLLAMA, **wanted)
    assert done.failed_with("lists 0 models and listed 1 before: smollm2:135m lost") and done.failed_with(f"The host went back to Ollama {OLD}"), done
    assert [version(name) for name in HOSTS] == [OLD, OLD]


def test_upgrade_and_downgrade(loops: Loops) -> None:
    """A good release comes with one restart; two releases stay on the disk; going down again downloads nothing."""
    done = play("upgrade", ollama_version="0.34.4")
    assert done.status == 0, done
    assert all(done.says(f"{name} runs 0.34.4") for name in HOSTS), done
    for name, seen in loops().items():
        assert seen.last_is_good and seen.longest_silence < RESTART_SECONDS, (name, seen)
        assert version(name) == "0.34.4"
        assert {entry for entry in releases(name) if entry[0].isdigit()} == {OLD, "0.34.4"}
    done = play("upgrade", "--diff", ollama_version=OLD)
    assert done.status == 0 and not done.says("download of"), done
    assert [version(name) for name in HOSTS] == [OLD, OLD]


def test_a_damaged_release_is_found_and_repaired() -> None:
    """A file that somebody changed is shown by --check --diff, put right by a run, and the process that ran from it is replaced."""
    file = f"/opt/ollama/{OLD}/lib/ollama/libggml-base.so"
    before = {name: (pid(name, UNIT), on_host(name).check_output(f"sha256sum {file}")) for name in HOSTS}
    on_host(HOSTS[0]).check_output(f"printf X | dd of={file} bs=1 conv=notrunc status=none")
    done = play(OLLAMA, "--check", "--diff")
    assert done.status == 0 and done.says("lib/ollama/libggml-base.so"), done
    assert [done.changed(name) for name in HOSTS] == [2, 0], done
    assert pid(HOSTS[0], UNIT) == before[HOSTS[0]][0]
    assert play(OLLAMA).status == 0
    assert on_host(HOSTS[0]).check_output(f"sha256sum {file}") == before[HOSTS[0]][1]
    assert pid(HOSTS[0], UNIT) != before[HOSTS[0]][0] and pid(HOSTS[1], UNIT) == before[HOSTS[1]][0]


def test_drift_is_shown_and_repaired() -> None:
    """An edited unit and an edited environment: two differences and a restart; a run puts them right."""
    host = on_host(HOSTS[1])
    host.check_output("sed -i s/ProtectSystem=strict/ProtectSystem=false/ /etc/systemd/system/ollama@.service")
    host.check_output("""echo 'OLLAMA_DEBUG="1"' >>/etc/ollama/default.env""")
    done = play(OLLAMA, "--check", "--diff")
    assert done.says("-ProtectSystem=false") and done.says('-OLLAMA_DEBUG="1"'), done
    assert done.changed(HOSTS[1]) == 3, done
    assert play(OLLAMA).status == 0
    assert "OLLAMA_DEBUG" not in host.check_output(f"cat /proc/{pid(HOSTS[1], UNIT)}/environ | tr '\\0' '\\n'")
    assert play(OLLAMA).changed(HOSTS[1]) == 0


def test_archive_on_the_controller(publish: Callable[..., str], tmp_path: Path) -> None:
    """A host that reaches no mirror and has no zstd: the archive comes from the controller, unpacked there."""
    for name in HOSTS:
        on_host(name).check_output("mv /usr/bin/zstd /usr/bin/zstd.away")
    try:
        wanted = sums("0.37.1", publish("0.37.1"))
        done = play(OLLAMA, "--diff", ollama_release_dir=str(tmp_path), ollama_unpack_on="controller", **wanted)
    finally:
        for name in HOSTS:
            on_host(name).check_output("mv /usr/bin/zstd.away /usr/bin/zstd")
    assert done.status == 0 and done.says("copy of") and not done.says("download of"), done
    assert [version(name) for name in HOSTS] == ["0.37.1", "0.37.1"]
