"""Names of models, as Ollama reads them."""

from __future__ import annotations

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name, display_name, parse, same_name


@pytest.mark.parametrize(("text", "name", "display"), [
    ("llama3.2", Name("registry.ollama.ai", "library", "llama3.2", "latest"), "llama3.2:latest"),
    ("llama3.2:1b", Name("registry.ollama.ai", "library", "llama3.2", "1b"), "llama3.2:1b"),
    ("_x", Name("registry.ollama.ai", "library", "_x", "latest"), "_x:latest"),
    ("library/a", Name("registry.ollama.ai", "library", "a", "latest"), "a:latest"),
    ("me/a:T", Name("registry.ollama.ai", "me", "a", "T"), "me/a:T"),
    ("registry.ollama.ai/library/a:t", Name("registry.ollama.ai", "library", "a", "t"), "a:t"),
    ("Registry.Ollama.ai/Library/a:t", Name("Registry.Ollama.ai", "Library", "a", "t"), "a:t"),
    ("hf.co/user/repo-GGUF:Q4_K_M", Name("hf.co", "user", "repo-GGUF", "Q4_K_M"), "hf.co/user/repo-GGUF:Q4_K_M"),
    ("mirror:5000/library/a", Name("mirror:5000", "library", "a", "latest"), "mirror:5000/library/a:latest"),
    ("m" * 80 + ":" + "t" * 80, Name("registry.ollama.ai", "library", "m" * 80, "t" * 80), "m" * 80 + ":" + "t" * 80),
])
def test_parse(text: str, name: Name, display: str) -> None:
    """All parts are filled in; the display form is the shortest one with the tag, and means the same."""
    assert parse(text) == name
    assert display_name(text) == display
    assert parse(display).key == name.key


@pytest.mark.parametrize("text", [
    "", " ", "a b", "-a", ".a", "a/b/c/d", "x:", ":t", "/a", "a/", "a//b", "m@sha256:0", "localhost:5000/m", "[::1]:5000/ns/m", "n.s/m", "a:b:c",
    "..", "a..b", "../../etc", "h/../m", "a\n", "a:t\n", "ä", "m" * 81, "a:" + "t" * 81, "n" * 81 + "/m", "h" * 351 + "/n/m", "http://h/n/m", None, 1, ["a"],
])
def test_what_is_no_name(text: object) -> None:
    """What Ollama refuses, and what would lead out of the store, is refused with the form that is wanted."""
    with pytest.raises(ValueError, match=r"is no model name: give \[host/\]\[namespace/\]model\[:tag\]"):
        parse(text)


def test_case() -> None:
    """Names keep their case and are matched without it."""
    assert same_name("LLAMA3.2", "registry.ollama.ai/library/llama3.2:Latest")
    assert not same_name("llama3.2", "llama3.2:1b") and not same_name("a/b", "b")
    assert display_name("LLaMA3.2") == "LLaMA3.2:latest"
