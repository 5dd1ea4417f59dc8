"""The lock file: its text, what of it stays, and the playbook that writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import lock_entry
from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _lock, _model

ROOT = Path(__file__).resolve().parents[4]
ODD = [
    "", " ", "\n\r\t", "'\"\\", "a: b # c", "{{ x }}", "é", "\x7f\x85\xa0\u2028\ufeff", "\ufffe\uffff", "😀\U0010ffff", "\\n", "- a", "no", " x ",
    "…" * 300,
]


def entry(seed: int = 1, note: str = "", **metadata: Any) -> dict[str, Any]:
    """An entry with a text in its manifest."""
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{seed:064x}", "size": 5}
    raw = json.dumps({"layers": [layer], "note": note}, ensure_ascii=False, indent=1 if note else None)
    return lock_entry(raw.encode(), "registry.ollama.ai", metadata)


def write(*args: Any) -> dict[str, Any]:
    """The text, as it is read back."""
    return _lock.model_lock(yaml.safe_load(_lock.lock_document(*args)))


@pytest.mark.parametrize("note", ODD)
def test_exact_manifest(note: str) -> None:
    """Whatever stands in a manifest; each in one line."""
    found = {"a:1b": entry(1, note, architecture="llama", head_count=[8, 0])}
    assert write(found) == found
    assert _lock.lock_document(found).isascii() and len(_lock.lock_document(found).splitlines()) == 13
    assert yaml.safe_load(f"a: {_lock._quoted(note)}\nb: {{c: {_lock._quoted(note)}}}") == {"a": note, "b": {"c": note}}


def test_order() -> None:
    """Sorted without case, whatever order it comes in; the text of the empty one is what a new fleet begins with."""
    names = ["b:1b", "A:1b", "hf.co/x/y:Q4", "1:30", "x/a:1b", "yes:no"]
    found = {name: entry(number, block_count=2, architecture="llama") for number, name in enumerate(names)}
    shuffled = {name: dict(reversed(list(found[name].items()))) for name in reversed(names)}
    assert _lock.lock_document(found) == _lock.lock_document(shuffled) and write(found) == found
    assert list(write(found)) == ["hf.co/x/y:Q4", "1:30", "A:1b", "b:1b", "yes:no", "x/a:1b"]
    assert _lock.lock_document({}) == (ROOT / "playbooks/files/new_fleet/models.lock.yml").read_text(encoding="utf-8")
    assert list(write(found)["b:1b"]) == ["manifest_digest", "size", "origin", "layers", "metadata", "manifest"]


def test_what_stays() -> None:
    """What was not asked for, while it is wanted; a name that left the manifest leaves the lock."""
    old = _lock.lock_document({"a:1b": entry(1), "b:1b": entry(2), "c:1b": entry(3)})
    assert write({"a:1b": entry(4)}, old, ["a:1b", "B:1b"]) == {"a:1b": entry(4), "b:1b": entry(2)}
    assert write({"A:1b": entry(4)}, old) == {"A:1b": entry(4)}


def test_metadata_stays() -> None:
    """While the weights are the same; else it is another model's."""
    old = _lock.lock_document({"a:1b": entry(1, block_count=2)})
    assert write({"a:1b": entry(1)}, old) == {"a:1b": entry(1, block_count=2)}
    assert write({"a:1b": entry(2)}, old) == {"a:1b": entry(2)}
    assert write({"a:1b": entry(1, block_count=3)}, old) == {"a:1b": entry(1, block_count=3)}


@pytest.mark.parametrize("document", [None, {}, "", {"models": None}, {"models": {}}])
def test_empty_lock(document: Any) -> None:
    """Nothing is locked."""
    assert _lock.model_lock(document) == {}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": {"a": {**entry(1), "manifest": entry(2)["manifest"]}}}, "the lock of a:latest is damaged: its manifest has the digest"),
        ({"models": {"a": {**entry(1), "manifest": "{"}}}, "the lock of a:latest is damaged"),
        ({"models": {"a": None}}, "the lock of a:latest has no manifest"),
        ({"models": {"a": entry(1), "A:LATEST": entry(1)}}, "has A:LATEST twice, as 'a' and as 'A:LATEST', which are one model: remove one of them"),
        ({"models": {"a b": entry(1)}}, "'a b' is no model name"),
        ({"models": {5: entry(1)}}, "5 is no model name"),
        ({"models": ["a"]}, "must hold models, and nothing else: take the file from git"),
        ({"models": {}, "more": 1}, "must hold models, and nothing else"),
        (["a"], "must hold models"),
        ("a", "must hold models"),
    ],
)
def test_damaged(document: Any, message: str) -> None:
    """One sentence each."""
    with pytest.raises(_model.ModelError, match=message):
        _lock.model_lock(document)


def test_damaged_entry_can_be_made_again() -> None:
    """It does not keep the playbook from replacing it, only from writing it back."""
    old = yaml.safe_dump({"models": {"a:1b": {**entry(1), "manifest": ""}, "b:1b": 5}})
    assert write({"a:1b": entry(2), "b:1b": entry(3)}, old) == {"a:1b": entry(2), "b:1b": entry(3)}
    with pytest.raises(_model.ModelError, match="the lock of b:1b has no manifest: make it again"):
        write({"a:1b": entry(2)}, old, ["a:1b", "b:1b"])


