# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The lock file of models: which content each name of the manifest has, in a file that people review and git keeps.

It holds the manifests themselves, so that a tag that moves, or is gone, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Manifest, ManifestError, locked
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError, suggestion
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import model_name
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._models import manifest

HEADER = """\
# The lock: which content the tags of the manifest have on every host. Written by the playbook gpufleet.ollama.lock, not by hand.
---
"""
MEND = "take the file from git, or where two branches changed it either side, and run the playbook gpufleet.ollama.lock"

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*(:[A-Za-z0-9._/-]+)*")
_UNSAFE = re.compile(r'[^ !#-\[\]-~]')
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
# as Ollama shows digests
_DIGEST_CHARACTERS = len("sha256:") + 12


def model_lock(document: Any) -> dict[str, Any]:
    """A lock file, parsed: the entry of each model by its name with the tag. Nothing is an empty one.

    Raises ModelError when it is no lock file, has a name twice, or an entry was damaged.
    """
    result = _entries(document)
    for name, entry in result.items():
        _locked(name, entry)
    return result


def lock_document(found: Mapping[str, Any], old: str = "", names: Iterable[str] = ()) -> str:
    """The text of a lock file. The same arguments give the same bytes.

    Args: C(found) the new entries by name, as the module ollama_registry_info gives them; C(old) the text of the file so far; C(names)
    that are to be locked: entries of C(old) that are not in C(found) stay when they are among them.
    What the header of the weights says stays when the registry did not give it this time.

    Raises ModelError when C(old) is no lock file, or an entry that stays was damaged.
    """
    before = _by_key(_entries(_parsed(old)))
    wanted = {_key(name) for name in names}
    after = {key: pair for key, pair in before.items() if key in wanted}
    for key, (name, entry) in _by_key(_entries({"models": found})).items():
        known = before.get(key, ("", {}))[1]
        if not entry.get("metadata") and _digest(known) == _digest(entry):
            entry = {**entry, "metadata": known.get("metadata")}
        after[key] = name, entry
    if not after:
        return f"{HEADER}models: {{}}\n"
    return HEADER + "models:\n" + "".join(_entry_text(name, entry) for _name_key, (name, entry) in sorted(after.items()))


def lock_moves(text: str, old: str = "") -> list[str]:
    """What a new lock file changes, a line for each model. Args: both texts. Raises ModelError when one is no lock file."""
    before, after = _by_key(_entries(_parsed(old))), _by_key(_entries(_parsed(text)))
    lines = []
    for key in sorted({*before, *after}):
        name = (after.get(key) or before[key])[0]
        one, other = (_digest(entries[key][1]) if key in entries else "" for entries in (before, after))
        if one != other:
            lines.append(f"{name} {_short(one)} -> {_short(other)}")
    return lines


def _short(digest: str) -> str:
    return f"{digest[:_DIGEST_CHARACTERS]}…" if digest else "(not locked)"


def lockable(manifests: Iterable[Any], only: Any = "") -> list[str]:
    """Names, with tags and each once, of the models of some manifests that a registry has: not absent ones, and none that are made here.

    Args: C(ollama_models) of each host; C(only) names of them, in a list or with commas.
    Raises ModelError when a manifest is wrong, or one of C(only) is not among them.
    """
    known: dict[str, str] = {}
    for models in manifests:
        for entry in manifest(models):
            if entry["state"] == "present" and entry["definition"] is None:
                known.setdefault(_key(entry["name"]), entry["name"])
    asked = [part.strip() for part in only.split(",")] if isinstance(only, str) else list(only)
    chosen = {_key(name): model_name(name) for name in asked if name}
    for key, name in chosen.items():
        if key not in known:
            hint = suggestion(name, known.values())
            raise ModelError(f"lock_models has {name}, which ollama_models of no host has as a model of a registry{hint}: give names that are there")
    return [name for key, name in sorted(known.items()) if not chosen or key in chosen]


def _key(name: Any) -> str:
    """The same for all spellings of a name."""
    return parse(model_name(name)).key


def _by_key(entries: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    return {_key(name): (name, entry) for name, entry in entries.items()}


def _digest(entry: Any) -> str:
    return str(entry.get("manifest_digest", "")) if isinstance(entry, Mapping) else ""


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"the lock file is no YAML ({' '.join(str(error).split())}): {MEND}") from None


def _entries(document: Any) -> dict[str, Any]:
    """The entries by name, not looked into: a damaged one may be about to be replaced."""
    if not document:
        return {}
    models = document.get("models", "") if isinstance(document, Mapping) and len(document) == 1 else ""
    if models is not None and not isinstance(models, Mapping):
        raise ModelError(f"the lock file must hold models, and nothing else: {MEND}")
    result: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    for given, entry in (models or {}).items():
        name = model_name(given)
        if _key(name) in seen:
            raise ModelError(f"the lock file has {name} twice, as {seen[_key(name)]!r} and as {given!r}, which are one model: remove one of them")
        seen[_key(name)] = given
        result[name] = entry
    return result


def _locked(name: str, entry: Any) -> Manifest:
    try:
        return locked(name, entry)
    except ManifestError as error:
        raise ModelError(str(error)) from None


def _entry_text(name: str, entry: Any) -> str:
    """The lines of an entry: what people read first, and the manifest, which they do not, last."""
    content = _locked(name, entry)
    layers = [f"- {{kind: {_quoted(layer.kind)}, digest: {_quoted(layer.digest)}, size: {layer.size}}}" for layer in content.layers]
    known = entry.get("metadata")
    metadata = [f"{_quoted(key)}: {_flow(value, name)}" for key, value in sorted(known.items())] if isinstance(known, Mapping) else []
    lines = [
        f"manifest_digest: {_quoted(content.digest)}",
        f"size: {content.size}",
        f"origin: {_quoted(entry.get('origin') or '')}",
        "layers:",
        *(f"  {line}" for line in layers),
        "metadata:" if metadata else "metadata: {}",
        *(f"  {line}" for line in metadata),
        f"manifest: {_quoted(entry['manifest'])}",
    ]
    return f"  {_quoted(name)}:\n" + "".join(f"    {line}\n" for line in lines)


def _flow(value: Any, name: str) -> str:
    """A number, a text, or a list of them, in one line."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_flow(item, name) for item in value)}]"
    raise ModelError(f"the lock of {name} has {value!r} in its metadata, where numbers must be: make it again with the playbook gpufleet.ollama.lock")


def _quoted(text: Any) -> str:
    """A text as every YAML parser gives it back to the byte, in one line however long it is."""
    text = str(text)
    if _WORD.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    if text.isascii() and text.isprintable():
        # JSON has quotes enough without escapes
        return "'" + text.replace("'", "''") + "'"
    return '"' + _UNSAFE.sub(_escaped, text) + '"'


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _ESCAPES.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
