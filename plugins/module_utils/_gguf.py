# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the header of a GGUF file says of the model: enough to compute the memory that it takes, without its weights.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from typing import Any, Callable

# bytes from an offset on, fewer only where the file ends
Read = Callable[[int, int], bytes]

# real headers end before 32 MiB, nearly all of it the vocabulary
MAX_BYTES = 64 << 20
MIN_PIECE = 256 << 10
MAX_PIECE = 4 << 20
# files have some dozens of keys, and fewer layers than this; what is longer is none of what is asked for
_MAX_PAIRS = 1 << 16
_MAX_FOUND = 256
_MAX_TEXT = 256
_MAX_LAYERS = 1024
# by the format
_MAX_KEY = 65535

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_GENERAL = {"general.architecture": "architecture", "general.file_type": "file_type", "general.parameter_count": "parameter_count"}
# what stands behind <architecture>. in the file
_KEYS = {
    "block_count": "block_count",
    "context_length": "context_length",
    "embedding_length": "embedding_length",
    "attention.head_count": "head_count",
    "attention.head_count_kv": "head_count_kv",
    "attention.key_length": "key_length",
    "attention.value_length": "value_length",
    "attention.key_length_mla": "key_length_mla",
    "attention.value_length_mla": "value_length_mla",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attention.key_length_swa": "key_length_swa",
    "attention.value_length_swa": "value_length_swa",
    "attention.shared_kv_layers": "shared_kv_layers",
    "full_attention_interval": "full_attention_interval",
    "rope.dimension_count": "rope_dimension_count",
    "pooling_type": "pooling_type",
    "vocab_size": "vocabulary_size",
}
_NEEDED = ("block_count", "context_length", "embedding_length", "attention.head_count")
_PER_LAYER = ("head_count", "head_count_kv", "sliding_window_pattern")
_VOCABULARY = "tokenizer.ggml.tokens"


class GgufError(ValueError):
    """Not a GGUF file that can be read; the text is for the user."""


def read_metadata(read: Read) -> dict[str, Any]:
    """What the header says, without the prefix of the architecture. Keys that are not there are left out.

    Args: C(read) gives bytes of the file from an offset on, in bytes; fewer than asked for only where the file ends. It may be a ranged
    request: it is called for pieces of 256 KiB and more, in order, mostly once.

    C(architecture) is C(general.architecture), C(file_type) llama.cpp's number in C(general.file_type), C(parameter_count)
    C(general.parameter_count). With C(<architecture>.) before it: block_count, context_length, embedding_length, pooling_type;
    vocabulary_size from C(vocab_size), or the length of C(tokenizer.ggml.tokens); rope_dimension_count from C(rope.dimension_count);
    full_attention_interval; head_count, head_count_kv, key_length, value_length, key_length_mla, value_length_mla, key_length_swa,
    value_length_swa, kv_lora_rank, shared_kv_layers, sliding_window and sliding_window_pattern from C(attention.<key>). All are whole
    numbers; head_count, head_count_kv and sliding_window_pattern (0 or 1) may be lists of them, one for each layer, and head_count_kv is
    head_count where it is not given.

    Reading ends where the vocabulary begins when the rest is known. What stands behind it is missing then: files made by
    C(llama-quantize) have their C(file_type) there.

    Raises GgufError when it is no GGUF file of version 2 or 3, little endian, or is cut off. What C(read) raises passes through.
    """
    cursor = _Cursor(read)
    found: dict[str, Any] = {}
    for _number in range(_pairs(cursor)):
        key = cursor.text(_MAX_KEY, "a key")
        kind = cursor.number("I")
        if key.startswith("tokenizer.") and _complete(found):
            if f"{found['general.architecture']}.vocab_size" in found:
                break
            if kind == _ARRAY and (key == _VOCABULARY or cursor.peek("I") == _STRING):
                _note_vocabulary(found, key, cursor)
                break
        _read_value(cursor, key, kind, found)
        if len(found) > _MAX_FOUND:
            raise GgufError("this is no GGUF file that can be read: its header describes many models")
    return _result(found)


