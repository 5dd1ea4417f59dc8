"""The demo: a fleet of four systemd hosts, from bare to a streamed answer through TLS with a key.

usage: demo.py up | down [--images]
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import hosts
import upstream

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "inventories/demo"
SECRETS = INVENTORY / ".generated"
GENERATED = INVENTORY / "group_vars/all/generated.yml"
CACHE = Path(os.environ.get("GPUFLEET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpufleet")
NETWORK = "gpufleet-demo"
FLEET = {
    "gpufleet-gateway": "gpufleet-host:12",
    "gpufleet-gpu1": "gpufleet-host:12",
    "gpufleet-gpu2": "gpufleet-host:13",
    "gpufleet-monitoring": "gpufleet-host:13",
}
OLLAMA_HOSTS = ("gpufleet-gpu1", "gpufleet-gpu2")
# what a host takes with the official release unpacked (CUDA's libraries are most of it) and the models; the whole fleet with the stand-in
OFFICIAL_BYTES_PER_HOST, STANDIN_BYTES = 5 * 10**9, 2 * 10**9
MODEL = "smollm2:135m"
OFFICIAL = "https://github.com/ollama/ollama/releases/download"
MIRROR_NAME = "releases.gpufleet.test"


def say(text: str = "") -> None:
    """Print at once, so that the order with the output of programs that we start is kept."""
    print(text, flush=True)


def reason(error: Exception) -> str:
    """What an error of the system says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(getattr(error, "reason", "")) or str(error) or type(error).__name__


def port(variable: str, default: int) -> int:
    """A port on loopback, from the environment."""
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise hosts.RigError(f"{variable} is {text!r}: give a port number")
    return int(text)


def published() -> dict[str, list[tuple[int, int]]]:
    """Host -> (port on loopback, port in the host)."""
    return {
        "gpufleet-gateway": [(port("GPUFLEET_GATEWAY_PORT", 8443), 443)],
        "gpufleet-monitoring": [(port("GPUFLEET_PROMETHEUS_PORT", 9090), 9090)],
    }


def check_ports() -> None:
    """A port in use stops the demo before anything is started. A port of a fleet that runs already is fine."""
    for name, ports in published().items():
        for outer, inner in ports:
            current = hosts.docker("port", name, str(inner), check=False)
            if hosts.is_running(name) and current == f"127.0.0.1:{outer}":
                continue
            if hosts.is_running(name):
                raise hosts.RigError(f"the fleet runs already, with {name} on {current}: run make demo-down before you choose other ports")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", outer))
                except OSError:
                    variable = "GPUFLEET_GATEWAY_PORT" if inner == 443 else "GPUFLEET_PROMETHEUS_PORT"
                    raise hosts.RigError(f"port {outer} of this machine is in use: stop what holds it, or choose another with {variable}=…") from None


def default_version() -> tuple[str, dict[str, str]]:
    """The version that role ollama installs, and its checksums."""
    import yaml  # comes with ansible-core

    version = yaml.safe_load((ROOT / "roles/ollama/defaults/main.yml").read_text(encoding="utf-8"))["ollama_version"]
    table = yaml.safe_load((ROOT / "roles/ollama/vars/main/checksums.yml").read_text(encoding="utf-8"))["__ollama_release_checksums"]
    return version, table[version]


