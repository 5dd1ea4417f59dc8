"""The Ollama hosts: what is installed, what runs and as whom, what listens, which models are there."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from scenario import in_group, on_host

testinfra_hosts = [f"rig://{name}" for name in in_group("ollama")]
UNIT = "ollama@default.service"


def show(host: Any, name: str) -> str:
    """A property of the unit."""
    return host.check_output(f"systemctl show --value --property={name} {UNIT}")


def journal(host: Any) -> str:
    """The last lines of the unit, for the message of a failed test."""
    return host.run(f"journalctl --no-pager -n 20 -u {UNIT}").stdout


def address(host: Any) -> str:
    """The private address that the instance is to listen on."""
    return host.check_output("hostname -I").split()[0]


def api(host: Any, path: str, body: str = "") -> Any:
    """An answer of the instance."""
    data = f" -d '{body}'" if body else ""
    return json.loads(host.check_output(f"curl -fsS --max-time 30 http://{address(host)}:11434{path}{data}"))


def test_service_runs_and_is_enabled(host: Any) -> None:
    """The instance runs, now and at boot, with the wanted version."""
    service = host.service(UNIT)
    assert service.is_running, journal(host)
    assert service.is_enabled
    assert api(host, "/api/version")["version"] == "0.34.4"


def test_process_is_not_root(host: Any) -> None:
    """The process belongs to the system user, who cannot log in."""
    pid = show(host, "MainPID")
    assert host.check_output(f"stat -c %U /proc/{pid}") == "ollama"
    user = host.user("ollama")
    assert user.shell == "/usr/sbin/nologin"
    assert {"render", "video"} <= set(user.groups)


def test_listens_on_the_private_address_only(host: Any) -> None:
    """One socket, on the host's own address."""
    lines = host.check_output("ss -Hltn sport = :11434").splitlines()
    assert [line.split()[3] for line in lines] == [f"{address(host)}:11434"]


def test_unit_is_hardened(host: Any) -> None:
    """systemd's own score is at most 2.0, and it has no complaint about the unit."""
    overall = host.check_output(f"systemd-analyze security --no-pager {UNIT}").strip().splitlines()[-1]
    assert float(overall.split(":")[1].split()[0]) <= 2.0, overall
    complaints = host.run(f"systemd-analyze verify {UNIT}")
    assert complaints.rc == 0 and "ollama" not in complaints.stderr, complaints.stderr


