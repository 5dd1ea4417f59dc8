"""The controller's part of ollama_model: its lines, and real plays on this machine with a module that only says that it pulls."""

# pylint: disable=protected-access
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.gpufleet.ollama.plugins.action import ollama_model as action

ROOT = Path(__file__).resolve().parents[4]
GB = 1_000_000_000

# Takes what the plugin reads of the real module, and does what it is told.
MODULE = """
import json, os, sys, time
from ansible.module_utils.basic import AnsibleModule
spec = dict(state=dict(default="present"), progress_path=dict(type="path"), log=dict(type="path"), seconds=dict(type="float", default=0),
            bytes=dict(type="int", default=10**9), unknown=dict(type="list", elements="str", default=[]), changed=dict(type="bool", default=True),
            end=dict(default="exit"), verify=dict(type="bool", default=False), unverified=dict(type="int", default=-1))
module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
params = module.params
entry = dict(pid=os.getpid(), check=module.check_mode, progress=params["progress_path"] or "", proxy=os.environ.get("HTTPS_PROXY", ""))
with open(params["log"], "a") as log:
    log.write(json.dumps(entry) + "\\n")
result = dict(changed=params["changed"], missing_bytes=params["bytes"], unknown=params["unknown"], diff=dict(before="a\\n", after="b\\n"))
if params["unverified"] >= 0:
    result["unverified_bytes"] = params["unverified"]
if module.check_mode:
    module.exit_json(**result)
if params["progress_path"]:
    with open(params["progress_path"], "w") as file:
        json.dump(dict(model="llama3.1:70b", completed=17.2e9, total=42.5e9, rate=312e6, models_done=0, models=1), file)
time.sleep(params["seconds"])
if params["end"] == "fail":
    module.fail_json(msg="the registry has no such model")
if params["end"] == "kill":
    os.kill(os.getpid(), 9)
module.warn("mind the gap")
module.exit_json(**result)
"""
PLUGIN = "from ansible_collections.gpufleet.ollama.plugins.action.ollama_model import ActionModule\n"
JOB_KEYS = {"ansible_job_id", "finished", "started", "results_file", "stdout", "stderr"}
LINE = "localhost llama3.1:70b 40 % 17.2/42.5 GB 312 MB/s 1m21s left"


