"""How Ansible reaches a test host: as the docker connection does, but for who runs the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible_collections.community.docker.plugins.connection import docker

sys.path.insert(0, str(Path(__file__).parents[1]))

import inside  # noqa: E402

DOCUMENTATION = """
name: rig
short_description: Run tasks in the hosts of tests/rig
description: What the docker connection does, at a fortieth of its CPU; see inside.py.
author: gpufleet
options:
  remote_addr:
    description: Name of the host.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  remote_user:
    description: Always root.
    type: str
  docker_extra_args:
    description: None.
    default: ''
  container_timeout:
    description: Seconds until a prompt of sudo must be there.
    type: int
    default: 10
"""


class Connection(docker.Connection):
    """The docker connection, with another way in."""

    transport = "rig"

    def _get_actual_user(self) -> str:
        # without asking the engine for its version, at each task of each host
        return "root"

    def _build_exec_cmd(self, cmd: list[Any]) -> list[Any]:
        return inside.command(self.get_option("remote_addr"), *cmd)
