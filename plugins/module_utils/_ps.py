# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where models really run. Ollama falls back to the CPU without an error, so this is what tells that it did.

Two witnesses: C(/api/ps) says how much of each loaded model is in the memory of GPUs, and the log of the server says which devices it
found at its start. It looks only once.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from http.client import HTTPException
from typing import Any, Callable, Iterable, Iterator

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import same_name

Runner = Callable[[list[str]], Iterable[str]]
COMPUTE = "inference compute"
# Ollama logs its devices in one go, before the first of its many lines on requests
LINES_AFTER_COMPUTE = 100
# seconds that a tried model stays where the instance unloads idle ones at once
TRIAL_KEEP_ALIVE = 60

_PAIR = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)')


def loaded(client: OllamaClient) -> list[dict[str, Any]]:
    """The loaded models: name, digest, size and size_vram (bytes), processor_gpu, expires_at, context_length (or None).

    processor_gpu is the share of the model in the memory of GPUs, 0.0 to 1.0; 0.0 where the server does not say a size.
    """
    result = []
    for item in client.ps():
        size, size_vram = item.get("size") or 0, item.get("size_vram") or 0
        result.append(
            {
                "name": item["name"],
                "digest": item.get("digest", ""),
                "size": size,
                "size_vram": size_vram,
                "processor_gpu": min(round(size_vram / size, 4), 1.0) if size else 0.0,
                "expires_at": item.get("expires_at", ""),
                "context_length": item.get("context_length"),
            }
        )
    return result


def gpu_share(models: list[dict[str, Any]]) -> float | None:
    """The smallest share of what C(loaded) returned; None when no model is loaded, which proves nothing."""
    return min((model["processor_gpu"] for model in models), default=None)


def parse_compute(lines: Iterable[str]) -> list[dict[str, str]]:
    """The devices that the log lines of Ollama name, with id, library, name and whatever else the version logs; all values are text.

    A server without a GPU logs one device with the id and the library V(cpu).
    """
    result = []
    for line in lines:
        values = {key: _unquoted(value) for key, value in _PAIR.findall(line)}
        if values.get("msg") == COMPUTE:
            result.append({key: value for key, value in values.items() if key not in ("time", "level", "source", "msg")})
    return result


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        # Go has escapes that JSON has not
        return value[1:-1]


def compute_devices(unit: str, runner: Runner | None = None) -> list[dict[str, str]]:
    """What C(parse_compute) finds in the journal of the present invocation of a unit. Empty when it does not run, or has not said it yet.

    C(runner) runs a command and returns the lines that it prints.
    """
    run = runner or _lines
    invocation = "".join(run(["systemctl", "show", "--value", "--property=InvocationID", unit])).strip()
    if not invocation:
        return []
    return parse_compute(_start_of(run(["journalctl", "--no-pager", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={invocation}"])))


def _start_of(lines: Iterable[str]) -> Iterator[str]:
    """Not the months of requests after the devices: the journal is read no further."""
    left = None
    for line in lines:
        yield line
        if COMPUTE in line:
            left = LINES_AFTER_COMPUTE
        elif left is not None:
            left -= 1
            if not left:
                return


def _lines(command: list[str]) -> Iterator[str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as problems:
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=problems, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise OllamaError(f"cannot run {command[0]}: {error.strerror}") from None
        with process:
            try:
                yield from process.stdout or ()
            except GeneratorExit:
                # the reader has seen enough
                process.kill()
                raise
        if process.returncode:
            problems.seek(0)
            raise OllamaError(f"{' '.join(command)} failed: {problems.read().strip() or f'status {process.returncode}'}")


def smallest_model(client: OllamaClient) -> str | None:
    """Name of the smallest model in the store, by size and then by name. Remote ones do not count: they run elsewhere."""
    local = [
        item
        for item in client.models()
        if not (item.get("remote_host") or item.get("remote_model") or item["name"].rpartition(":")[2].endswith("cloud"))
    ]
    smallest = min(local, key=lambda item: (item.get("size", 0), item["name"]), default=None)
    return smallest["name"] if smallest else None


def try_model(client: OllamaClient, name: str) -> dict[str, Any]:
    """Let a model answer with one token, or one vector, and return its item of C(loaded).

    Raises OllamaError with a sentence when it is missing, answers an error, or is not loaded afterwards.
    """
    try:
        item = client.find(name)
    except ValueError as error:
        raise OllamaError(str(error)) from None
    if item is None:
        raise OllamaError(f"{client.url} has no model {name} to try")
    try:
        capabilities = item.get("capabilities")
        if capabilities is None:
            # before 0.30 only /api/show has them
            capabilities = client.show(name).get("capabilities") or []
        embeds = "embedding" in capabilities and "completion" not in capabilities
        # a keep_alive would stay in force for a model that is in use, so it is given only where the model is gone at once without it
        for extra in ({}, {"keep_alive": TRIAL_KEEP_ALIVE}):
            if embeds:
                client.embed(name, "hi", **extra)
            else:
                client.generate(name, "hi", options={"num_predict": 1}, **extra)
            found = _runner_of(client, name, item["digest"])
            if found:
                return found
    except OllamaError as error:
        raise type(error)(f"{name} does not run: {error}") from None
    except (OSError, HTTPException) as error:
        raise OllamaError(f"{name} does not run: {client.url} broke off: {error}") from None
    raise OllamaError(f"{name} answered, but {client.url} does not list it among the loaded models")


def _runner_of(client: OllamaClient, name: str, digest: str) -> dict[str, Any] | None:
    """The loaded model that serves this name.

    Names that share weights share the runner, which is listed under the name that was asked for first (Ollama's server/sched.go knows
    runners by the path of the weights).
    """
    models = loaded(client)
    for fits in (
        lambda model: same_name(model["name"], name),
        lambda model: model["digest"] == digest,
    ):
        found = next(filter(fits, models), None)
        if found:
            return found
    weights = _weights(client, name) if models else ""
    return next((model for model in models if weights and _weights(client, model["name"]) == weights), None)


def _weights(client: OllamaClient, name: str) -> str:
    """Path of the weights of a model, from its Modelfile; nothing when it is gone."""
    try:
        found = re.search(r"^FROM (.+)$", client.show(name).get("modelfile", ""), re.M)
    except OllamaError:
        return ""
    return found[1] if found else ""
