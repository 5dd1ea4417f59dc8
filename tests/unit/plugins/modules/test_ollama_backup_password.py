"""Module ollama_backup_password on a repository of restic in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_backup_password

from backup_rig import content, restic, restic_program

Run = Callable[..., dict[str, Any]]
OLD, NEW = "the old one", 'the new one $$1 "of mine"'

needs_restic = pytest.mark.skipif(not restic_program(), reason="restic is not on this machine")


@pytest.fixture
def run(tmp_path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The module on that repository."""
    if restic_program():
        monkeypatch.setenv("PATH", f"{Path(restic_program()).parent}:/usr/bin:/bin")
    defaults = {
        "repository": str(tmp_path / "repository"), "password": NEW, "old_password": OLD, "environment": {"RESTIC_CACHE_DIR": str(tmp_path / "cache")},
    }
    return lambda check=False, **args: run_module(ollama_backup_password.main, check=check, **{**defaults, **args})


def opened_by(folder: Path) -> list[str]:
    """Which of the passwords are right."""
    good = []
    for password in (OLD, NEW):
        try:
            restic(str(folder / "repository"), folder / "cache", password).open()
            good.append(password)
        except BackupError as error:
            assert error.kind == "password"
    return good


@needs_restic
def test_added_then_alone(run: Run, tmp_path: Path) -> None:
    """First both are right, then the new one; each step is planned, done once, and shows no password."""
    restic(str(tmp_path / "repository"), tmp_path / "cache", OLD).open(make=True)
    before = content(tmp_path / "repository")
    plan = run(check=True)
    assert plan["changed"] and plan["opens"] == ["old_password"] and content(tmp_path / "repository") == before
    done = run()
    assert done["changed"] and done["opens"] == ["password", "old_password"] and done["diff"] == plan["diff"]
    assert not run()["changed"]
    # a second host added it at the same time, and the old one is there twice as well
    for password in (NEW, OLD):
        restic(str(tmp_path / "repository"), tmp_path / "cache", OLD).add_password(password)
    done = run(state="only")
    assert done["changed"] and done["opens"] == ["password"] and opened_by(tmp_path) == [NEW]
    assert not run(state="only")["changed"]
    assert OLD not in str((plan, done)) and "of mine" not in str((plan, done))


@needs_restic
def test_a_password_file_of_the_environment_does_not_count(run: Run, tmp_path: Path) -> None:
    """It would open the repository whatever is asked."""
    restic(str(tmp_path / "repository"), tmp_path / "cache", OLD).open(make=True)
    (tmp_path / "file").write_text(OLD, encoding="utf-8")
    environment = {"RESTIC_CACHE_DIR": str(tmp_path / "cache"), "RESTIC_PASSWORD_FILE": str(tmp_path / "file")}
    assert run(environment=environment)["opens"] == ["password", "old_password"] and opened_by(tmp_path) == [OLD, NEW]


@needs_restic
def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    """The old one stays as long as the new one does not open it."""
    restic(str(tmp_path / "repository"), tmp_path / "cache", OLD).open(make=True)
    done = run(state="only")
    assert done["failed"] and "old_password stays" in done["msg"] and opened_by(tmp_path) == [OLD]
    done = run(old_password="a third one")
    assert done["kind"] == "password" and "neither password nor old_password" in done["msg"]
    assert "are the same" in run(old_password=NEW)["msg"]
    # which restic would add without it, from its file
    for password in (f" {NEW}", f"{NEW}\t"):
        assert "begins or ends with a blank" in run(password=password)["msg"]
    assert opened_by(tmp_path) == [OLD]


@needs_restic
def test_what_is_not_there_yet(run: Run) -> None:
    """A repository that the role makes afterwards has the new one from the start; one that cannot be found keeps the old one."""
    assert not run(allow_missing=True)["changed"]
    # one whose disk is not mounted is no new one
    for state in ("present", "only"):
        assert run(state=state)["kind"] == "missing"


def test_plain_files_have_none(run: Run) -> None:
    """Nothing to change."""
    done = run(format="cas", password=None)
    assert not done["changed"] and done["opens"] == []
