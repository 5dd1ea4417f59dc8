# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The controller's part of module ollama_model: a line for each host now and then while much is pulled.

Much is pulled by an asynchronous job of Ansible, so the pull outlives a lost connection, and a play that is interrupted: then it goes on
on the host. The next run waits for it at the locks of the store, and finds what it brought.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

Result = dict[str, Any]
T = TypeVar("T")

# Ansible wants a limit of a job. No pull takes this long; a job that hangs where nobody waits any more ends some day.
JOB_SECONDS = 7 * 24 * 3600
# less than this is there before a line would be shown
MUCH_BYTES = 32 * 1024 * 1024
POLL_SECONDS = 2.0
FIRST_POLL_SECONDS = 1.0
# a host that is being rebooted, or a controller that changes its network
RECONNECT_SECONDS = 300.0
TERMINAL_LINE_SECONDS = 5.0
LOG_LINE_SECONDS = 60.0
INTERVAL_VARIABLE = "ollama_models_progress_seconds"
JOB_KEYS = ("ansible_job_id", "finished", "started", "results_file", "stdout", "stdout_lines", "stderr", "stderr_lines")

# Strategies load this file in the main process. Tasks run in forks of it, which have no terminal.
ON_TERMINAL = bool(sys.stdout and sys.stdout.isatty())


class JobLost(Exception):
    """The job ended without a result."""


class State(NamedTuple):
    """How a job stands: whether it is running, whether its result is there, and the text of its progress file."""

    alive: bool
    finished: bool
    progress: str


class ActionModule(ActionBase):
    """Run the module: at once where there is little to do, as a job that is watched where there is much."""

    _supports_async = True
    _supports_check_mode = True
    # what other modules do that are watched in the same way: see there
    what = "pull"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Result:
        """Entry point."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        every = self._interval(variables)
        if not every or self._is_plain():
            return self._call(variables, wrap_async=bool(self._task.async_val))
        # check mode asks no registry what is new, and would read all blobs just to forget what it found
        if not self._has("refresh") and not self._has("verify"):
            with self._altered(check_mode=True):
                plan = self._call(variables)
            if plan.get("failed") or is_done(plan):
                return plan
            if not is_much(plan):
                return self._call(variables)
        return self._watched(variables, every)

    def _has(self, option: str) -> bool:
        return boolean(self._task.args.get(option) or False, strict=False)

    def _is_plain(self) -> bool:
        """Whether nobody could watch, or there is nothing to watch."""
        args = self._task.args
        return bool(self._task.async_val or self._task.check_mode or self._task.no_log or args.get("progress_path") or args.get("state") == "absent")

    def _interval(self, task_vars: dict[str, Any]) -> float:
        """Seconds between two lines; 0 for none."""
        value = self._templar.template(task_vars.get(INTERVAL_VARIABLE))
        if value is None or value == "":
            return TERMINAL_LINE_SECONDS if ON_TERMINAL else LOG_LINE_SECONDS
        try:
            seconds = float(value)
            if 0 <= seconds < float("inf"):
                return seconds
        except (TypeError, ValueError):
            pass
        raise AnsibleActionFail(f"{INTERVAL_VARIABLE} is {value!r}: give the seconds between two lines about a pull, or 0 for none")

    def _call(self, task_vars: dict[str, Any], wrap_async: bool = False, **args: Any) -> Result:
        return self._execute_module(module_args={**self._task.args, **args}, task_vars=task_vars, wrap_async=wrap_async)

    @contextmanager
    def _altered(self, **attributes: Any) -> Iterator[None]:
        """The task with other attributes for a while: what runs a module reads them there."""
        before = {name: getattr(self._task, name) for name in attributes}
        try:
            for name, value in attributes.items():
                setattr(self._task, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self._task, name, value)

    def _watched(self, task_vars: dict[str, Any], every: float) -> Result:
        """Run the module as a job and wait for it; its result as if it had run directly."""
        folder = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        progress = self._connection._shell.join_path(folder, f"{self._task.action.rpartition('.')[2]}-{secrets.token_hex(8)}.progress")
        with self._altered(async_val=JOB_SECONDS):
            job = self._call(task_vars, wrap_async=True, progress_path=progress)
        if job.get("failed") or not job.get("ansible_job_id") or not job.get("results_file"):
            return job
        try:
            self._watch(job, progress, str(task_vars.get("inventory_hostname", "")), every)
            result = self._patiently(lambda: self._result(job, task_vars))
        except JobLost as error:
            result = {"failed": True, "changed": True, "msg": str(error)}
        left = [job["results_file"], progress]
        self._patiently(lambda: self._low_level_execute_command(f"rm -f {' '.join(map(self._quoted, left))}"))
        return result

    def _watch(self, job: Result, progress: str, host: str, every: float) -> None:
        """Show lines until the result is there. JobLost when there will be none."""
        pause, shown = min(FIRST_POLL_SECONDS, every), time.monotonic()
        while True:
            time.sleep(pause)
            pause = min(POLL_SECONDS, every)
            state = self._patiently(lambda: self._state(job, progress))
            if state.finished:
                return
            if not state.alive:
                raise JobLost(
                    f"the {self.what} was ended on the host before it was done (it was killed, or the host was restarted; see its journal): run the "
                    f"playbook again, the {self.what} goes on where it was"
                )
            line = progress_line(host, state.progress)
            if line and time.monotonic() - shown >= every:
                shown = time.monotonic()
                Display().display(line)

    def _state(self, job: Result, progress: str) -> State:
        """Ask the host. The processes come first: what ended before has left its result."""
        name = job["ansible_job_id"].partition(".")[0]
        # an argument of its own of async_wrapper; the brackets keep this command from finding itself
        answer = self._low_level_execute_command(
            f"if grep -qsxz '[{name[0]}]{name[1:]}' /proc/[0-9]*/cmdline; then echo alive; else echo gone; fi; "
            f"head -c 10 {self._quoted(job['results_file'])}; echo; cat {self._quoted(progress)} 2>/dev/null; true"
        )
        alive, result, text = (answer.get("stdout", "").replace("\r", "").split("\n", 2) + ["", "", ""])[:3]
        if alive not in ("alive", "gone"):
            # for example the shell was refused: no word about the job
            raise AnsibleConnectionFailure(f"the host did not say how the pull is doing: {answer.get('stderr') or answer.get('stdout')}")
        return State(alive == "alive", bool(result) and not result.startswith('{"started"'), text)

    def _result(self, job: Result, task_vars: dict[str, Any]) -> Result:
        """The result of a job that has ended."""
        args = {"jid": job["ansible_job_id"], "_async_dir": os.path.dirname(job["results_file"])}
        result = self._execute_module(module_name="ansible.legacy.async_status", module_args=args, task_vars=task_vars)
        return direct_result(result)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again where the connection is lost: the job goes on."""
        until = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                return ask()
            except AnsibleConnectionFailure as error:
                if time.monotonic() >= until:
                    raise
                Display().vvv(f"no answer about a pull, which goes on: {error}")
            time.sleep(POLL_SECONDS)
            try:
                # a reused connection may be the broken one
                self._connection.reset()
            except AnsibleError as error:
                Display().vvv(f"the connection is not reset: {error}")

    def _quoted(self, path: str) -> str:
        return self._connection._shell.quote(path)


