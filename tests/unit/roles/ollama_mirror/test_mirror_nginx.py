# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The mirror's configuration in a real nginx, where the machine has one: over a store, and in front of a registry's stand-in."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple
from urllib.parse import urlsplit

import jinja2
import pytest
import yaml
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._mirror import mirror_redirect_hosts
from ollama_double import registry

ROLE = Path(__file__).resolve().parents[4] / "roles/ollama_mirror"
TEMPLATE = ROLE / "templates/etc/ollama-mirror/nginx.conf.j2"
# unpacked there by tests/rig/bootstrap where the machine has none
UNPACKED = ROLE.parents[1] / ".venv/nginx/usr/sbin"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{UNPACKED}")
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
SLICE = 8 << 20
MODEL = "big:1b"

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine")


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def sha256(self) -> str:
        """Of the body."""
        return hashlib.sha256(self.body).hexdigest()


class Site:
    """A running mirror."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """A request whose path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until nginx listens."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1].decode()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start mirrors; options are those of `__ollama_mirror_config`."""
    running = []

    def start(**options: Any) -> Site:
        port, folder = free_port(), tmp_path / "mirror"
        for name in ("run", "cache", "store"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        config = {
            "mode": "store", "socket": f"127.0.0.1:{port}", "networks": ["127.0.0.0/8"], "rate_limit": "0", "run_dir": str(folder / "run"),
            "store_dir": str(folder / "store"), "cache_dir": str(folder / "cache"), "cache_size": "1g", "cache_min_free": "1m", "ipv6": False,
            "resolvers": ["127.0.0.1"], "upstream": "registry.ollama.ai", "redirect_hosts": "(?:none)", "ca_path": SYSTEM_CA, **options,
        }
        environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        environment.filters["comment"] = "# {}".format
        text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            ansible_managed="managed", __ollama_mirror_config=config, __ollama_mirror_id="unit-config"
        )
        path = folder / "nginx.conf"
        path.write_text(text, encoding="utf-8")
        user = "user root; " if os.geteuid() == 0 else ""
        command = [str(NGINX), "-e", "stderr", "-c", str(path), "-g", f"{user}daemon off; pid {folder}/run/nginx.pid;"]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        wait_for(port, running[-1])
        return Site(port, folder)

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=10)


# -- mode store ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(mirror: Callable[..., Site]) -> tuple[Site, str, bytes]:
    """A mirror over a store with the model alpha:7b: site, digest of its blob, the blob."""
    site = mirror()
    root = site.folder / "store"
    blob = os.urandom(300_000)
    digest = hashlib.sha256(blob).hexdigest()
    for name, content in (
        (f"blobs/sha256-{digest}", blob), (f"blobs/sha256-{digest}-partial", b"half"), (".gpufleet/secret", b"secret"),
        ("manifests/registry.ollama.ai/library/alpha/7b", b'{"layers": []}'), ("manifests/elsewhere/library/alpha/7b", b"{}"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return site, digest, blob


def test_a_store_is_a_registry(store: tuple[Site, str, bytes]) -> None:
    site, digest, blob = store
    manifest = site.ask("/v2/library/alpha/manifests/7b")
    assert (manifest.status, manifest.body) == (200, b'{"layers": []}')
    assert manifest.headers["cache-control"] == "no-cache"
    assert manifest.headers["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"
    path = f"/v2/library/alpha/blobs/sha256:{digest}"
    whole, head = site.ask(path), site.ask(path, "HEAD")
    assert whole.body == blob
    # Ollama takes no blob without it
    assert whole.headers["location"] == path
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(blob)), b"")
    part = site.ask(path, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, blob[1000:2000])
    assert site.ask("/health").headers["x-mirror-config"] == "unit-config"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v2", "/v2/_catalog", "/.gpufleet/secret", "/v2/.gpufleet/secret", "/blobs/", "/manifests/", "/v2/library/alpha/manifests/",
        "/v2/library/alpha/manifests/8b", "/v2/library/alpha/manifests/..", "/v2/library/alpha/blobs/sha256:abc", "/v2/library/alpha/blobs/",
        "/v2/library/..%2f..%2f.gpufleet/manifests/secret", "/v2/library/alpha/manifests/..%2f..%2f..%2f..%2f.gpufleet%2fsecret",
        "/v2/../../elsewhere/library/alpha/manifests/7b", "/v2/..%2felsewhere%2flibrary/alpha/manifests/7b", "/v2/library/alpha/../../../.gpufleet/secret",
        "/v2/elsewhere/library/alpha/manifests/7b", f"/v2/library/alpha/blobs/sha256:{'0' * 64}",
    ],
)
def test_nothing_else_of_a_store_is_served(store: tuple[Site, str, bytes], path: str) -> None:
    assert store[0].ask(path).status in (400, 404)


