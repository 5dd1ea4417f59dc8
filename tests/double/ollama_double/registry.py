# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for registry.ollama.ai and for the host of the release files: `python -m ollama_double.registry`.

It behaves on the wire as the real one is known to: no `/v2/` ping, no tag list, no HEAD of a manifest, blobs by redirect
to another host or with a `Location` header, and it can be told to misbehave over `/_double/faults`.
"""
from __future__ import annotations

import argparse
import json
import re
import ssl
import sys
import tempfile
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Sequence

from . import STAND_IN, catalogue
from .faults import BadFault, Faults, Stats
from .registry_http import Options, RegistryHandler
from .shelf import Shelf


class RegistryServer(ThreadingHTTPServer):
    """The listening socket with what its handlers share."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], shelf: Shelf, options: Options) -> None:
        self.shelf = shelf
        self.options = options
        self.faults = Faults()
        self.stats = Stats()
        self.tokens: set[str] = set()
        super().__init__(address, RegistryHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event; anything else is shown as usual."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, ssl.SSLError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class TlsRegistryServer(RegistryServer):
    """The same over TLS; the handshake is done in the thread of the connection, so a mute client blocks nobody."""

    def __init__(self, address: tuple[str, int], shelf: Shelf, options: Options, certificate: str, key: str | None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        super().__init__(address, shelf, options)

    def finish_request(self, request: object, client_address: object) -> None:
        """Wrap the connection, then serve it."""
        request.settimeout(30)  # type: ignore[attr-defined]
        secure = self.context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
        secure.settimeout(None)
        super().finish_request(secure, client_address)  # type: ignore[arg-type]
        secure.close()


def make_server(arguments: argparse.Namespace) -> RegistryServer:
    """Build the server from parsed options; it listens when this returns."""
    host, _colon, port = arguments.listen.rpartition(":")
    cache = Path(arguments.cache or tempfile.mkdtemp(prefix="ollama-registry-double-"))
    options = Options(
        tls=bool(arguments.cert),
        redirect=arguments.redirect,
        token=arguments.token,
        files=Path(arguments.files).resolve() if arguments.files else None,
        sites=Path(arguments.sites).resolve() if arguments.sites else None,
    )
    shelf = Shelf(catalogue.load(arguments.models), cache)
    address = (host.strip("[]") or "127.0.0.1", int(port))
    if arguments.cert:
        server: RegistryServer = TlsRegistryServer(address, shelf, options, arguments.cert, arguments.key)
    else:
        server = RegistryServer(address, shelf, options)
    for fault in arguments.fault:
        server.faults.add(json.loads(fault))
    return server


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="ollama-registry", description=f"Registry and release host of the {STAND_IN}.")
    found.add_argument("--listen", default="127.0.0.1:5000", metavar="HOST:PORT", help="address; port 0 takes a free one")
    found.add_argument("--cert", metavar="FILE", help="PEM certificate (with the chain): serve https")
    found.add_argument("--key", metavar="FILE", help="PEM key, when it is not in the certificate's file")
    found.add_argument("--models", metavar="FILE", help="JSON list of models that are added to the built-in catalogue")
    found.add_argument("--files", metavar="DIR", help="static files under /files/ and /ollama/ollama/releases/download/")
    found.add_argument("--sites", metavar="DIR", help="other hosts that this server stands in for: DIR/HOST is served under that host's name")
    found.add_argument("--token", action="store_true", help="ask for a token, as private models do")
    found.add_argument("--redirect", metavar="HOST:PORT", help="send blob readers to this other host name with 307")
    found.add_argument("--cache", metavar="DIR", help="where blobs are kept; default: a new temporary directory")
    found.add_argument("--fault", action="append", default=[], metavar="JSON", help="a fault from the start on; see the README")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    arguments = parser().parse_args(argv)
    if not re.match(r"^.*:[0-9]+$", arguments.listen):
        print(f"--listen: want HOST:PORT, got {arguments.listen}", file=sys.stderr)
        return 2
    try:
        server = make_server(arguments)
    except (OSError, catalogue.BadCatalogue, BadFault, ValueError) as error:
        print(f"ollama-registry (stand-in): {error}", file=sys.stderr)
        return 1
    host, port = server.server_address[:2]
    scheme = "https" if arguments.cert else "http"
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    print(f"{started} {STAND_IN}: registry on {scheme}://{host!s}:{port} with {', '.join(server.shelf.names())}", file=sys.stderr, flush=True)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
