# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The models that the stand-in's registry offers: made from a seed when first asked for, kept in a cache directory."""
from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Iterable

from . import gguf, names

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
MIB = 1 << 20
LICENSE = "Weights: random numbers from the stand-in for Ollama's registry. No model, no rights, no use but tests.\n"
# Go templates, as the library's models have; the chat template in the GGUF is what llama.cpp would use.
TEMPLATE = "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}\n"
TOOL_TEMPLATE = "{{ if .Tools }}{{ .Tools }}\n{{ end }}" + TEMPLATE
INSERT_TEMPLATE = "{{ if .Suffix }}{{ .Prompt }}{{ .Suffix }}{{ else }}" + TEMPLATE + "{{ end }}"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class BadCatalogue(ValueError):
    """The catalogue file says something that cannot be made."""


@dataclass(frozen=True)
class ModelSpec:
    """One model of the catalogue. Size in bytes; `seed` decides the weights; `requires` is the least Ollama version."""

    name: str
    size: int = 4 * MIB
    seed: int = 1
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = 8192
    parameters: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    requires: str = ""


DEFAULT = (
    ModelSpec("smollm2:135m", 4 * MIB, parameters={"stop": ["<|im_start|>", "<|im_end|>"]}),
    ModelSpec("llama3.2:1b", 8 * MIB, seed=2, capabilities=("completion", "tools"), context_length=131072,
              parameters={"stop": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}),
    ModelSpec("all-minilm:latest", MIB, seed=3, capabilities=("embedding",), context_length=512, parameters={"num_ctx": 256}),
)


def load(path: str | None) -> list[ModelSpec]:
    """The built-in catalogue, with the entries of a JSON file added or replaced by name."""
    specs = {spec.name: spec for spec in DEFAULT}
    if path:
        try:
            entries = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadCatalogue(f"{path}: {error}") from error
        for entry in entries:
            spec = from_json(entry)
            specs[spec.name] = spec
    return list(specs.values())


def from_json(entry: dict[str, Any]) -> ModelSpec:
    """One entry `{name, size, seed, capabilities, ...}`; all but the name have defaults."""
    known = {item.name for item in fields(ModelSpec)}
    unknown = set(entry) - known
    if unknown or "name" not in entry:
        raise BadCatalogue(f"catalogue entry {entry}: want a name and only {', '.join(sorted(known))}")
    name = names.parse(entry["name"])
    if not name.is_valid:
        raise BadCatalogue(f"catalogue entry {entry}: bad model name")
    capabilities = tuple(entry.get("capabilities", ("completion",)))
    return replace(ModelSpec(**{**entry, "capabilities": capabilities}), name=name.display)


@dataclass(frozen=True)
class Layer:
    """A blob on disk with its place in the manifest."""

    media_type: str
    digest: str
    size: int

    def entry(self) -> dict[str, Any]:
        """The JSON form in a manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


class BlobCache:
    """Content-addressed files `sha256-<hex>` in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a digest `sha256:<hex>` is, or would be."""
        return self.directory / digest.replace(":", "-")

    def add(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Store a stream of bytes; (digest, size)."""
        digest, size = hashlib.sha256(), 0
        handle, temporary = tempfile.mkstemp(dir=self.directory)
        with os.fdopen(handle, "wb") as stream:
            for chunk in chunks:
                digest.update(chunk)
                size += stream.write(chunk)
        name = f"sha256:{digest.hexdigest()}"
        os.replace(temporary, self.path(name))
        return name, size


def build(spec: ModelSpec, cache: BlobCache) -> bytes:
    """Make the blobs of a model and return the bytes of its manifest, the same for the same spec each time."""
    name = names.parse(spec.name)
    if "embedding" in spec.capabilities:
        model = gguf.embedding_model(name.repository, spec.size, spec.seed, spec.context_length)
    else:
        model = gguf.completion_model(name.repository, spec.size, spec.seed, spec.context_length, CHAT_TEMPLATE)
    layers = [_layer(cache, "model", model.chunks())]
    template = TOOL_TEMPLATE if "tools" in spec.capabilities else INSERT_TEMPLATE if "insert" in spec.capabilities else TEMPLATE
    if "embedding" not in spec.capabilities:
        layers.append(_layer(cache, "template", [template.encode()]))
    if spec.system:
        layers.append(_layer(cache, "system", [spec.system.encode()]))
    layers.append(_layer(cache, "license", [LICENSE.encode()]))
    if spec.parameters:
        layers.append(_layer(cache, "params", [_json(spec.parameters)]))
    architecture = str(dict((key, content) for key, _kind, content in model.metadata)["general.architecture"])
    weights = sum(tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1) for tensor in model.tensors)
    config: dict[str, Any] = {
        "model_format": "gguf",
        "model_family": architecture,
        "model_families": [architecture],
        "model_type": gguf.human_count(weights),
        "file_type": "Q8_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    extra = [item for item in spec.capabilities if item not in ("completion", "embedding", "tools", "insert")]
    if extra:
        config["capabilities"] = extra
    if spec.requires:
        config["requires"] = spec.requires
    digest, size = cache.add([_json(config)])
    return _json({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": Layer(CONFIG_TYPE, digest, size).entry(),
        "layers": [layer.entry() for layer in layers],
    })


def _layer(cache: BlobCache, kind: str, chunks: Iterable[bytes]) -> Layer:
    return Layer(LAYER_TYPE + kind, *cache.add(chunks))


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
