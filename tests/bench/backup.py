# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long a backup takes, against `tar czf` of the same store: `python tests/bench/backup.py`.

The store is synthetic: bytes that nothing compresses, as quantised weights are, three quarters of them in models that a lock pins, the rest in models
of one's own. Both write to the same disk, and read from memory, since tar runs first. A backup does more than tar: it compares what nobody
compared yet with its digest. What is measured is the module's own code, with the repository made before, as a role does it.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".venv/collections"), str(Path(__file__).parent)]

# pylint: disable=wrong-import-position
from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Backup  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MEDIA_TYPE, lock_entry  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import Cas, Policy, Repository, Restic  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store  # noqa: E402

from verdict import missed  # noqa: E402

WANTED = 15
# of what the first one takes
AGAIN = 0.5
LAYER = 128 << 20


def make_model(store: Store, name: str, size: int) -> bytes:
    """A model of so many bytes, in layers; its manifest."""
    layers = []
    for start in range(0, size, LAYER):
        data = os.urandom(min(LAYER, size - start))
        digest = hashlib.sha256(data).hexdigest()
        Path(store.blobs, f"sha256-{digest}").write_bytes(data)
        layers.append({"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)})
    raw = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": layers[0], "layers": layers}).encode()
    path = Path(store.manifest_path(parse(name)))
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    return raw


def clocked(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def repositories(folder: Path) -> dict[str, Repository]:
    """A new repository of each kind that this machine can have."""
    found: dict[str, Repository] = {"cas": Cas(str(folder / "cas"))}
    unpacked = ROOT / ".venv/restic/usr/bin/restic"
    program = str(unpacked) if unpacked.exists() else shutil.which("restic")
    if program:
        environment = {"RESTIC_PASSWORD": "not a secret", "RESTIC_CACHE_DIR": str(folder / "cache")}
        found = {"restic": Restic(str(folder / "restic"), environment, binary=program), **found}
    else:
        print("there is no restic on this machine: only plain files are measured")
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=int, default=900, help="MiB of models that a lock pins")
    parser.add_argument("--custom", type=int, default=300, help="MiB of models of one's own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backup-bench-") as text:
        return measure(Path(text), arguments.registry << 20, arguments.custom << 20)


def measure(folder: Path, registry: int, custom: int) -> int:
    """Both ways, and what they took."""
    store = Store(str(folder / "models"))
    store.make_directories()
    lock = {"llama3.2:1b": lock_entry(make_model(store, "llama3.2:1b", registry), "registry.ollama.ai")}
    make_model(store, "support-bot", custom)
    os.sync()
    tar = clocked(lambda: subprocess.run(["tar", "czf", str(folder / "models.tgz"), "-C", store.path, "."], check=True))
    print(f"tar czf           {tar:7.2f} s, {os.path.getsize(folder / 'models.tgz') >> 20} MiB")
    (folder / "models.tgz").unlink()
    figures, wanted = {}, {}
    for kind, repository in repositories(folder).items():
        repository.open(make=True)
        # nothing is known to be good
        Path(store.private, "verified.json").unlink(missing_ok=True)
        os.sync()
        backup = Backup(store, repository, lock, "bench")
        first = clocked(lambda backup=backup: backup.run(Policy()))
        again = clocked(lambda backup=backup: backup.run(Policy()))
        size = sum(path.stat().st_size for path in (folder / kind).rglob("*") if path.is_file())
        print(f"{kind:6} first      {first:7.2f} s, {size >> 20} MiB, {tar / first:.1f} times as fast as tar czf")
        print(f"{kind:6} unchanged  {again:7.2f} s, {tar / again:.1f} times as fast as tar czf")
        figures[f"{kind}: share of tar's time"], wanted[f"{kind}: share of tar's time"] = first / tar, 1 / WANTED
        figures[f"{kind}: unchanged, of the first"], wanted[f"{kind}: unchanged, of the first"] = again / first, AGAIN
    return 1 if missed(figures, wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
