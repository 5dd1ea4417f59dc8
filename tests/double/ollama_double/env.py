# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings of the stand-in for Ollama, read from the environment with Ollama's own parsing rules."""
from __future__ import annotations

import glob
import ipaddress
import json
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from .durations import FOREVER, MINUTE, parse_duration

_FALSE = {"0", "f", "F", "false", "False", "FALSE"}
_NUMBER = re.compile(r"^\+?[0-9]+$")
GIB = 1 << 30
_ORIGIN_SCHEMES = ("http://", "https://", "chrome-extension://", "safari-extension://", "moz-extension://", "ms-browser-extension://")


class StartError(Exception):
    """The server cannot start; the text is what it prints, `status` what it exits with."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Settings:
    """Everything that the environment decides, once, at start."""

    version: str
    scheme: str
    host: str
    port: int
    home: Path
    models: Path
    keep_alive: int
    num_parallel: int
    max_loaded_models: int
    max_queue: int
    context_length: int
    origins: list[str]
    no_prune: bool
    no_cloud_env: bool
    no_cloud_config: bool
    debug: int
    token_rate: float
    start_seconds: float
    load_seconds: float
    gpu_share: float
    gpus: list[str] = field(default_factory=list)
    vram_gib: float = 24.0
    exit_at_start: str = ""
    # 0: it lives on
    dies_after_seconds: float = 0.0
    hide_models: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def total_vram(self) -> int:
        """Bytes over all GPUs."""
        return int(self.vram_gib * GIB) * len(self.gpus)

    @property
    def default_context(self) -> int:
        """The explicit default, or the tier that the total video memory gives."""
        if self.context_length:
            return self.context_length
        return vram_tier(self.total_vram)

    @property
    def cloud(self) -> dict[str, Any]:
        """The answer of /api/status: whether the cloud is off, and who says so."""
        source = {(False, False): "none", (True, False): "env", (False, True): "config", (True, True): "both"}
        return {
            "disabled": self.no_cloud_env or self.no_cloud_config,
            "source": source[(self.no_cloud_env, self.no_cloud_config)],
        }


def vram_tier(total: int) -> int:
    """Default context by total video memory in bytes."""
    if total >= 47 * GIB:
        return 262144
    return 32768 if total >= 23 * GIB else 4096


def value(environ: Mapping[str, str], key: str) -> str:
    """A variable as Ollama reads it: blanks and quotes around it are cut off."""
    return environ.get(key, "").strip().strip("\"'")


def boolean(text: str, default: bool = False) -> bool:
    """Anything that is not a spelling of false counts as true."""
    return text not in _FALSE if text else default


def host_address(text: str) -> tuple[str, str, int]:
    """OLLAMA_HOST as (scheme, host, port): bind address of a server, target of a client."""
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest, default = "http", text, 11434
    else:
        default = {"http": 80, "https": 443}.get(scheme, 11434)
    hostport = rest.partition("/")[0]
    host, port = _split_host_port(hostport)
    if port is None:
        bare = hostport.strip("[]")
        host, port = (bare if _is_ip(bare) else hostport) or "127.0.0.1", str(default)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        port = str(default)
    return scheme, host, int(port)


def keep_alive(text: str) -> int:
    """OLLAMA_KEEP_ALIVE in nanoseconds: a duration or whole seconds; negative is forever, nonsense is 5 minutes."""
    duration = 5 * MINUTE
    if text:
        try:
            duration = parse_duration(text)
        except ValueError:
            if re.match(r"^[+-]?[0-9]+$", text):
                duration = int(text) * 1_000_000_000
    return FOREVER if duration < 0 else duration


def origins(text: str) -> list[str]:
    """The allowed origins; StartError for the entries at which Ollama panics at start."""
    allowed = text.split(",") if text else []
    for entry in allowed:
        if entry.count("*") > 1:
            raise StartError("panic: only one * is allowed", 2)
        if "*" not in entry and not entry.startswith(_ORIGIN_SCHEMES):
            raise StartError(f"panic: bad origin: origins must contain '*' or include {','.join(_ORIGIN_SCHEMES)}", 2)
    for name in ("localhost", "127.0.0.1", "0.0.0.0"):
        allowed += [f"http://{name}", f"https://{name}", f"http://{name}:*", f"https://{name}:*"]
    return allowed + ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"]


def baked() -> dict[str, Any]:
    """What the release builder wrote into the archive: version and, for broken releases, how it is broken."""
    try:
        data = pkgutil.get_data(__package__, "baked.json")
    except OSError:
        data = None
    return json.loads(data) if data else {}


def client_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Where a client of this machine finds the server."""
    _scheme, host, port = host_address(value(environ, "OLLAMA_HOST"))
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host), port


