"""Which archives of a release a host needs."""

from __future__ import annotations

from typing import Any

import pytest

from ansible.errors import AnsibleFilterError

from ansible_collections.gpufleet.ollama.plugins.filter.fleet import FilterModule

archive_names = FilterModule().filters()["archive_names"]

ALL, NONE = [{"name": "default", "gpus": "all"}], [{"name": "default", "gpus": "none"}]
AMD, NVIDIA = {"vendor": "amd"}, {"vendor": "nvidia"}
BASE, ROCM = "ollama-linux-amd64.tar.zst", "ollama-linux-amd64-rocm.tar.zst"


@pytest.mark.parametrize(
    ("rocm", "instances", "gpus", "names"),
    [
        ("auto", ALL, [], [BASE]),
        ("auto", ALL, [AMD, AMD], [BASE, ROCM]),
        ("auto", NONE + ALL, [AMD], [BASE, ROCM]),
        # a server's display
        ("auto", NONE, [AMD], [BASE]),
        ("auto", ALL, [AMD, NVIDIA], [BASE]),
        ("auto", ALL, [NVIDIA], [BASE]),
        (True, ALL, [NVIDIA], [BASE, ROCM]),
        ("true", NONE, [], [BASE, ROCM]),
        (False, ALL, [AMD], [BASE]),
    ],
)
def test_names(rocm: Any, instances: list[dict[str, Any]], gpus: list[dict[str, Any]], names: list[str]) -> None:
    assert archive_names("amd64", rocm, instances, gpus) == names


def test_there_is_none_for_arm() -> None:
    assert archive_names("arm64", "auto", ALL, [AMD]) == ["ollama-linux-arm64.tar.zst"]


def test_a_wrong_word() -> None:
    with pytest.raises(AnsibleFilterError, match="ollama_rocm_enabled is 'amd': give auto, true or false"):
        archive_names("amd64", "amd", ALL, [])
