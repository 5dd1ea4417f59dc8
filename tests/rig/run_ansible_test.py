"""Run ansible-test in a copy of the checkout: it wants to stand in .../ansible_collections/NAMESPACE/NAME, in a git repository.

usage: run_ansible_test.py sanity [option ...]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ansible_test._internal.python_requirements as requirements

ROOT = Path(__file__).resolve().parents[2]
# where ansible-test keeps what it downloads
CACHE = Path.home() / ".ansible/test/cache"

# ansible-test bootstraps its virtual environments with get-pip.py from a host that a closed network does not reach;
# this does the same from the package index
GET_PIP = '''"""Stand-in of get-pip.py: installs pip {version} from a wheel kept beside it."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "pip-wheel", "pip-{version}-py3-none-any.whl"))
from pip._internal.cli.main import main
args = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
sys.exit(main(["install", "--upgrade", "--force-reinstall", "--quiet"] + args))
'''


def provide_get_pip() -> None:
    """Write the stand-in unless a get-pip.py is there."""
    match = re.search(r"pip='([0-9.]+)'", Path(str(requirements.__file__)).read_text(encoding="utf-8"))
    if not match:
        return
    version = match[1]
    script = CACHE / f"get_pip_{version.replace('.', '_')}.py"
    if script.is_file():
        return
    (CACHE / "pip-wheel").mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE / "pip-wheel"), f"pip=={version}"], check=True
    )
    script.write_text(GET_PIP.format(version=version), encoding="utf-8")


def main() -> int:
    """Copy, and run."""
    provide_get_pip()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ansible_collections/gpufleet/ollama"
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
        subprocess.run(["git", "add", "-A"], cwd=copy, check=True)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        command = [str(Path(sys.executable).parent / "ansible-test"), *sys.argv[1:], "--python", python, "--color", "no"]
        return subprocess.run(command, cwd=copy, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
