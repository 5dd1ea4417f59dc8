# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""When the collector got the last lines of each host, and how much it keeps, for node_exporter's textfile collector.

usage: log_metrics.py CONFIG    a JSON file with directory (of the journals), path (of the metrics), sources (list of host and address)

systemd-journal-remote names the journal of a source by its address, and touches it with each entry that it writes.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from typing import Any


def metrics(directory: str, sources: list[dict[str, str]]) -> str:
    """The metrics as text. A host that has never sent anything has the time 0."""
    lines = [
        "# HELP ollama_logs_last_received_timestamp_seconds When the last lines of a host came, as Unix time; 0: none ever did.",
        "# TYPE ollama_logs_last_received_timestamp_seconds gauge",
    ]
    for source in sources:
        # the one that is written, and those that were, which are called ADDRESS@…
        files = [f"{directory}/remote-{source['address']}.journal", *glob.glob(f"{glob.escape(directory)}/remote-{source['address']}@*.journal")]
        newest = max((_modified(path) for path in files), default=0.0)
        lines.append(f'ollama_logs_last_received_timestamp_seconds{{source="{source["host"]}"}} {newest:.3f}')
    lines += [
        "# HELP ollama_logs_stored_bytes What the journals of all hosts take on the collector's disk.",
        "# TYPE ollama_logs_stored_bytes gauge",
        f"ollama_logs_stored_bytes {sum(_used(path) for path in glob.glob(f'{glob.escape(directory)}/*.journal*'))}",
    ]
    return "\n".join(lines) + "\n"


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        # rotated, or deleted since it grew too old
        return 0.0


def _used(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def main(arguments: list[str]) -> int:
    """Write the file whole or not at all: node_exporter may read at any time."""
    with open(arguments[0], encoding="utf-8") as file:
        config: dict[str, Any] = json.load(file)
    temporary = f"{config['path']}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(metrics(config["directory"], config["sources"]))
    os.replace(temporary, config["path"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
