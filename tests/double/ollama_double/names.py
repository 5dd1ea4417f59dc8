# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Model names of the stand-in for Ollama: parsing, validation, display form, `:cloud` and `:local` suffixes."""
from __future__ import annotations

import string
from dataclasses import dataclass, replace
from typing import Iterable

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_FIRST = set(string.ascii_letters + string.digits + "_")
_REST = {
    "host": _FIRST | set("-.:"),
    "namespace": _FIRST | set("-"),
    "model": _FIRST | set("-."),
    "tag": _FIRST | set("-."),
}
_LONGEST = {"host": 350, "namespace": 80, "model": 80, "tag": 80}
# What stands for a part that a separator promised and that is empty ("x:", "a//b"): never a valid part.
_MISSING = "!MISSING!"


@dataclass(frozen=True)
class Name:
    """Four parts of a model name; not necessarily valid, see `is_valid`."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def is_valid(self) -> bool:
        """True when every part is there and keeps to its alphabet and length."""
        return all(_valid_part(kind, getattr(self, kind)) for kind in ("host", "namespace", "model", "tag"))

    @property
    def full(self) -> str:
        """host/namespace/model:tag"""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def display(self) -> str:
        """The shortest form; the tag is always shown."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def repository(self) -> str:
        """namespace/model, as registries know it."""
        return f"{self.namespace}/{self.model}"

    @property
    def path(self) -> str:
        """Relative path of the manifest in the store."""
        return f"{self.host}/{self.namespace}/{self.model}/{self.tag}"

    def spelled_like(self, existing: Iterable["Name"]) -> "Name":
        """This name with each part respelled as some existing name has it: names match case-insensitively."""
        found = self
        for other in existing:
            for part in ("host", "namespace", "model", "tag"):
                theirs = getattr(other, part)
                if theirs.lower() == getattr(found, part).lower():
                    found = replace(found, **{part: theirs})
        return found


def parse(text: str) -> Name:
    """Parse `[host/][namespace/]model[:tag]` with the default host, namespace and tag filled in."""
    tag = host = namespace = ""
    if text.rfind(":") > text.rfind("/"):
        text, tag, _found = _cut(text, ":")
    text, model, found = _cut(text, "/")
    if not found:
        return Name(DEFAULT_HOST, DEFAULT_NAMESPACE, text, tag or DEFAULT_TAG)
    text, namespace, found = _cut(text, "/")
    if not found:
        namespace = text
    else:
        host = text.partition("://")[2] if "://" in text else text
    return Name(host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag or DEFAULT_TAG)


def parse_path(relative: str) -> Name | None:
    """The name of a manifest file `host/namespace/model/tag`, or None when it is no valid one."""
    parts = relative.split("/")
    if len(parts) != 4:
        return None
    name = Name(*parts)
    return name if name.is_valid else None


class ConflictingSuffix(ValueError):
    """Both `:local` and `:cloud` in one name."""


def split_source(text: str) -> tuple[str, str]:
    """Cut a source suffix off: (name, "local" | "cloud" | "")."""
    base, source = _split_source_once(text.strip())
    if source and _split_source_once(base)[1]:
        raise ConflictingSuffix(f'use either :local or :cloud, not both: "{text.strip()}"')
    return base, source


def pull_name(text: str) -> str:
    """The name that a pull or delete really uses: `m:local` is `m`, `m:8b:cloud` is `m:8b-cloud`."""
    base, source = split_source(text)
    if source != "cloud":
        return base
    return f"{base}-cloud" if base.rfind(":") > base.rfind("/") else f"{base}:cloud"


def _split_source_once(text: str) -> tuple[str, str]:
    before, colon, suffix = text.rpartition(":")
    if not colon:
        return text, ""
    suffix = suffix.strip()
    if suffix.lower() in ("cloud", "local"):
        return before, suffix.lower()
    if "/" not in suffix and suffix.lower().endswith("-cloud"):
        return f"{before}:{suffix[:-len('-cloud')]}", "cloud"
    return text, ""


def _cut(text: str, separator: str) -> tuple[str, str, bool]:
    before, found, after = text.rpartition(separator)
    if not found:
        return text, "", False
    return before or _MISSING, after or _MISSING, True


def _valid_part(kind: str, part: str) -> bool:
    if not 1 <= len(part) <= _LONGEST[kind]:
        return False
    return part[0] in _FIRST and all(letter in _REST[kind] for letter in part[1:])