def load(environ: Mapping[str, str]) -> Settings:
    """Read the whole environment; StartError when the server cannot start with it."""
    home = environ.get("HOME", "")
    if not home:
        raise StartError("panic: $HOME is not defined", 2)
    warnings: list[str] = []

    def uint(key: str, default: int) -> int:
        text = value(environ, key)
        if text and not _NUMBER.match(text):
            warnings.append(f'msg="invalid environment variable, using default" key={key} value={text} default={default}')
            return default
        return int(text) if text else default

    def number(key: str, default: float) -> float:
        text = value(environ, key)
        try:
            return float(text) if text else default
        except ValueError:
            raise StartError(f"{key}: not a number: {text}") from None

    built = baked()
    scheme, host, port = host_address(value(environ, "OLLAMA_HOST"))
    gpus, share = _gpus(environ)
    debug = value(environ, "OLLAMA_DEBUG")
    return Settings(
        version=value(environ, "OLLAMA_DOUBLE_VERSION") or str(built.get("serves_version") or built.get("version", "0.0.0")),
        scheme=scheme,
        host=host,
        port=port,
        home=Path(home),
        models=Path(value(environ, "OLLAMA_MODELS") or f"{home}/.ollama/models"),
        keep_alive=keep_alive(value(environ, "OLLAMA_KEEP_ALIVE")),
        num_parallel=max(uint("OLLAMA_NUM_PARALLEL", 1), 1),
        max_loaded_models=uint("OLLAMA_MAX_LOADED_MODELS", 0) or 3 * max(len(gpus), 1),
        max_queue=uint("OLLAMA_MAX_QUEUE", 512),
        context_length=uint("OLLAMA_CONTEXT_LENGTH", 0),
        origins=origins(value(environ, "OLLAMA_ORIGINS")),
        no_prune=boolean(value(environ, "OLLAMA_NOPRUNE")),
        no_cloud_env=boolean(value(environ, "OLLAMA_NO_CLOUD")),
        no_cloud_config=_cloud_off_in_config(Path(home)),
        debug={"1": 1, "t": 1, "T": 1, "true": 1, "True": 1, "TRUE": 1, "2": 2}.get(debug, 0),
        token_rate=number("OLLAMA_DOUBLE_TOKEN_RATE", 50.0),
        start_seconds=number("OLLAMA_DOUBLE_START_SECONDS", 0.0),
        load_seconds=number("OLLAMA_DOUBLE_LOAD_SECONDS", 0.0),
        gpu_share=share,
        gpus=gpus,
        vram_gib=number("OLLAMA_DOUBLE_VRAM_GIB", 24.0),
        exit_at_start=value(environ, "OLLAMA_DOUBLE_EXIT_AT_START") or str(built.get("exit_at_start", "")),
        dies_after_seconds=number("OLLAMA_DOUBLE_DIES_AFTER_SECONDS", float(built.get("dies_after_seconds", 0.0))),
        hide_models=boolean(value(environ, "OLLAMA_DOUBLE_HIDE_MODELS"), bool(built.get("hide_models", False))),
        warnings=warnings,
    )


def _gpus(environ: Mapping[str, str]) -> tuple[list[str], float]:
    """Identifiers of the GPUs that the server sees, and the share of a model that goes into their memory."""
    knob = value(environ, "OLLAMA_DOUBLE_VRAM").lower() or "auto"
    visible = value(environ, "CUDA_VISIBLE_DEVICES")
    wanted = [entry.strip() for entry in visible.split(",") if entry.strip()]
    nodes = sorted(glob.glob("/dev/nvidia[0-9]*"))
    if knob == "cpu" or wanted[:1] == ["-1"] or (knob == "auto" and not nodes):
        return [], 0.0
    try:
        share = 1.0 if knob in ("auto", "gpu") else float(knob)
    except ValueError:
        raise StartError(f"OLLAMA_DOUBLE_VRAM: want auto, gpu, cpu or a share such as 0.5, got {knob}") from None
    if share <= 0:
        return [], 0.0
    named = [entry for entry in wanted if entry.startswith(("GPU-", "MIG-"))]
    count = len(wanted) or len(nodes) or 1
    made_up = [f"GPU-00000000-0000-0000-0000-{number:012d}" for number in range(count)]
    return named or made_up, min(share, 1.0)


def _cloud_off_in_config(home: Path) -> bool:
    try:
        return bool(json.loads((home / ".ollama" / "server.json").read_text(encoding="utf-8")).get("disable_ollama_cloud"))
    except (OSError, ValueError, AttributeError):
        return False


def _split_host_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return (host, rest[1:]) if bracket and rest.startswith(":") else (text, None)
    if text.count(":") == 1:
        host, _colon, port = text.partition(":")
        return host, port
    return text, None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
