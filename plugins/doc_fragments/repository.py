# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Options of the modules that use a repository of backups."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment."""

    DOCUMENTATION = r"""
options:
  repository:
    description:
      - Where the backups are. With O(format=restic) as restic names it, such as V(s3:https://s3.example.com/backups/fleet),
        V(sftp:backup@nas.example.com:/srv/backups), V(rest:https://backup.example.com/fleet) or V(/srv/backups). With O(format=cas) a directory.
      - One with a password in it belongs into O(environment), as C(RESTIC_REPOSITORY), since this option is shown.
    type: str
    default: ""
  format:
    description:
      - V(restic) is a repository of restic, encrypted, which the package C(restic) is needed for.
      - V(cas) are plain files by their digests, with an index, in a directory or on a mount. Neither encrypted nor compressed, and much faster.
    type: str
    choices: [restic, cas]
    default: restic
  password:
    description: Password of the repository. Goes to restic by its environment, and is on no command line.
    type: str
  environment:
    description: Environment for restic, such as C(AWS_ACCESS_KEY_ID) and C(AWS_SECRET_ACCESS_KEY).
    type: dict
    default: {}
  restic_options:
    description: Extended options of restic, such as V(s3.storage-class=STANDARD_IA).
    type: list
    elements: str
    default: []
  ssh_key_path:
    description: For SFTP, the private key on the host. Needs O(ssh_known_hosts_path). Empty means what ssh of root does by itself.
    type: str
    default: ""
  ssh_known_hosts_path:
    description: For SFTP, the file with the host key of the storage. A host that is not in it is refused.
    type: str
    default: ""
  rate_limit:
    description: Most bytes in a second to or from the repository, such as V(100M). Empty or V(0) is no limit.
    type: str
    default: ""
  lock_timeout:
    description: Seconds to wait while another process has the repository locked.
    type: int
    default: 600
"""
