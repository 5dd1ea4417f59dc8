# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Containers that use GPUs: the configuration of Docker's daemon, and what the runtimes can read.

Each function raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

RUNTIME = "nvidia-container-runtime"
# what nvidia-ctk itself would add
_NVIDIA_RUNTIME = {"path": RUNTIME, "args": []}
# the first Docker that knows features.cdi
_DOCKER_WITH_CDI = (25, 0)
# the first ones that read version 0.7 of the CDI specification (nvidia-container-toolkit, docs of nvidia-cdi-refresh)
_READS_CDI_7 = {"docker": (26, 1), "podman": (5, 1)}
_CDI_FLAGS = "no-additional-gids-for-device-nodes"
_VERSION = re.compile(r"\b([0-9]+)\.([0-9]+)(?:\.[0-9]+)*")


def _version(answer: str) -> tuple[int, int] | None:
    """(26, 1) of C(Docker version 26.1.5+dfsg1, build a72d7cd); None where there is no version, as the program is missing."""
    found = _VERSION.search(answer or "")
    return (int(found[1]), int(found[2])) if found else None


def docker_daemon(text: str, host: str, docker: str = "", cdi: bool = True) -> str:
    """What C(/etc/docker/daemon.json) has to say so that Docker knows the runtime C(nvidia); all else in it stays.

    Args: the C(text) of the file (empty: there is none), the C(host) for messages, what C(dockerd --version) said (empty: no Docker yet), and
    whether Docker may use C(cdi).
    Returns the text as it is when nothing is missing in it, and so keeps its layout.
    """
    config = _daemon(text, host)
    runtimes = config.setdefault("runtimes", {})
    if not isinstance(runtimes, dict):
        raise ModelError(f"runtimes in /etc/docker/daemon.json of {host} is {runtimes!r}, and Docker takes a mapping only: correct it there")
    known = runtimes.get("nvidia")
    changed = False
    # a path of the operator's own stays
    if not isinstance(known, dict) or not str(known.get("path", "")).endswith(RUNTIME):
        runtimes["nvidia"] = dict(_NVIDIA_RUNTIME)
        changed = True
    version = _version(docker)
    if cdi and version and version >= _DOCKER_WITH_CDI:
        features = config.setdefault("features", {})
        if not isinstance(features, dict):
            raise ModelError(f"features in /etc/docker/daemon.json of {host} is {features!r}, and Docker takes a mapping only: correct it there")
        # who switched it off knows why
        if "cdi" not in features:
            features["cdi"] = True
            changed = True
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n" if changed else text


def _daemon(text: str, host: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(
            f"/etc/docker/daemon.json of {host} is no JSON ({error}), so Docker would not start with it either: correct the file, or move it away"
        ) from None
    if not isinstance(config, dict):
        raise ModelError(f"/etc/docker/daemon.json of {host} holds a {type(config).__name__}, and Docker takes a mapping only: correct the file")
    return config


def cdi_feature_flags(docker: str, podman: str) -> str:
    """The feature flags that the CDI specification has to be written with so that the runtimes of a host can read it; mostly none.

    Args: what C(dockerd --version) and C(podman --version) said, each empty where the program is missing.
    """
    versions = {"docker": _version(docker), "podman": _version(podman)}
    old = any(version is not None and version < _READS_CDI_7[name] for name, version in versions.items())
    return _CDI_FLAGS if old else ""
