"""Unpack a few collections of PyPI's `ansible` wheel into this interpreter's site-packages.

The whole package is 500 MB on disk; docker, posix and their helper are 5 MB.
usage: get_collections.py ANSIBLE_VERSION community.docker ansible.posix ...
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import zipfile


def main() -> None:
    """Do it."""
    version, names = sys.argv[1], sys.argv[2:]
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    stamp = site / "ansible_collections" / ".from-wheel"
    want = f"{version} {' '.join(sorted(names))}\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == want:
        return
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", tmp, f"ansible=={version}"],
            check=True,
        )
        with zipfile.ZipFile(next(pathlib.Path(tmp).glob("ansible-*.whl"))) as wheel:
            prefixes = tuple(f"ansible_collections/{n.replace('.', '/')}/" for n in names)
            for entry in wheel.namelist():
                if entry.startswith(prefixes):
                    wheel.extract(entry, site)
    stamp.write_text(want, encoding="utf-8")


if __name__ == "__main__":
    main()
