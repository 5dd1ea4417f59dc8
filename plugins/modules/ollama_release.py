#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_release
short_description: Install a release of Ollama beside the others and switch to it
version_added: 0.1.0
description:
  - Downloads the archives of a version, verifies their SHA-256, unpacks them to a directory of that version, runs the binary
    once to see that it is what it is said to be, and only then switches the link C(current). What ran before is untouched until then.
  - The host needs C(tar) and C(zstd).
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Asks the server for the size of the archives, and checks the free space, but downloads nothing.
  diff_mode:
    support: full
    description: Shows the version that the link points to before and after, and the bytes to download.
options:
  version:
    description: Exact version, without a C(v).
    type: str
    required: true
  archives:
    description: The archives that make the release, unpacked over one another in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      url:
        description: Where the archive is.
        type: str
        required: true
      sha256:
        description: SHA-256 of the archive, 64 hex digits.
        type: str
        required: true
  root:
    description: Directory that holds a directory per version, and the link C(current).
    type: path
    default: /opt/ollama
  timeout:
    description: Longest silence within a download, in seconds.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Install a version
  gpufleet.ollama.ollama_release:
    version: 0.34.4
    archives:
      - url: https://github.com/ollama/ollama/releases/download/v0.34.4/ollama-linux-amd64.tar.zst
        sha256: c238986e61d40c0cc5f4a9b9e40b9eea104350b77efa34741fc134e105cb9533
"""

RETURN = r"""
path:
  description: Directory of the version.
  type: str
  returned: success
  sample: /opt/ollama/0.34.4
previous:
  description: Version that the link pointed to before; empty when there was none.
  type: str
  returned: success
  sample: 0.32.15
download_bytes:
  description: Bytes that were downloaded, or would be in check mode.
  type: int
  returned: success
  sample: 1422353729
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._release import Release, ReleaseError, read_link, switch_link


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "archives": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"url": {"type": "str", "required": True}, "sha256": {"type": "str", "required": True}},
            },
            "root": {"type": "path", "default": "/opt/ollama"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    release = Release(params["root"], params["version"], params["archives"], params["timeout"])
    link = os.path.join(release.root, "current")
    previous = read_link(link)
    size = 0
    try:
        installed = release.is_installed()
        if not installed:
            size = release.download_size()
            release.check_space(size)
            if not module.check_mode:
                release.install()
        if previous != release.version and not module.check_mode:
            switch_link(link, release.version)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    note = f" (download of {size / 1e6:.1f} MB)" if size else ""
    module.exit_json(
        changed=not installed or previous != release.version,
        path=release.path,
        previous=previous,
        download_bytes=size,
        diff={"before": f"{previous or 'no version'}\n", "after": f"{release.version}{note}\n"},
    )


if __name__ == "__main__":
    main()
