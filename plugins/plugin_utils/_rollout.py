# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a rollout is told of the instances, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def rollout_instances(units: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The units of a host (see service_units) in the form that module M(gpufleet.ollama.ollama_rollout) takes."""
    return [
        {
            "name": item["name"],
            "url": item["url"],
            "config_id": item["config_id"],
            "store": item["models_dir"],
            "gpus": item["gpus"] if isinstance(item["gpus"], str) else ",".join(item["gpus"]),
        }
        for item in units
    ]


def release_report(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each host, from the results of a loop of M(gpufleet.ollama.ollama_info) over hosts: C(gpu1 runs 0.34.4)."""
    lines = []
    for result in results:
        instances = result.get("instances") or []
        versions = sorted({item["version"] for item in instances if item["version"]})
        silent = [item["unit"] for item in instances if not item["version"]]
        words = [f"runs {' and '.join(versions)}"] if versions else []
        words += [f"{unit} does not answer" for unit in silent]
        if "instances" not in result:
            words = [f"cannot be asked ({result.get('msg', 'no reason given')})"]
        lines.append(f"{result['item']} {', '.join(words) or 'has no instance'}")
    return lines
