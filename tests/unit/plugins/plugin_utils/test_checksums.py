"""Tables of pinned releases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _checksums, _model

ROOT = Path(__file__).resolve().parents[4]
SUMS = {name: digit * 64 for digit, name in zip("abcdef", ("amd64", "arm64", "amd64-rocm", "amd64-mlx", "arm64-jetpack6", "x"))}
# as a release has it: unsorted, and with much that is of no use here
TEXT = f"""\
{SUMS["x"]}  ./OllamaSetup.exe
{SUMS["amd64-mlx"]}  ./ollama-linux-amd64-mlx.tar.zst
{SUMS["arm64"]}  ./ollama-linux-arm64.tar.zst
{SUMS["amd64"]} *ollama-linux-amd64.tar.zst
{SUMS["arm64-jetpack6"]}  ./ollama-linux-arm64-jetpack6.tar.zst
{SUMS["amd64-rocm"]}  ./ollama-linux-amd64-rocm.tar.zst
{SUMS["x"]}  ./ollama-darwin.tgz
"""
OURS = {f"ollama-linux-{name}.tar.zst": SUMS[name] for name in ("amd64", "amd64-rocm", "arm64")}
TABLE = f"""\
---
# two lines
# of comment
__ollama_release_checksums:
  # the one before the change
  "0.34.4":
    ollama-linux-amd64.tar.zst: {"1a" * 32}
    # from a mirror
    ollama-linux-arm64.tar.zst: {"2a" * 32}
  '0.9.6':
    ollama-linux-amd64.tar.zst: {"3" * 64}
"""


def add(version: str, table: str = TABLE, replace: bool = False) -> str:
    """Add the release of TEXT to a table."""
    return _checksums.release_checksums(TEXT, version, table, replace)


def test_sums() -> None:
    """The archives for Linux hosts; never mlx or jetpack."""
    assert _checksums.parse_sums(TEXT) == OURS


def test_new_table() -> None:
    """A header, the variable of role ollama, and the archives in order."""
    text = add("0.35.0", "")
    assert text.startswith("---\n# ") and yaml.safe_load(text) == {"ollama_checksums": {"0.35.0": OURS}}
    assert list(yaml.safe_load(text)["ollama_checksums"]["0.35.0"]) == sorted(OURS)


def test_everything_else_stays() -> None:
    """Header, key, comments and the other versions' lines; only the new lines are new."""
    lines = add("0.35.0").splitlines()
    assert [line for line in lines if line in TABLE.splitlines()] == TABLE.splitlines()
    assert len(lines) == len(TABLE.splitlines()) + 4


@pytest.mark.parametrize("version", ["0.35.0", "0.34.5-rc10", "0.10.0", "0.9.6-rc2"])
def test_newest_version_comes_first(version: str) -> None:
    """By number, not by letter; a candidate comes before its release."""
    found = list(yaml.safe_load(add(version))["__ollama_release_checksums"])
    assert found == sorted(found, key=_checksums.order, reverse=True) and version in found


def test_order() -> None:
    """From old to new."""
    versions = ["0.9.0", "0.10.0-rc2", "0.10.0-rc10", "0.10.0", "0.10.1"]
    assert sorted(reversed(versions), key=_checksums.order) == versions


def test_same_sums_change_nothing() -> None:
    """Not a byte, however the table is written."""
    table = add("0.35.0").replace("aaa", "AAA").rstrip("\n")
    assert add("0.35.0", table) == table


def test_archive_is_added_to_a_version() -> None:
    """A pinned version without its rocm archive gets it; what else is pinned stays."""
    table = f'k:\n  # why\n  "0.35.0":\n    ollama-linux-amd64.tar.zst: {SUMS["amd64"]}\n    own.tar.zst: {"9a" * 32}\n'
    text = add("0.35.0", table)
    assert yaml.safe_load(text) == {"k": {"0.35.0": {**OURS, "own.tar.zst": "9a" * 32}}} and "  # why\n" in text


def test_other_sum_stops() -> None:
    """A pinned sum is not replaced unless that is asked for."""
    with pytest.raises(_model.ModelError, match="of ollama-linux-amd64.tar.zst, ollama-linux-arm64.tar.zst of Ollama 0.34.4 is another than"):
        add("0.34.4")
    assert yaml.safe_load(add("0.34.4", replace=True))["__ollama_release_checksums"]["0.34.4"] == OURS


def test_empty_table_of_the_user() -> None:
    """A variable without versions, in one line."""
    text = add("0.35.0", "# mine\nollama_checksums: {}\n# end\n")
    assert text.startswith("# mine\nollama_checksums:\n# end\n") and yaml.safe_load(text) == {"ollama_checksums": {"0.35.0": OURS}}


@pytest.mark.parametrize(
    ("sums", "version", "table", "message"),
    [
        (TEXT, "v0.35.0", "", "without v"),
        (TEXT, "0.35", "", "an exact version"),
        ("", "0.35.0", "", "it is empty"),
        ("<html>\n", "0.35.0", "", "no sha256sum.txt: it holds the line '<html>'"),
        (f"{'a' * 64}  ./OllamaSetup.exe\n", "0.35.0", "", "names no archive"),
        (TEXT, "0.35.0", "a: {}\nb: {}\n", "one variable"),
        (TEXT, "0.35.0", "- a\n", "one variable"),
        (TEXT, "0.35.0", "a: [\n", "no YAML"),
        (TEXT, "0.35.0", 'a: {"0.1.0": {x: y}}\n', "not laid out"),
        (TEXT, "0.35.0", 'a:\n  "0.1.0": {x: y}\n', "not laid out"),
        (TEXT, "0.35.0", 'a:\n  "0.1.0":\n    - x\n', "not laid out"),
    ],
)
def test_refused(sums: str, version: str, table: str, message: str) -> None:
    """One sentence each."""
    with pytest.raises(_model.ModelError, match=message):
        _checksums.release_checksums(sums, version, table)


def test_playbook(tmp_path: Path) -> None:
    """Adds to the role's own table from a file; relative paths begin where the operator stands; the second run changes nothing."""
    original = (ROOT / "roles/ollama/vars/main/checksums.yml").read_text(encoding="utf-8")
    (tmp_path / "table.yml").write_text(original, encoding="utf-8")
    (tmp_path / "sha256sum.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    environ = {
        **os.environ, "PWD": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"), "ANSIBLE_NOCOLOR": "1",
    }

    def run(*options: str) -> str:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "gpufleet.ollama.add_release", "--diff", *options]
        for variable in ("version=9.9.9", "sums=sha256sum.txt", "table=table.yml"):
            command += ["-e", f"release_{variable}"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    plan = run("--check")
    assert "changed=1" in plan and '+  "9.9.9":' in plan and (tmp_path / "table.yml").read_text(encoding="utf-8") == original
    assert "changed=1" in run()
    found = (tmp_path / "table.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(found)["__ollama_release_checksums"]["9.9.9"] == OURS
    # the header and every pin are as they were
    assert [line for line in found.splitlines() if line in original.splitlines()] == original.splitlines()
    assert "changed=0" in run()
