# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is written for Alloy, which no test runs, and what must be true of all units of the role."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLE = Path(__file__).parents[4] / "roles/ollama_logs"
TEMPLATES = ROLE / "templates/etc"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
PASSWORD = "a-password-of-the-test"


def render(name: str, **changes: Any) -> str:
    """A template with the defaults of the role and some changes; variables that are not given show their name."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.DebugUndefined)
    environment.filters.update(comment=lambda text, style="plain": text, to_json=json.dumps, regex_replace=lambda text, a, b: re.sub(a, b, text))
    plain = {"ansible_managed": "# managed", "__ollama_logs_platform": {"steps": False, "limits": False}, "__ollama_logs_sources": []}
    return environment.from_string((TEMPLATES / name).read_text(encoding="utf-8")).render({**DEFAULTS, **plain, **changes})


def loki(**changes: Any) -> str:
    """Alloy's configuration for a Loki that asks for a password."""
    given = {"ollama_logs_loki_url": "https://loki.example.org/loki/api/v1/push", "ollama_logs_loki_user": "fleet", "ollama_logs_loki_password": PASSWORD}
    return render("alloy/config.alloy.j2", **{**given, **changes})


def test_alloy_reads_the_journal_with_host_and_unit_and_keeps_what_it_cannot_send() -> None:
    found = loki()
    assert found.count("{") == found.count("}") and found.count("[") == found.count("]")
    for source, label in (("__journal__hostname", "host"), ("__journal__systemd_unit", "unit")):
        assert re.search(rf'source_labels = \["{source}"\]\s+target_label  = "{label}"', found)
    assert 'url = "https://loki.example.org/loki/api/v1/push"' in found and re.search(r"wal \{\s+enabled = true\s+\}", found)
    assert 'max_age       = "720h"' in found and "relabel_rules = loki.relabel.journal.rules" in found


def test_the_password_of_loki_is_in_a_file_of_its_own() -> None:
    """Which the unit is given where there is one."""
    assert PASSWORD not in loki() and 'password_file = "/run/credentials/alloy.service/loki-password"' in loki()
    assert "LoadCredential=loki-password:" in render("systemd/system/alloy.service.d/gpufleet.conf.j2", ollama_logs_loki_user="fleet")
    assert "basic_auth" not in loki(ollama_logs_loki_user="", ollama_logs_loki_password="")
    assert "LoadCredential" not in render("systemd/system/alloy.service.d/gpufleet.conf.j2")


def test_a_ca_of_ones_own() -> None:
    assert "tls_config" not in loki()
    assert 'ca_file = "/etc/ssl/own.pem"' in loki(ollama_logs_loki_ca_path="/etc/ssl/own.pem")


@pytest.mark.parametrize(("limit", "lines"), [(0, ["RateLimitIntervalSec=0"]), (5000, ["RateLimitIntervalSec=30s", "RateLimitBurst=5000"])])
def test_the_rate_of_the_journal(limit: int, lines: list[str]) -> None:
    found = render("systemd/journald.conf.d/gpufleet.conf.j2", ollama_logs_rate_limit=limit).splitlines()
    assert [line for line in found if line.startswith("RateLimit")] == lines


def test_the_collector_knows_each_source_and_no_other() -> None:
    sources = [{"host": "gpu1", "subject": "CN=gpu1", "address": "127.200.0.1"}, {"host": "gw", "subject": "CN=gw", "address": "127.200.0.2"}]
    found = render("gpufleet/logs/nginx.conf.j2", __ollama_logs_sources=sources)
    mapping = found.split("map $ssl_client_s_dn $logs_source {")[1].split("}")[0]
    assert [line.strip() for line in mapping.splitlines() if line.strip()] == ['default "";', '"CN=gpu1" 127.200.0.1;', '"CN=gw" 127.200.0.2;']
    assert "ssl_verify_client on;" in found


@pytest.mark.parametrize("steps", [True, False])
def test_an_upload_that_fails_is_started_again_and_again(steps: bool) -> None:
    """At the same pace, where systemd would slow down by itself."""
    found = render("systemd/system/systemd-journal-upload.service.d/gpufleet.conf.j2", __ollama_logs_platform={"steps": steps})
    assert {"StartLimitIntervalSec=0", "Restart=always", "RestartSec=5", "WatchdogSignal=SIGKILL"} <= set(found.splitlines())
    assert ("RestartSteps=0" in found) is steps


def test_the_receiver_sees_the_id_of_the_boot() -> None:
    """Without it Debian 12's makes no journal for a host that sends for the first time."""
    unit = render("systemd/system/gpufleet-logs-receiver.service.j2").splitlines()
    assert not [line for line in unit if line.startswith("ProcSubset=")] and "PrivateNetwork=true" in unit


@pytest.mark.parametrize("path", sorted(path.name for path in (TEMPLATES / "systemd/system").glob("gpufleet-*.service.j2")))
def test_every_unit_of_its_own_is_taken_off_again(path: str) -> None:
    """Its file stands in the part that it belongs to."""
    parts = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["__ollama_logs_parts"]
    files = [file for part in parts for file in part["files"]]
    assert f"/etc/systemd/system/{path.removesuffix('.j2')}" in files


