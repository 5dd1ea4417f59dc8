#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_release
short_description: Install a release of Ollama beside the others
version_added: 0.1.0
description:
  - Downloads the archives of a version, or takes them from the controller, verifies their SHA-256, unpacks them to a directory of that
    version and runs the binary once to see that it is what it is said to be. What serves is not touched; M(gpufleet.ollama.ollama_rollout)
    puts the release to work.
  - A release that is there is compared with what was unpacked, and installed again from its archives when files were changed, lost or added.
  - The file C(release.env) in the directory of the version holds C(GPUFLEET_RELEASE_ID) for the environment of the services. A release that
    was installed again has another id, so that what still runs from the damaged files can be told.
  - The host needs C(tar) and, with O(unpack_on=target), C(zstd). The controller needs, with O(unpack_on=controller), C(zstd), the Python
    package C(zstandard) or Python 3.14.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description:
      - Asks the server for the size of the archives, and checks the free space, but downloads and copies nothing. Archives on the
        controller are verified.
  diff_mode:
    support: full
    description: Shows the releases on the host before and after, what is damaged, and the bytes to download or to copy.
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
        description:
          - Where the archive is. The host downloads it, or the controller with O(unpack_on=controller).
          - Exactly one of O(archives[].url), O(archives[].src) and O(archives[].path) is needed.
        type: str
      src:
        description:
          - Path of the archive on the controller, for hosts without a way to any mirror. A relative path is looked up as
            M(ansible.builtin.copy) does. It is read only when the release has to be installed, and copied through the remote temporary
            directory of the connection, which needs room for it.
        type: path
      path:
        description: Absolute path of an archive that is already on the host. It is left there.
        type: str
      sha256:
        description: SHA-256 of the archive, 64 hex digits.
        type: str
        required: true
      tar_sha256:
        description: SHA-256 of the file at O(archives[].path) when that is the archive already decompressed. Given by the action plugin.
        type: str
      size:
        description: Bytes of the archive. Asked from the server when it is not given. Given by the action plugin.
        type: int
  root:
    description: Directory that holds a directory per version.
    type: path
    default: /opt/ollama
  unpack_on:
    description:
      - Where the archives are decompressed. V(controller) is for hosts that cannot have C(zstd), and sends about three times the bytes.
      - Each host's copy is decompressed on its own, in Ansible's local temporary directory (C(ANSIBLE_LOCAL_TEMP)), which needs about 5 GB
        for each host that is worked on at the same time; C(throttle) limits them. With O(archives[].src) nothing is downloaded more than once.
    type: str
    choices: [target, controller]
    default: target
  verify:
    description:
      - How a release that is there is compared with what was unpacked. V(quick) looks at kinds, modes, owners, sizes and times, and reads only
        files whose times differ. V(full) reads all files, some gigabytes.
    type: str
    choices: [quick, full]
    default: quick
  download:
    description:
      - V(false) installs nothing and asks no server. RV(missing) then says whether the release has to be installed. Fails all the same when the
        host could not unpack it, or has no room for archives of a known O(archives[].size).
    type: bool
    default: true
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

- name: Install it on hosts that reach no mirror and have no zstd
  gpufleet.ollama.ollama_release:
    version: 0.34.4
    archives:
      - src: /srv/ollama/v0.34.4/ollama-linux-amd64.tar.zst
        sha256: c238986e61d40c0cc5f4a9b9e40b9eea104350b77efa34741fc134e105cb9533
    unpack_on: controller
  throttle: 2
"""

RETURN = r"""
path:
  description: Directory of the version.
  type: str
  returned: success
  sample: /opt/ollama/0.34.4
release_id:
  description: Id of the installed release, as C(release.env) holds it; empty while it is not installed, as in check mode.
  type: str
  returned: success
  sample: 3f1c0a9be2d4-9b02c7e1
damaged:
  description: Paths in the directory of the version that were found changed, lost or added, at most 20.
  type: list
  elements: str
  returned: success
  sample: [bin/ollama]
download_bytes:
  description: Bytes of the archives that were downloaded, or copied from the controller, or would be in check mode.
  type: int
  returned: success
  sample: 1422353729
missing:
  description: Whether the release has to be installed, damaged ones included.
  type: bool
  returned: with O(download=false)
  sample: true
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._release import ARGUMENT_SPEC, Release, ReleaseError, release_id


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    release = Release(params["root"], params["version"], params["archives"], params["timeout"], params["unpack_on"])
    size = 0
    try:
        found = release.inspect(params["verify"] == "full")
        others = release.others()
        if found.missing:
            if not module.check_mode:
                release.check_programs()
            size = release.size(ask=params["download"])
            release.check_space(size)
            if params["download"] and not module.check_mode:
                release.install()
        elif found.record and not module.check_mode:
            release.mend(found.record)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    installing = found.missing and params["download"]
    carried = not any(archive["url"] for archive in params["archives"])
    note = f" ({'copy' if carried else 'download'} of {size / 1e6:.1f} MB)" if installing and size else ""
    after = found.text if found.missing and not installing else f"{release.version}{note}"
    answer: dict[str, Any] = {} if params["download"] else {"missing": found.missing}
    module.exit_json(
        changed=installing or (not found.missing and found.text != release.version),
        path=release.path,
        release_id="" if found.missing and (module.check_mode or not installing) else release_id(release.root, release.version),
        damaged=found.damaged,
        download_bytes=size if installing else 0,
        diff={"before": lines([*others, found.text]), "after": lines([*others, after])},
        **answer,
    )


def lines(releases: list[str]) -> str:
    """Releases for the diff."""
    return "".join(f"{text}\n" for text in releases if text) or "no version\n"


if __name__ == "__main__":
    main()
