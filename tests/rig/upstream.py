"""The test network's stand-in for the internet: registry.ollama.ai and the release host of Ollama, in one container.

Hosts on the same network find it under the real names, over TLS, with a certificate of its own that they are told to trust.
So the collection runs with its real URLs; only the SHA-256 of the stand-in's archives differs from the official ones.

usage: upstream.py NETWORK [--version VERSION ...] [--site HOST=DIR ...] [--trust HOST ...]
       prints the SHA-256 of the archives as JSON; with --site it serves a folder under the name of another host, too
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import hosts

ROOT = Path(__file__).resolve().parents[2]
DOUBLE = ROOT / "tests/double"
REGISTRY_NAMES = ("registry.ollama.ai",)
RELEASE_NAMES = ("github.com",)
# where the registry sends readers of blobs, as the real one does
BLOB_NAME = "standin.r2.cloudflarestorage.com"
# models of the tests beside the stand-in's own
MODELS = Path(__file__).with_name("models.json")
RELEASES = ROOT / ".cache/releases"
CHECKSUMS = RELEASES / "checksums.json"
IMAGE = "gpufleet-host:12"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
# a file above this is known by its size and time: an official release is 1.4 GB
LARGE = 64 << 20

# DIR is served; the certificate is made anew with each container
SERVE = """
set -e
mkdir -p /srv/tls /srv/sites
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=stand-in of the internet" \
    -addext "subjectAltName=$NAMES" -keyout /srv/tls/key.pem -out /srv/tls/cert.pem.new 2>/dev/null
mv /srv/tls/cert.pem.new /srv/tls/cert.pem
cd /srv/double
exec python3 -m ollama_double.registry --listen 0.0.0.0:443 --cert /srv/tls/cert.pem --key /srv/tls/key.pem --files /srv/files \
    --models /srv/models.json --redirect "$BLOBS" --sites /srv/sites
"""

TRUST = "cat >/usr/local/share/ca-certificates/upstream.crt && update-ca-certificates >/dev/null 2>&1"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: others who want it wait. Two scenarios run at the same time, and share the releases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all; an identical one is left alone."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def architecture() -> str:
    """This machine's architecture, as releases name it."""
    if platform.machine() not in ARCH:
        raise hosts.RigError(f"there is no release of Ollama for this machine's processor, {platform.machine()}: use one of {', '.join(ARCH)}")
    return ARCH[platform.machine()]


def build_release(version: str, *options: str) -> dict[str, str]:
    """Build the stand-in's archive of a version for this machine, unless it is there. Returns archive name -> SHA-256."""
    out = RELEASES / f"v{version}"
    arch = architecture()
    archive, sums = out / f"ollama-linux-{arch}.tar.zst", out / "sha256sum.txt"
    command = [sys.executable, "-m", "ollama_double.release", "--version", version, "--arch", arch, "--out", str(out), *options]
    stamp = RELEASES.with_name(f"releases-{out.name}.key")

    def digest(*parts: bytes) -> str:
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def state(made_from: str) -> str:
        return digest(made_from.encode(), *(path.read_bytes() if path.is_file() else b"" for path in (archive, sums)))

    with locked(RELEASES.with_name("releases.lock")):
        # read before the build: a source that is edited meanwhile makes the next run build again
        made_from = digest(repr(command[3:]).encode(), *(path.read_bytes() for path in sorted((DOUBLE / "ollama_double").glob("*.py"))))
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != state(made_from):
            out.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(DOUBLE)}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise hosts.RigError(f"the stand-in's release could not be built: {(done.stdout + done.stderr).strip()[-500:]}")
            write(stamp, state(made_from))
        lines = sums.read_text(encoding="utf-8").split("\n")
    return {name.removeprefix("./"): digest for digest, name in (line.split() for line in lines if line)}


