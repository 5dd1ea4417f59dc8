"""What is found of an Ollama of the upstream install script, and what keeps its place from being taken. The taking is tested with ollama_rollout."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _units, _upstream

DEAD_URL = "http://127.0.0.1:9"


def upstream(store: Path, **more: Any) -> _upstream.Upstream:
    """One that runs, with its unit in the place of the script."""
    known = {"unit_file": f"{_upstream.UNIT_DIR}/ollama.service", "wanted": True, "active": True, "binary": "/usr/local/bin/ollama"}
    return _upstream.Upstream(**{**known, "home": str(store.parent), "store": str(store), "url": DEAD_URL, **more})


def fill(store: Path, part: str = "blobs") -> Path:
    """A store with a model."""
    (store / part).mkdir(parents=True, exist_ok=True)
    (store / part / "sha256-1").touch()
    return store


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080/", "http://127.0.0.1:8080"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("https://example.org", "http://example.org:443"),
        ("gpu1:8080/path", "http://gpu1:8080"),
        ("gpu1:nonsense", "http://gpu1:11434"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("::", "http://127.0.0.1:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[fd00::1]:8080", "http://[fd00::1]:8080"),
        (" '10.0.0.1' ", "http://10.0.0.1:11434"),
    ],
)
def test_client_url(host: str, url: str) -> None:
    """As Ollama reads OLLAMA_HOST, and where all addresses are meant, by loopback."""
    assert _upstream.client_url(host) == url


def test_no_problem(tmp_path: Path) -> None:
    """Models on the same disk, an empty store of ours or none, no models at all, or one store."""
    old, ours = fill(tmp_path / "old"), tmp_path / "new/models"
    assert upstream(old).problems(str(ours)) == []
    for part in ("blobs", "manifests"):
        (ours / part).mkdir(parents=True)
    assert upstream(old).problems(str(ours)) == []
    assert upstream(old).problems(str(old)) == []
    (tmp_path / "link").symlink_to(old)
    assert upstream(tmp_path / "link").problems(str(old)) == []
    assert upstream(tmp_path / "none", unit_file="").problems(str(fill(ours))) == []


@pytest.mark.parametrize("part", ["blobs", "manifests"])
def test_both_have_models(tmp_path: Path, part: str) -> None:
    """Neither may be lost."""
    old, ours = fill(tmp_path / "old", part), fill(tmp_path / "ours", part)
    [problem] = upstream(old).problems(str(ours))
    assert problem == f"{ours} and {old} both hold models: remove one of them, or set ollama_models_dir to {old}"


def test_unit_of_a_package(tmp_path: Path) -> None:
    """A package would bring it back; it is a problem even without models."""
    [problem] = upstream(tmp_path / "none", unit_file="/usr/lib/systemd/system/ollama.service").problems(str(tmp_path / "ours"))
    assert problem.startswith("/usr/lib/systemd/system/ollama.service belongs to a package: remove that package")
    both = upstream(fill(tmp_path / "old"), unit_file="/lib/systemd/system/ollama.service").problems(str(fill(tmp_path / "ours")))
    assert len(both) == 2


@pytest.mark.parametrize("case", ["disk", "ours is a mount point", "theirs is one"])
def test_other_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Terabytes are not copied behind anybody's back."""
    old, ours = fill(tmp_path / "old"), tmp_path / "ours/models"
    known = os.stat
    if case == "disk":
        # C(ours) is not there yet: its disk is the one of the next directory that is
        monkeypatch.setattr(os, "stat", lambda path, **more: SimpleNamespace(st_dev=-1) if path == str(tmp_path) else known(path, **more))
    else:
        monkeypatch.setattr(os.path, "ismount", lambda path: path == str(ours if case.startswith("ours") else old))
    [problem] = upstream(old).problems(str(ours))
    assert problem == f"{old} is on another disk than {ours}: set ollama_models_dir to {old}, or move the models yourself"
    with pytest.raises(_upstream.UpstreamError, match="another disk"):
        upstream(old).check(str(ours))
    assert (old / "blobs/sha256-1").exists()


def test_models_of_one_that_does_not_answer(tmp_path: Path) -> None:
    """None are known, whether it runs or not."""
    assert upstream(tmp_path).models() == upstream(tmp_path, active=False).models() == []


class Found:
    """The properties of ollama.service and the paths of its binary, made up."""

    def __init__(self, folder: Path) -> None:
        self.binary = folder / "bin/ollama"
        self.values: dict[str, str] = {"FragmentPath": "", "ActiveState": "inactive", "MainPID": "0", "Environment": "", "UnitFileState": ""}
        self.binary.parent.mkdir()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """In the place of _units.show."""
        assert unit == "ollama.service"
        return {key: value for key, value in self.values.items() if key in names}


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """A host with neither."""
    made = Found(tmp_path)
    monkeypatch.setattr(_units, "show", made.show)
    monkeypatch.setattr(_upstream, "BINARIES", (str(tmp_path / "nowhere"), str(made.binary)))
    return made


@pytest.fixture
def process() -> Iterator[str]:
    """Id of a process with an environment of its own."""
    variables = {"HOME": "/srv/home", "OLLAMA_HOST": "0.0.0.0:8080", "OLLAMA_MODELS": "/srv/own models"}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], env=variables, stdin=subprocess.PIPE) as started:
        yield str(started.pid)
        started.communicate(b"\n")


def test_find_nothing(found: Found) -> None:
    """Our own link in the path is no upstream binary."""
    assert _upstream.find() is None
    found.binary.symlink_to(__file__)
    assert _upstream.find() is None


def test_find_what_runs(found: Found, process: str) -> None:
    """The process itself says where its models are, whatever its unit says by now."""
    found.values.update(FragmentPath="/etc/systemd/system/ollama.service", ActiveState="active", MainPID=process, Environment="OLLAMA_MODELS=/other")
    one = _upstream.find()
    assert one and one.active and one.wanted and one.binary == ""
    assert (one.home, one.store, one.url) == ("/srv/home", "/srv/own models", "http://127.0.0.1:8080")
    assert one.what == "the Ollama of /etc/systemd/system/ollama.service"


def test_find_what_does_not_run(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the unit says it, or else the home of its user."""
    found.values.update(FragmentPath="/etc/systemd/system/ollama.service", UnitFileState="enabled", User="somebody")
    found.values["Environment"] = 'PATH=/usr/bin "OLLAMA_MODELS=/srv/own models"'
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"somebody": SimpleNamespace(pw_dir="/home/somebody")}[name])
    one = _upstream.find()
    assert one and not one.active and one.wanted
    assert (one.home, one.store, one.url) == ("/home/somebody", "/srv/own models", "http://127.0.0.1:11434")
    found.values.update(Environment="", User="", UnitFileState="disabled")
    one = _upstream.find()
    # without that user, the place of the script
    assert one and not one.wanted and one.store == "/usr/share/ollama/.ollama/models"


def test_find_a_binary_alone(found: Found) -> None:
    """The script without systemd."""
    found.binary.touch()
    one = _upstream.find()
    assert one and one.what == f"the Ollama of {found.binary}" and not one.wanted and not one.active
