"""Several instances on a host: what each has, what each may do, and that a change of one is no business of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scenario import OLLAMA, on_host, pid, play

HOSTS = ("instances-deb12", "instances-deb13")
testinfra_hosts = [f"rig://{name}" for name in HOSTS]
PORTS = {"first": 11500, "gpu-one": 11501, "own": 11502}
BOTH = ("all-minilm:latest", "smollm2:135m")
# for `gpus` in molecule.yml
GPU = "GPU-11111111-2222-3333-4444-555555555555"
INSTANCES: list[dict[str, Any]] = [
    {"name": "first", "port": 11500, "gpus": "none"},
    {"name": "gpu-one", "port": 11501, "gpus": [GPU], "memory_max": "256M", "cpu_quota": 50, "tasks_max": 200},
    {"name": "own", "port": 11502, "models_dir": "/var/lib/ollama/own", "models": ["all-minilm"], "environment": {"keep_alive": "24h"}},
]


def unit(name: str) -> str:
    """The unit of an instance."""
    return f"ollama@{name}.service"


def models(host: Any, port: int) -> list[str]:
    """The models that an instance lists."""
    return sorted(item["name"] for item in json.loads(host.check_output(f"curl -fsS http://127.0.0.1:{port}/api/tags"))["models"])


def run_in_group(host: Any, name: str, controller: str, command: str) -> Any:
    """Run a command in the control group of an instance, under its limits and its device rules (cgroup v1 or v2)."""
    group = host.check_output(f"systemctl show --value --property=ControlGroup {unit(name)}")
    enter = f"echo $$ >/sys/fs/cgroup/{controller}{group}/cgroup.procs 2>/dev/null || echo $$ >/sys/fs/cgroup{group}/cgroup.procs"
    return host.run(f"sh -c '{{ {enter}; }}; exec {command}'")


def open_node(host: Any, name: str, node: str) -> str:
    """Name of the error that opening a device node gives in the control group of an instance."""
    code = f'import errno, os\ntry: os.open("{node}", os.O_RDWR)\nexcept OSError as error: print(errno.errorcode[error.errno])'
    host.check_output(f"cat >/tmp/open.py <<'END'\n{code}\nEND")
    return run_in_group(host, name, "devices", "python3 /tmp/open.py").stdout.strip()


@pytest.mark.parametrize("name", PORTS)
def test_instance_runs_hardened(host: Any, name: str) -> None:
    """Each runs on its own port, now and at boot, and is at most 2.0 in systemd's own score."""
    assert host.service(unit(name)).is_running and host.service(unit(name)).is_enabled
    assert host.check_output(f"ss -Hltn sport = :{PORTS[name]}").split()[3] == f"127.0.0.1:{PORTS[name]}"
    overall = host.check_output(f"systemd-analyze security --no-pager {unit(name)}").strip().splitlines()[-1]
    assert float(overall.split(":")[1].split()[0]) <= 2.0, overall
    complaints = host.run(f"systemd-analyze verify {unit(name)}")
    assert complaints.rc == 0 and "ollama" not in complaints.stderr, complaints.stderr


def test_stores(host: Any) -> None:
    """Two instances share the store on the other disk, and one writes it; the third has its own, with its own models."""
    assert host.mount_point("/srv/models").filesystem == "tmpfs"
    assert "/srv/models" in host.file("/etc/fstab").content_string
    assert [models(host, PORTS[name]) for name in PORTS] == [list(BOTH), list(BOTH), ["all-minilm:latest"]]
    delete = f"-X DELETE http://127.0.0.1:{PORTS['gpu-one']}/api/delete -d '{{\"model\": \"smollm2:135m\"}}'"
    assert host.run(f"curl -sS -o /dev/null -w '%{{http_code}}' {delete}").stdout == "500"
    assert models(host, PORTS["first"]) == list(BOTH)


def test_devices(host: Any) -> None:
    """The node of its own GPU reaches the (missing) driver; others, and all of them for the instance without GPUs, are denied."""
    nodes = ("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl")
    found = {name: [open_node(host, name, node) for node in nodes] for name in PORTS}
    # without a driver behind it an allowed node says ENXIO
    assert found == {"first": ["EPERM"] * 3, "gpu-one": ["EPERM", "ENXIO", "ENXIO"], "own": ["ENXIO"] * 3}
    status = host.check_output(f"cat /proc/{pid(host.backend.name, unit('gpu-one'))}/status")
    groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
    assert str(host.group("video").gid) in groups


def test_limits(host: Any) -> None:
    """The kernel ends a process over the memory limit, and the instance lives on; the other limits are set."""
    hog = 'python3 -c "bytearray(400 << 20)"'
    before = pid(host.backend.name, unit("gpu-one"))
    assert run_in_group(host, "gpu-one", "memory", hog).rc == 137
    assert run_in_group(host, "own", "memory", hog).rc == 0
    assert models(host, PORTS["gpu-one"]) == list(BOTH) and pid(host.backend.name, unit("gpu-one")) == before
    shown = host.check_output(f"systemctl show --property=CPUQuotaPerSecUSec,TasksMax,LimitNOFILE,LimitMEMLOCK {unit('gpu-one')}").splitlines()
    assert sorted(shown) == ["CPUQuotaPerSecUSec=500ms", "LimitMEMLOCK=infinity", "LimitNOFILE=65535", "TasksMax=200"]