def test_conflict_of_a_merge() -> None:
    """The way that most locks break."""
    with pytest.raises(_model.ModelError, match=r"is no YAML \(.*\): take the file from git, or where two branches changed it either side"):
        _lock.lock_document({}, "models:\n<<<<<<< ours\n  a: 1\n=======\n  a: 2\n>>>>>>> theirs\n")


def test_moves() -> None:
    """A line for each model that is another one now."""
    old = _lock.lock_document({"a:1b": entry(1), "b:1b": entry(2), "c:1b": entry(3)})
    new = _lock.lock_document({"A:1b": entry(1), "b:1b": entry(4), "d:1b": entry(5)})
    two, three, four, five = (entry(number)["manifest_digest"][:19] for number in (2, 3, 4, 5))
    assert _lock.lock_moves(new, old) == [f"b:1b {two}… -> {four}…", f"c:1b {three}… -> (not locked)", f"d:1b (not locked) -> {five}…"]
    assert _lock.lock_moves(old, old) == []


def test_lockable() -> None:
    """Each once, of any host; not what is deleted, and not what is made here."""
    manifests = [["b", "llama3.2:1b"], [], [{"name": "B:latest"}, {"name": "bot", "from": "b"}, "b", {"name": "c", "state": "absent"}][1:], ["LLAMA3.2:1b"]]
    assert _lock.lockable(manifests) == ["b:latest", "llama3.2:1b"]
    assert _lock.lockable(manifests, " LLama3.2:1b ,") == ["llama3.2:1b"] and _lock.lockable(manifests, ["b"]) == ["b:latest"]
    with pytest.raises(_model.ModelError, match=r"lock_models has llama3.2:latest, .* \(did you mean llama3.2:1b\?\)"):
        _lock.lockable(manifests, "llama3.2")
    with pytest.raises(_model.ModelError, match="lock_models has bot:latest"):
        _lock.lockable(manifests, "bot")


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run the playbook on hosts that are not there: status and output."""
    hosts = {
        "gpu1": {"ollama_models": ["llama3.2:1b", {"name": "bot", "from": "llama3.2:1b"}]},
        "gpu2": {"ollama_models": ["smollm2:135m", {"name": "old", "state": "absent"}]},
        "gpu3": {},
        # asks itself, as another host would
        "gpu4": {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable},
    }
    everywhere = {
        "ansible_host": "192.0.2.1", "ansible_become": True, "ansible_python_interpreter": "/none", "ansible_connection": "ssh",
        "ollama_models_lock_path": "{{ inventory_dir }}/models.lock.yml",
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": everywhere, "children": {"ollama": {"hosts": hosts}}}}), encoding="utf-8")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    environ = {
        **os.environ, "PWD": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"),
        "ANSIBLE_NOCOLOR": "1", "COLUMNS": "1000",
    }

    def run(*options: str) -> tuple[int, str]:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "gpufleet.ollama.lock", "-i", "hosts.yml", *options]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stdout + done.stderr

    return run


def test_playbook(tmp_path: Path, start_registry: Callable[..., Any], play: Callable[..., tuple[int, str]]) -> None:
    """Writes, changes nothing the second time, and shows a tag that moved; the others are left alone when only one is asked for."""
    registry, path = start_registry(), tmp_path / "models.lock.yml"
    source = ("-e", f"lock_sources={registry.url}")
    status, output = play(*source)
    assert status == 0 and "changed=1" in output and "llama3.2:1b (not locked) -> sha256:" in output, output
    first = path.read_text(encoding="utf-8")
    lock = _lock.model_lock(yaml.safe_load(first))
    assert list(lock) == ["llama3.2:1b", "smollm2:135m"] and lock["llama3.2:1b"]["metadata"]["block_count"] == 2
    assert "changed=0" in (again := play(*source)[1]) and "nothing moved" in again
    before, now = lock["smollm2:135m"]["manifest_digest"], registry.post("/_double/republish", {"name": "smollm2:135m", "seed": 99})[1]["digest"]
    status, output = play(*source, "--check", "--diff")
    assert status == 0 and f"-    manifest_digest: {before}" in output and f"+    manifest_digest: {now}" in output
    assert f"smollm2:135m {before[:19]}… -> {now[:19]}…" in output and path.read_text(encoding="utf-8") == first
    # from a host, and only what did not move
    assert "changed=0" in play(*source, "-e", "lock_models=llama3.2:1b", "-e", "lock_host=gpu4")[1] and path.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("ollama_models_lock_path=", "ollama_models_lock_path is not set: give the path of the lock file"),
        ("lock_models=smollm2", "did you mean smollm2:135m?"),
    ],
)
def test_playbook_refuses(play: Callable[..., tuple[int, str]], option: str, says: str) -> None:
    """Before anything is asked."""
    status, output = play("-e", option)
    assert status != 0 and says in output, output