def file_reader(path: str) -> Read:
    """What read_metadata asks for, of a file on disk. OSError when it cannot be read."""

    def read(offset: int, length: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    return read


class _Cursor:
    """A place in the file, with what was read around it."""

    def __init__(self, read: Read) -> None:
        self._read, self._piece = read, MIN_PIECE
        # bytes of the file from _start on, and the place in them
        self._data, self._start, self._at = b"", 0, 0

    def _need(self, count: int) -> None:
        self.check(count)
        while len(self._data) - self._at < count:
            self._start, self._data, self._at = self._start + self._at, self._data[self._at:], 0
            piece = self._read(self._start + len(self._data), self._piece)[:self._piece]
            if not piece:
                raise GgufError(f"the GGUF file is cut off: its header goes on behind its end at byte {self._start + len(self._data)}")
            self._data += piece
            self._piece = min(2 * self._piece, MAX_PIECE)

    def check(self, count: int) -> None:
        """GgufError when so many bytes from here on cannot be a part of a header."""
        if self._start + self._at + count > MAX_BYTES:
            raise GgufError(f"this is no GGUF file that can be read: its header would be longer than {MAX_BYTES >> 20} MiB")

    def peek(self, code: str) -> Any:
        """The number of a kind here, which stays to be read."""
        self._need(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self._data, self._at)[0]

    def number(self, code: str) -> Any:
        """The number of a kind here."""
        value = self.peek(code)
        self._at += struct.calcsize(f"<{code}")
        return value

    def bytes(self, count: int) -> bytes:
        """So many bytes."""
        self._need(count)
        self._at += count
        return self._data[self._at - count:self._at]

    def text(self, longest: int, what: str) -> str:
        """A text, with its length before it."""
        length = self.number("Q")
        if length > longest:
            raise GgufError(f"this is no GGUF file that can be read: {what} in its header has {length} bytes")
        return self.bytes(length).decode("utf-8", "replace")

    def skip(self, count: int) -> None:
        """Go on, without reading what lies between; GgufError when the file ends before."""
        if count:
            self.check(count)
            ahead = self._at + count - 1
            if ahead >= len(self._data):
                self._start, self._data, ahead = self._start + ahead, b"", 0
            self._at = ahead
            self.bytes(1)

    def skip_texts(self, count: int) -> None:
        """Go on behind so many texts. A vocabulary has hundreds of thousands."""
        # each has its length, in eight bytes
        self.check(8 * count)
        length_at = struct.Struct("<Q").unpack_from
        while count:
            self._need(8)
            at, last = self._at, len(self._data) - 8
            while count and at <= last:
                at += 8 + length_at(self._data, at)[0]
                count -= 1
            self.skip(at - self._at)


def _pairs(cursor: _Cursor) -> int:
    """How many keys the header has."""
    magic = cursor.bytes(4)
    if magic != b"GGUF":
        raise GgufError(f"this is no GGUF file: it begins with {magic!r}")
    version = cursor.number("I")
    if version not in (2, 3):
        # the byte order is told by nothing else
        what = "is big endian" if version and not version & 0xFFFF else f"has version {version}"
        raise GgufError(f"the GGUF file {what}: only versions 2 and 3 in little endian can be read")
    cursor.number("Q")
    count = cursor.number("Q")
    if count > _MAX_PAIRS:
        raise GgufError(f"this is no GGUF file that can be read: its header has {count} keys")
    return count


def _complete(found: dict[str, Any]) -> bool:
    architecture = found.get("general.architecture")
    return architecture is not None and all(f"{architecture}.{key}" in found for key in _NEEDED)


def _note_vocabulary(found: dict[str, Any], key: str, cursor: _Cursor) -> None:
    cursor.number("I")
    if key == _VOCABULARY:
        found[key] = cursor.number("Q")


def _wanted(key: str) -> bool:
    # the architecture may be named behind its keys: Ollama sorts them
    return key in _GENERAL or key.partition(".")[2] in _KEYS


def _read_value(cursor: _Cursor, key: str, kind: int, found: dict[str, Any]) -> None:
    """Read over a value; note it when it may be one of ours."""
    if kind in _SCALARS:
        value = cursor.number(_SCALARS[kind])
        if _wanted(key):
            found[key] = value
    elif kind == _STRING:
        if key in _GENERAL and cursor.peek("Q") <= _MAX_TEXT:
            found[key] = cursor.text(_MAX_TEXT, key)
        else:
            cursor.skip(cursor.number("Q"))
    elif kind == _ARRAY:
        _read_array(cursor, key, found)
    else:
        raise GgufError(f"this is no GGUF file that can be read: {key[:80]!r} in its header has the unknown type {kind}")


def _read_array(cursor: _Cursor, key: str, found: dict[str, Any]) -> None:
    kind, count = cursor.number("I"), cursor.number("Q")
    if key == _VOCABULARY:
        found[key] = count
    if kind == _STRING:
        cursor.skip_texts(count)
    elif kind in _SCALARS:
        size = struct.calcsize(f"<{_SCALARS[kind]}")
        cursor.check(size * count)
        if _wanted(key) and count <= _MAX_LAYERS:
            found[key] = list(struct.unpack(f"<{count}{_SCALARS[kind]}", cursor.bytes(size * count)))
        else:
            cursor.skip(size * count)
    else:
        raise GgufError(f"this is no GGUF file that can be read: {key[:80]!r} in its header is a list of the unknown type {kind}")


def _result(found: dict[str, Any]) -> dict[str, Any]:
    architecture = found.get("general.architecture")
    result: dict[str, Any] = {"architecture": architecture} if isinstance(architecture, str) else {}
    named = {**{key: name for key, name in _GENERAL.items() if name != "architecture"}, **{f"{architecture}.{key}": name for key, name in _KEYS.items()}}
    for key, name in named.items():
        value = _count(found.get(key), name in _PER_LAYER)
        if value is not None:
            result[name] = value
    if "head_count" in result:
        result.setdefault("head_count_kv", result["head_count"])
    if _VOCABULARY in found:
        result.setdefault("vocabulary_size", found[_VOCABULARY])
    return result


def _count(value: Any, per_layer: bool) -> Any | None:
    """A count, or the counts of the layers; None when it is none."""
    if isinstance(value, list) and per_layer and value and all(isinstance(item, int) and item >= 0 for item in value):
        # which layers have a window is said by booleans
        return [int(item) for item in value]
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
