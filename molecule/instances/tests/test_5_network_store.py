"""A store on the network: one host writes it, the others mount it read-only and serve what is there.

These hosts' kernel has no NFS. mount.nfs4 is a stand-in that binds a local directory, filled from the writer's store; what is shown is
what the role mounts, and how instances behave over a store that they may not write.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from scenario import OLLAMA, on_host, play

HOST = "instances-adopt"
WRITER = "instances-deb12"
# called as mount.nfs4 SOURCE DIRECTORY [-o OPTIONS]
MOUNT = """#!/bin/sh
mount --bind /run/filer "$2" && case "$4" in *ro*) mount -o remount,bind,ro "$2" ;; esac
"""
SHARED = {
    "ollama_models_dir": "/srv/shared",
    "ollama_models_mount": {"src": "filer:/models", "fstype": "nfs4", "opts": "hard,rw", "writer": WRITER},
}


def names(host: Any) -> list[str]:
    """The models of the host's instance."""
    return sorted(item["name"] for item in json.loads(host.check_output("curl -fsS http://127.0.0.1:11434/api/tags"))["models"])


def test_a_reader_serves_what_the_writer_pulled() -> None:
    """The mount is read-only and waits for the network; nothing is pulled to it, pruned or deleted."""
    host = on_host(HOST)
    host.check_output(f"mkdir -p /run/filer && cat >/sbin/mount.nfs4 <<'END'\n{MOUNT}END\nchmod 755 /sbin/mount.nfs4")
    store = subprocess.run(["docker", "exec", WRITER, "tar", "-C", "/srv/models", "-c", "."], capture_output=True, check=True).stdout
    subprocess.run(["docker", "exec", "-i", HOST, "tar", "-C", "/run/filer", "-x"], input=store, check=True)
    host.check_output("chown -R ollama:ollama /run/filer")
    done = play(OLLAMA, "-l", HOST, **SHARED)
    assert done.status == 0, done
    entry = next(line for line in host.file("/etc/fstab").content_string.splitlines() if "/srv/shared" in line)
    options = entry.split()[3].split(",")
    assert {"ro", "_netdev", "hard"} <= set(options) and "rw" not in options, entry
    assert names(host) == ["all-minilm:latest", "smollm2:135m"]
    assert 'OLLAMA_NOPRUNE="1"' in host.file("/etc/ollama/default.env").content_string
    assert host.run("""curl -fsS -X DELETE http://127.0.0.1:11434/api/delete -d '{"model": "smollm2:135m"}'""").rc != 0
    answer = host.check_output("""curl -fsS http://127.0.0.1:11434/api/generate -d '{"model": "smollm2:135m", "prompt": "hi", "stream": false}'""")
    assert json.loads(answer)["done"]
    again = play(OLLAMA, "-l", HOST, **SHARED)
    assert again.status == 0 and again.changed(HOST) == 0, again


def test_back_to_a_store_of_its_own() -> None:
    """Without the mount the instance has its own store again, with the models that stayed there."""
    assert play(OLLAMA, "-l", HOST).status == 0
    assert names(on_host(HOST)) == ["all-minilm:latest", "smollm2:135m"]
