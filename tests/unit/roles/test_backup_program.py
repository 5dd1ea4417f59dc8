# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The program of the timers, installed as the role installs it and run as the units run it; an Ollama (stand-in) for the drill."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests/unit/plugins"))

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import Cas  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store  # noqa: E402

from backup_rig import ADAPTED, BASE, OWN, Rig, content, restic, restic_program  # noqa: E402

VARS = yaml.safe_load((ROOT / "roles/ollama_backup/vars/main.yml").read_text(encoding="utf-8"))
SAMPLE = re.compile(r"^([a-z_]+(?:\{.*\})?) (\S+)$", re.M)
# what systemd does for a drill: it runs a program with an environment, and ends it
SYSTEMD_RUN = """#!/bin/sh
for word; do
    case $word in
        --setenv=*) export "${word#--setenv=}" ;;
        --) break ;;
    esac
    echo "$word" >>"$(dirname "$0")/run.log"
done
PYTHONPATH=%s nohup %s -m ollama_double serve >"$(dirname "$0")/ollama.log" 2>&1 &
echo $! >"$(dirname "$0")/pid"
"""
SYSTEMCTL = """#!/bin/sh
[ ! -e "$(dirname "$0")/pid" ] || kill "$(cat "$(dirname "$0")/pid")" 2>/dev/null
rm -f "$(dirname "$0")/pid"
"""


