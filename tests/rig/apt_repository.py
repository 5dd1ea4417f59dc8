"""Packages and signed flat apt repositories for the test network, made of dictionaries. Needs dpkg-deb and gpg, and nothing else.

The packages are stubs: what is real is that dpkg installs them, and that apt chooses among them and checks who signed their list.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import hosts
import upstream

FIELDS = ("Depends", "Provides", "Conflicts", "Replaces")
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
# built twice, a package is the same
EPOCH = "1700000000"


class Key(NamedTuple):
    """A key that signs repositories: the folder of gpg that holds it, its fingerprint, and what hosts are given."""

    home: Path
    fingerprint: str
    armored: str


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    if done.returncode:
        raise hosts.RigError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def key(home: Path, name: str) -> Key:
    """The signing key that is in a folder of gpg; made when there is none."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {"GNUPGHOME": str(home)}
    gpg = ["gpg", "--batch", "--quiet", "--yes", "--passphrase", "", "--pinentry-mode", "loopback"]
    if "fpr:" not in _run("gpg", "--list-keys", "--with-colons", env=env):
        _run(*gpg, "--quick-gen-key", name, "rsa3072", "sign", "never", env=env)
    line = next(line for line in _run("gpg", "--list-keys", "--with-colons", env=env).splitlines() if line.startswith("fpr:"))
    armored = _run(*gpg, "--armor", "--export", env=env)
    # its agent would stay behind
    _run("gpgconf", "--homedir", str(home), "--kill", "all")
    return Key(home, line.split(":")[9], armored)


def package(stub: dict[str, Any], folder: Path) -> Path:
    """Build a package from name, version and arch, possibly depends and the like, scripts, and files (path -> text; with #! it is a program)."""
    out = folder / f"{stub['name']}_{stub['version'].replace(':', '%3a')}_{stub['arch']}.deb"
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "DEBIAN").mkdir()
        fields = {
            "Package": stub["name"], "Version": stub["version"], "Architecture": stub["arch"], "Maintainer": "Test rig <rig@example.org>",
            "Section": "misc", "Priority": "optional", **{field: stub[field.lower()] for field in FIELDS if field.lower() in stub},
            "Description": "stub of the test rig: a stand-in, not the real package",
        }
        (root / "DEBIAN/control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
        for script in SCRIPTS:
            if script in stub:
                (root / "DEBIAN" / script).write_text(stub[script], encoding="utf-8")
                (root / "DEBIAN" / script).chmod(0o755)
        for name, text in stub.get("files", {}).items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", temporary, str(out), env={"SOURCE_DATE_EPOCH": EPOCH})
    return out


def flat(folder: Path, stubs: list[dict[str, Any]], signer: Key) -> None:
    """Build packages into a folder, and the signed lists beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    index = ""
    for stub in stubs:
        deb = package(stub, folder)
        data = deb.read_bytes()
        control = _run("dpkg-deb", "--field", str(deb)).strip()
        index += f"{control}\nFilename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    (folder / "Packages").write_text(index, encoding="utf-8")
    (folder / "Packages.gz").write_bytes(gzip.compress(index.encode(), mtime=0))
    lines = ["Origin: stand-in of the test rig", f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime(int(EPOCH)))}", "SHA256:"]
    for name in ("Packages", "Packages.gz"):
        data = (folder / name).read_bytes()
        lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
    release = folder / "Release"
    release.write_text("\n".join(lines) + "\n", encoding="utf-8")
    env = {"GNUPGHOME": str(signer.home)}
    for option, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
        _run("gpg", "--batch", "--quiet", "--yes", "--armor", option, "--output", str(folder / name), str(release), env=env)
    _run("gpgconf", "--homedir", str(signer.home), "--kill", "all")


def command(usage: str | None, build: Callable[[Path], str]) -> int:
    """The command line of what builds repositories below a folder, of which one process at a time may; prints what C(build) returns."""
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        with upstream.locked(args.out.with_name(f"{args.out.name}.lock")):
            print(build(args.out))
    except hosts.RigError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0