def test_sandbox_is_real(host: Any) -> None:
    """What the process sees: a read-only system, its own /tmp, no privileges, the limits."""
    pid = show(host, "MainPID")
    status = host.check_output(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status and "Seccomp:\t2" in status
    mounts = [line.split() for line in host.check_output(f"cat /proc/{pid}/mounts").splitlines()]
    options = {fields[1]: fields[3].split(",") for fields in mounts}
    assert "ro" in options["/"] and "rw" in options["/var/lib/ollama"]
    assert show(host, "LimitNOFILE") == "65535"
    assert show(host, "LimitMEMLOCK") == "infinity"
    assert show(host, "Restart") == "always"


def test_program_belongs_to_root(host: Any) -> None:
    """The service cannot change its own program or configuration."""
    for path in ("/opt/ollama/0.34.4/bin/ollama", "/opt/ollama/0.34.4/lib/ollama", "/etc/ollama/default.env", f"/etc/systemd/system/{UNIT}.d"):
        file = host.file(path)
        assert (file.user, file.group) == ("root", "root"), path
        assert not file.mode & 0o022, path
    assert host.file("/etc/ollama/default.env").mode == 0o600
    assert host.file("/opt/ollama/current").linked_to == "/opt/ollama/0.34.4"


def test_key_is_the_hosts_own_secret(host: Any) -> None:
    """The key pair is readable by the service only."""
    key = host.file("/var/lib/ollama/.ollama/id_ed25519")
    assert (key.user, key.mode) == ("ollama", 0o600)


def test_models_of_the_manifest(host: Any) -> None:
    """Exactly the manifest's models, under their full names; one of them answers."""
    assert sorted(model["name"] for model in api(host, "/api/tags")["models"]) == ["all-minilm:latest", "smollm2:135m"]
    answer = api(host, "/api/generate", '{"model": "smollm2:135m", "prompt": "hi", "stream": false}')
    assert answer["done"] and answer["response"]


@pytest.mark.parametrize("path", ["/etc/ollama", "/var/lib/ollama/models"])
def test_nothing_is_world_writable(host: Any, path: str) -> None:
    """No file that others may write."""
    assert host.check_output(f"find {path} -perm /o+w -not -type l") == ""


@pytest.fixture(name="second")
def host_with_two_instances() -> Any:
    """The host that has a second instance."""
    return on_host("main-gpu2")


def test_second_instance(second: Any) -> None:
    """An instance of its own: port, limits and environment, over the same store."""
    unit = "ollama@team-a.service"
    properties = second.check_output(f"systemctl show --property=MemoryMax,CPUQuotaPerSecUSec,MainPID {unit}").splitlines()
    values = dict(line.split("=", 1) for line in properties)
    assert (values["MemoryMax"], values["CPUQuotaPerSecUSec"]) == (str(512 << 20), "1.500000s")
    environment = second.check_output(f"tr '\\0' '\\n' </proc/{values['MainPID']}/environ").splitlines()
    assert {"OLLAMA_NUM_PARALLEL=2", "OLLAMA_KEEP_ALIVE=1h", "CUDA_VISIBLE_DEVICES=-1", "OLLAMA_NOPRUNE=1"} <= set(environment)
    url = f"http://{address(second)}:11435/api/tags"
    assert len(json.loads(second.check_output(f"curl -fsS {url}"))["models"]) == 2


def test_memory_limit_is_real(second: Any) -> None:
    """The kernel has the limit (its file differs between cgroup v1 and v2)."""
    group = second.check_output("systemctl show --value --property=ControlGroup ollama@team-a.service")
    files = f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes /sys/fs/cgroup{group}/memory.max"
    assert str(512 << 20) in second.run(f"cat {files}").stdout.split()


def test_requests_reach_every_instance(second: Any) -> None:
    """The gateway balances over all instances: each of the three gets some of twelve at once."""
    gateway = on_host("main-gateway")
    key = "main-chain-test-key-0123456789abcdef"
    request = (
        "curl -s -o /dev/null --cacert /etc/gpufleet/gateway/tls/ca.crt -H 'Authorization: Bearer " + key + "' https://main-gateway/api/generate"
        ' -d \'{"model": "smollm2:135m", "prompt": "hi"}\''
    )
    since = second.check_output("date +%s")
    gateway.check_output(f"for n in $(seq 12); do {request} & done; wait")
    first = on_host("main-gpu1")
    for host, unit in ((first, UNIT), (second, UNIT), (second, "ollama@team-a.service")):
        served = host.run(f"journalctl --no-pager --since @{since} -u {unit} | grep -c 'POST.*/api/generate'").stdout
        assert int(served) >= 2, (unit, served)


def test_a_missed_restart_is_made_up(second: Any) -> None:
    """A process that runs with other settings than its files say is found, whatever the play remembers, and only it is restarted."""
    def pids() -> list[str]:
        return [second.check_output(f"systemctl show --value --property=MainPID {unit}") for unit in (UNIT, "ollama@team-a.service")]

    environment = "/etc/ollama/team-a.env"
    second.check_output(f"sed -i.kept 's/GPUFLEET_CONFIG_ID=.*/GPUFLEET_CONFIG_ID=older/' {environment} && systemctl restart ollama@team-a")
    second.check_output(f"mv {environment}.kept {environment}")
    before = pids()
    project = os.environ["MOLECULE_PROJECT_DIRECTORY"]
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], f"{project}/molecule/shared/converge.yml"]
    done = subprocess.run([*command, "--tags", "ollama", "-l", "main-gpu2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "changed=1 " in done.stdout, done.stdout[-3000:]
    after = pids()
    assert before[0] == after[0] and before[1] != after[1]
