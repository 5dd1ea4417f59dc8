# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `ollama` of the stand-in for Ollama: `serve` and `--version`, nothing else."""
from __future__ import annotations

import http.client
import json
import os
import sys
from typing import Mapping, Sequence

from . import env
from .serve import serve


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    environ = os.environ if environ is None else environ
    if arguments in (["--version"], ["-v"]):
        show_version(environ)
        return 0
    if arguments in (["serve"], ["start"]):
        try:
            return serve(environ)
        except env.StartError as error:
            print(error if error.status == 2 else f"Error: {error}", file=sys.stderr)
            return error.status
    print(f"Error: this is a stand-in for Ollama, it only knows `serve` and `--version`, not {arguments}", file=sys.stderr)
    return 1


def show_version(environ: Mapping[str, str]) -> None:
    """The texts of the real command: the version of the server and, where it differs, of this program."""
    own = env.value(environ, "OLLAMA_DOUBLE_VERSION") or str(env.baked().get("version", "0.0.0"))
    host, port = env.client_address(environ)
    server = ""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/api/version")
        server = str(json.loads(connection.getresponse().read()).get("version", ""))
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        print("Warning: could not connect to a running Ollama instance")
    finally:
        connection.close()
    if server:
        print(f"ollama version is {server}")
    if server != own:
        print(f"Warning: client version is {own}")


if __name__ == "__main__":
    sys.exit(main())
