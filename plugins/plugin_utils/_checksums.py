# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Tables of pinned releases: the sums of a release's sha256sum.txt are put into a YAML file that people read and edit."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

# mlx is never installed, and JetPack hosts are none of ours
ARCHIVE = re.compile(r"ollama-linux-(?:amd64|arm64|amd64-rocm)\.tar\.zst")
# as sha256sum writes it: two blanks, or a blank and an asterisk; the releases name their files ./NAME
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S.*)")
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.]+))?")
BLOCK = re.compile(r"""  (["']?)([^\s"'#:]+)\1:\s*(?:#.*)?""")
HEADER = """---
# SHA-256 of the archives of Ollama, by version, from the sha256sum.txt of each release. The playbook gpufleet.ollama.add_release adds to it.
"""


def release_checksums(sums: str, version: str, table: str = "", replace: bool = False) -> str:
    """The text of a table file with a version added.

    Args: C(sums) text of a sha256sum.txt; C(version) without v; C(table) text of the file so far, empty for a new one; C(replace) a
    version's sums by other ones. The top-level key, the comments and the other versions stay as they are; the newest version comes first.

    Raises ModelError when a text cannot be read, has no archive for us, or has another sum for an archive that is pinned.
    """
    if not VERSION.fullmatch(str(version)):
        raise ModelError(f"release_version is {version!r}: give an exact version without v, for example 0.35.0")
    found = parse_sums(sums)
    head, blocks, pinned = parse_table(table or f"{HEADER}ollama_checksums:\n")
    known = pinned.get(version, {})
    other = [name for name in sorted(found) if known.get(name, found[name]) != found[name]]
    if other and not replace:
        raise ModelError(
            f"the SHA-256 of {', '.join(other)} of Ollama {version} is another than the one that is pinned: do not trust it before you know why "
            "it changed; then remove the version from the table, or give release_replace=true"
        )
    wanted = {**known, **found}
    if wanted == known:
        return table
    comments = [line for line in blocks.get(version, []) if not line.strip() or line.lstrip().startswith("#")]
    blocks[version] = [*comments, f'  "{version}":\n', *(f"    {name}: {wanted[name]}\n" for name in sorted(wanted))]
    newest_first = sorted(blocks, key=order, reverse=True)
    return head + "".join(line for name in newest_first for line in blocks[name])


def parse_sums(text: str) -> dict[str, str]:
    """SHA-256 by archive, of those that are installed on hosts, from a sha256sum.txt. ModelError when there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        wrong = next((line for line, match in zip(lines, matches) if not match), "")
        raise ModelError(f"this is no sha256sum.txt: it holds the line {wrong[:80]!r}" if wrong else "this is no sha256sum.txt: it is empty")
    found = {match[2]: match[1].lower() for match in matches if match and ARCHIVE.fullmatch(match[2])}
    if not found:
        raise ModelError("the sha256sum.txt names no archive ollama-linux-amd64.tar.zst, -arm64 or -amd64-rocm: releases before 0.14.0 have none")
    return found


def parse_table(text: str) -> tuple[str, dict[str, list[str]], dict[str, dict[str, str]]]:
    """A table file: (everything up to its key, the lines of each version with the comments above it, the sums of each version)."""
    try:
        # everything is text: a sum of digits alone is no number
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ModelError(f"the table is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())) or {}, dict):
        raise ModelError("the table must hold one variable, with versions below it, and nothing else: give release_table a file of its own")
    key, given = next(iter(content.items()))
    pinned = {version: archives or {} for version, archives in (given or {}).items()}
    lines = [f"{line}\n" for line in text.splitlines()]
    start = next((number for number, line in enumerate(lines) if re.match(rf"{re.escape(key)}\s*:", line)), -1)
    blocks = read_blocks(lines[start + 1:]) if start >= 0 else {}
    # what was written in another way, for example all in one line, would be lost
    if start < 0 or set(blocks) != set(pinned) or not all(isinstance(archives, dict) for archives in pinned.values()):
        raise ModelError(f"{key} in the table is not laid out as this writes it: a line for each version, two blanks in, its archives below, four blanks in")
    rest = [] if blocks else lines[start + 1:]
    sums = {version: {name: str(digest).lower() for name, digest in archives.items()} for version, archives in pinned.items()}
    return "".join([*lines[:start], f"{key}:\n", *rest]), blocks, sums


def read_blocks(lines: list[str]) -> dict[str, list[str]]:
    """Lines by version; comments and blank lines belong to the version below them, at the end to the one above."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    version = ""
    for line in lines:
        block = BLOCK.fullmatch(line.rstrip())
        if block:
            version = block[2]
            found[version], above = [*above, line], []
        elif version and line.startswith("    ") and not line.lstrip().startswith("#"):
            found[version] += [*above, line]
            above = []
        else:
            above.append(line)
    if version:
        found[version] += above
    return found


def order(version: str) -> tuple[Any, ...]:
    """Sorts versions by age: 0.9.0, 0.10.0-rc2, 0.10.0-rc10, 0.10.0; what is no version comes before all."""
    match = VERSION.fullmatch(version)
    if not match:
        return (), False, (), version
    numbers = tuple(int(match[part]) for part in (1, 2, 3))
    return numbers, not match[4], tuple(int(number) for number in re.findall(r"\d+", match[4] or "")), version
