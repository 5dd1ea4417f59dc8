# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The configuration of nginx, read from its files.

C(nginx -T) would show it too, but it runs the Lua code of the configuration and makes the files that it names: an audit makes none.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Iterator, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils import _probe

# of files that include one another
MAX_DEPTH = 10
_TOKEN = re.compile(r'\s+|#[^\n]*|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{};]|(?:\\.|\$\{|[^\s{};"\'\\])(?:\\.|\$\{[^}]*\}|[^\s{};\\])*', re.S)
_LUA = re.compile(r'--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{}]', re.S)


class Directive(NamedTuple):
    """A directive: its name and arguments, where it stands, and within what.

    C(context) are the blocks around it, from the outermost, each as it was written without its arguments' quotes, such as
    C(server) or C(location = /health). C(server) is the number of the block C(server) that it is in, by appearance; -1 outside of all.
    """

    name: str
    args: list[str]
    file: str
    line: int
    context: tuple[str, ...]
    server: int


class _Reader:
    def __init__(self, root: str) -> None:
        self.root = root
        self.servers = 0

    def file(self, path: str, context: tuple[str, ...], server: int, depth: int) -> Iterator[Directive]:
        """The directives of a file, with those of what it includes."""
        text = _probe.read(os.path.join(self.root, path.lstrip("/")))
        blocks = [(context, server)]
        words: list[str] = []
        place = line_end = 0
        line = 1
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                # a quote that never ends: nginx takes no such file
                return
            token, start, place = found[0], place, found.end()
            if token[0].isspace() or token[0] == "#":
                continue
            line += text.count("\n", line_end, start)
            line_end = start
            if token not in ("{", "}", ";"):
                words.append(_unquoted(token))
                continue
            if token == "}":
                if len(blocks) > 1:
                    blocks.pop()
            elif words:
                around, number = blocks[-1]
                if token == "{" and words[0] == "server":
                    self.servers += 1
                    number = self.servers - 1
                if token == "{" and words[0].endswith("_by_lua_block"):
                    end = _lua_end(text, place)
                    words.append(" ".join(text[place:end - 1].split()))
                    place = end
                elif token == "{":
                    blocks.append(((*around, " ".join(words)), number))
                yield Directive(words[0], words[1:], path, line, around, number)
                if words[0] == "include" and token == ";" and len(words) == 2:
                    yield from self.include(words[1], around, number, depth)
            words = []

    def include(self, pattern: str, context: tuple[str, ...], server: int, depth: int) -> Iterator[Directive]:
        """The directives of the files of an C(include)."""
        if depth >= MAX_DEPTH:
            return
        absolute = pattern if pattern.startswith("/") else f"/etc/nginx/{pattern}"
        inside = os.path.join(self.root, absolute.lstrip("/"))
        for path in sorted(glob.glob(inside)) if glob.has_magic(absolute) else [inside]:
            yield from self.file("/" + os.path.relpath(path, self.root), context, server, depth + 1)


def _unquoted(token: str) -> str:
    if token[0] not in "\"'":
        return token
    return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.S)


def _lua_end(text: str, place: int) -> int:
    """Where a block of Lua ends, behind its brace."""
    depth = 1
    for found in _LUA.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return len(text) + 1


def directives(root: str = "/", path: str = "/etc/nginx/nginx.conf") -> list[Directive]:
    """All directives that nginx reads, in its order. Empty where there is no nginx; a file that is not there says nothing."""
    return list(_Reader(root).file(path, (), -1, 0))
