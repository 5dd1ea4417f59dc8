# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The environment of an Ollama instance: options of the inventory as the variables that Ollama reads.

Source: Ollama's envconfig/config.go. Ollama says nothing about most values that it cannot read: it takes its default, or true for
a boolean. So each value is checked here as Ollama would read it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DURATION = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
# Go's largest int64: nanoseconds of a duration, and what a count may be
_LARGEST = 2**63 - 1
_LIBRARY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_NO_PROXY = re.compile(r"[A-Za-z0-9.*_:/\[\]-]+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# what would end a value in double quotes early, or cannot stand in an environment file of systemd at all
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"\\]')
# the schemes that Ollama's CORS check knows; an origin of another scheme needs a *
_ORIGIN_SCHEMES = ("http://", "https://", "chrome-extension://", "safari-extension://", "moz-extension://", "ms-browser-extension://")


class ModelError(ValueError):
    """The inventory says something that cannot be."""


def integer(where: str, value: Any, minimum: int, why: str = "") -> int:
    """A whole number, also as text; ModelError when it is less than C(minimum), C(why) saying what would happen."""
    if isinstance(value, bool) or not _INTEGER.fullmatch(str(value)) or not minimum <= int(value) <= _LARGEST:
        raise ModelError(f"{where} is {value!r}: give a whole number of at least {minimum}{why}")
    return int(value)


def suggestion(word: Any, known: Iterable[str]) -> str:
    """A hint at the known word that was meant, to be put behind the unknown one."""
    found = difflib.get_close_matches(str(word).lower(), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _count(minimum: int) -> Callable[[str, Any], str]:
    return lambda where, value: str(integer(where, value, minimum))


def duration(where: str, value: Any) -> str:
    """A duration as Ollama reads it, as text; ModelError when it would take its default instead."""
    text = str(value)
    if isinstance(value, bool) or not (_INTEGER.fullmatch(text) or _DURATION.fullmatch(text)):
        # Ollama would silently take 5m for it
        raise ModelError(f"{where} is {value!r}: give a Go duration such as 30m or 24h, whole seconds, or -1 for ever")
    if _INTEGER.fullmatch(text):
        nanoseconds = abs(int(text)) * 10**9
    else:
        nanoseconds = sum(int(float(number) * _NANOSECONDS[unit]) for number, unit in _DURATION_PART.findall(text))
    if nanoseconds > _LARGEST:
        raise ModelError(f"{where} is {value!r}, more than the 292 years that Ollama can count: give -1 for ever")
    return text


def _boolean(where: str, value: Any) -> str:
    if str(value).lower() in ("true", "1"):
        return "1"
    if str(value).lower() in ("false", "0"):
        return "0"
    # Ollama reads every other word, "no" and "off" too, as true
    raise ModelError(f"{where} is {value!r}: give true or false")


def _debug(where: str, value: Any) -> str:
    if str(value) == "2":
        return "2"
    try:
        return _boolean(where, value)
    except ModelError:
        # Ollama ignores words such as trace
        raise ModelError(f"{where} is {value!r}: give false, true, or 2 for traces") from None


def _choice(*choices: str) -> Callable[[str, Any], str]:
    def check(where: str, value: Any) -> str:
        if value not in choices:
            raise ModelError(f"{where} is {value!r}: give {', '.join(choices[:-1])} or {choices[-1]}")
        return str(value)

    return check


def _fit(where: str, value: Any) -> str:
    # on and off without quotes are booleans in YAML
    if isinstance(value, bool):
        value = "on" if value else "off"
    return _choice("on", "off")(where, value)


def _entries(where: str, value: Any, example: str) -> list[str]:
    """A list of texts, or one text with commas."""
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise ModelError(f"{where} is {value!r}: give a list such as [{example}]")
    return [entry.strip() for entry in entries]


def _origins(where: str, value: Any) -> str:
    entries = _entries(where, value, "https://chat.example.org")
    for entry in entries:
        # Ollama panics at start at an entry with neither a scheme that it knows nor a *, and at one with two *
        if not (entry.startswith(_ORIGIN_SCHEMES) or "*" in entry) or entry.count("*") > 1 or re.search(r"[,\s]", entry):
            raise ModelError(f"{where} has {entry!r}: give origins such as https://chat.example.org, with at most one * in each")
    return ",".join(entries)


def _remotes(where: str, value: Any) -> str:
    entries = _entries(where, value, "ollama.com")
    for entry in entries:
        # compared with the host name of a URL: a scheme or a port would never match
        if not _HOST_NAME.fullmatch(entry):
            raise ModelError(f"{where} has {entry!r}: give host names such as ollama.com, without scheme and port")
    return ",".join(entries)


def _library(where: str, value: Any) -> str:
    if not isinstance(value, str) or not _LIBRARY.fullmatch(value):
        raise ModelError(f"{where} is {value!r}: give the name of a directory in lib/ollama of the release, such as cuda_v12")
    return value


def _gfx_version(where: str, value: Any) -> str:
    numbers = str(value).split(".")
    if len(numbers) != 3 or not all(re.fullmatch(r"[0-9]{1,2}", number) and int(number) <= 15 for number in numbers):
        raise ModelError(f"{where} is {value!r}: give three numbers up to 15 with dots, such as 10.3.0")
    return ".".join(numbers)


def _proxy(where: str, value: Any) -> str:
    # the value may hold a password, so no message shows it
    problem = ModelError(f"{where} is no URL of a proxy: give one with scheme and host such as http://proxy.example.org:3128")
    if not isinstance(value, str) or re.search(r"\s", value):
        raise problem
    try:
        url = urlsplit(value)
        complete = url.scheme in ("http", "https", "socks5", "socks5h") and bool(url.hostname) and url.port != 0
    except ValueError:
        raise problem from None
    if not complete:
        raise problem
    return value


def _no_proxy(where: str, value: Any) -> str:
    entries = _entries(where, value, "localhost, .example.org, 10.0.0.0/8")
    for entry in entries:
        if not _NO_PROXY.fullmatch(entry) or "://" in entry:
            raise ModelError(f"{where} has {entry!r}: give host names, domains such as .example.org, addresses or networks")
    return ",".join(entries)


# option of an instance's environment -> (variable, check). Meanings: README of role common
OPTIONS: dict[str, tuple[str, Callable[[str, Any], str]]] = {
    "context_length": ("OLLAMA_CONTEXT_LENGTH", _count(0)),
    "debug": ("OLLAMA_DEBUG", _debug),
    "debug_log_requests": ("OLLAMA_DEBUG_LOG_REQUESTS", _boolean),
    "fit": ("LLAMA_ARG_FIT", _fit),
    "fit_target": ("LLAMA_ARG_FIT_TARGET", _count(0)),
    "flash_attention": ("OLLAMA_FLASH_ATTENTION", _boolean),
    "go_template": ("OLLAMA_GO_TEMPLATE", _boolean),
    "gpu_overhead": ("OLLAMA_GPU_OVERHEAD", _count(0)),
    "hsa_override_gfx_version": ("HSA_OVERRIDE_GFX_VERSION", _gfx_version),
    "http_proxy": ("HTTP_PROXY", _proxy),
    "https_proxy": ("HTTPS_PROXY", _proxy),
    "igpu_enable": ("OLLAMA_IGPU_ENABLE", _boolean),
    "keep_alive": ("OLLAMA_KEEP_ALIVE", duration),
    "kv_cache_type": ("OLLAMA_KV_CACHE_TYPE", _choice("f16", "q8_0", "q4_0")),
    "llm_library": ("OLLAMA_LLM_LIBRARY", _library),
    "load_timeout": ("OLLAMA_LOAD_TIMEOUT", duration),
    "max_loaded_models": ("OLLAMA_MAX_LOADED_MODELS", _count(0)),
    "max_queue": ("OLLAMA_MAX_QUEUE", _count(1)),
    "max_transfer_streams": ("OLLAMA_MAX_TRANSFER_STREAMS", _count(1)),
    "no_cloud": ("OLLAMA_NO_CLOUD", _boolean),
    "no_proxy": ("NO_PROXY", _no_proxy),
    "noprune": ("OLLAMA_NOPRUNE", _boolean),
    "num_parallel": ("OLLAMA_NUM_PARALLEL", _count(1)),
    "origins": ("OLLAMA_ORIGINS", _origins),
    "remotes": ("OLLAMA_REMOTES", _remotes),
    "sched_spread": ("OLLAMA_SCHED_SPREAD", _boolean),
    "vulkan": ("OLLAMA_VULKAN", _boolean),
}
_OPTION_OF = {variable: option for option, (variable, _check) in OPTIONS.items()}

_NO_REGISTRY = "Ollama has no such setting; write the registry into the names of ollama_models, as in mirror.example.org/library/llama3.2"
_KEYS = "the keys of clients are in ollama_gateway_clients, and the gateway checks them"
# variables that are no options, and what to do instead: set elsewhere, gone from Ollama, never in it, or of the client only
_INSTEAD = {
    "OLLAMA_HOST": "the address is ollama_listen_address of the host, the port is the option port of the instance",
    "OLLAMA_PORT": "the port is the option port of the instance",
    "OLLAMA_MODELS": "the store is models_dir of the instance, or ollama_models_dir of the host",
    "OLLAMA_MODELS_DIR": "models_dir is an option of the instance itself, beside environment",
    "OLLAMA_NUM_GPU": "the GPUs of an instance are its option gpus, and Ollama fits the layers of a model by itself",
    "OLLAMA_NUM_CTX": "write context_length",
    "OLLAMA_NUM_THREAD": "write LLAMA_ARG_THREADS into extra_environment",
    "OLLAMA_NUM_THREADS": "write LLAMA_ARG_THREADS into extra_environment",
    "CUDA_VISIBLE_DEVICES": "the GPUs of an instance are its option gpus",
    "HOME": "the home of all instances is ollama_home_dir",
    "PATH": "the unit runs the programs of the release only, so take it out",
    "OLLAMA_NEW_ENGINE": "it is gone since Ollama 0.30, so take it out",
    "OLLAMA_MULTIUSER_CACHE": "it is gone since Ollama 0.30, so take it out",
    "OLLAMA_INTEL_GPU": "it is gone since Ollama 0.30; write vulkan, and igpu_enable for an integrated GPU",
    "OLLAMA_MAX_VRAM": "it is gone since Ollama 0.2.8; write fit_target, the MiB of each GPU to be left free",
    "OLLAMA_TMPDIR": "it is gone since Ollama 0.5.2, so take it out",
    "OLLAMA_RUNNERS_DIR": "it is gone since Ollama 0.5.2; to choose a library write llm_library",
    "OLLAMA_EXPERIMENT": "it is gone since Ollama 0.31.2, so take it out",
    "OLLAMA_REGISTRY": _NO_REGISTRY,
    "OLLAMA_REGISTRIES": _NO_REGISTRY,
    "OLLAMA_API_KEY": f"a server of Ollama has no keys; {_KEYS}",
    "OLLAMA_AUTH": f"it is read by clients only; {_KEYS}",
    "OLLAMA_METRICS": "Ollama has no metrics; role ollama_exporter makes them",
    "OLLAMA_NOHISTORY": "it is read by the command line only, so take it out",
    "OLLAMA_EDITOR": "it is read by the command line only, so take it out",
}


def _instead(variable: str) -> str:
    """What to do instead of setting a variable; empty when nothing speaks against it."""
    if variable.startswith("OLLAMA_REGISTRY_"):
        return _NO_REGISTRY
    if variable.startswith("GPUFLEET_"):
        return "the collection keeps these names for itself, so choose another"
    if variable.startswith("LD_"):
        return "the unit runs with the libraries of the release only, so take it out"
    return _INSTEAD.get(variable, "")


def _refuse_unsafe(where: str, value: Any) -> None:
    for text in value if isinstance(value, (list, tuple)) else [value]:
        # not shown: it may be a secret, and what is wrong may be invisible
        if isinstance(text, str) and _UNSAFE.search(text):
            raise ModelError(
                f"{where} holds a character that cannot stand in the environment file of a unit: "
                "take out line breaks, double quotes, backslashes and control characters"
            )


def _mapping(where: str, given: Any, example: str) -> Mapping[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ModelError(f"{where} is {given!r}: give a mapping such as {{{example}}}")
    return given


def environment(where: str, given: Any) -> dict[str, str]:
    """C(environment) of an instance as variables. C(where) begins each message."""
    result = {}
    for key, value in _mapping(f"{where} environment", given, "keep_alive: 24h").items():
        if key not in OPTIONS:
            raise _unknown_option(where, str(key))
        _refuse_unsafe(f"{where} environment.{key}", value)
        variable, check = OPTIONS[key]
        result[variable] = check(f"{where} environment.{key}", value)
    return result


def holds_secret(variables: Mapping[str, str]) -> bool:
    """Whether an environment holds a password or a token, which no diff and no log may show: a proxy's URL often does."""
    return any(
        re.search(r"://[^/@]+@", value) or re.search(r"TOKEN|SECRET|PASSW|PWD|CREDENTIAL|AUTH|KEY", name) for name, value in variables.items()
    )


def _unknown_option(where: str, key: str) -> ModelError:
    for variable in (key.upper(), f"OLLAMA_{key.upper()}"):
        if variable in _OPTION_OF:
            return ModelError(f"{where} environment has {key}: write {_OPTION_OF[variable]}")
        if _instead(variable):
            return ModelError(f"{where} environment has {key}: {_instead(variable)}")
    if _VARIABLE.fullmatch(key):
        return ModelError(f"{where} environment has the variable {key}, which is no option: write it into extra_environment")
    return ModelError(f"{where} environment has the unknown option {key}{suggestion(key, OPTIONS)}: known are {', '.join(OPTIONS)}")


def extra_environment(where: str, given: Any, taken: Mapping[str, str]) -> dict[str, str]:
    """C(extra_environment) of an instance as it is, checked. C(taken) are the variables that are set already."""
    result = {}
    for name, value in _mapping(f"{where} extra_environment", given, "LLAMA_ARG_THREADS: 8").items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ModelError(f"{where} extra_environment has the name {name!r}: give upper-case letters, digits and _, a letter first")
        place = f"{where} extra_environment.{name}"
        if name in _OPTION_OF:
            raise ModelError(f"{place} has an option of its own: write {_OPTION_OF[name]} into environment")
        if _instead(name):
            raise ModelError(f"{place} cannot be set: {_instead(name)}")
        if name in taken:
            raise ModelError(f"{place} cannot be set: it follows from the other options of the instance, so take it out")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ModelError(f"{place} is {value!r}: give a number, or text in quotes")
        _refuse_unsafe(place, value)
        result[name] = str(value)
    return result
