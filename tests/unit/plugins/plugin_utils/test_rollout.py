"""The filters rollout_instances and release_report."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.filter.fleet import FilterModule
from ansible_collections.gpufleet.ollama.plugins.modules.ollama_rollout import INSTANCE

FILTERS = FilterModule().filters()


def answer(host: str, *versions: str) -> dict[str, Any]:
    """A result of ollama_info in a loop over hosts: an instance for each version, an empty one is silent."""
    names = "abc"
    return {"item": host, "instances": [{"unit": f"ollama@{names[number]}.service", "version": version} for number, version in enumerate(versions)]}


def test_rollout_instances() -> None:
    """What the units of a host say, in the keys that the module has, and no others."""
    fleet = FILTERS["instances"]([{"name": "a"}, {"name": "b", "port": 11435, "gpus": ["GPU-1", "GPU-2"], "models_dir": "/srv/b"}], "127.0.0.1", "/srv/a")
    units = FILTERS["service_units"](fleet, ["unit"])
    first, second = FILTERS["rollout_instances"](units)
    assert set(first) == set(INSTANCE)
    assert first == {"name": "a", "url": "http://127.0.0.1:11434", "config_id": units[0]["config_id"], "store": "/srv/a", "gpus": "all"}
    assert (second["url"], second["store"], second["gpus"]) == ("http://127.0.0.1:11435", "/srv/b", "GPU-1,GPU-2")


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (answer("gpu1", "0.34.4"), "gpu1 runs 0.34.4"),
        (answer("gpu1", "0.34.4", "0.34.4"), "gpu1 runs 0.34.4"),
        (answer("gpu1", "0.34.4", "0.32.9"), "gpu1 runs 0.32.9 and 0.34.4"),
        (answer("gpu1", "0.34.4", "", ""), "gpu1 runs 0.34.4, ollama@b.service does not answer, ollama@c.service does not answer"),
        (answer("gpu1", ""), "gpu1 ollama@a.service does not answer"),
        (answer("gpu1"), "gpu1 has no instance"),
        ({"item": "gpu1", "failed": True, "msg": "Failed to connect to bus"}, "gpu1 cannot be asked (Failed to connect to bus)"),
        ({"item": "gpu1", "unreachable": True}, "gpu1 cannot be asked (no reason given)"),
    ],
)
def test_release_report(result: dict[str, Any], line: str) -> None:
    """A line for each host, whatever it answered."""
    assert FILTERS["release_report"]([result, answer("gpu2", "0.32.9")]) == [line, "gpu2 runs 0.32.9"]