def official_size(url: str) -> int | None:
    """Bytes of the official archive (0: not said); None when it cannot be reached."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as response:
            return int(response.headers.get("Content-Length") or 0)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def require_space(needs: list[tuple[Path, int, str]], advice: str) -> None:
    """Stop while the disks have room: (folder, bytes, what for). Folders on the same disk are added up."""
    disks: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, size, what in needs:
        if size:
            disks.setdefault(folder.stat().st_dev, []).append((folder, size, what))
    for parts in disks.values():
        free, need = shutil.disk_usage(parts[0][0]).free, sum(size for _folder, size, _what in parts)
        if free < need:
            reasons = ", ".join(f"{size / 1e9:.1f} GB in {folder} for {what}" for folder, size, what in parts)
            raise hosts.RigError(f"the disk is too full: {free / 1e9:.1f} GB are free and {need / 1e9:.1f} GB are needed ({reasons}); {advice}")


def engine_needs(archive_size: int | None) -> list[tuple[Path, int, str]]:
    """What the containers that do not run yet will take of the engine's disk; archive_size is the official archive's, None: the stand-in."""
    root = Path(hosts.docker("info", "-f", "{{.DockerRootDir}}", check=False))
    if not root.is_absolute() or not os.access(root.parent, os.X_OK) or not root.is_dir():
        return []  # an engine elsewhere
    if archive_size is None:
        missing = [name for name in FLEET if not hosts.is_running(name)]
        return [(root, STANDIN_BYTES * len(missing) // len(FLEET), "the hosts")]
    missing = [name for name in OLLAMA_HOSTS if not hosts.is_running(name)]
    copy = 0 if hosts.is_running(upstream.container(NETWORK)) else archive_size
    return [(root, OFFICIAL_BYTES_PER_HOST * len(missing), "the Ollama hosts"), (root, copy, "the copy of the release that they install from")]


def download(url: str, part: Path, name: str) -> None:
    """Bring a file into the cache; what an interrupted download left is gone on from."""
    done = part.stat().st_size if part.is_file() else 0
    try:
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {}), timeout=60)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # nothing is left to fetch, or what is there is too long: its checksum will tell
            return
        with response:
            if done and (response.status != 206 or not (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-")):
                done = 0
            total = done + int(response.headers.get("Content-Length") or 0)
            shown = 0.0
            with part.open("ab" if done else "wb") as file:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    done += len(chunk)
                    if time.monotonic() - shown > (0.5 if sys.stdout.isatty() else 15):
                        shown = time.monotonic()
                        say(f"  {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        why = "the connection ended" if done < total else ""
    except (OSError, http.client.HTTPException) as error:
        why = reason(error)
    if why:
        raise hosts.RigError(f"the download of {url} stopped after {done / 1e6:.1f} MB: {why}; make demo goes on from there")


def official_archive(version: str, checksums: dict[str, str]) -> Path | None:
    """The official archive in the cache, downloaded once; None when it cannot be reached."""
    name = f"ollama-linux-{upstream.architecture()}.tar.zst"
    url = f"{OFFICIAL}/v{version}/{name}"
    path = CACHE / "releases" / f"v{version}" / name
    advice = "make room, choose another cache folder with GPUFLEET_CACHE, or set OLLAMA=standin, which needs less"
    if path.is_file():
        require_space(engine_needs(path.stat().st_size), advice)
        return path
    size = official_size(url)
    if size is None:
        return None
    # not beside the archive: the whole folder of the releases is served
    part = CACHE / "partial" / f"v{version}-{name}"
    part.parent.mkdir(parents=True, exist_ok=True)
    with upstream.locked(part.with_suffix(".lock")):
        if not path.is_file():
            left = max(0, size - (part.stat().st_size if part.is_file() else 0))
            require_space([(part.parent, left, "the download"), *engine_needs(size)], advice)
            download(url, part, name)
            with part.open("rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != checksums[name]:
                part.unlink()
                raise hosts.RigError(
                    f"{url} is not the pinned archive (SHA-256 {digest.hexdigest()}); it was removed and nothing was installed: make demo fetches it anew"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            part.rename(path)
    return path


def choose_release() -> tuple[str, Path, tuple[str, ...], dict[str, object]]:
    """Official release or stand-in. Returns which, the folder to serve, the names to serve it under, and inventory variables."""
    version, checksums = default_version()
    wanted = os.environ.get("OLLAMA", "")
    if wanted not in ("", "standin"):
        raise hosts.RigError(f"OLLAMA={wanted} is unknown: leave it out, or set OLLAMA=standin")
    archive = None if wanted == "standin" else official_archive(version, checksums)
    if archive:
        say(f"OLLAMA: the official release {version}, and real models from registry.ollama.ai.")
        return "official", archive.parents[1], (MIRROR_NAME,), {"ollama_release_url": f"https://{MIRROR_NAME}/files"}
    why = "as OLLAMA=standin asks" if wanted else "since the official release cannot be reached from here"
    say(f"OLLAMA: the STAND-IN ({why}). It speaks Ollama's API and pulls models, but no model runs and its answers are canned.")
    require_space(engine_needs(None), "make room")
    sums = {version: upstream.build_release(version)}
    return "stand-in", upstream.RELEASES, upstream.REGISTRY_NAMES + upstream.RELEASE_NAMES, {"ollama_checksums": sums}


def write_generated(kind: str, variables: dict[str, object]) -> None:
    """Tell the inventory which release it is."""
    head = f"# Written by make demo; do not edit. Ollama is the {kind} here.\n"
    if GENERATED.is_file() and not GENERATED.read_text(encoding="utf-8").startswith(head):
        raise hosts.RigError(f"the fleet that runs does not have the {kind} release: run make demo-down first")
    temporary = GENERATED.with_suffix(".new")
    temporary.write_text(f"{head}---\n{json.dumps(variables, indent=2)}\n", encoding="utf-8")
    temporary.rename(GENERATED)


def converge() -> None:
    """Run site.yml over the fleet."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    playbook = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/demo", "site.yml"]
    say(f"PLAN: {' '.join(['ansible-playbook', *playbook[1:]])}\n")
    if subprocess.run(playbook, cwd=ROOT, env=environment, check=False).returncode:
        raise hosts.RigError("the play failed: see the task above. The fleet stays up; make demo goes on where it stopped")