def is_done(plan: Result) -> bool:
    """Whether a run in check mode leaves nothing to a real one. That compares blobs which nobody has compared with their digests yet."""
    return not plan.get("changed") and plan.get("unverified_bytes") == 0


def is_much(plan: Result) -> bool:
    """Whether what a run in check mode found takes long, or nobody knows."""
    return bool(plan.get("unknown")) or plan.get("missing_bytes", 0) + plan.get("unverified_bytes", 0) >= MUCH_BYTES


def direct_result(result: Result) -> Result:
    """The result of a job without what the job added, so that it looks as if the module ran directly."""
    kept = {key: value for key, value in result.items() if key not in JOB_KEYS}
    if "child_pid" in kept and "invocation" not in kept:
        return {"failed": True, "changed": True, "msg": f"the pull was not done within {JOB_SECONDS // 86400} days and was ended: run the playbook again"}
    if "cmd" in kept and ("data" in kept or "outdata" in kept):
        # what async_wrapper says of a module that broke down
        output, errors = str(kept.get("data") or kept.get("outdata") or ""), str(result.get("stderr") or "")
        reason = (errors.strip() or output.strip() or "it was killed; see the journal of the host for what did it").splitlines()[-1]
        return {"failed": True, "changed": True, "msg": f"the module ended without a result: {reason}", "module_stdout": output, "module_stderr": errors}
    return kept


def progress_line(host: str, text: str) -> str:
    """The line for a progress file of the module, C(gpu2 llama3.1:70b 41 % 17.2/42.5 GB 312 MB/s 1m21s left). Empty for a file that says nothing.

    C(text) is the JSON object with model, completed and total (bytes), rate (bytes per second), models_done and models.
    """
    try:
        said = json.loads(text)
        model, models, done = str(said["model"]), int(said.get("models", 1)), int(said.get("models_done", 0))
        completed, total, rate = float(said["completed"]), float(said["total"]), float(said.get("rate") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    # it reads what is there, or asks what the names mean
    if not model:
        return ""
    words = [host, model]
    if total > 0:
        words += [f"{min(int(completed * 100 / total), 100)} %", amount(completed, total)]
    if rate >= 1:
        words.append(f"{rate / 1e6:.0f} MB/s" if rate >= 1e7 else f"{rate / 1e6:.1f} MB/s" if rate >= 1e5 else f"{rate / 1e3:.1f} kB/s")
        if total > completed:
            words.append(f"{duration((total - completed) / rate)} left")
    if models > 1:
        words.append(f"({done} of {models} models done)")
    return " ".join(words)


def amount(completed: float, total: float) -> str:
    """Two numbers of bytes, in the unit that suits the second."""
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    return f"{completed / unit:.1f}/{total / unit:.1f} {name}"


def duration(seconds: float) -> str:
    """V(42s), V(1m21s), V(2h05m) or V(3d4h)."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
