"""Headers of GGUF files: what is read, how much of the file that takes, and what is refused."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest
from ollama_double import gguf

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gguf

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
CODES = {U8: "B", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}
LLAMA = {
    "general.architecture": "llama", "llama.block_count": 16, "llama.context_length": 131072, "llama.embedding_length": 2048,
    "llama.attention.head_count": 32,
}


class File:
    """Bytes that are read in pieces, and what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, []

    def read(self, offset: int, length: int) -> bytes:
        """A piece."""
        self.asked.append((offset, length))
        return self.data[offset:offset + length]


def text(value: str) -> bytes:
    """A string of the format."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(content: Any) -> bytes:
    """A typed value: bytes stand for themselves."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return struct.pack("<I", STRING) + text(content)
    if isinstance(content, list) and content and isinstance(content[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(content)) + b"".join(map(text, content))
    if isinstance(content, list):
        kind = BOOL if content and isinstance(content[0], bool) else U32
        return struct.pack(f"<IIQ{len(content)}{CODES[kind]}", ARRAY, kind, len(content), *content)
    kind = BOOL if isinstance(content, bool) else F32 if isinstance(content, float) else U32
    return struct.pack(f"<I{CODES[kind]}", kind, content)


def head(pairs: dict[str, Any], version: int = 3, count: int = -1, order: str = "<") -> bytes:
    """A header; count lies about the number of its keys."""
    start = b"GGUF" + struct.pack(f"{order}IQQ", version, 0, len(pairs) if count < 0 else count)
    return start + b"".join(text(key) + value(content) for key, content in pairs.items())


def read(pairs: dict[str, Any]) -> dict[str, Any]:
    """What is read of a header with these keys."""
    return _gguf.read_metadata(File(head(pairs)).read)


def test_completion_model(tmp_path: Path) -> None:
    """A file on disk, as llama.cpp's converter writes it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"".join(gguf.completion_model("a:1b", 1 << 20, 1, 8192, "{{ messages }}").chunks()))
    assert _gguf.read_metadata(_gguf.file_reader(str(path))) == {
        "architecture": "llama", "file_type": 7, "block_count": 2, "context_length": 8192, "embedding_length": 64, "head_count": 4, "head_count_kv": 4,
        "rope_dimension_count": 16, "vocabulary_size": 354,
    }


def test_embedding_model() -> None:
    """The pooling is known, the vocabulary from its length, the KV heads from the heads."""
    found = _gguf.read_metadata(File(b"".join(gguf.embedding_model("b:1b", 1 << 20, 1, 512).chunks())).read)
    assert found == {
        "architecture": "bert", "file_type": 7, "block_count": 2, "context_length": 512, "embedding_length": 64, "head_count": 4, "head_count_kv": 4,
        "pooling_type": 1, "vocabulary_size": 141,
    }


def test_all_keys() -> None:
    """The names without the architecture; nothing of what is not asked for."""
    found = read({
        **LLAMA, "general.name": "x" * 1000, "general.parameter_count": 1235814432, "llama.attention.head_count": [32, 0, 32],
        "llama.attention.head_count_kv": [8, 0, 8],
        "llama.attention.key_length": 128, "llama.attention.value_length": 64, "llama.attention.key_length_mla": 192, "llama.attention.value_length_mla": 96,
        "llama.attention.kv_lora_rank": 512, "llama.attention.sliding_window": 4096,
        "llama.attention.sliding_window_pattern": [True, False, True], "llama.attention.key_length_swa": 64, "llama.attention.value_length_swa": 32,
        "llama.attention.shared_kv_layers": 2, "llama.full_attention_interval": 4, "llama.rope.dimension_count": 64, "llama.vocab_size": 9,
        "llama.ssm.state_size": 4,
        "llama.vision.block_count": 27, "other.block_count": 99, "llama.feed_forward_length": [1, 2],
    })
    assert found == {
        "architecture": "llama", "parameter_count": 1235814432, "block_count": 16, "context_length": 131072, "embedding_length": 2048,
        "head_count": [32, 0, 32],
        "head_count_kv": [8, 0, 8], "key_length": 128, "value_length": 64, "key_length_mla": 192, "value_length_mla": 96, "kv_lora_rank": 512,
        "sliding_window": 4096, "sliding_window_pattern": [1, 0, 1], "key_length_swa": 64, "value_length_swa": 32, "shared_kv_layers": 2,
        "full_attention_interval": 4,
        "rope_dimension_count": 64, "vocabulary_size": 9,
    }


def test_other_types_are_left_out() -> None:
    """A number is a whole one that is not negative; only heads are counted by layer."""
    negative, too_long = struct.pack("<Ii", I32, -1), [1] * 1025
    found = read({
        **LLAMA, "llama.block_count": 1.5, "llama.context_length": "8192", "llama.embedding_length": [1], "llama.pooling_type": True,
        "llama.vocab_size": negative,
        "llama.attention.head_count_kv": too_long, "general.file_type": "Q4",
    })
    assert found == {"architecture": "llama", "head_count": 32, "head_count_kv": 32}
    assert read({"llama.block_count": 16}) == {}


@pytest.mark.parametrize("version", [2, 3])
def test_reading_ends_at_the_vocabulary(version: int) -> None:
    """One piece of a long file; what stands behind the vocabulary is not known."""
    file = File(head({**LLAMA, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["token"] * 200000, "general.file_type": 15}, version))
    found = _gguf.read_metadata(file.read)
    assert found["vocabulary_size"] == 200000 and "file_type" not in found
    assert file.asked == [(0, _gguf.MIN_PIECE)]


def test_other_lists_of_the_vocabulary_end_it_too() -> None:
    """Keys in order of the alphabet, as Ollama writes them: the merges come before the tokens, and numbers are jumped over."""
    numbers = struct.pack("<IIQ", ARRAY, U32, 10) + bytes(40)
    file = File(head({**LLAMA, "tokenizer.ggml.eos_token_ids": numbers, "tokenizer.ggml.merges": ["a b"] * 100000, "tokenizer.ggml.tokens": ["a"]}))
    assert "vocabulary_size" not in _gguf.read_metadata(file.read) and len(file.asked) == 1


def test_vocabulary_before_the_rest() -> None:
    """It is walked over, in pieces that grow; long lists of numbers are not even read."""
    scores = struct.pack("<IIQ", ARRAY, F32, 2_000_000) + bytes(8_000_000)
    file = File(head({
        "zamba.block_count": 3, "tokenizer.ggml.tokens": ["token"] * 100000, "tokenizer.ggml.scores": scores,
        **{key.replace("llama.", "zamba."): content for key, content in LLAMA.items()}, "general.architecture": "zamba",
    }))
    found = _gguf.read_metadata(file.read)
    assert (found["architecture"], found["vocabulary_size"], found["context_length"]) == ("zamba", 100000, 131072)
    assert sum(min(length, len(file.data) - offset) for offset, length in file.asked) < len(file.data) / 2
    assert [length for _offset, length in file.asked] == [_gguf.MIN_PIECE << step for step in range(len(file.asked))]


def test_short_pieces() -> None:
    """A reader that gives less than it is asked for is asked again."""
    data = head({**LLAMA, "tokenizer.ggml.tokens": ["token"] * 3})
    assert _gguf.read_metadata(lambda offset, length: data[offset:offset + min(length, 7)])["vocabulary_size"] == 3


@pytest.mark.parametrize("length", [0, 3, 7, 23, 24, 30, -1, -30])
def test_cut_off(length: int) -> None:
    """Wherever it ends, also within a list that would be jumped over."""
    data = head({**LLAMA, "llama.vocab_size": 9, "general.tags": [1, 2, 3, 4, 5, 6, 7, 8, 9]})
    with pytest.raises(_gguf.GgufError, match=r"cut off: its header goes on behind its end at byte \d+"):
        _gguf.read_metadata(File(data[:length]).read)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4" + bytes(100), r"no GGUF file: it begins with b'PK"),
        (b"<html><head>" + bytes(100), "no GGUF file: it begins with b'<htm'"),
        (head(LLAMA, version=1), "has version 1: only versions 2 and 3"),
        (head(LLAMA, version=4), "has version 4"),
        (head(LLAMA, version=0), "has version 0"),
        (head(LLAMA, version=3, order=">"), "is big endian: only"),
        (head({}, count=2**64 - 1), "its header has 18446744073709551615 keys"),
        (head({}, count=1) + struct.pack("<Q", 2**63), "a key in its header has 9223372036854775808 bytes"),
        (head({"a": struct.pack("<I", 13)}), "'a' in its header has the unknown type 13"),
        (head({"a": struct.pack("<IIQ", ARRAY, ARRAY, 1)}), "'a' in its header is a list of the unknown type 9"),
        (head({"a": struct.pack("<IIQ", ARRAY, STRING, 2**61)}), "longer than 64 MiB"),
        (head({"a": struct.pack("<IIQ", ARRAY, U64, 2**62)}), "longer than 64 MiB"),
        (head({"a": struct.pack("<IQ", STRING, 2**64 - 1)}), "longer than 64 MiB"),
        (head({f"a{number}.block_count": 1 for number in range(300)}), "describes many models"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """A sentence each, from the first piece."""
    file = File(data)
    with pytest.raises(_gguf.GgufError, match=message):
        _gguf.read_metadata(file.read)
    assert len(file.asked) == 1


def test_endless_list() -> None:
    """A list of empty texts as long as a header may be costs neither minutes nor memory."""
    count = (_gguf.MAX_BYTES - 1000) // 8
    start = head({"a": struct.pack("<IIQ", ARRAY, STRING, count)}, count=1 << 16)
    largest = 0

    def endless(offset: int, length: int) -> bytes:
        nonlocal largest
        largest = max(largest, length)
        return (start[offset:] + bytes(length))[:length]

    began = time.monotonic()
    with pytest.raises(_gguf.GgufError, match="longer than 64 MiB"):
        _gguf.read_metadata(endless)
    assert largest == _gguf.MAX_PIECE and time.monotonic() - began < 15


def test_no_file(tmp_path: Path) -> None:
    """The system's own error."""
    with pytest.raises(FileNotFoundError):
        _gguf.read_metadata(_gguf.file_reader(str(tmp_path / "none")))
