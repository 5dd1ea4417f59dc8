# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Names of models: C([host[:port]/][namespace/]model[:tag]).

Source: Ollama's types/model/name.go. Names keep their case and are matched without it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    r"^(?:(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349})/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{0,79})/)?"
    r"(?P<model>" + _PART + r")(?::(?P<tag>" + _PART + r"))?$"
)


class Name(NamedTuple):
    """The four parts of a name, completed; also the path of its manifest in a store."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def display(self) -> str:
        """The shortest form with the tag, as C(/api/tags) shows it."""
        result = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{result}"
        return result if self.namespace.lower() == DEFAULT_NAMESPACE else f"{self.namespace}/{result}"

    @property
    def key(self) -> str:
        """The same for all spellings that Ollama takes for one model."""
        return "/".join(self).lower()


def parse(name: object) -> Name:
    """The parts of a name. Raises ValueError with a sentence for the user."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    # two dots would be a way out of the store
    if not match or ".." in str(name):
        raise ValueError(f"{name!r} is no model name: give [host/][namespace/]model[:tag], for example llama3.2:1b")
    return Name(match["host"] or DEFAULT_HOST, match["namespace"] or DEFAULT_NAMESPACE, match["model"], match["tag"] or DEFAULT_TAG)


def display_name(name: object) -> str:
    """The shortest form with the tag: V(llama3.2) is V(llama3.2:latest), never V(llama3.2:1b). Raises ValueError."""
    return parse(name).display


def same_name(one: str, other: str) -> bool:
    """True when Ollama takes both for one model."""
    return parse(one).key == parse(other).key
