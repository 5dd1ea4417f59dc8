"""The hosts, and what one reaches of another."""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import Play, on_host, play  # noqa: E402

OLLAMA, GATEWAY, MONITORING, STRANGER = "firewall-ollama", "firewall-gateway", "firewall-monitoring", "firewall-stranger"
KEPT = "/etc/gpufleet/firewall.nft"
TABLE = "nft --stateless list table inet gpufleet"


def reached(source: str, *targets: str) -> set[str]:
    """Which of C(host:port) a host gets a connection to."""
    commands = "".join(f"(curl -so /dev/null --connect-timeout 1.5 http://{target}/ && echo {target}) & " for target in targets)
    return set(on_host(source).check_output(f"{commands} wait").split())


def converge(*options: str, limit: str = OLLAMA, **variables: Any) -> Play:
    """Run the role on one host."""
    return play("molecule/firewall/converge.yml", "--limit", limit, *options, **variables)


def table(host: str) -> str:
    """The table that runs; empty when there is none."""
    return on_host(host).run(TABLE).stdout
