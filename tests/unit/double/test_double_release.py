# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases of the stand-in: layout, reproducible bytes, checksums, broken ones."""
from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import pytest
from ollama_double import release, zstd

NAME = "ollama-linux-amd64.tar.zst"


@pytest.fixture(name="uncompressed")
def fixture_uncompressed(monkeypatch):
    """Compression left out: most tests are about what is in the archive, and not every machine can compress."""
    monkeypatch.setattr(release, "compress", lambda data: data)


def build(directory, *options):
    assert release.main(["--version", "0.34.4", "--out", str(directory), *options]) == 0
    return (directory / NAME).read_bytes()


@pytest.mark.usefixtures("uncompressed")
def test_layout(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(build(tmp_path))) as bundle:
        members = {member.name: member for member in bundle.getmembers()}
    assert members["bin/ollama"].mode == 0o755
    for name in ("lib/ollama/llama-server", "lib/ollama/libggml-base.so", "lib/ollama/cuda_v12/libggml-cuda.so", "lib/ollama/cuda_v13/libggml-cuda.so"):
        assert members[name].isfile()
    assert all((member.uid, member.gid) == (0, 0) and not name.startswith("./") for name, member in members.items())


@pytest.mark.usefixtures("uncompressed")
def test_same_input_same_bytes(tmp_path):
    first = build(tmp_path / "one")
    os.utime(release.__file__)
    assert build(tmp_path / "two") == first
    assert build(tmp_path / "three", "--answers-version", "0.34.5") != first


@pytest.mark.usefixtures("uncompressed")
def test_checksums_are_kept_per_file(tmp_path):
    build(tmp_path)
    build(tmp_path, "--arch", "arm64")
    data = build(tmp_path)
    lines = (tmp_path / "sha256sum.txt").read_text(encoding="ascii").splitlines()
    assert len(lines) == 2
    assert f"{hashlib.sha256(data).hexdigest()}  ./{NAME}" in lines


@pytest.mark.usefixtures("uncompressed")
def test_truncated_and_wrongly_summed(tmp_path):
    whole = build(tmp_path / "whole")
    half = build(tmp_path / "half", "--truncate")
    assert half == whole[:len(half)] and len(half) < len(whole)
    assert hashlib.sha256(half).hexdigest() in (tmp_path / "half" / "sha256sum.txt").read_text(encoding="ascii")
    build(tmp_path / "wrong", "--wrong-sum")
    assert (tmp_path / "wrong" / "sha256sum.txt").read_text(encoding="ascii") == f"{'0' * 64}  ./{NAME}\n"


@pytest.mark.usefixtures("uncompressed")
def test_the_program_runs_from_the_archive(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(build(tmp_path, "--exit-at-start", "no libcuda"))) as bundle:
        program = tmp_path / "ollama"
        program.write_bytes(bundle.extractfile("bin/ollama").read())
    environ = {"HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:1"}

    def run(*arguments):
        return subprocess.run([sys.executable, program, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=20)

    version = run("--version")
    assert version.returncode == 0
    assert version.stdout == "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.34.4\n"
    other = run("run", "m")
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert "stand-in" in other.stderr
    start = run("serve")
    assert start.returncode == 1
    assert "Error: no libcuda" in start.stderr


@pytest.mark.usefixtures("uncompressed")
def test_what_only_a_running_server_shows(tmp_path):
    """--version is right; the server says another one, and dies."""
    with tarfile.open(fileobj=io.BytesIO(build(tmp_path, "--serves-version", "0.1.0", "--dies-after", "1.5"))) as bundle:
        program = tmp_path / "ollama"
        program.write_bytes(bundle.extractfile("bin/ollama").read())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environ = {"HOME": str(tmp_path), "OLLAMA_HOST": address}
    version = subprocess.run([sys.executable, program, "--version"], env=environ, capture_output=True, text=True, check=True, timeout=20)
    assert "client version is 0.34.4" in version.stdout
    with subprocess.Popen([sys.executable, program, "serve"], env=environ, stderr=subprocess.PIPE, text=True) as server:
        for _attempt in range(100):
            try:
                with urllib.request.urlopen(f"http://{address}/api/version", timeout=5) as answer:
                    assert json.load(answer) == {"version": "0.1.0"}
                break
            except urllib.error.URLError:
                time.sleep(0.02)
        else:
            pytest.fail("it never answered")
        assert server.wait(timeout=20) == 1
        assert "(version 0.1.0)" in server.stderr.read()


def test_compression_can_be_undone():
    try:
        packed = zstd.compress(b"x" * 1000)
    except zstd.NoZstd:
        pytest.skip("nothing here can compress: install zstandard")
    assert packed[:4] == bytes.fromhex("28b52ffd")
    assert len(packed) < 100


def test_without_any_zstd_there_is_one_clear_error(tmp_path, monkeypatch, capsys):
    def missing(name, *_arguments):
        raise ImportError(name)

    monkeypatch.setattr(zstd.importlib, "import_module", missing)
    monkeypatch.setattr(zstd.shutil, "which", lambda _name: None)
    assert release.main(["--version", "0.34.4", "--out", str(tmp_path)]) == 1
    assert "zstandard" in capsys.readouterr().err


def test_registry_as_one_file(tmp_path):
    target = tmp_path / "ollama-registry.pyz"
    assert release.main(["--registry", str(target)]) == 0
    run = subprocess.run([sys.executable, target, "--listen", "nowhere"], capture_output=True, text=True, check=False, timeout=20)
    assert run.returncode == 2
    assert "--listen" in run.stderr
