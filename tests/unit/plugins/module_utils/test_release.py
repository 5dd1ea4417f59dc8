"""Trees of files: what counts as damage, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _release

Tree = tuple[Path, dict[str, Any]]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A small release with its table."""
    top = tmp_path / "tree"
    (top / "lib/cuda").mkdir(parents=True)
    (top / "lib/a.so").write_bytes(b"library")
    (top / "lib/cuda/b.so").write_bytes(b"other")
    (top / "lib/link.so").symlink_to("a.so")
    (top / ".release.json").touch()
    (top / "release.env").touch()
    return top, _release.survey(str(top))


def flip(path: Path) -> None:
    """Other content of the same length, with the same time of change."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def relink(path: Path) -> None:
    """The link points elsewhere."""
    path.unlink()
    path.symlink_to("cuda/b.so")


def to_link(path: Path) -> None:
    """A link with the right content behind it."""
    shutil.move(path, path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "content": ("lib/a.so", flip),
    "size": ("lib/a.so", lambda path: path.write_bytes(b"")),
    "mode": ("lib/a.so", lambda path: path.chmod(0o777)),
    "kind": ("lib/a.so", to_link),
    "missing": ("lib/a.so", lambda path: path.unlink()),
    "additional": ("lib/cuda/c.so", lambda path: path.touch()),
    "additional pipe": ("lib/pipe", os.mkfifo),
    "no UTF-8": ("lib/\\udcff", lambda path: Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff")).touch()),
    "link": ("lib/link.so", relink),
    "directory": ("lib/cuda", lambda path: path.chmod(0o700)),
    "top": (".", lambda path: path.chmod(0o700)),
    "owner": ("lib/a.so", lambda path: os.chown(path, 4711, -1)),
    "owner of a link": ("lib/link.so", lambda path: os.lchown(path, 4711, -1)),
}


def test_untouched_tree(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is damaged, and nothing is read to know that; the record and the environment file do not count."""
    top, table = tree
    assert set(table) == {".", "lib", "lib/a.so", "lib/cuda", "lib/cuda/b.so", "lib/link.so"}
    monkeypatch.setattr(_release, "sha256", lambda *args: pytest.fail("read"))
    assert _release.compare(str(top), table, full=False) == ([], table)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage(tree: Tree, kind: str) -> None:
    """Each kind is found, by the quick look."""
    top, table = tree
    name, damage = DAMAGES[kind]
    if kind.startswith("owner") and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    damage(top / name)
    assert _release.compare(str(top), table, full=False)[0] == [name]


def test_other_owner_is_no_matter_without_root(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who runs the module owns the release."""
    top, table = tree
    monkeypatch.setattr(_release.os, "geteuid", lambda: 1000)
    assert _release.compare(str(top), table, full=False)[0] == []


def test_times_alone_are_no_damage(tree: Tree) -> None:
    """A restored backup: read, found right, and its times known from then on."""
    top, table = tree
    (top / "lib/a.so").write_bytes((top / "lib/a.so").read_bytes())
    damaged, today = _release.compare(str(top), table, full=False)
    assert damaged == [] and today != table
    assert _release.compare(str(top), today, full=False) == ([], today)


def test_disk_that_cannot_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error is damage, not a traceback."""
    top, table = tree

    def broken(path: str) -> str:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(_release, "sha256", broken)
    assert _release.compare(str(top), table, full=True)[0] == ["lib/a.so", "lib/cuda/b.so"]


def test_times_outlive_the_last_step_of_an_installation(tree: Tree) -> None:
    """A directory is renamed; the files in it keep their times, those of change of status too."""
    top, table = tree
    top.rename(top.with_name("place"))
    assert _release.compare(str(top.with_name("place")), table, full=False) == ([], table)


def test_failed_swap_brings_the_old_release_back(tmp_path: Path) -> None:
    """The second of two renames fails: what was there is there again."""
    release = _release.Release(str(tmp_path), "1.0.0", [], 1)
    (tmp_path / "1.0.0").mkdir()
    (tmp_path / ".staging-1.0.0").mkdir()
    with pytest.raises(OSError):
        release._swap(str(tmp_path / ".staging-1.0.0/tree"))
    assert (tmp_path / "1.0.0").is_dir()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('GPUFLEET_RELEASE_ID="0123456789ab-01234567"\n', "0123456789ab-01234567"),
        ("GPUFLEET_RELEASE_ID=\n", ""),
        (None, ""),
    ],
    ids=["id", "empty", "absent"],
)
def test_release_id(tmp_path: Path, text: str | None, wanted: str) -> None:
    """It is read from the environment file."""
    (tmp_path / "1.0.0").mkdir()
    if text is not None:
        (tmp_path / "1.0.0/release.env").write_text(text, encoding="utf-8")
    assert _release.release_id(str(tmp_path), "1.0.0") == wanted


def test_link(tmp_path: Path) -> None:
    """Switched over a leftover of a killed run, too."""
    link = tmp_path / "current"
    assert _release.read_link(str(link)) == ""
    (tmp_path / "current.new").symlink_to("0.9.0")
    for version in ("1.0.0", "2.0.0"):
        _release.switch_link(str(link), version)
        assert _release.read_link(str(link)) == version and os.listdir(tmp_path) == ["current"]
