# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A model of the store as the stand-in's API shows it: details, capabilities, parameters, show."""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .durations import local_time
from .gguf import GgufHead, NotGguf, human_count, read_head
from .names import Name
from .store import Manifest, Store

LAYER_TYPE = "application/vnd.ollama.image."
_LONGEST_SHOWN_ARRAY = 5


@dataclass(frozen=True)
class Model:
    """Everything that the layers of a manifest say."""

    manifest: Manifest
    config: dict[str, Any]
    weights: Path | None
    parent: str
    template: str
    system: str
    licenses: tuple[str, ...]
    options: dict[str, Any]
    messages: list[dict[str, Any]]
    head: GgufHead | None

    @property
    def name(self) -> Name:
        """The name of the manifest."""
        return self.manifest.name

    @property
    def key(self) -> str:
        """What the scheduler knows the model by: its weights, so names that share them share the loaded model."""
        return str(self.weights) if self.weights else f"digest:{self.manifest.digest}"

    @property
    def capabilities(self) -> list[str]:
        """In Ollama's order: from the config, then the GGUF, then the template."""
        found = list(self.config.get("capabilities") or [])
        if self.head is not None:
            found.append("embedding" if self.head.key("pooling_type") is not None else "completion")
            if self.head.key("vision.block_count") is not None:
                found.append("vision")
        variables = re.findall(r"\.(Tools|Suffix)\b", self.template)
        found += [word for variable, word in (("Tools", "tools"), ("Suffix", "insert")) if variable in variables]
        return list(dict.fromkeys(found))

    @property
    def context_length(self) -> int:
        """The context that the model was trained for, 0 when unknown."""
        return int(self.head.key("context_length", 0)) if self.head else 0

    @property
    def embedding_length(self) -> int:
        """The length of an embedding, 0 when unknown."""
        return int(self.head.key("embedding_length", 0)) if self.head else 0

    def details(self, full: bool = True) -> dict[str, Any]:
        """The `details` object; /api/ps shows a shorter one."""
        config = self.config
        found: dict[str, Any] = {
            "parent_model": self.parent if full else "",
            "format": config.get("model_format", ""),
            "family": config.get("model_family", ""),
            "families": config.get("model_families"),
            "parameter_size": config.get("model_type", ""),
            "quantization_level": config.get("file_type", ""),
        }
        return found

    def list_entry(self) -> dict[str, Any]:
        """The item of /api/tags."""
        details = self.details()
        if self.context_length:
            details["context_length"] = self.context_length
        if self.embedding_length:
            details["embedding_length"] = self.embedding_length
        entry = {
            "name": self.name.display,
            "model": self.name.display,
            "modified_at": local_time(self.manifest.modified),
            "size": self.manifest.size,
            "digest": self.manifest.digest,
            "details": details,
        }
        return entry | ({"capabilities": self.capabilities} if self.capabilities else {})

    def show(self, system: str = "", verbose: bool = False) -> dict[str, Any]:
        """The answer of /api/show: empty parts are left out, `model_info` is always an object."""
        system = system or self.system
        info: dict[str, Any] = {}
        tensors = []
        if self.head is not None:
            hidden = ("general.name", "tokenizer.chat_template")
            info = {key: content for key, content in self.head.metadata.items() if key not in hidden}
            if not verbose:
                info = {
                    key: None if isinstance(content, list) and len(content) > _LONGEST_SHOWN_ARRAY else content
                    for key, content in info.items()
                }
            info["general.parameter_count"] = self.head.parameter_count
            tensors = [
                {"name": tensor.name, "type": "Q8_0" if tensor.kind == 8 else "F32", "shape": list(tensor.shape)}
                for tensor in self.head.tensors
            ]
        answer = {
            "license": "\n".join(self.licenses),
            "modelfile": self.modelfile(system),
            "parameters": "\n".join(f"{key:<30} {_shown(item)}" for key, item in self._parameters()),
            "template": self.template,
            "system": system,
            "messages": self.messages,
            "tensors": tensors,
            "capabilities": self.capabilities,
            "requires": self.config.get("requires", ""),
        }
        answer = {key: content for key, content in answer.items() if content}
        return answer | {"details": self.details(), "model_info": info, "modified_at": local_time(self.manifest.modified)}

    def modelfile(self, system: str) -> str:
        """A Modelfile that would make the model again; FROM names the blob by its absolute path."""
        lines = [
            '# Modelfile generated by "ollama show"',
            "# To build a new Modelfile based on this, replace FROM with:",
            f"# FROM {self.name.display}",
            "",
            f"FROM {self.weights}",
            f"TEMPLATE {_quoted(self.template)}",
        ]
        if system:
            lines.append(f"SYSTEM {_quoted(system)}")
        lines += [f"PARAMETER {key} {_quoted(str(item))}" for key, item in self._parameters()]
        lines += [f"LICENSE {_quoted(text)}" for text in self.licenses]
        lines += [f"MESSAGE {message.get('role')} {_quoted(str(message.get('content')))}" for message in self.messages]
        return "\n".join(lines) + "\n"

    def _parameters(self) -> list[tuple[str, Any]]:
        pairs = []
        for key, content in self.options.items():
            pairs += [(key, item) for item in content] if isinstance(content, list) else [(key, content)]
        return pairs


