"""The tests' own way into a host gives a process what Docker gives it: else what root may do here would say nothing."""

from __future__ import annotations

import subprocess

import pytest
from scenario import in_group, on_host

SEEN = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; ulimit -a; pwd; env | grep -vE '^(PWD|SHLVL|_|OLDPWD)=' | sort"


@pytest.mark.parametrize("name", in_group("ollama"))
def test_as_docker_exec(name: str) -> None:
    done = subprocess.run(["docker", "exec", name, "sh", "-c", SEEN], capture_output=True, text=True, check=True)
    assert on_host(name).check_output(SEEN).split() == done.stdout.split()
