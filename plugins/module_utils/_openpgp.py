# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Fingerprints of the keys in an armored OpenPGP file (RFC 4880 and 9580).

Read here rather than by gpg: no Debian is sure to have gpg, and it wants a directory to write to, which a dry run must not make.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any

_BLOCK = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.S)
_PUBLIC_KEY = 6
# signature, public key, user id, subkey, user attribute, padding and trust are what such a file may hold
_ALLOWED = (2, _PUBLIC_KEY, 12, 13, 14, 17, 21)
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


class KeyProblem(ValueError):
    """A key that cannot be read or is not to be trusted; the text is for the user."""


def key_fingerprints(text: Any) -> list[str]:
    """Fingerprints of the primary keys in an armored file, in upper case and without blanks.

    Exactly one block is taken, since programs disagree about what follows it. A file that is not to be understood is an error.
    """
    blocks = _BLOCK.findall(str(text))
    if len(blocks) != 1 or str(text).count("-----BEGIN ") != 1:
        raise KeyProblem("this is no armored OpenPGP key: one block BEGIN PGP PUBLIC KEY BLOCK is wanted")
    # headers end with an empty line, and the last line may be a checksum, which protects from nothing
    lines = blocks[0].replace("\r", "").split("\n")
    body = lines[lines.index("") + 1:] if "" in lines[:-1] else lines
    try:
        data = base64.b64decode("".join(line for line in body if not line.startswith("=")), validate=True)
        result = [_fingerprint(content) for tag, content in _packets(data) if tag == _PUBLIC_KEY]
    except (binascii.Error, IndexError, ValueError) as error:
        raise KeyProblem(f"this OpenPGP key cannot be read: {error}") from None
    if not result:
        raise KeyProblem("this OpenPGP file holds no public key")
    return result


def _packets(data: bytes) -> Iterable[tuple[int, bytes]]:
    """Tag and content of each packet."""
    position = 0
    while position < len(data):
        first = data[position]
        if not first & 0x80:
            raise ValueError("it has no packet where one should begin")
        if first & 0x40:
            tag, (length, position) = first & 0x3F, _new_length(data, position + 1)
        else:
            tag, (length, position) = first >> 2 & 0x0F, _old_length(data, position + 1, first & 3)
        if tag not in _ALLOWED:
            raise ValueError(f"a packet of kind {tag} has no place in it")
        content = data[position:position + length]
        if len(content) != length:
            raise ValueError("it is cut off")
        position += length
        yield tag, content


def _new_length(data: bytes, position: int) -> tuple[int, int]:
    """Length and where the content begins. Parts of a length that is not known are for messages, not for keys."""
    first = data[position]
    if first < 192:
        return first, position + 1
    if first < 224:
        return (first - 192 << 8) + data[position + 1] + 192, position + 2
    if first == 255:
        return int.from_bytes(data[position + 1:position + 5], "big"), position + 5
    raise ValueError("a packet has no length")


def _old_length(data: bytes, position: int, kind: int) -> tuple[int, int]:
    if kind == 3:
        raise ValueError("a packet has no length")
    size = 1 << kind
    if position + size > len(data):
        raise ValueError("it is cut off")
    return int.from_bytes(data[position:position + size], "big"), position + size


def _fingerprint(content: bytes) -> str:
    """Of a version 4 key by SHA-1, of a version 6 key by SHA-256, over the packet in a form of its own."""
    version = content[0]
    if version == 4:
        return hashlib.sha1(b"\x99" + len(content).to_bytes(2, "big") + content, usedforsecurity=False).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(content).to_bytes(4, "big") + content).hexdigest().upper()
    raise ValueError(f"it is of version {version}, whose fingerprint says nothing")


def fingerprint(value: Any) -> str:
    """A fingerprint as the operator wrote it, in upper case and without blanks and colons."""
    result = re.sub(r"[\s:]", "", str(value)).upper()
    if not _FINGERPRINT.fullmatch(result):
        raise KeyProblem(f"{value!r} is no fingerprint of a key: give all 40 hex digits; the short id of a key can be made by anybody")
    return result


def check(text: Any, wanted: Iterable[str]) -> list[str]:
    """The fingerprints of the keys in an armored file. KeyProblem when one of them is none of the C(wanted) ones."""
    found, known = key_fingerprints(text), [fingerprint(value) for value in wanted]
    if not set(found) <= set(known):
        raise KeyProblem(f"it holds the key {', '.join(found)}, and {' or '.join(known)} is wanted")
    return found
