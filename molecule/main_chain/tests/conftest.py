"""The tests share what runs playbooks and commands, what makes requests, and the rig."""

import os
import sys

PROJECT = os.environ["MOLECULE_PROJECT_DIRECTORY"]
sys.path[:0] = [os.path.join(PROJECT, folder) for folder in ("molecule/shared", "tests/gateway", "tests/rig")]
