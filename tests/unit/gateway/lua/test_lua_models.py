"""models.lua: names of models, and patterns of names."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("llama3.2", "llama3.2:latest"), ("LLaMA3.2:1B", "llama3.2:1b"), ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"), ("Registry.Ollama.AI/team/x", "team/x:latest"),
        ("host:5000/team/x", "host:5000/team/x:latest"), ("host:5000/team/x:q4", "host:5000/team/x:q4"), ("library/library/x", "library/library/x:latest"),
        ("https://registry.ollama.ai/library/x", "https://registry.ollama.ai/library/x:latest"),
    ],
)
def test_a_model_has_one_name(lua: Any, name: str, normal: str) -> None:
    assert lua.module("models").normalise(name) == normal


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (["llama3.2"], ["llama3.2", "LLAMA3.2:latest", "library/llama3.2"], ["llama3.2:1b", "llama3x2", "x/llama3.2", "llama3.2:latest2"]),
        (["llama3.2:*"], ["llama3.2", "llama3.2:1b"], ["llama3.20:1b", "llama3x2:1b", "xllama3.2:1b"]),
        (["*:1b", "team/*"], ["llama3.2:1b", "team/x", "TEAM/y:q4"], ["llama3.2:11b2", "llama3.2", "ateam/x"]),
        (["registry.ollama.ai/library/LLaMA*"], ["llama3", "llama:1b"], ["team/llama3"]),
        (["library/a"], ["a"], ["b"]),
        (["*"], ["a", "b/c:d"], []),
        # what is magic in a pattern of Lua stands for itself
        (["a-b*", "c.d:*", "e%a*", "f+*", "[gh]*", "^i*", "j$*", "(k)*", "l?*"],
         ["a-b", "c.d", "e%a1", "f+", "[gh]x", "^i", "j$", "(k)", "l?"], ["ab", "aab", "cxd", "eb", "ff", "g", "i", "j", "k", "l"]),
        (["a**b:*"], ["ab:x", "axxb:y"], ["a:x"]),
        ([], [], ["a"]),
    ],
)
def test_allow_lists(lua: Any, patterns: list, allowed: list, refused: list) -> None:
    models = lua.module("models")
    may_use = models.matcher(lua.table(patterns))
    assert [name for name in allowed if not may_use(models.normalise(name))] == []
    assert [name for name in refused if may_use(models.normalise(name))] == []


def test_a_label_is_a_name_of_the_manifest_or_other(lua: Any) -> None:
    models = lua.module("models")
    models.init(lua.table(["Llama3.2:1b", "qwen3:latest"]))
    assert models.label("llama3.2:1b") == "Llama3.2:1b" and models.label(models.normalise("Qwen3")) == "qwen3:latest"
    assert models.label("x:latest") == "other"


def test_a_log_repeats_only_what_can_be_a_name(lua: Any) -> None:
    loggable = lua.module("models").loggable
    assert loggable("registry.ollama.ai/library/Llama3.2:1b-q4_K") == "registry.ollama.ai/library/Llama3.2:1b-q4_K"
    for name in ("a b", 'a"', "a\n", "\xe4", "a" * 201, ""):
        assert loggable(name) == "invalid"