class Host:
    """A host with a store, the program, and a repository."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder
        library = folder / "program" / VARS["__ollama_backup_library_dir"]
        library.mkdir(parents=True)
        # the role does so: a host may have an Ansible of its own
        (folder / "program/ansible_collections/__init__.py").touch()
        for name in VARS["__ollama_backup_libraries"]:
            shutil.copy(ROOT / "plugins/module_utils" / name, library)
        shutil.copy(ROOT / "roles/ollama_backup/files/ollama_backup.py", folder / "program")
        for name, text in {"systemd-run": SYSTEMD_RUN % (ROOT / "tests/double", sys.executable), "systemctl": SYSTEMCTL}.items():
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        for name in ("textfile", "state", "ollama/releases/0.34.4/bin"):
            (folder / name).mkdir(parents=True)
        (folder / "ollama/current").symlink_to("releases/0.34.4")
        self.config: dict[str, Any] = {
            "host": "gpu1", "format": "cas", "restic_options": [], "ssh_key_path": "", "ssh_known_hosts_path": "", "rate_limit": "", "lock_timeout": 2,
            "stores": [rig.store.path], "lock": rig.lock, "keep": [], "owners": {}, "owner_timeout": 0, "prunes": True, "keep_daily": 7, "keep_weekly": 0,
            "keep_monthly": 0, "textfile_dir": str(folder / "textfile"), "state_dir": str(folder / "state"), "drill_hosts": ["gpu1"],
            "drill_models": [], "drill_dir": str(folder / "drill"), "sources": [rig.registry.url], "upstream": False, "insecure": False, "proxy": {},
            "reserve": "1M", "user": "nobody" if os.getuid() == 0 else os.environ.get("USER", "root"), "program": str(folder / "ollama/current/bin/ollama"),
        }
        self.environment = {"RESTIC_REPOSITORY": str(folder / "repository")}

    def run(self, what: str, **config: Any) -> tuple[int, str]:
        """Status and all that it says."""
        path = self.folder / "config.json"
        path.write_text(json.dumps({**self.config, **config}), encoding="utf-8")
        environment = {"PATH": f"{self.folder / 'bin'}:{Path(restic_program() or '/x').parent}:/usr/bin:/bin", "HOME": str(self.folder), **self.environment}
        command = [sys.executable, "-I", str(self.folder / "program/ollama_backup.py"), what, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    def samples(self, name: str) -> dict[str, float]:
        """The metrics of a textfile."""
        text = (self.folder / f"textfile/gpufleet_ollama_{name}.prom").read_text(encoding="utf-8")
        assert text.count("# HELP") == text.count("# TYPE") == len({line.split("{")[0] for line, _value in SAMPLE.findall(text)})
        return {line: float(value) for line, value in SAMPLE.findall(text)}


@pytest.fixture
def host(start_registry: Callable[..., Any], tmp_path: Path) -> Host:
    """A host with models and an empty repository of plain files."""
    rig = Rig(start_registry, tmp_path)
    rig.fill()
    Cas(str(tmp_path / "repository")).open(make=True)
    # another user passes through to the scratch directory
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return Host(rig, tmp_path)


def test_backup_says_and_tells(host: Host) -> None:
    """A line about each store, and metrics by the names that the alerts have."""
    status, said = host.run("backup")
    assert status == 0 and "4 models, 3.00 MB in the backup" in said and "left to a registry" in said, said
    found = host.samples("backup")
    assert found["ollama_backup_success"] == 1 and found["ollama_backup_models"] == 4 and found["ollama_backup_retention_success"] == 1
    assert found["ollama_backup_size_bytes"] > 3 << 20 and found["ollama_backup_registry_bytes"] > 4 << 20
    assert found["ollama_backup_added_bytes"] >= found["ollama_backup_size_bytes"]
    repository = Cas(str(host.folder / "repository"))
    assert json.loads(repository.index(repository.snapshots("gpu1")[0]))["release"] == "0.34.4"
    assert found["ollama_backup_last_success_timestamp_seconds"] == found["ollama_backup_last_run_timestamp_seconds"] > 1.7e9
    rules = yaml.safe_load((ROOT / "roles/ollama_monitoring/files/rules/backup.yml").read_text(encoding="utf-8"))
    wanted = set(re.findall(r"ollama_backup_\w+", " ".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])))
    assert host.run("drill")[0] == 0
    assert wanted <= {name.partition("{")[0] for name in [*found, *host.samples("drill")]}


def test_a_failure_is_told_and_the_last_good_one_remembered(host: Host) -> None:
    """The time of the last success stays, so that its age grows."""
    host.run("backup")
    good = host.samples("backup")
    host.environment = {"RESTIC_REPOSITORY": str(host.folder / "away")}
    status, said = host.run("backup")
    assert status == 1 and "is its disk mounted?" in said.splitlines()[-1] and not (host.folder / "away").exists()
    found = host.samples("backup")
    assert found["ollama_backup_success"] == 0
    same = ("ollama_backup_last_success_timestamp_seconds", "ollama_backup_size_bytes")
    assert {name: found[name] for name in same} == {name: good[name] for name in same}
    assert found["ollama_backup_last_run_timestamp_seconds"] > good["ollama_backup_last_run_timestamp_seconds"]


def test_a_host_that_was_never_saved_is_told(host: Host) -> None:
    """Without an age of the last good one the alert would see nothing."""
    host.environment = {"RESTIC_REPOSITORY": str(host.folder / "away")}
    assert host.run("backup")[0] == 1
    found = host.samples("backup")
    assert found["ollama_backup_success"] == 0 == found["ollama_backup_last_success_timestamp_seconds"]


def test_one_store_that_fails_does_not_stop_the_others(host: Host) -> None:
    """All are tried; it counts as a failure."""
    status, said = host.run("backup", stores=["/nowhere/models", host.rig.store.path])
    assert status == 1 and "4 models" in said and "/nowhere/models is no store" in said
    assert host.samples("backup")["ollama_backup_success"] == 0


def test_drill(host: Host) -> None:
    """The backup is read, a model restored, an Ollama answers with it; nothing is left."""
    host.run("backup")
    status, said = host.run("drill")
    assert status == 0, said
    assert "have the digests that they must have" in said and f"restored {OWN}, to the byte" in said and f"{OWN} answers: 'I am the stand-in" in said
    found = host.samples("drill")
    assert found['ollama_backup_drill_success{backup_host="gpu1"}'] == 1
    assert found['ollama_backup_drill_last_success_timestamp_seconds{backup_host="gpu1"}'] > 1.7e9
    assert not (host.folder / "drill/scratch").exists() and not (host.folder / "bin/pid").exists()
    properties = (host.folder / "bin/run.log").read_text(encoding="utf-8")
    assert "--property=IPAddressDeny=any" in properties and "--property=ProtectSystem=strict" in properties and "--uid=" in properties


def test_drill_of_a_host_with_several_stores(host: Host) -> None:
    """A model of each answers. One that the host has no more, whose last backup stays for ever, is neither a failure nor a proof."""
    first, indexes = host.rig.store, host.folder / "repository/indexes/gpu1"
    second = host.rig.store = Store(str(host.folder / "second/models"))
    host.rig.pull(second, BASE)
    weights = second.read(parse(BASE)).first("model")
    host.rig.make("second-bot:latest", [(weights.digest, weights.size, "model"), (b"You are the second one.", "system")])
    assert host.run("backup", stores=[first.path, second.path])[0] == 0
    old = indexes / "%2Fold%2Fmodels"
    old.mkdir()
    (old / f"{int((time.time() - 3 * 86400) * 1e6)}.json").write_text("not an index any more", encoding="utf-8")
    status, said = host.run("drill")
    assert status == 0 and f"restored {OWN}" in said and "second-bot:latest answers" in said and "/old/models was not saved since" in said, said
    status, said = host.run("drill", drill_models=["second-bot"])
    assert status == 0 and "it has no model that is to answer" in said and "second-bot:latest answers" in said and f"restored {OWN}" not in said, said
    status, said = host.run("drill", drill_models=["second-bot", "nope"])
    assert status == 1 and "the backup has no model nope: it has adapted:1b" in said


def test_drill_of_what_is_damaged(host: Host) -> None:
    """It fails, says what, and remembers when it went well; nothing is left."""
    host.run("backup")
    host.run("drill")
    good = host.samples("drill")
    blob = max((host.folder / "repository/blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    status, said = host.run("drill", drill_hosts=["gpu1", "gpu9"])
    assert status == 1 and f"sha256:{blob.name[7:]} has other bytes" in said and "has no backup of gpu9" in said
    found = host.samples("drill")
    key = 'ollama_backup_drill_last_success_timestamp_seconds{backup_host="gpu1"}'
    assert found['ollama_backup_drill_success{backup_host="gpu1"}'] == 0 == found['ollama_backup_drill_success{backup_host="gpu9"}'] and found[key] == good[key]
    assert not (host.folder / "drill/scratch").exists()
    # a host that is not asked about any more
    host.run("drill", drill_hosts=["gpu9"])
    assert not [name for name in host.samples("drill") if "gpu1" in name]


def test_drill_whose_model_does_not_answer(host: Host) -> None:
    """The instance does not start: it fails, and the drill before is no excuse."""
    host.run("backup")
    (host.folder / "bin/systemd-run").write_text("#!/bin/sh\necho no unit for you >&2\nexit 1\n", encoding="utf-8")
    status, said = host.run("drill", drill_models=[ADAPTED])
    assert status == 1 and "no unit for you" in said and f"restored {ADAPTED}" in said and not (host.folder / "drill/scratch").exists()


def test_clean(host: Host) -> None:
    """What a drill left that was killed."""
    (host.folder / "drill/scratch/models").mkdir(parents=True)
    assert host.run("clean")[0] == 0 and not (host.folder / "drill/scratch").exists()
    assert host.run("clean")[0] == 0 and host.run("nonsense")[0] == 2


@pytest.mark.skipif(not restic_program(), reason="restic is not on this machine")
def test_restic(host: Host) -> None:
    """The default format: the password comes by the environment alone."""
    place = str(host.folder / "restic")
    restic(place, host.folder / "cache").open(make=True)
    host.environment = {"RESTIC_REPOSITORY": place, "RESTIC_PASSWORD": "not a secret", "RESTIC_CACHE_DIR": str(host.folder / "cache")}
    status, said = host.run("backup", format="restic")
    assert status == 0, said
    status, said = host.run("drill", format="restic")
    assert status == 0 and "of the repository was read, and is whole" in said, said
    assert "not a secret" not in (host.folder / "config.json").read_text(encoding="utf-8")
    host.environment["RESTIC_PASSWORD"] = "another"
    status, said = host.run("backup", format="restic")
    assert status == 1 and "the password of the repository" in said
    assert Store(host.rig.store.path).names() and content(place)
