# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds releases of the stand-in for Ollama, laid out as the real ones: `python -m ollama_double.release`.

An archive holds `bin/ollama`, an executable zip of this package, and `lib/ollama/` with small files in place of the
libraries. The same options give the same bytes, so that a checksum can be pinned.
"""
from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Sequence

from . import STAND_IN
from .zstd import NoZstd, compress

# 2024-01-01T00:00:00Z: any fixed moment will do, and a zip cannot hold one before 1980.
_MOMENT = 1704067200
_ZIP_MOMENT = (2024, 1, 1, 0, 0, 0)
_INTERPRETER = b"#!/usr/bin/env python3\n"
_PROGRAMS = ("llama-quantize", "llama-server")
_LIBRARIES = (
    "cuda_v12/libcublas.so.12", "cuda_v12/libcudart.so.12", "cuda_v12/libggml-cuda.so", "cuda_v13/libcublas.so.13",
    "cuda_v13/libcudart.so.13", "cuda_v13/libggml-cuda.so", "libggml-base.so", "libggml-cpu-haswell.so",
    "libggml-cpu-x64.so", "libllama.so", "vulkan/libggml-vulkan.so",
)
_MAIN = "import sys\n\nfrom ollama_double.{module} import main\n\nsys.exit(main())\n"


def program(module: str, baked: dict[str, Any]) -> bytes:
    """An executable zip of this package that runs one of its modules; `baked` becomes its baked.json."""
    files = {"__main__.py": _MAIN.format(module=module).encode()}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        files[f"ollama_double/{path.name}"] = path.read_bytes()
    files["ollama_double/baked.json"] = json.dumps(baked, sort_keys=True).encode()
    memory = io.BytesIO()
    # Stored, not deflated: the bytes then depend on no zlib, and the archive is compressed as a whole anyway.
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _ZIP_MOMENT)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, files[name])
    return _INTERPRETER + memory.getvalue()


def archive(architecture: str, baked: dict[str, Any]) -> bytes:
    """The tar file of a release, not yet compressed: fixed times, owner and group 0, names without `./`."""
    notice = f"This is a {STAND_IN}, not the file whose name it bears.\n".encode()
    files = {"bin/ollama": (program("__main__", baked), 0o755)}
    libraries = [name.replace("-x64", "-armv8.0").replace("-haswell", "-armv8.2") if architecture == "arm64" else name for name in _LIBRARIES]
    files |= {f"lib/ollama/{name}": (notice, 0o644) for name in libraries}
    files |= {f"lib/ollama/{name}": (notice, 0o755) for name in _PROGRAMS}
    directories = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.USTAR_FORMAT) as bundle:
        for name in sorted(directories | set(files)):
            entry = tarfile.TarInfo(name)
            entry.mtime = _MOMENT
            if name in directories:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                bundle.addfile(entry)
            else:
                data, entry.mode = files[name]
                entry.size = len(data)
                bundle.addfile(entry, io.BytesIO(data))
    return memory.getvalue()


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that nobody reads half of it; an identical one is left alone, with its time."""
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def add_sum(directory: Path, name: str, digest: str) -> None:
    """Put a line `<hex>  ./<name>` into sha256sum.txt, in place of an older one for the same file."""
    path = directory / "sha256sum.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    kept = [line for line in lines if line.split()[-1] != f"./{name}"]
    put(path, ("\n".join(kept + [f"{digest}  ./{name}"]) + "\n").encode("ascii"))


def build(arguments: argparse.Namespace) -> str:
    """Write the archive and its checksum; returns what was written, for people."""
    directory = Path(arguments.out)
    directory.mkdir(parents=True, exist_ok=True)
    baked: dict[str, Any] = {"version": arguments.answers_version or arguments.version}
    if arguments.serves_version:
        baked["serves_version"] = arguments.serves_version
    if arguments.exit_at_start:
        baked["exit_at_start"] = arguments.exit_at_start
    if arguments.dies_after:
        baked["dies_after_seconds"] = arguments.dies_after
    if arguments.hide_models:
        baked["hide_models"] = True
    data = compress(archive(arguments.arch, baked))
    if arguments.truncate:
        data = data[:len(data) // 2]
    name = f"ollama-linux-{arguments.arch}.tar.zst"
    put(directory / name, data)
    digest = hashlib.sha256(data).hexdigest()
    add_sum(directory, name, "0" * 64 if arguments.wrong_sum else digest)
    return f"{digest}  {directory / name} (stand-in, answers as {baked['version']}, {len(data)} bytes)"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m ollama_double.release", description=f"Build a release of the {STAND_IN}.")
    found.add_argument("--version", help="version that the release has and answers, for example 0.34.4")
    found.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    found.add_argument("--out", default=".", metavar="DIR", help="where the archive and sha256sum.txt go")
    found.add_argument("--registry", metavar="FILE", help="write the registry as one executable file, for example ollama-registry.pyz")
    broken = found.add_argument_group("broken releases, for tests of upgrades")
    broken.add_argument("--answers-version", metavar="VERSION", help="answer another version than the release has")
    broken.add_argument("--serves-version", metavar="VERSION", help="the server answers another version than --version does")
    broken.add_argument("--exit-at-start", metavar="TEXT", help="print this and exit with 1 instead of serving")
    broken.add_argument("--dies-after", metavar="SECONDS", type=float, help="serve for so long, then exit with 1")
    broken.add_argument("--hide-models", action="store_true", help="answer that there are no models")
    broken.add_argument("--truncate", action="store_true", help="leave half of the archive out; the checksum fits what is left")
    broken.add_argument("--wrong-sum", action="store_true", help="write zeros as the checksum")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is asked for."""
    found = parser()
    arguments = found.parse_args(argv)
    if not arguments.version and not arguments.registry:
        found.error("say what to build: --version for a release, --registry for the registry")
    try:
        if arguments.version:
            print(build(arguments))
        if arguments.registry:
            target = Path(arguments.registry)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(program("registry", {"version": arguments.version or "0.0.0"}))
            target.chmod(0o755)
            print(f"{hashlib.sha256(target.read_bytes()).hexdigest()}  {target} (registry of the stand-in)")
    except (NoZstd, OSError) as error:
        print(f"ollama_double.release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
