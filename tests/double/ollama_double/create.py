# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""POST /api/create of the stand-in: a new model from another one or from an uploaded GGUF file."""
from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Callable, Iterator

from . import names
from .api_store import progress
from .exchange import ApiError, Exchange, take
from .gguf import MAGIC, GgufHead, NotGguf, read_head
from .model import LAYER_TYPE, config_for, open_model
from .store import InvalidDigest, Store, go_json

Say = Callable[[dict[str, Any]], None]
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_UNQUANTISED = ("F16", "BF16", "F32")
# What llama-quantize's copy changes is imitated by this many bytes at the end of the file: see _rewritten.
_MARK_BYTES = 32


class Refused(Exception):
    """An error with a status of its own; anything else in the work is a 500."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def create(exchange: Exchange) -> None:
    """Check what can be checked at once, then do the work and stream its steps."""
    body = exchange.json()
    for key in ("files", "draft_files", "adapters"):
        for path, digest in take(body, key, dict, {}).items():
            if key != "adapters" and (path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/"))):
                raise ApiError(400, "file path must be relative")
            if not digest:
                raise ApiError(400, "invalid digest format")
    name = names.parse(take(body, "model", str, "") or take(body, "name", str, ""))
    if not name.is_valid:
        raise ApiError(400, "invalid model name")
    name = exchange.app.store.existing(name)

    def work(tell: Say) -> None:
        try:
            _Maker(exchange, body, tell).make(name)
        except Refused as error:
            raise ApiError(error.status, str(error)) from error

    progress(exchange, body, work)


class _Maker:
    """The making of one model."""

    def __init__(self, exchange: Exchange, body: dict[str, Any], say: Say) -> None:
        self.exchange = exchange
        self.store: Store = exchange.app.store
        self.body = body
        self.say = say
        self.statuses: list[str] = []

    def make(self, name: names.Name) -> None:
        """All of it, in Ollama's order."""
        try:
            old = [layer["digest"] for layer in self.store.manifest(name).all_layers]
        except (FileNotFoundError, ValueError):
            old = []
        if take(self.body, "from", str, ""):
            layers, config = self._from_model(self.body["from"])
        elif take(self.body, "files", dict) is not None:
            layers, config = self._from_files(self.body["files"])
        else:
            raise Refused("neither 'from' or 'files' was specified")
        for path, digest in sorted(take(self.body, "adapters", dict, {}).items()):
            layers.append({"mediaType": f"{LAYER_TYPE}adapter", **self._existing(digest), "from": path})
        layers = self._with_texts(layers)
        digest, size, _new = self.store.add_blob([go_json(config)])
        for status in self.statuses:
            self.say({"status": status})
        self.say({"status": "writing manifest"})
        self.store.write_layers(name, {"mediaType": _CONFIG_TYPE, "digest": digest, "size": size}, layers)
        if not self.store.no_prune:
            self.store.remove_unused(old)
        self.say({"status": "success"})

    def _from_model(self, text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Layers of a model that is here or, over https, pulled first."""
        try:
            name = names.parse(names.split_source(text)[0])
        except names.ConflictingSuffix as error:
            raise Refused("invalid model name") from error
        if not name.is_valid:
            raise Refused("invalid model name")
        try:
            base = open_model(self.store, name)
        except FileNotFoundError:
            self.exchange.app.puller.pull(name, False, self.say, lambda: not self.exchange.gone())
            base = open_model(self.store, name)
        layers = []
        for layer in base.manifest.layers:
            layers.append({**layer, "from": name.display})
            self.statuses.append(f"using existing layer {layer['digest']}")
        if base.head is None:
            return layers, dict(base.config)
        self._quantisation(base.head)
        return layers, config_for(base.head, {**base.config, **self._wishes()})

    def _from_files(self, files: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The model layer of an uploaded GGUF file, rewritten as llama-quantize's copy does."""
        if not files:
            raise Refused("unknown type")
        if any(path.endswith(".safetensors") for path in files):
            raise Refused("the stand-in for Ollama converts no safetensors", 501)
        if len(files) > 1:
            raise Refused("the stand-in for Ollama takes one GGUF file", 501)
        path, digest = next(iter(files.items()))
        if not path.endswith(".gguf") and not self._is_gguf(digest):
            raise Refused("unknown type")
        self.say({"status": "parsing GGUF"})
        blob = self._blob(digest)
        if not blob.exists():
            raise Refused(f"open {blob}: no such file or directory", 500)
        try:
            head = read_head(blob)
        except NotGguf as error:
            raise Refused("supplied file was not in GGUF format") from error
        layer, config = self._rewritten(blob, head), config_for(head, self._wishes())
        return [layer], config

    def _is_gguf(self, digest: str) -> bool:
        try:
            with self.store.blob_path(digest).open("rb") as stream:
                return stream.read(4) == MAGIC
        except (OSError, InvalidDigest):
            return False

    def _quantisation(self, head: GgufHead) -> str:
        """The type that the request wants the weights in, or an empty string."""
        quantize = (take(self.body, "quantize", str, "") or take(self.body, "quantization", str, "")).upper()
        if quantize and head.file_type not in _UNQUANTISED:
            raise Refused("quantization is only supported for F16, BF16 and F32 models", 500)
        return quantize

    def _rewritten(self, blob: Path, head: GgufHead) -> dict[str, Any]:
        quantize, total = self._quantisation(head), blob.stat().st_size
        status = f"quantizing {head.file_type} model to {quantize}" if quantize else "validating GGUF model"
        self.say({"status": status, "digest": "0000000000000000000", "total": total, "completed": total})
        self.say({"status": "verifying conversion"})
        digest, size, new = self.store.add_blob(_marked(blob))
        self.statuses.append(f"{'creating new' if new else 'using existing'} layer {digest}")
        return {"mediaType": f"{LAYER_TYPE}model", "digest": digest, "size": size}

    def _with_texts(self, layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The layers with template, system, licences, parameters and messages of the request in place of the old ones."""
        template = take(self.body, "template", str, "")
        if template:
            if template.count("{{") != template.count("}}"):
                raise Refused("template error: template: :1: unclosed action")
            layers = self._replaced(layers, "template", template.encode())
        if system := take(self.body, "system", str, ""):
            layers = self._replaced(layers, "system", system.encode())
        licenses = self.body.get("license") or []
        for text in [licenses] if isinstance(licenses, str) else licenses:
            layers = layers + [self._new_layer("license", str(text).encode())]
        parameters = dict(take(self.body, "parameters", dict, {}))
        for layer in layers:
            if layer["mediaType"] == f"{LAYER_TYPE}params":
                parameters = {**self.store.blob_json(layer["digest"]), **parameters}
        if parameters:
            layers = self._replaced(layers, "params", go_json(dict(sorted(parameters.items()))))
        if given := take(self.body, "messages", list, []):
            layers = self._replaced(layers, "messages", go_json(given))
        return layers

    def _replaced(self, layers: list[dict[str, Any]], kind: str, data: bytes) -> list[dict[str, Any]]:
        kept = [layer for layer in layers if layer["mediaType"] != f"{LAYER_TYPE}{kind}"]
        for layer in layers:
            if layer not in kept:
                self.statuses = [status for status in self.statuses if not status.endswith(layer["digest"])]
        return kept + [self._new_layer(kind, data)]

    def _new_layer(self, kind: str, data: bytes) -> dict[str, Any]:
        digest, size, new = self.store.add_blob([data])
        self.statuses.append(f"{'creating new' if new else 'using existing'} layer {digest}")
        return {"mediaType": f"{LAYER_TYPE}{kind}", "digest": digest, "size": size}

    def _existing(self, digest: str) -> dict[str, Any]:
        blob = self._blob(digest)
        if not blob.exists():
            raise Refused(f"open {blob}: no such file or directory", 500)
        return {"digest": digest, "size": blob.stat().st_size}

    def _blob(self, digest: str) -> Path:
        try:
            return self.store.blob_path(digest)
        except InvalidDigest as error:
            raise Refused(str(error), 500) from error

    def _wishes(self) -> dict[str, Any]:
        info = take(self.body, "info", dict, {})
        found = {key: take(self.body, key, str, "") for key in ("renderer", "parser", "requires")}
        return {key: text for key, text in found.items() if text} | ({"capabilities": info["capabilities"]} if info.get("capabilities") else {})


def _marked(blob: Path) -> Iterator[bytes]:
    """The file with a mark behind its last tensor, so that, as with the real one, its digest is another one.

    A file that has the mark is left alone: rewriting a rewritten file changes nothing more.
    """
    digest = hashlib.sha256()
    with blob.open("rb") as stream:
        data = stream.read(1 << 20)
        tail = b""
        while data:
            digest.update(data)
            tail = (tail + data)[-_MARK_BYTES:]
            yield data
            data = stream.read(1 << 20)
    if not re.match(rb"^stand-in rewrote ", tail):
        yield b"stand-in rewrote " + digest.hexdigest()[:_MARK_BYTES - 17].encode()