class Gateway:
    """The gateway's API as a client of the fleet sees it: over TLS, with the fleet's own CA."""

    def __init__(self) -> None:
        self.port = published()["gpufleet-gateway"][0][0]
        self.ca = SECRETS / "ca/ca.crt"
        self.key = (SECRETS / "api-key").read_text(encoding="utf-8").split()[0]

    def post(self, path: str, body: dict[str, object], key: str) -> http.client.HTTPResponse:
        """Send a request and return the open response."""
        try:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=120, context=ssl.create_default_context(cafile=str(self.ca)))
            connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise hosts.RigError(f"https://localhost:{self.port}{path} does not answer: {reason(error)}") from None

    def show_stream(self, path: str) -> None:
        """Ask for a streamed answer and print it as it comes."""
        body: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Who are you? Answer in one sentence."}], "stream": True}
        started = time.monotonic()
        response = self.post(path, body, self.key)
        if response.status != 200:
            raise hosts.RigError(f"{path} answered {response.status}: {response.read().decode(errors='replace').strip()}")
        say(f"\nPOST {path} ({response.getheader('Content-Type')})")
        pieces, first = 0, 0.0
        for line in response:
            text = piece(line)
            if text:
                pieces += 1
                first = first or time.monotonic() - started
                print(text, end="", flush=True)
        say(f"\n[{pieces} pieces, the first after {first:.2f} s, the last after {time.monotonic() - started:.2f} s]")
        if pieces < 2:
            raise hosts.RigError(f"{path} did not stream: the answer came in {pieces} piece(s)")

    def check_wrong_key(self) -> None:
        """A stranger is refused."""
        status = self.post("/api/chat", {"model": MODEL}, "wrong" * 10).status
        say(f"\nA wrong key gets {status}.")
        if status != 401:
            raise hosts.RigError(f"a wrong key got {status} instead of 401")


def piece(line: bytes) -> str:
    """The text in a line of an NDJSON (C(/api/chat)) or SSE (C(/v1/chat/completions)) stream."""
    data = line.strip().removeprefix(b"data: ")
    if not data.startswith(b"{"):
        return ""
    chunk = json.loads(data)
    if "choices" in chunk:
        return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return chunk.get("message", {}).get("content", "")


