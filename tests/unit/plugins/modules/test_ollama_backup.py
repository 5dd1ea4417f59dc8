"""Module ollama_backup on a store in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import ollama_backup

from backup_rig import ADAPTED, BASE, OWN, Rig, content, restic_program

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def rig(start_registry: Callable[..., Any], tmp_path: Path) -> Rig:
    """A host whose store is filled."""
    found = Rig(start_registry, tmp_path)
    found.fill()
    return found


@pytest.fixture
def run(rig: Rig, run_module: Run) -> Run:
    """The module on that store, with plain files."""
    defaults = {"store": rig.store.path, "host": "gpu1", "lock": rig.lock, "format": "cas", "repository": str(rig.folder / "repository")}
    return lambda check=False, **args: run_module(ollama_backup.main, check=check, **{**defaults, **args})


def test_plan_backup_and_nothing(rig: Rig, run: Run) -> None:
    """Check mode says the bytes and makes nothing; then it is made, once; a change is a new one."""
    plan = run(check=True)
    assert plan["changed"] and plan["backup_bytes"] > 3 << 20 and plan["registry_bytes"] > 4 << 20 and plan["missing_bytes"] == plan["backup_bytes"]
    assert not (rig.folder / "repository").exists() and plan["snapshot"] == "" and plan["diff"]["before"] == ""
    models = {model["name"]: model for model in plan["models"]}
    assert set(models) == {BASE, "all-minilm:latest", OWN, ADAPTED}
    assert models[BASE]["backup_bytes"] == 0 and models[OWN]["registry_bytes"] > 4 << 20 and 0 < models[OWN]["backup_bytes"] < 200
    done = run()
    assert done["changed"] and done["snapshot"] and done["added_bytes"] > done["backup_bytes"] and done["models"] == plan["models"]
    before = content(rig.folder / "repository")
    again = run()
    assert not again["changed"] and again["snapshot"] == "" and again["missing_bytes"] == 0 and content(rig.folder / "repository") == before
    assert run(force=True)["changed"]
    rig.make(OWN, [(b"You answer briefly.", "system")])
    changed = run(keep_daily=1)
    assert changed["changed"] and changed["diff"]["before"] != changed["diff"]["after"] and changed["removed"] == 2


def test_only_the_repository(rig: Rig, run: Run) -> None:
    """For a role: it makes the place, so that its timer need not."""
    assert run(initialise="only", check=True)["changed"] and not (rig.folder / "repository").exists()
    done = run(initialise="only")
    assert done["changed"] and done["snapshot"] == "" and not run(initialise="only")["changed"]
    assert run(initialise="never")["changed"]
    before = content(rig.folder / "repository")
    assert not run(initialise="check")["changed"] and content(rig.folder / "repository") == before
    # one that must be there is not made
    for check in (False, True):
        away = run(initialise="check", repository=str(rig.folder / "away"), check=check)
        assert away["failed"] and away["kind"] == "missing" and not (rig.folder / "away").exists()


def test_progress_is_written(rig: Rig, run: Run) -> None:
    """For who looks on."""
    path = rig.folder / "progress"
    assert run(progress_path=str(path))["changed"]
    assert '"backup of ' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repository": ""}, "no repository is given"),
        ({"repository": "s3:https://s3.example.com/b"}, "format cas needs an absolute path"),
        ({"format": "restic"}, "no password is given"),
        ({"format": "restic", "repository": "rest:https://me:geheim@backup.example/"}, "give it as RESTIC_REPOSITORY in environment"),
        ({"format": "restic", "password": "x", "ssh_key_path": "/etc/key"}, "give both of ssh_key_path and ssh_known_hosts_path"),
        ({"rate_limit": "fast"}, "is no number of bytes"),
        ({"keep_daily": -1}, "give 0 or more"),
        ({"initialise": "never"}, "is its disk mounted?"),
        ({"store": "/nowhere/models"}, "is no store of models"),
    ],
)
def test_what_is_refused(run: Run, options: dict[str, Any], message: str) -> None:
    """One sentence for each; no secret in it."""
    done = run(**options)
    assert done["failed"] and message in done["msg"] and "geheim" not in done["msg"] and done["kind"]


@pytest.mark.skipif(not restic_program(), reason="restic is not on this machine")
def test_restic(rig: Rig, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default format; a wrong password is said so."""
    monkeypatch.setenv("PATH", f"{Path(restic_program()).parent}:/usr/bin:/bin")
    options = {"format": "restic", "password": "not a secret", "environment": {"RESTIC_CACHE_DIR": str(rig.folder / "cache")}}
    assert run(check=True, **options)["changed"] and run(**options)["changed"] and not run(**options)["changed"]
    wrong = run(**{**options, "password": "another"})
    assert wrong["kind"] == "password" and "not a secret" not in str(wrong)