class Rig:
    """A module `pull` under the action plugin, and plays on localhost."""

    def __init__(self, path: Path) -> None:
        self.path, self.log, self.jobs = path, path / "log", path / "jobs"
        for name, text in (("library", MODULE), ("action_plugins", PLUGIN)):
            (path / name).mkdir()
            (path / name / "pull.py").write_text(text, encoding="utf-8")

    def task(self, variables: dict[str, Any] | None = None, every: float = 0.2, keywords: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
        """A task of the module. C(every): seconds between lines."""
        shown = {"ollama_models_progress_seconds": f"{{{{ {every} }}}}", **(variables or {})}
        return {"pull": {"log": str(self.log), **args}, "vars": shown, "ignore_errors": True, **(keywords or {})}

    def play(self, *tasks: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """Run the tasks; their results and what Ansible shows. No file of a job is left."""
        found = self.path / "results.json"
        registered = [{**task, "register": f"result{number}"} for number, task in enumerate(tasks)]
        results = "{{ [" + ", ".join(f"result{number}" for number in range(len(tasks))) + "] | to_json }}"
        registered.append({"ansible.builtin.copy": {"content": results, "dest": str(found), "mode": "0600"}})
        options = {"ansible_async_dir": str(self.jobs), "ansible_remote_tmp": str(self.path / "tmp"), "ansible_python_interpreter": sys.executable}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": options, "tasks": registered}
        (self.path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        (self.path / "ansible.cfg").write_text("[defaults]\nlocalhost_warning=false\n[connection]\npipelining=true\n", encoding="utf-8")
        environ = {**os.environ, "ANSIBLE_CONFIG": str(self.path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(self.path / "play.yml")]
        done = subprocess.run(command, cwd=self.path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not self.jobs.exists() or list(self.jobs.iterdir()) == []
        return json.loads(found.read_text(encoding="utf-8")), done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """The runs of the module since the last question: pid, check, progress and proxy."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        self.log.unlink()
        return lines


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Nothing run yet."""
    return Rig(tmp_path)


def test_much(rig: Rig) -> None:
    """A job with lines; the result is that of a direct run, and the environment of the task reaches it."""
    proxy = {"environment": {"HTTPS_PROXY": "http://proxy:3128"}}
    (job, direct, verified), shown = rig.play(
        rig.task(seconds=0.7, keywords=proxy),
        rig.task(every=0, keywords=proxy),
        # check mode would read all blobs
        rig.task(every=30, verify=True, bytes=0),
    )
    assert shown.count(LINE) >= 2 and not shown.count("ollama_model-")
    assert job["changed"] and not job["failed"] and job["missing_bytes"] == GB and job["diff"] == {"before": "a\n", "after": "b\n"}
    assert job["warnings"] == ["mind the gap"]
    assert set(job) == set(direct) == set(verified) and not JOB_KEYS & set(job)
    plan, pulled, plain, once = rig.runs()
    assert plan["check"] and not pulled["check"] and os.path.dirname(pulled["progress"]) == str(rig.jobs)
    assert {run["proxy"] for run in (plan, pulled, plain)} == {"http://proxy:3128"} and plain["progress"] == "" and once["progress"]


def test_direct(rig: Rig) -> None:
    """Where there is little or nothing to do, or nobody to watch: no job of the plugin's, and no line."""
    results, shown = rig.play(
        rig.task(changed=False, bytes=0, unverified=0),
        rig.task(bytes=1000),
        rig.task(keywords={"check_mode": True}),
        rig.task(keywords={"no_log": True}, seconds=0.4),
        rig.task(keywords={"async": 30, "poll": 1}),
    )
    assert "70b" not in shown
    assert [result["changed"] for result in results] == [False, True, True, True, True]
    assert results[4]["finished"] and "ansible_job_id" in results[4]
    assert [run["check"] for run in rig.runs()] == [True, True, False, True, False, False]


def test_failures(rig: Rig) -> None:
    """The module's own words; one sentence where it had none."""
    (failed, killed), _shown = rig.play(rig.task(end="fail"), rig.task(end="kill"))
    assert failed["failed"] and failed["msg"] == "the registry has no such model" and not JOB_KEYS & set(failed)
    assert killed["failed"] and killed["msg"] == "the module ended without a result: it was killed; see the journal of the host for what did it"


def test_the_job_is_gone(rig: Rig) -> None:
    """The host was restarted, or somebody ended everything: no endless wait."""

    def end_it() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            jobs = list(rig.jobs.glob("j*")) if rig.jobs.exists() else []
            if jobs and list(rig.jobs.glob("*.progress")):
                name = jobs[0].name.partition(".")[0].encode()
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        if name in path.read_bytes().split(b"\0"):
                            os.kill(int(path.parent.name), signal.SIGKILL)
                    except (OSError, ValueError):
                        pass
                return
            time.sleep(0.05)

    thread = threading.Thread(target=end_it)
    thread.start()
    began = time.monotonic()
    [gone], _shown = rig.play(rig.task(seconds=30))
    thread.join()
    assert gone["failed"] and gone["msg"].startswith("the pull was ended on the host before it was done") and time.monotonic() - began < 25
    # the module itself was left behind
    os.kill(rig.runs()[-1]["pid"], signal.SIGKILL)


def test_the_module(rig: Rig, start_registry: Callable[..., Any]) -> None:
    """A model from a slow registry: its own progress is shown, and it is in the store."""
    registry = start_registry()
    assert registry.post("/_double/faults", {"fault": "rate", "bytes_per_second": 300_000})[0] == 200
    name = f"{registry.host}/library/smollm2:135m"
    options = {"name": name, "store": str(rig.path / "store"), "url": "", "insecure": True, "reserve": "0", "chunk_size": 1 << 18}
    [pulled], shown = rig.play({"gpufleet.ollama.ollama_model": options, "vars": {"ollama_models_progress_seconds": 0.2}})
    assert pulled["changed"] and not JOB_KEYS & set(pulled) and pulled["models"][0]["name"] == name and pulled["fetched_bytes"] > 4_000_000
    assert re.search(rf"^localhost {re.escape(name)} \d+ % \d\.\d/4\.\d MB \S+ [kM]B/s \S+ left$", shown, re.M), shown


def test_decisions() -> None:
    """What check mode says decides: done, much, or little."""
    done = {"changed": False, "missing_bytes": 0, "unknown": [], "unverified_bytes": 0}
    assert action.is_done(done) and not action.is_much(done)
    for change in ({"changed": True}, {"unverified_bytes": 1}, {"unverified_bytes": None}):
        assert not action.is_done({**done, **change})
    for change in ({"missing_bytes": GB}, {"unverified_bytes": GB}, {"unknown": ["bot"]}):
        assert action.is_much({**done, **change})
    assert not action.is_much({"changed": True, "missing_bytes": 1000})


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"completed": 17.2e9, "total": 42.5e9, "rate": 312e6}, "gpu2 m:1b 40 % 17.2/42.5 GB 312 MB/s 1m21s left"),
        ({"completed": 0, "total": 42_500_000, "rate": 0}, "gpu2 m:1b 0 % 0.0/42.5 MB"),
        ({"completed": GB, "total": GB, "rate": 5e6}, "gpu2 m:1b 100 % 1.0/1.0 GB 5.0 MB/s"),
        ({"completed": 0, "total": 400 * GB, "rate": 2e6}, "gpu2 m:1b 0 % 0.0/400.0 GB 2.0 MB/s 2d7h left"),
        ({"completed": 0, "total": GB, "rate": 99e3}, "gpu2 m:1b 0 % 0.0/1.0 GB 99.0 kB/s 2h48m left"),
        ({"completed": 1, "total": 0, "rate": None, "models": 3, "models_done": 2}, "gpu2 m:1b (2 of 3 models done)"),
        ({"model": "", "completed": 0, "total": 0, "rate": 0}, ""),
    ],
)
def test_line(said: dict[str, Any], line: str) -> None:
    """Numbers in the units that suit them; what is not known is left out."""
    assert action.progress_line("gpu2", json.dumps({"model": "m:1b", **said})) == line


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"model": "m"}', '{"model": "m", "completed": "x", "total": 1}'])
def test_no_line(text: str) -> None:
    """A file that is not there yet, or is not what it should be, is no reason to fail a pull."""
    assert action.progress_line("gpu2", text) == ""


