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


def fetch(version: str, folder: str) -> pathlib.Path:
    """Download the wheel into a folder; the error of pip is one line."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"),
        # the wheel is for any Python; --python-version keeps pip from refusing it to an older controller
        *("--python-version", "3.12", "-d", folder, f"ansible=={version}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(f"pip did not download ansible=={version}: {(lines or ['it said nothing'])[-1].removeprefix('ERROR: ')}")
    return next(pathlib.Path(folder).glob("ansible-*.whl"))


def main() -> int:
    """Do it."""
    version, names = sys.argv[1], sys.argv[2:]
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    stamp = site / "ansible_collections" / ".from-wheel"
    want = f"{version} {' '.join(sorted(names))}\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == want:
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(fetch(version, folder)) as wheel:
            prefixes = tuple(f"ansible_collections/{name.replace('.', '/')}/" for name in names)
            for entry in wheel.namelist():
                if entry.startswith(prefixes):
                    wheel.extract(entry, site)
        stamp.write_text(want, encoding="utf-8")
    except (OSError, zipfile.BadZipFile) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