def test_a_failing_unit_ends_in_failed(host: Any) -> None:
    """A unit that cannot start is not tried for ever: the start limit is one that the restarts reach."""
    drop_in = f"/run/systemd/system/{unit('own')}.d"
    # the pause between two starts is what takes the minutes
    host.check_output(f"mkdir -p {drop_in} && printf '[Service]\\nExecStartPre=/bin/false\\nRestartSec=10ms\\n' >{drop_in}/broken.conf")
    host.check_output(f"systemctl daemon-reload && systemctl restart --no-block {unit('own')}")
    failed = host.run(f"for n in $(seq 300); do systemctl is-failed --quiet {unit('own')} && exit 0; sleep 1; done; exit 1")
    host.check_output(f"rm -r {drop_in} && systemctl daemon-reload && systemctl reset-failed {unit('own')} && systemctl start {unit('own')}")
    host.check_output(f"for n in $(seq 30); do curl -fsS http://127.0.0.1:{PORTS['own']}/api/version && exit 0; sleep 1; done; exit 1")
    assert failed.rc == 0, host.check_output(f"systemctl status --no-pager {unit('own')}")


def test_edit_restarts_one() -> None:
    """A setting of one instance: only that one is restarted."""
    before = {(name, one): pid(name, unit(one)) for name in HOSTS for one in PORTS}
    edit = {"environment": {"num_parallel": 2, "https_proxy": "http://me:hunter2hunter2@proxy.example.org:3128"}}
    edited = [{**item, **edit} if item["name"] == "gpu-one" else item for item in INSTANCES]
    done = play(OLLAMA, "-l", "several", "--diff", "-vv", ollama_instances=edited)
    assert done.status == 0, done
    # a secret reaches neither the diff nor the result of a task
    assert "hunter2hunter2" not in done.output
    after = {(name, one): pid(name, unit(one)) for name in HOSTS for one in PORTS}
    assert {key[1] for key in before if before[key] != after[key]} == {"gpu-one"}
    for name in HOSTS:
        assert "OLLAMA_NUM_PARALLEL=2" in on_host(name).check_output(f"tr '\\0' '\\n' </proc/{after[name, 'gpu-one']}/environ").splitlines()


def test_remove_and_take_its_port() -> None:
    """An instance that is taken from the list is gone but for its store, and another may have its port in the same run."""
    before = {name: pid(name, unit("first")) for name in HOSTS}
    wanted = [INSTANCES[0], INSTANCES[1], {"name": "next", "port": 11502, "gpus": "none"}]
    plan = play(OLLAMA, "-l", "several", "--check", "--diff", ollama_instances=wanted)
    assert plan.status == 0 and plan.says("-ollama@own.service not wanted any more"), plan
    # the proxy of the test before goes with this run: what is taken out of a file is as secret as what comes into it
    assert "hunter2hunter2" not in plan.output
    assert on_host(HOSTS[0]).service(unit("own")).is_running
    done = play(OLLAMA, "-l", "several", ollama_instances=wanted)
    assert done.status == 0, done
    for name in HOSTS:
        host = on_host(name)
        assert host.check_output("systemctl list-units --all --plain --no-legend 'ollama@own*'") == ""
        assert not host.file("/etc/ollama/own.env").exists and not host.file("/etc/systemd/system/ollama@own.service.d").exists
        assert host.file("/var/lib/ollama/own/manifests").exists
        assert models(host, 11502) == list(BOTH)
        assert pid(name, unit("first")) == before[name]


def test_remove_with_its_store() -> None:
    """The instance comes back over the store that stayed; the store goes when that is asked for."""
    assert play(OLLAMA, "-l", "several", ollama_instances=INSTANCES).status == 0
    done = play(OLLAMA, "-l", "several", ollama_instances=INSTANCES[:2], ollama_remove_stores_enabled=True)
    assert done.status == 0, done
    for name in HOSTS:
        assert not on_host(name).file("/var/lib/ollama/own").exists
        assert models(on_host(name), PORTS["first"]) == list(BOTH)


def test_gate_refuses_a_gpu_without_a_driver() -> None:
    """With ollama_gpu_required the instance does not start without a usable GPU; the play says why, and the host goes back."""
    done = play(OLLAMA, "-l", "several", ollama_instances=INSTANCES[:2], ollama_gpu_required=True, ollama_ready_timeout_seconds=20)
    assert done.failed_with("ollama@gpu-one.service does not start") and done.failed_with("with the configuration that it had"), done
    assert done.says("/dev/nvidiactl"), done
    for name in HOSTS:
        assert models(on_host(name), PORTS["gpu-one"]) == list(BOTH)
    assert play(OLLAMA, "-l", "several", ollama_instances=INSTANCES[:2]).status == 0