def up(network: str, files: Path, names: tuple[str, ...], sites: dict[str, Path] | None = None) -> str:
    """Start the stand-in on a network under the given names, serving the releases in a folder, and sites: name of a host and its folder.

    Returns its certificate (PEM).
    """
    sites = sites or {}
    name, names = container(network), (*names, BLOB_NAME, *sites)
    hosts.ensure_network(network)
    # nobody builds a release while it is copied
    with locked(RELEASES.with_name("releases.lock")):
        key = _key(files, names, sites)
        if not hosts.is_running(name) or hosts.docker("inspect", "-f", '{{index .Config.Labels "rig.key"}}', name) != key:
            _start(name, network, files, names, key, sites)
    wait = "until [ -s /srv/tls/cert.pem ] && (echo >/dev/tcp/127.0.0.1/443) 2>/dev/null; do sleep 0.2; done; cat /srv/tls/cert.pem"
    done = subprocess.run(["docker", "exec", name, "timeout", "30", "bash", "-c", wait], capture_output=True, text=True, check=False)
    if done.returncode:
        raise hosts.RigError(f"the stand-in of the internet does not start: {hosts.docker('logs', '--tail', '5', name, check=False)}")
    return done.stdout


def _start(name: str, network: str, files: Path, names: tuple[str, ...], key: str, sites: dict[str, Path]) -> None:
    """Make the container anew."""
    hosts.docker("rm", "-f", "-v", name, check=False)
    aliases = [option for alias in names for option in ("--network-alias", alias)]
    san = ",".join(f"DNS:{alias}" for alias in names)
    hosts.docker(
        "create", "--name", name, "--network", network, *aliases, "--label", hosts.LABEL, "--label", f"rig.key={key}",
        "--init", "--restart", "always", "-e", f"NAMES={san}", "-e", f"BLOBS={BLOB_NAME}", IMAGE, "sh", "-c", SERVE,
    )
    hosts.docker("cp", str(DOUBLE), f"{name}:/srv/double")
    hosts.docker("cp", str(files), f"{name}:/srv/files")
    hosts.docker("cp", str(MODELS), f"{name}:/srv/models.json")
    if sites:
        # the folder that they come into
        with tempfile.TemporaryDirectory() as empty:
            hosts.docker("cp", empty, f"{name}:/srv/sites")
    for host, folder in sites.items():
        hosts.docker("cp", str(folder), f"{name}:/srv/sites/{host}")
    hosts.docker("start", name)


def _key(files: Path, names: tuple[str, ...], sites: dict[str, Path]) -> str:
    """What the container was made from; another key means another container."""
    digest = hashlib.sha256(repr(names).encode() + SERVE.encode() + MODELS.read_bytes())
    for folder, paths in ((DOUBLE, DOUBLE.rglob("*.py")), (files, files.rglob("*")), *((folder, folder.rglob("*")) for folder in sites.values())):
        for path in sorted(paths):
            # checksums.json is for the scenarios, and hidden files are what a killed build left
            if not path.is_file() or path == CHECKSUMS or path.name.startswith("."):
                continue
            status = path.stat()
            content = f"{status.st_size} {status.st_mtime_ns}".encode() if status.st_size > LARGE else hashlib.sha256(path.read_bytes()).digest()
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + content)
    return digest.hexdigest()[:16]


def container(network: str) -> str:
    """Name of the stand-in's container on a network."""
    return f"{network}-upstream"


def trust(host: str, certificate: str) -> None:
    """Make a host trust the stand-in's certificate, as a fleet trusts the CA of its own mirror."""
    done = subprocess.run(["docker", "exec", "-i", host, "sh", "-c", TRUST], input=certificate, text=True, capture_output=True, check=False)
    if done.returncode:
        raise hosts.RigError(f"{host} does not take the stand-in's certificate: {done.stderr.strip()}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--version", action="append", default=[])
    parser.add_argument("--site", action="append", default=[], metavar="HOST=DIR")
    parser.add_argument("--trust", nargs="*", default=[], metavar="HOST")
    args = parser.parse_args()
    # served also when nothing is in it
    RELEASES.mkdir(parents=True, exist_ok=True)
    try:
        checksums = {version: build_release(version) for version in args.version}
        sites = {host: Path(folder) for host, _equals, folder in (site.partition("=") for site in args.site)}
        certificate = up(args.network, RELEASES, REGISTRY_NAMES + RELEASE_NAMES, sites)
        for host in args.trust:
            trust(host, certificate)
    except hosts.RigError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    # another scenario may want other versions at the same time
    with locked(RELEASES.with_name("checksums.lock")):
        known = json.loads(CHECKSUMS.read_text(encoding="utf-8")) if CHECKSUMS.is_file() else {}
        text = json.dumps({**known, **checksums}, sort_keys=True)
        write(CHECKSUMS, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
