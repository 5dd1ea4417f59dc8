"""The hosts, their stores, and the storage."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import on_host  # noqa: E402

FROM, TO = "backup-a", "backup-b"
STORE = "/var/lib/ollama/models"
STORAGE = "/srv/storage/fleet"
TEXTFILES = "/var/lib/prometheus/node-exporter"
MODELS = {"smollm2:135m", "all-minilm:latest", "support-bot:latest"}
ROLE = "molecule/backup/role.yml"


def ask(host: str, path: str, content: Any = None) -> Any:
    """An answer of the API of a host's instance."""
    body = "" if content is None else f"-d '{json.dumps(content)}'"
    return json.loads(on_host(host).check_output(f"curl -sS --max-time 20 {body} http://127.0.0.1:11434{path}"))


def digests(host: str) -> dict[str, str]:
    """Name and digest of all models of a host."""
    return {item["name"]: item["digest"] for item in ask(host, "/api/tags")["models"]}


def tree(host: str) -> dict[str, str]:
    """All that a server sees of a store: path and SHA-256."""
    text = on_host(host).check_output(f"cd {STORE} && find blobs manifests -type f -exec sha256sum {{}} +")
    return {line.split()[1]: line.split()[0] for line in text.splitlines()}


def storage_bytes() -> int:
    """Bytes of all files in the storage."""
    return int(on_host(TO).check_output(f"find {STORAGE} -type f -printf '%s\\n' | awk '{{n += $1}} END {{print n + 0}}'"))


def metrics(host: str, name: str) -> dict[str, float]:
    """What node_exporter is told."""
    lines = on_host(host).check_output(f"grep -v '^#' {TEXTFILES}/gpufleet_ollama_{name}.prom").splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def registry_bytes(reset: bool = False) -> int:
    """Bytes of blobs that the registry gave away, to whoever, since the last reset."""
    path = "https://registry.ollama.ai/_double/stats"
    if reset:
        on_host(FROM).check_output(f"curl -sS --max-time 20 -X POST {path}")
        return 0
    stats = json.loads(on_host(FROM).check_output(f"curl -sS --max-time 20 {path}"))
    return sum(entry["bytes"] for entry in stats["digests"].values())