def test_a_blob_that_is_not_whole_is_not_served(store: tuple[Site, str, bytes]) -> None:
    assert store[0].ask(f"/v2/library/alpha/blobs/sha256:{store[1]}-partial").status == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a_mirror_is_only_read(store: tuple[Site, str, bytes], method: str) -> None:
    assert store[0].ask("/v2/library/alpha/manifests/7b", method).status == 405


@pytest.mark.parametrize("mode", ["store", "pull_through"])
def test_strangers_are_refused_everywhere(mirror: Callable[..., Site], mode: str) -> None:
    site = mirror(mode=mode, networks=["192.0.2.0/24"])
    for path in ("/", "/v2/", "/health", "/v2/library/alpha/manifests/7b", f"/v2/library/alpha/blobs/sha256:{'0' * 64}"):
        assert site.ask(path).status == 403


# -- mode pull_through --------------------------------------------------------------------------------------------------------


class Origin:
    """The registry's stand-in over TLS, which sends readers of blobs to another address."""

    def __init__(self, folder: Path, redirect: str) -> None:
        self.certificate = folder / "cert.pem"
        models = folder / "models.json"
        models.write_text(json.dumps([{"name": MODEL, "size": 2 * SLICE + 500_000}]))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
             "-addext", "subjectAltName=DNS:127.0.0.1,DNS:127.0.0.2,DNS:127.0.0.3", "-keyout", str(folder / "key.pem"), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )
        port = free_port()
        self.server = registry.make_server(registry.parser().parse_args([
            "--listen", f"0.0.0.0:{port}", "--cache", str(folder / "origin"), "--models", str(models), "--redirect", f"{redirect}:{port}",
            "--cert", str(self.certificate), "--key", str(folder / "key.pem"),
        ]))
        self.address = f"127.0.0.1:{port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def ask(self, method: str, path: str) -> Any:
        """The stand-in's own pages."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        connection = http.client.HTTPSConnection(*urlsplit(f"//{self.address}").netloc.split(":"), context=context, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body=b"" if method == "POST" else None)
            return json.loads(connection.getresponse().read() or b"null")

    def stop(self) -> None:
        """Away."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def start_origin(tmp_path: Path) -> Iterator[Callable[..., Origin]]:
    """Start one origin; it redirects to the given address."""
    running = []

    def start(redirect: str = "127.0.0.2") -> Origin:
        running.append(Origin(tmp_path, redirect))
        return running[-1]

    yield start
    for origin in running:
        with contextlib.suppress(OSError):
            origin.stop()


def pull_through(mirror: Callable[..., Site], origin: Origin, **options: Any) -> Site:
    """A mirror of an origin that may send it to 127.0.0.2 only."""
    hosts = mirror_redirect_hosts([r"127\.0\.0\.2:[0-9]+"])
    return mirror(**{"mode": "pull_through", "upstream": origin.address, "redirect_hosts": hosts, "ca_path": str(origin.certificate), **options})


def weights(site: Site) -> tuple[str, int]:
    """Path and size of the large layer, from the mirror's manifest."""
    answer = site.ask("/v2/library/big/manifests/1b")
    assert answer.status == 200
    layer = max(json.loads(answer.body)["layers"], key=lambda item: item["size"])
    return f"/v2/library/big/blobs/{layer['digest']}", layer["size"]