@pytest.mark.parametrize("name", ["upload", "collector", "gateway", "elasticsearch", "loki"])
def test_the_first_file_of_a_part_is_written_first_and_removed_last(name: str) -> None:
    """So that a run that broke off, on the way there or back, is seen by the next."""
    parts = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["__ollama_logs_parts"]
    files = [re.sub(r"^(/|\{\{.*?\}\}/)", "", file) for file in next(part["files"] for part in parts if part["name"] == name)]
    tasks = "".join(path.read_text(encoding="utf-8") for path in (ROLE / f"tasks/{name}{end}.yml" for end in ("", "_run")) if path.exists())
    # what stands before the name of a file may be that of its directory
    written = {file: tasks.find(file.removeprefix("etc/systemd/system/")) for file in files}
    assert min((place, file) for file, place in written.items() if place >= 0)[1] == files[0]
    removal = yaml.safe_load((ROLE / "tasks/unwanted.yml").read_text(encoding="utf-8"))
    assert next(task for task in removal if task["name"] == "Remove what is not wanted")["loop"].endswith("| subelements('files') | reverse | list }}")


def test_a_unit_that_is_not_there_stops_no_removal() -> None:
    """Such as that of Alloy, whose drop-in is written before its package is installed."""
    tasks = yaml.safe_load((ROLE / "tasks/unwanted.yml").read_text(encoding="utf-8"))
    failed = next(task["failed_when"] for task in tasks if task["name"] == "Stop what is not wanted")
    environment = jinja2.Environment()
    environment.tests["failed"] = lambda result: result["failed"]
    for result, expected in (
        ({"failed": True, "msg": "Could not find the requested service alloy.service: host"}, False),
        ({"failed": True, "msg": "Unable to stop service alloy.service: no"}, True),
        ({"failed": True}, True),
        ({"failed": False}, False),
    ):
        assert environment.compile_expression(failed)(__ollama_logs_stopped=result) is expected


def accepts(task_name: str, **variables: Any) -> bool:
    """Whether a check of preflight takes these variables."""
    environment = jinja2.Environment()
    environment.tests["match"] = lambda text, pattern: re.match(pattern, text) is not None
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text(encoding="utf-8"))
    that = next(task for task in tasks if task["name"] == task_name)["ansible.builtin.assert"]["that"]
    return all(environment.compile_expression(line)(**variables) for line in ([that] if isinstance(that, str) else that))


@pytest.mark.parametrize(("index", "right"), [("gpufleet-logs", True), ("logs.2026_1", True), ("Logs", False), ("-logs", False), ("a b", False), ("", False)])
def test_an_index_that_elasticsearch_would_refuse(index: str, right: bool) -> None:
    assert accepts("Check the index of Elasticsearch", ollama_logs_elasticsearch_index=index) is right


@pytest.mark.parametrize(
    ("path", "stat", "right"),
    [
        ("/etc/ssl/search.pem", {"exists": True, "isreg": True, "roth": True}, True),
        ("/homes/search.pem", {"exists": True, "isreg": True, "roth": True}, True),
        ("/etc/ssl/search.pem", {"exists": False}, False),
        ("/etc/ssl", {"exists": True, "isreg": False, "roth": True}, False),
        ("/etc/ssl/search.pem", {"exists": True, "isreg": True, "roth": False}, False),
        ("/root/search.pem", {"exists": True, "isreg": True, "roth": True}, False),
        ("/home/me/search.pem", {"exists": True, "isreg": True, "roth": True}, False),
        ("search.pem", {"exists": True, "isreg": True, "roth": True}, False),
        ('/etc/"search.pem', {"exists": True, "isreg": True, "roth": True}, False),
    ],
)
def test_an_authority_that_the_unit_would_not_find(path: str, stat: dict[str, bool], right: bool) -> None:
    found = accepts("Check the authority of the destination beyond the fleet", __ollama_logs_beyond_ca=path, __ollama_logs_beyond_ca_file={"stat": stat})
    assert found is right


def test_the_collector_keeps_each_file_for_its_days(tmp_path: Path) -> None:
    """Also that of a host which was taken off, whose file nobody is ever done with; and nothing but journals of hosts."""
    unit = render("systemd/system/gpufleet-logs-keep.service.j2", __ollama_logs_journal_dir=str(tmp_path)).splitlines()
    commands = [shlex.split(line.removeprefix("ExecStart=")) for line in unit if line.startswith("ExecStart=")]
    assert [Path(command[0]).name for command in commands] == ["find", "journalctl", "python3"]
    days = {"remote-127.128.0.1.journal": 92, "remote-127.128.0.1@01-02-03.journal": 92, "remote-127.128.0.2@01-02.journal~": 92, "mine": 92,
            "remote-127.128.0.2.journal": 89, "remote-127.128.0.2@01-02-03.journal": 89}
    for name, age in days.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age * 86400,) * 2)
    subprocess.run(commands[0], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "remote-127.128.0.2.journal", "remote-127.128.0.2@01-02-03.journal"}


def test_the_state_of_every_unit_goes_with_the_role() -> None:
    """A dynamic user's is in two places; a log that gets the inode of an earlier one would else be read from the middle on."""
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    states = {name for path in TEMPLATES.rglob("*.service.j2") for name in re.findall(r"^StateDirectory=(\S+)", path.read_text(encoding="utf-8"), re.M)}
    assert states and {f"/var/lib/{place}{name}" for name in states for place in ("", "private/")} <= set(variables["__ollama_logs_directories"])
    dropins = {f"/etc/{path.parent.relative_to(TEMPLATES)}" for path in TEMPLATES.rglob("*.d/gpufleet.conf.j2")}
    assert dropins == set(variables["__ollama_logs_dropin_directories"])