def show_targets() -> None:
    """Wait until every target of Prometheus is up, and list them."""
    url = f"http://127.0.0.1:{published()['gpufleet-monitoring'][0][0]}"
    targets: list[dict[str, object]] = []
    for _attempt in range(60):
        try:
            with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=5) as response:
                targets = json.load(response)["data"]["activeTargets"]
        except (OSError, urllib.error.URLError):
            targets = []
        if targets and all(target["health"] == "up" for target in targets):
            break
        time.sleep(1)
    say("\nPrometheus targets")
    for target in sorted(targets, key=lambda item: (item["scrapePool"], item["scrapeUrl"])):
        say(f"  {target['health']:4} {target['scrapePool']:12} {target['scrapeUrl']}")
    down = [target["scrapeUrl"] for target in targets if target["health"] != "up"]
    if down or not targets:
        raise hosts.RigError(f"Prometheus does not reach {', '.join(map(str, down)) or 'any target'}")


def show(kind: str) -> None:
    """What the user came for: where everything is, a key, and answers."""
    gateway = Gateway()
    prometheus = published()["gpufleet-monitoring"][0][0]
    say("\n" + "=" * 78)
    say(f"The fleet is up. Ollama is the {kind.upper() if kind == 'stand-in' else kind} release.")
    say(f"  gateway      https://localhost:{gateway.port}")
    say(f"  Prometheus   http://localhost:{prometheus}")
    say(f"  hosts        docker exec -it NAME bash   with NAME one of {', '.join(FLEET)}")
    say(f"  API key      {gateway.key}")
    say("\nTry it:")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
    say(f"curl -N --cacert {gateway.ca.relative_to(ROOT)} -H 'Authorization: Bearer {gateway.key}' https://localhost:{gateway.port}/api/chat -d '{body}'")
    gateway.show_stream("/api/chat")
    gateway.show_stream("/v1/chat/completions")
    gateway.check_wrong_key()
    show_targets()
    say("\nAgain: .venv/bin/ansible-playbook -i inventories/demo site.yml    changes nothing.   Remove it all: make demo-down")


def up() -> None:
    """Bring the fleet up and show it."""
    check_ports()
    kind, files, names, variables = choose_release()
    if not hosts.is_running(next(iter(FLEET))):
        GENERATED.unlink(missing_ok=True)
    write_generated(kind, variables)
    say("HOSTS: start four systemd hosts")
    hosts.up(NETWORK, FLEET, [f"{name}:{outer}:{inner}" for name, ports in published().items() for outer, inner in ports])
    certificate = upstream.up(NETWORK, files, names)
    for name in FLEET:
        upstream.trust(name, certificate)
    converge()
    show(kind)


def down(images: bool) -> None:
    """Remove every trace of the fleet. Needs the docker command and Python's own library, nothing that make demo installs."""
    if not shutil.which("docker"):
        say("There is no Docker engine on this machine, so there is no fleet to remove.")
        return
    if not hosts.docker("info", "-f", "{{.ID}}", check=False):
        raise hosts.RigError("the Docker engine does not answer, so nothing was removed: start it, then run make demo-down again")
    names = [*FLEET, upstream.container(NETWORK)]
    hosts.remove(names, NETWORK)
    left = set(names) & set(hosts.docker("ps", "-a", "--format", "{{.Names}}").split())
    if left:
        raise hosts.RigError(f"the engine did not remove {', '.join(sorted(left))}: run make demo-down again")
    GENERATED.unlink(missing_ok=True)
    if SECRETS.is_dir():
        shutil.rmtree(SECRETS)
    if images:
        hosts.docker("image", "rm", *sorted(set(FLEET.values())), check=False)
    say("The demo's fleet is gone" + (", and its images." if images else ". IMAGES=1 make demo-down removes the images too."))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--images", action="store_true", help="remove the images too")
    args = parser.parse_args()
    try:
        if args.action == "up":
            up()
        else:
            down(args.images)
    except hosts.RigError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except (OSError, http.client.HTTPException) as error:
        print(f"ERROR: make {'demo' if args.action == 'up' else 'demo-down'} stopped: {reason(error)}; run it again when that is mended", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; make demo goes on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
