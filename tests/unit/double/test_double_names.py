# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names of the stand-in against the table that was made by running Ollama's own parser."""
from __future__ import annotations

import pytest
from ollama_double import names


@pytest.mark.parametrize(("text", "full", "display"), [
    ("smollm2", "registry.ollama.ai/library/smollm2:latest", "smollm2:latest"),
    ("smollm2:135m", "registry.ollama.ai/library/smollm2:135m", "smollm2:135m"),
    ("me/m", "registry.ollama.ai/me/m:latest", "me/m:latest"),
    ("mirror:5000/library/m:1b", "mirror:5000/library/m:1b", "mirror:5000/library/m:1b"),
    ("REGISTRY.ollama.ai/Library/m", "REGISTRY.ollama.ai/Library/m:latest", "m:latest"),
    ("http://mirror:5000/library/m", "mirror:5000/library/m:latest", "mirror:5000/library/m:latest"),
    ("_m.2-x", "registry.ollama.ai/library/_m.2-x:latest", "_m.2-x:latest"),
])
def test_valid_names(text, full, display):
    name = names.parse(text)
    assert name.is_valid
    assert (name.full, name.display) == (full, display)


@pytest.mark.parametrize("text", [
    "", "localhost:5000/m", "a/b/c/d", "x:", "m@sha256:" + "0" * 64, "[::1]:5000/ns/m", "-a", "a b", "a/", "/a", "a//b",
    "n.s/m", "m:-1", "m" * 81, "m:" + "t" * 81, "é",
])
def test_invalid_names(text):
    assert not names.parse(text).is_valid


def test_existing_names_are_found_whatever_their_case():
    existing = [names.parse("Mirror:5000/Library/SmolLM2:135M")]
    assert names.parse("mirror:5000/library/smollm2:135m").spelled_like(existing) == existing[0]
    assert names.parse("other").spelled_like(existing).display == "other:latest"


def test_only_four_valid_parts_make_a_manifest_path():
    assert names.parse_path("registry.ollama.ai/library/m/1b") == names.parse("m:1b")
    for path in ("registry.ollama.ai/library/m", "a/b/c/d/e", "registry.ollama.ai/library/m/.DS_Store", "a/b/c/._x"):
        assert names.parse_path(path) is None


@pytest.mark.parametrize(("text", "base", "source", "pulled"), [
    ("m:8b", "m:8b", "", "m:8b"),
    ("m:local", "m", "local", "m"),
    ("m:cloud", "m", "cloud", "m:cloud"),
    ("m:8b-cloud", "m:8b", "cloud", "m:8b-cloud"),
    ("m:8b:cloud", "m:8b", "cloud", "m:8b-cloud"),
    ("host:5000/a/m", "host:5000/a/m", "", "host:5000/a/m"),
])
def test_source_suffixes(text, base, source, pulled):
    assert names.split_source(text) == (base, source)
    assert names.pull_name(text) == pulled


def test_both_source_suffixes_conflict():
    with pytest.raises(names.ConflictingSuffix, match="use either :local or :cloud, not both"):
        names.split_source("m:cloud:local")
