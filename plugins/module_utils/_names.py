# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Names of models: C([host[:port]/][namespace/]model[:tag]).

Source: Ollama's types/model/name.go. Names keep their case and are matched without it.
"""

from __future__ import annotations

import re

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    r"^(?:(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349})/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{0,79})/)?"
    r"(?P<model>" + _PART + r")(?::(?P<tag>" + _PART + r"))?$"
)


def display_name(name: object) -> str:
    """The shortest form with the tag, as C(/api/tags) shows it: V(llama3.2) is V(llama3.2:latest), never V(llama3.2:1b).

    Raises ValueError with a sentence for the user.
    """
    match = _NAME.match(name) if isinstance(name, str) else None
    if not match:
        raise ValueError(f"{name!r} is no model name: give [host/][namespace/]model[:tag], for example llama3.2:1b")
    host = match["host"] or DEFAULT_HOST
    namespace = match["namespace"] or DEFAULT_NAMESPACE
    result = f"{match['model']}:{match['tag'] or DEFAULT_TAG}"
    if host.lower() != DEFAULT_HOST:
        return f"{host}/{namespace}/{result}"
    return result if namespace.lower() == DEFAULT_NAMESPACE else f"{namespace}/{result}"


def same_name(one: str, other: str) -> bool:
    """True when Ollama takes both for one model."""
    return display_name(one).lower() == display_name(other).lower()