def open_model(store: Store, name: Name) -> Model:
    """Read a model; FileNotFoundError when there is no manifest of exactly this name, or a blob of it is gone."""
    return from_manifest(store, store.manifest(name))


def from_manifest(store: Store, manifest: Manifest) -> Model:
    """Read what the layers say."""
    texts: dict[str, list[str]] = {"template": [], "prompt": [], "system": [], "license": []}
    documents: dict[str, Any] = {"params": {}, "messages": []}
    weights, parent, head = None, "", None
    for layer in manifest.layers:
        kind = str(layer.get("mediaType", "")).removeprefix(LAYER_TYPE)
        if kind == "model":
            weights, parent = store.blob_path(layer["digest"]), layer.get("from", "")
            head = _cached_head(weights)
        elif kind in texts:
            texts[kind].append(store.blob_text(layer["digest"]))
        elif kind in documents:
            documents[kind] = store.blob_json(layer["digest"])
    template = texts["template"] or texts["prompt"]
    return Model(
        manifest=manifest,
        config=store.blob_json(manifest.config["digest"]) if manifest.config.get("digest") else {},
        weights=weights,
        parent=parent,
        # What Ollama uses when a model has no template of its own.
        template=template[-1] if template else "{{ .Prompt }}",
        system=texts["system"][-1] if texts["system"] else "",
        licenses=tuple(texts["license"]),
        options=documents["params"] or {},
        messages=documents["messages"] or [],
        head=head,
    )


def config_for(head: GgufHead, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config of a model that is made here from a GGUF file."""
    config = {
        "model_format": "gguf",
        "model_family": head.architecture,
        "model_families": [head.architecture],
        "model_type": human_count(head.parameter_count),
        "file_type": head.file_type,
    }
    for key in ("renderer", "parser", "requires", "capabilities"):
        if (base or {}).get(key):
            config[key] = (base or {})[key]
    return config | {"architecture": "amd64", "os": "linux"}


def _cached_head(path: Path) -> GgufHead | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _read_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _read_once(path: Path, _modified: int, _size: int) -> GgufHead | None:
    try:
        return read_head(path)
    except NotGguf:
        return None


def _quoted(text: str) -> str:
    """A text as a Modelfile holds it: quoted where it has to be, three times where it has quotes itself."""
    if "\n" not in text and not text.startswith(" ") and not text.endswith(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _shown(item: Any) -> str:
    if isinstance(item, str):
        return f'"{item}"'
    return str(item).lower() if isinstance(item, bool) else str(item)
