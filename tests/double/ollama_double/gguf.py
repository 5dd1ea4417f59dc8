# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tiny but valid GGUF files for the stand-in's registry: real architectures with random weights, and a reader.

The files have every key and tensor that llama.cpp asks of the architecture, so a real Ollama can list, show and load
them; what such a model says is noise. The same seed and size always give the same bytes (SHAKE-256, no `random`).
The size is reached through the width of the feed-forward layers: llama.cpp refuses tensors that it does not know.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""
from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Iterator

MAGIC = b"GGUF"
_VERSION = 3
_ALIGNMENT = 32
_UINT8, _INT8, _UINT16, _INT16, _UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64, _FLOAT64 = range(13)
_SCALARS = {
    _UINT8: "B", _INT8: "b", _UINT16: "H", _INT16: "h", _UINT32: "I", _INT32: "i", _FLOAT32: "f", _BOOL: "?",
    _UINT64: "Q", _INT64: "q", _FLOAT64: "d",
}
_F32, _Q8_0 = 0, 8
_FILE_TYPE_Q8_0 = 7
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0", 8: "Q5_0", 15: "Q4_K_M", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16"}
_BLOCK = 32          # weights in a Q8_0 block,
_BLOCK_BYTES = 34    # which is a half-precision scale and 32 signed bytes
_SCALE = struct.pack("<e", 0.0005)
_PIECE = 1 << 20
# The vocabulary of the completion models: so many special tokens, 256 bytes, then a blank and the visible ASCII letters.
_SPECIAL = 3
_LETTERS = 95


class NotGguf(ValueError):
    """The bytes are no readable GGUF file."""


@dataclass(frozen=True)
class Tensor:
    """Name, type and shape of a tensor; the first dimension is the row. So many rows at its start are zeros."""

    name: str
    kind: int
    shape: tuple[int, ...]
    blank_rows: int = 0

    @property
    def size(self) -> int:
        """Bytes of the data."""
        count = math.prod(self.shape)
        return count * 4 if self.kind == _F32 else count // _BLOCK * _BLOCK_BYTES