def test_results() -> None:
    """What async_wrapper adds, and what it says instead of a module."""
    assert action.direct_result({"changed": True, "finished": 1, "ansible_job_id": "j1.2", "stderr": "x", "digest": "d"}) == {"changed": True, "digest": "d"}
    crash = {"failed": True, "cmd": "x", "data": "", "stderr": "Traceback\nRuntimeError: no more memory\n", "msg": "Traceback\nValueError: No start"}
    assert action.direct_result(crash)["msg"] == "the module ended without a result: RuntimeError: no more memory"
    ended = action.direct_result({"msg": "Timeout exceeded", "failed": True, "child_pid": 5, "finished": 1})
    assert ended["failed"] and "within 7 days" in ended["msg"]


def plugin_of(connection: Any = None, **attributes: Any) -> Any:
    """The plugin with a task that has these attributes."""
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._connection = connection
    plugin._task = SimpleNamespace(**{"async_val": 0, "check_mode": False, "no_log": False, "args": {}, **attributes})
    plugin._templar = SimpleNamespace(template=lambda value: value)
    return plugin


@pytest.mark.parametrize(
    "task", [{"async_val": 5}, {"check_mode": True}, {"no_log": True}, {"args": {"progress_path": "/x"}}, {"args": {"state": "absent"}}]
)
def test_plain(task: dict[str, Any]) -> None:
    """Who watches a task himself, or wants it silent, gets no job."""
    assert plugin_of(**task)._is_plain() and not plugin_of()._is_plain()


@pytest.mark.parametrize(("value", "seconds"), [(None, 60), ("", 60), ("0", 0), (0.5, 0.5), ("7", 7)])
def test_interval(monkeypatch: pytest.MonkeyPatch, value: Any, seconds: float) -> None:
    """What is not given is by where the lines go: a log, or a terminal."""
    monkeypatch.setattr(action, "ON_TERMINAL", True)
    assert plugin_of()._interval({}) == 5
    monkeypatch.setattr(action, "ON_TERMINAL", False)
    assert plugin_of()._interval({"ollama_models_progress_seconds": value}) == seconds


@pytest.mark.parametrize("value", ["often", -1, "nan", "inf", []])
def test_bad_interval(value: Any) -> None:
    """One sentence."""
    with pytest.raises(AnsibleActionFail, match="give the seconds between two lines about a pull, or 0 for none"):
        plugin_of()._interval({"ollama_models_progress_seconds": value})


def test_attributes_come_back() -> None:
    """Also after an error: Ansible reads them when the task is over."""
    plugin = plugin_of()
    with pytest.raises(KeyError), plugin._altered(async_val=9, check_mode=True):
        assert (plugin._task.async_val, plugin._task.check_mode) == (9, True)
        raise KeyError
    assert (plugin._task.async_val, plugin._task.check_mode) == (0, False)


class Connection:
    """Counts its resets."""

    resets = 0

    def reset(self) -> None:
        """Nothing to reset."""
        self.resets += 1


def test_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again for a while, then it is an error; other errors are errors at once."""
    monkeypatch.setattr(action, "POLL_SECONDS", 0.01)
    answers = iter([AnsibleConnectionFailure("gone"), AnsibleConnectionFailure("gone"), "there"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    connection = Connection()
    plugin = plugin_of(connection)
    assert plugin._patiently(ask) == "there" and connection.resets == 2
    monkeypatch.setattr(action, "RECONNECT_SECONDS", 0.1)

    def never() -> str:
        raise AnsibleConnectionFailure("gone")

    with pytest.raises(AnsibleConnectionFailure):
        plugin._patiently(never)
    with pytest.raises(StopIteration):
        plugin._patiently(ask)