def ask_until(site: Site, path: str, cached: str) -> Answer:
    """Ask until the mirror's cache says this."""
    until = time.monotonic() + 5
    while (answer := site.ask(path)).headers.get("x-cache") != cached:
        assert time.monotonic() < until, answer
        time.sleep(0.1)
    return answer


def test_a_cold_blob_is_fetched_once_whoever_asks(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    origin = start_origin()
    site = pull_through(mirror, origin)
    path, size = weights(site)
    digest = path[-64:]
    origin.ask("POST", "/_double/stats")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _number: site.ask(path).sha256, range(4))) == [digest] * 4
    stats = origin.ask("GET", "/_double/stats")
    assert stats["bytes"] == size
    assert stats["statuses"] == {"307": 1, "206": 3}
    # warm, without the registry
    origin.stop()
    whole = site.ask(path)
    assert (whole.sha256, whole.headers["location"]) == (digest, path)
    for first, last in ((0, 0), (SLICE - 5, SLICE + 5), (size - 7, size - 1)):
        part = site.ask(path, Range=f"bytes={first}-{last}")
        assert (part.status, part.body) == (206, whole.body[first:last + 1])


def test_a_blob_of_which_a_slice_is_there_is_right(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    origin = start_origin()
    site = pull_through(mirror, origin)
    path, size = weights(site)
    head = site.ask(path, "HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(size))
    # now slice 0 is cached and no other is
    assert site.ask(path).sha256 == path[-64:]


def test_a_manifest_is_asked_for_every_time_and_outlives_the_registry(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    origin = start_origin()
    site = pull_through(mirror, origin)
    first = site.ask("/v2/library/big/manifests/1b")
    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    # a copy counts for a second or two, against many who ask at once
    assert ask_until(site, "/v2/library/big/manifests/1b", "EXPIRED").body == first.body
    origin.stop()
    assert ask_until(site, "/v2/library/big/manifests/1b", "STALE").body == first.body
    assert site.ask("/v2/library/smollm2/manifests/135m").status == 502


def test_a_redirect_to_another_host_is_refused(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    origin = start_origin(redirect="127.0.0.3")
    site = pull_through(mirror, origin)
    path, _size = weights(site)
    origin.ask("POST", "/_double/stats")
    assert site.ask(path).status == 502
    assert origin.ask("GET", "/_double/stats")["statuses"] == {"307": 1}


@pytest.mark.parametrize("redirect", ["x@127.0.0.2", "127.0.0.3:1/127.0.0.2", "127.0.0.2.evil", "127.0.0.3?127.0.0.2"])
def test_a_pattern_matches_the_whole_host_only(mirror: Callable[..., Site], start_origin: Callable[..., Origin], redirect: str) -> None:
    origin = start_origin(redirect=redirect)
    # a pattern that is too wide, as people write them
    site = pull_through(mirror, origin, redirect_hosts=mirror_redirect_hosts([r"(?:.*)127.0.0.2:[0-9]+"]))
    assert site.ask(weights(site)[0]).status == 502


def test_a_registry_without_a_trusted_certificate_is_refused(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    origin = start_origin()
    site = pull_through(mirror, origin, ca_path=SYSTEM_CA)
    assert site.ask("/v2/library/big/manifests/1b").status == 502


def test_what_a_registry_lacks_is_not_found(mirror: Callable[..., Site], start_origin: Callable[..., Origin]) -> None:
    site = pull_through(mirror, start_origin())
    for path in ("/v2/library/none/manifests/1b", f"/v2/library/big/blobs/sha256:{'0' * 64}", "/v2/_catalog", "/"):
        assert site.ask(path).status == 404
    assert site.ask("/v2/library/big/manifests/1b", "PUT").status == 405


# -- the role's vars ----------------------------------------------------------------------------------------------------------


def test_the_template_takes_what_the_role_gives() -> None:
    given = set(yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["__ollama_mirror_config"])
    text = TEMPLATE.read_text(encoding="utf-8")
    assert given == {part.split("}")[0].split(" ")[0].split(")")[0] for part in text.split("__ollama_mirror_config.")[1:]}