@dataclass(frozen=True)
class GgufModel:
    """A model that can be written: typed metadata, tensors and the seed of the weights."""

    metadata: list[tuple[str, int, Any]]
    tensors: list[Tensor]
    seed: str

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the file, piece by piece, so that big models need no big memory."""
        head = bytearray(MAGIC + struct.pack("<IQQ", _VERSION, len(self.tensors), len(self.metadata)))
        for key, kind, content in self.metadata:
            head += _string(key) + struct.pack("<I", kind) + _value(kind, content)
        offset = 0
        for tensor in self.tensors:
            head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
            head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", tensor.kind, offset)
            offset += _aligned(tensor.size)
        yield bytes(head) + bytes(_aligned(len(head)) - len(head))
        for tensor in self.tensors:
            yield from self._weights(tensor)
            yield bytes(_aligned(tensor.size) - tensor.size)

    def _weights(self, tensor: Tensor) -> Iterator[bytes]:
        if tensor.kind == _F32:
            # Norm scales are 1, biases 0 and small tables a quiet constant: enough for finite results.
            number = 0.0 if tensor.name.endswith(".bias") else 1.0 if "norm" in tensor.name else 0.01
            yield struct.pack("<f", number) * (tensor.size // 4)
            return
        step = _PIECE // _BLOCK_BYTES * _BLOCK_BYTES
        for start in range(0, tensor.size, step):
            length = min(step, tensor.size - start)
            piece = bytearray(hashlib.shake_256(f"{self.seed}/{tensor.name}/{start}".encode()).digest(length))
            blocks = length // _BLOCK_BYTES
            piece[0::_BLOCK_BYTES] = _SCALE[:1] * blocks
            piece[1::_BLOCK_BYTES] = _SCALE[1:] * blocks
            blank = min(max(tensor.blank_rows * tensor.shape[0] // _BLOCK - start // _BLOCK_BYTES, 0), blocks)
            piece[:blank * _BLOCK_BYTES] = (_SCALE + bytes(_BLOCK)) * blank
            yield bytes(piece)


def completion_model(name: str, size: int, seed: int, context_length: int, chat_template: str) -> GgufModel:
    """A two-layer `llama` model of about `size` bytes with a vocabulary of bytes and letters."""
    layers, width, tokens = 2, _width(size), _spm_tokens()
    fixed = _Q8(width * len(tokens)) + layers * _Q8(4 * width * width)
    inner = _inner_width(size - fixed, layers, 3 * width)
    metadata = _common("llama", name, layers, context_length, width, inner) + [
        ("llama.attention.head_count_kv", _UINT32, 4),
        ("llama.attention.layer_norm_rms_epsilon", _FLOAT32, 1e-5),
        ("llama.rope.dimension_count", _UINT32, width // 4),
        ("llama.vocab_size", _UINT32, len(tokens)),
        ("tokenizer.ggml.model", _STRING, "llama"),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, tokens)),
        ("tokenizer.ggml.scores", _ARRAY, (_FLOAT32, [0.0] * (_SPECIAL + 256) + [-float(rank) for rank in range(_LETTERS)])),
        ("tokenizer.ggml.token_type", _ARRAY, (_INT32, [2, 3, 3] + [6] * 256 + [1] * _LETTERS)),
        ("tokenizer.ggml.unknown_token_id", _UINT32, 0),
        ("tokenizer.ggml.bos_token_id", _UINT32, 1),
        ("tokenizer.ggml.eos_token_id", _UINT32, 2),
        ("tokenizer.chat_template", _STRING, chat_template),
    ]
    # The table is used for the output, too. Special and byte tokens get zeros there, so that letters score higher: such a
    # model neither stops at once nor says bytes that are no text.
    tensors = [
        Tensor("token_embd.weight", _Q8_0, (width, len(tokens)), blank_rows=_SPECIAL + 256),
        Tensor("output_norm.weight", _F32, (width,)),
    ]
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors.append(Tensor(f"{block}attn_norm.weight", _F32, (width,)))
        tensors += [Tensor(f"{block}attn_{part}.weight", _Q8_0, (width, width)) for part in ("q", "k", "v", "output")]
        tensors.append(Tensor(f"{block}ffn_norm.weight", _F32, (width,)))
        tensors += [Tensor(f"{block}ffn_{part}.weight", _Q8_0, (width, inner)) for part in ("gate", "up")]
        tensors.append(Tensor(f"{block}ffn_down.weight", _Q8_0, (inner, width)))
    return GgufModel(metadata, tensors, f"{name}/{seed}")


def embedding_model(name: str, size: int, seed: int, context_length: int) -> GgufModel:
    """A two-layer `bert` model of about `size` bytes with mean pooling: it embeds and cannot complete."""
    layers, width, tokens = 2, _width(size), _wordpiece_tokens()
    fixed = _Q8(width * len(tokens)) + 4 * width * context_length + layers * _Q8(4 * width * width)
    inner = _inner_width(size - fixed, layers, 2 * width)
    metadata = _common("bert", name, layers, context_length, width, inner) + [
        ("bert.attention.layer_norm_epsilon", _FLOAT32, 1e-12),
        ("bert.attention.causal", _BOOL, False),
        ("bert.pooling_type", _UINT32, 1),
        ("tokenizer.ggml.model", _STRING, "bert"),
        ("tokenizer.ggml.token_type_count", _UINT32, 2),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, tokens)),
        ("tokenizer.ggml.scores", _ARRAY, (_FLOAT32, [-1000.0] * len(tokens))),
        ("tokenizer.ggml.token_type", _ARRAY, (_INT32, [3] * 5 + [1] * (len(tokens) - 5))),
        ("tokenizer.ggml.padding_token_id", _UINT32, 0),
        ("tokenizer.ggml.unknown_token_id", _UINT32, 1),
        ("tokenizer.ggml.cls_token_id", _UINT32, 2),
        ("tokenizer.ggml.bos_token_id", _UINT32, 2),
        ("tokenizer.ggml.seperator_token_id", _UINT32, 3),
        ("tokenizer.ggml.eos_token_id", _UINT32, 3),
        ("tokenizer.ggml.mask_token_id", _UINT32, 4),
    ]
    tensors = [
        Tensor("token_embd.weight", _Q8_0, (width, len(tokens))),
        Tensor("token_types.weight", _F32, (width, 2)),
        Tensor("position_embd.weight", _F32, (width, context_length)),
        Tensor("token_embd_norm.weight", _F32, (width,)),
        Tensor("token_embd_norm.bias", _F32, (width,)),
    ]
    for layer in range(layers):
        block = f"blk.{layer}."
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors += [Tensor(f"{block}{part}.weight", _Q8_0, (width, width)), Tensor(f"{block}{part}.bias", _F32, (width,))]
        tensors += [Tensor(f"{block}ffn_up.weight", _Q8_0, (width, inner)), Tensor(f"{block}ffn_up.bias", _F32, (inner,))]
        tensors += [Tensor(f"{block}ffn_down.weight", _Q8_0, (inner, width)), Tensor(f"{block}ffn_down.bias", _F32, (width,))]
        for part in ("attn_output_norm", "layer_output_norm"):
            tensors += [Tensor(f"{block}{part}.{end}", _F32, (width,)) for end in ("weight", "bias")]
    return GgufModel(metadata, tensors, f"{name}/{seed}")


@dataclass(frozen=True)
class GgufHead:
    """What a reader learns from the start of a file: metadata and tensors, no weights."""

    metadata: dict[str, Any]
    tensors: list[Tensor]

    def key(self, name: str, default: Any = None) -> Any:
        """A key of the architecture, for example `context_length` for `llama.context_length`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    @property
    def architecture(self) -> str:
        """`general.architecture`"""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def file_type(self) -> str:
        """Name of the quantisation."""
        return _FILE_TYPES.get(self.metadata.get("general.file_type", -1), "unknown")


