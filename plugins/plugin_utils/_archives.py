# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which archives of a release a host needs."""
from __future__ import annotations

from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError


def archive_names(arch: str, rocm: Any, instances: list[dict[str, Any]], gpus: list[dict[str, Any]]) -> list[str]:
    """Names of the archives, which are unpacked over one another; never mlx, whose runtime has an open hole (CVE-2026-7020).

    Args: the architecture as releases name it; C(ollama_rocm_enabled); the instances and the GPUs of the host, as module
    M(gpufleet.ollama.gpu_info) names them. V(auto) adds the libraries for AMD GPUs where the host has one, no NVIDIA GPU, and an instance
    that may use it: with both vendors in a host, only the operator knows which is meant.
    """
    choice = str(rocm).lower()
    if choice not in ("auto", "true", "false"):
        raise ModelError(f"ollama_rocm_enabled is {rocm!r}: give auto, true or false")
    vendors = {gpu["vendor"] for gpu in gpus}
    wanted = choice == "true" or (choice == "auto" and vendors == {"amd"} and arch == "amd64" and any(instance["gpus"] != "none" for instance in instances))
    return [f"ollama-linux-{arch}.tar.zst", *([f"ollama-linux-{arch}-rocm.tar.zst"] if wanted else [])]
