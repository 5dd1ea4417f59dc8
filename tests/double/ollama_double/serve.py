# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`ollama serve` of the stand-in: the order of the start, its log lines, and the end on a signal."""
from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Mapping

from . import STAND_IN
from .durations import rfc3339
from .env import GIB, Settings, StartError, load
from .server import App, Server, key_path

_LOGGED = ("OLLAMA_", "CUDA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "LLAMA_ARG_")


def serve(environ: Mapping[str, str]) -> int:
    """Run the server until SIGTERM or SIGINT; StartError when it cannot start."""
    settings = load(environ)
    log(f'msg="{STAND_IN}" version={settings.version}')
    if settings.exit_at_start:
        raise StartError(settings.exit_at_start)
    make_key(key_path(settings))
    # The port is open from here on, the answers come later.
    try:
        server = Server(App(settings))
    except OSError as error:
        raise StartError(f"listen tcp {settings.host}:{settings.port}: bind: {_reason(error)}") from error
    _exit_on_signals(server)
    shown = " ".join(f"{key}:{text}" for key, text in sorted(environ.items()) if key.startswith(_LOGGED))
    log(f'msg="server config" env="map[{shown}]"')
    for warning in settings.warnings:
        log(warning, "WARN")
    log(f'msg="Ollama cloud disabled: {str(settings.cloud["disabled"]).lower()}"')
    try:
        log(f'msg="{server.app.store.prune()}"')
        server.app.store.manifests_dir.stat()
    except OSError as error:
        raise StartError(f"mkdir {error.filename}: {_reason(error)}: ensure path elements are traversable") from error
    host, port = str(server.server_address[0]), server.server_address[1]
    log(f'msg="Listening on {f"[{host}]" if ":" in host else host}:{port} (version {settings.version})"')
    time.sleep(settings.start_seconds)
    _log_devices(settings)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True).start()
    threading.Event().wait(settings.dies_after_seconds or None)
    # as after a crash: requests under way are cut
    log(f'msg="{STAND_IN} dies after {settings.dies_after_seconds:g} seconds, as it was built to"', "ERROR")
    os._exit(1)


def make_key(path: Path) -> None:
    """The key file of the first start. It is no real key: nothing that this stand-in signs is ever checked."""
    try:
        path.stat()
        return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartError(f"stat {path}: {_reason(error)}") from error
    print(f"Couldn't find '{path}'. Generating new private key.", flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"could not create directory mkdir {error.filename}: {_reason(error)}") from error
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(f"stand-in for an OpenSSH ed25519 key, good for nothing: {secrets.token_hex(32)}\n")
        path.with_name("id_ed25519.pub").write_text(f"ssh-ed25519 STAND-IN-{secrets.token_hex(8)}\n", encoding="ascii")
    except OSError as error:
        raise StartError(f"open {path}: {_reason(error)}") from error


def log(text: str, level: str = "INFO") -> None:
    """One line of the log, on standard error, in the form of Ollama's."""
    print(f"time={rfc3339(datetime.now().astimezone())} level={level} source=stand-in {text}", file=sys.stderr, flush=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _log_devices(settings: Settings) -> None:
    if not settings.gpus:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        log(f'msg="inference compute" id=cpu library=cpu compute="" name=cpu description=cpu libdirs=ollama driver="" '
            f'pci_id="" type="" total="{memory:.1f} GiB" available="{memory:.1f} GiB"')
    for number, gpu in enumerate(settings.gpus):
        memory = settings.vram_gib
        log(f'msg="inference compute" id={gpu} filter_id={number} library=CUDA compute=9.0 name=CUDA{number} '
            f'description="stand-in GPU" libdirs=ollama,cuda_v13 driver=13.0 pci_id=0000:0{number}:00.0 type=discrete '
            f'total="{memory:.1f} GiB" available="{memory:.1f} GiB"')
    log(f'msg="vram-based default context" total_vram="{settings.total_vram / GIB:.1f} GiB" default_num_ctx={settings.default_context}')


def _exit_on_signals(server: Server) -> None:
    def stop(number: int, _frame: object) -> None:
        # At once: requests under way are cut, as by the real one. Nothing here needs an orderly end.
        # No print either: the signal may have come in the middle of one.
        server.socket.close()
        os.write(2, f"level=INFO source=stand-in msg=\"stopped by {signal.Signals(number).name}\"\n".encode())
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