def read_head(path: Path) -> GgufHead:
    """Read metadata and tensor list; NotGguf when the file is no GGUF or ends too early."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) != MAGIC:
                raise NotGguf("not a GGUF file")
            version, tensor_count, pair_count = struct.unpack("<IQQ", stream.read(20))
            if version not in (2, 3) or pair_count > 1 << 16 or tensor_count > 1 << 16:
                raise NotGguf("unsupported GGUF version")
            metadata = {}
            for _number in range(pair_count):
                key = _read_string(stream)
                metadata[key] = _read_value(stream, _unpack(stream, "I"))
            tensors = []
            for _number in range(tensor_count):
                name = _read_string(stream)
                shape = tuple(_unpack(stream, "Q") for _dimension in range(_unpack(stream, "I")))
                tensors.append(Tensor(name, _unpack(stream, "I"), shape))
                _unpack(stream, "Q")
    except (struct.error, UnicodeDecodeError, MemoryError, KeyError) as error:
        raise NotGguf(f"damaged GGUF file: {error}") from error
    return GgufHead(metadata, tensors)


def human_count(number: int) -> str:
    """A number of weights as Ollama shows it: 137K, 4.2M, 1.2B."""
    for unit, limit, places in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if number >= limit:
            count = number / limit
            return f"{count:.0f}{unit}" if count == int(count) else f"{count:.{places}f}{unit}"
    return str(number)


def _common(architecture: str, name: str, layers: int, context_length: int, width: int, inner: int) -> list[tuple[str, int, Any]]:
    return [
        ("general.architecture", _STRING, architecture),
        ("general.name", _STRING, f"{name} (random weights, made by the stand-in)"),
        ("general.file_type", _UINT32, _FILE_TYPE_Q8_0),
        ("general.quantization_version", _UINT32, 2),
        (f"{architecture}.block_count", _UINT32, layers),
        (f"{architecture}.context_length", _UINT32, context_length),
        (f"{architecture}.embedding_length", _UINT32, width),
        (f"{architecture}.feed_forward_length", _UINT32, inner),
        (f"{architecture}.attention.head_count", _UINT32, 4),
    ]


def _Q8(weights: int) -> int:  # pylint: disable=invalid-name
    return weights // _BLOCK * _BLOCK_BYTES


def _width(size: int) -> int:
    return 64 if size < 64 << 20 else 256 if size < 1 << 30 else 1024


def _inner_width(left: int, layers: int, rows: int) -> int:
    """Width of the feed-forward layers that uses up what is left of the wanted size."""
    return max(1, left // layers // (rows * _BLOCK_BYTES // _BLOCK) // _BLOCK) * _BLOCK


def _spm_tokens() -> list[str]:
    letters = [chr(code) for code in range(33, 127)]
    return ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁"] + letters


def _wordpiece_tokens() -> list[str]:
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"▁{letter}" for letter in letters] + letters


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, content: Any) -> bytes:
    if kind == _STRING:
        return _string(content)
    if kind == _ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack(f"<{_SCALARS[kind]}", content)


def _unpack(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]


def _read_string(stream: BinaryIO) -> str:
    length = _unpack(stream, "Q")
    if length > 1 << 24:
        raise NotGguf("damaged GGUF file: a string is too long")
    data = stream.read(length)
    if len(data) != length:
        raise NotGguf("damaged GGUF file: it ends too early")
    return data.decode("utf-8", "replace")


def _read_value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read_string(stream)
    if kind == _ARRAY:
        inner, count = _unpack(stream, "I"), _unpack(stream, "Q")
        if count > 1 << 24:
            raise NotGguf("damaged GGUF file: an array is too long")
        return [_read_value(stream, inner) for _number in range(count)]
    content = _unpack(stream, _SCALARS[kind])
    return _shortest(content) if kind == _FLOAT32 else content


def _shortest(number: float) -> float:
    """A single-precision number with no more digits than it needs: 1e-05, not 9.999999747378752e-06."""
    single = struct.pack("<f", number)
    return next((short for digits in range(1, 9) if struct.pack("<f", short := float(f"{number:.{digits}g}")) == single), number)
