# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The audit on a fleet that is well, on the same with two dozen things broken at once, and after they were mended. It changes nothing itself."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scenario import Play, in_group, on_host, play, variables_of

OLLAMA = in_group("ollama")
GATEWAY = in_group("gateway")[0]
MONITOR = in_group("monitoring")[0]
HOSTS = sorted({*OLLAMA, *in_group("gateway"), *in_group("monitoring")})
FIRST, LAST = OLLAMA[0], OLLAMA[-1]

CONF = "/etc/nginx/conf.d/gpufleet-gateway.conf"
TLS = "/etc/gpufleet/gateway/tls"
STORE = "/var/lib/ollama/models"
# behind the instance's own
DROP_IN = "/run/systemd/system/ollama@default.service.d/zz-broken.conf"
OPEN = (
    "Restart=no", "User=root", "MemoryMax=infinity", "NoNewPrivileges=no", "ProtectSystem=no", "PrivateTmp=no", "ProtectHome=no", "CapabilityBoundingSet=~",
    "RestrictNamespaces=no", "SystemCallFilter=", "DevicePolicy=auto", "ProtectKernelModules=no", "ProtectKernelTunables=no", "ProtectClock=no",
    "ProtectControlGroups=no", "RestrictAddressFamilies=", "LockPersonality=no", "RestrictRealtime=no", "ProtectProc=default", "ProtectKernelLogs=no",
)
ENVIRONMENT = (
    "sed -i -e '/^OLLAMA_NUM_PARALLEL=/d' -e '/^OLLAMA_KEEP_ALIVE=/d' -e '/^OLLAMA_CONTEXT_LENGTH=/d' "
    "-e 's/^OLLAMA_HOST=.*/OLLAMA_HOST=\"0.0.0.0:11434\"/' -e '$aOLLAMA_DEBUG=\"1\"' /etc/ollama/default.env"
)
NGINX = (
    "sed -i -e 's/ssl_protocols TLSv1.2 TLSv1.3;/ssl_protocols TLSv1.1 TLSv1.2;/' -e '/^  limit_req zone=/d' "
    "-e 's#^  access_log /var/log/nginx/gpufleet-gateway.log.*#  access_log off;#' -e 's#^  location = /api/tags {#& return 200 \"{}\";#' " + CONF
)


class Breakage(NamedTuple):
    """Commands that break something on a host, and those that mend it."""

    host: str
    breaks: list[str]
    mends: list[str]


BROKEN = (
    Breakage(
        FIRST,
        [
            f"mkdir -p {os.path.dirname(DROP_IN)}", f"printf '%s\\n' '[Service]' {' '.join(map(repr, OPEN))} >{DROP_IN}", "systemctl daemon-reload",
            "nft delete table inet gpufleet",
        ],
        [f"rm {DROP_IN}", "systemctl daemon-reload", "systemctl restart gpufleet-firewall.service"],
    ),
    Breakage(
        LAST,
        [
            "cp -p /etc/ollama/default.env /root/default.env", ENVIRONMENT, f"mount -t tmpfs -o mode=755,uid=$(id -u ollama) tmpfs {STORE}",
            "systemctl restart ollama@default.service", "systemctl stop ollama@team-a.service",
        ],
        [
            f"umount {STORE}", "mv /root/default.env /etc/ollama/default.env", "systemctl restart ollama@default.service",
            "systemctl start ollama@team-a.service",
        ],
    ),
    Breakage(
        GATEWAY,
        [
            f"cp -p {CONF} /root/gateway.conf", f"cp -pr {TLS} /root/tls", NGINX, "chmod 0644 /etc/gpufleet/gateway/htpasswd",
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 3 -subj /CN={GATEWAY} -keyout {TLS}/server.key -out {TLS}/server.crt",
            f"touch {' '.join(f'/var/lib/gpufleet-gateway/drained/{host}' for host in OLLAMA)}", "systemctl reload nginx",
        ],
        [
            f"rm {' '.join(f'/var/lib/gpufleet-gateway/drained/{host}' for host in OLLAMA)}", "chmod 0640 /etc/gpufleet/gateway/htpasswd",
            f"cp -p /root/tls/* {TLS}/", f"cp -p /root/gateway.conf {CONF}", "rm -r /root/tls /root/gateway.conf", "systemctl reload nginx",
        ],
    ),
    Breakage(MONITOR, ["systemctl stop prometheus-alertmanager.service"], ["systemctl start prometheus-alertmanager.service"]),
)
# row -> where it is broken, and what the evidence says
EXPECTED = {
    "restart-policy": (FIRST, "Restart=no"),
    "resource-limits": (FIRST, "MemoryMax=infinity"),
    "not-root": (FIRST, "User=root"),
    "sandbox": (FIRST, r"exposure [4-9]"),
    "network-acl": (FIRST, r"^open"),
    "other-ports": (FIRST, r"^open"),
    "bound": (LAST, r"listens on 0\.0\.0\.0:11434"),
    "logs-without-prompts": (LAST, "OLLAMA_DEBUG=1"),
    "num-parallel": (LAST, "OLLAMA_NUM_PARALLEL is not set"),
    "keep-alive": (LAST, "OLLAMA_KEEP_ALIVE is not set"),
    "context-length": (LAST, "OLLAMA_CONTEXT_LENGTH is not set"),
    "persistent-storage": (LAST, "from tmpfs, tmpfs"),
    "models-pulled": (LAST, "missing: .*smollm2:135m"),
    "health-checks": (LAST, "no Ollama answers"),
    "configuration": (LAST, "enabled at boot, and inactive now"),
    "health-monitored": (MONITOR, r"^0$"),
    "alerts": (MONITOR, "not running"),
    "tls": (GATEWAY, r"ssl_protocols TLSv1\.1"),
    "authentication": (GATEWAY, "status 200"),
    "rate-limiting": (GATEWAY, "has no limit_req"),
    "audit-log": (GATEWAY, "written down nowhere"),
    "certificate": (GATEWAY, r"in [23] days"),
    "secret-files": (GATEWAY, "0644 root:www-data"),
    "several-instances": (GATEWAY, r"^0 of \d are up"),
}
# what the scenario's fleet lacks, none of it required
LACKING = {"key-age", "models-locked", "dashboards", "logs", "warm-up"}
# what may differ in a minute without anybody having changed anything: figures, and the daemons' own files
TREE = (
    "find /etc /opt /root /home /srv /boot /usr/local /usr/lib/systemd /var/lib -xdev "
    "( -path /var/lib/prometheus -o -path /var/lib/systemd -o -path /var/lib/apt -o -path /var/lib/private ) -prune "
    r"-o -printf '%p %y %m %u %g %s %T@ %C@ %l\n'"
)


class Audit(NamedTuple):
    """A run of the playbook, and the report that it wrote."""

    play: Play
    report: dict[str, Any]
    folder: Path

    def verdicts(self) -> dict[str, str]:
        """The verdict of each row."""
        return {row["id"]: row["verdict"] for row in self.report["rows"]}

    def bad(self, row: str) -> list[dict[str, Any]]:
        """The bad evidence of a row."""
        return [item for item in next(found for found in self.report["rows"] if found["id"] == row)["evidence"] if item["good"] is False]


def audit(folder: Path, *options: str) -> Audit:
    """Run it."""
    done = play("audit", *options, audit_dir=str(folder))
    path = folder / "audit.json"
    assert path.is_file(), done
    return Audit(done, json.loads(path.read_text(encoding="utf-8")), folder)


def trees() -> dict[str, list[str]]:
    """The files of all hosts, with modes, owners, sizes and times."""
    return {host: sorted(on_host(host).check_output(TREE.replace("(", r"\(").replace(")", r"\)")).splitlines()) for host in HOSTS}


class Runs(NamedTuple):
    """The audit of the fleet as site.yml left it (in check mode), of the broken one, and of the mended one; and the status of the broken one."""

    well: Audit
    broken: Audit
    status: Play
    status_seconds: float
    page: str
    mended: Audit
    differences: dict[str, list[str]]


@pytest.fixture(scope="module", name="runs")
def break_and_mend(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All of it in one go, so that few plays are needed, and nothing stays broken whatever a test finds."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("well", "broken", "status", "mended")}
    # tests before this one may have stopped what Prometheus asks
    time.sleep(6)
    before = trees()
    well = audit(folders["well"], "--check")
    after = trees()
    try:
        for item in BROKEN:
            on_host(item.host).check_output(" && ".join(item.breaks))
        # Prometheus asks every five seconds, and the gateway looks for drained hosts every second
        time.sleep(6)
        broken = audit(folders["broken"])
        started = time.monotonic()
        status = play("status", audit_dir=str(folders["status"]))
        seconds = time.monotonic() - started
    finally:
        mended = {item.host: on_host(item.host).run("; ".join(item.mends)).stderr for item in BROKEN}
    assert not any(mended.values()), mended
    time.sleep(6)
    page = (folders["status"] / "status.html").read_text(encoding="utf-8")
    return Runs(well, broken, status, seconds, page, audit(folders["mended"]), {host: sorted(set(before[host]) ^ set(after[host])) for host in HOSTS})


def test_the_fleet_passes_what_is_required(runs: Runs) -> None:
    """All required rows that apply pass, and of the others only those fail that this fleet lacks."""
    assert runs.well.play.status == 0, runs.well.play
    failed = {row["id"] for row in runs.well.report["rows"] if row["verdict"] == "fail"}
    assert failed <= LACKING, {row: runs.well.bad(row) for row in failed - LACKING}
    assert runs.well.report["summary"]["required failed"] == 0 and runs.well.report["summary"]["pass"] >= 25


def test_nothing_is_changed(runs: Runs) -> None:
    """On no host a file, its mode or its times; and Ansible counts no change, in check mode or without."""
    assert runs.differences == {host: [] for host in HOSTS}
    for run in (runs.well.play, runs.broken.play, runs.mended.play, runs.status):
        assert {host: run.changed(host) for host in HOSTS} == dict.fromkeys(HOSTS, 0)


@pytest.mark.parametrize("row", EXPECTED)
def test_what_is_broken_is_found(runs: Runs, row: str) -> None:
    """The row passed before, and fails while it is broken, with evidence of where and what."""
    host, says = EXPECTED[row]
    assert runs.well.verdicts()[row] == "pass"
    assert runs.broken.verdicts()[row] == "fail"
    found = [item["answer"] for item in runs.broken.bad(row) if item["host"] == host]
    assert any(re.search(says, answer) for answer in found), runs.broken.bad(row)


def test_the_play_fails_and_says_why(runs: Runs) -> None:
    """By its exit status, after the reports were written, with the rows and how they are mended."""
    assert runs.broken.play.failed_with("restart-policy") and runs.broken.play.says("mend: Set memory_max and cpu_quota of each instance")
    files = sorted(runs.broken.folder.iterdir())
    assert [path.name for path in files] == ["audit.html", "audit.json", "audit.xml"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert '<failure type="required"' in files[2].read_text(encoding="utf-8")


def test_mended_it_is_as_before(runs: Runs) -> None:
    """And what check mode said is what is said without."""
    assert runs.mended.play.status == 0, runs.mended.play
    assert runs.mended.verdicts() == runs.well.verdicts()


def test_status_takes_seconds(runs: Runs) -> None:
    """The same page without the checklist. What does not answer is there. (Ten seconds, where nothing else runs beside it.)"""
    assert runs.status.status == 0 and runs.status_seconds < 90, runs.status
    assert "no Ollama answers" in runs.page and "Checklist" not in runs.page and "<svg" in runs.page


def test_no_secret_is_in_a_report(runs: Runs) -> None:
    """Nor in what the play printed."""
    values = variables_of(GATEWAY)
    secrets = [user["password"] for user in values["ollama_gateway_users"]]
    for client in values["ollama_gateway_clients"]:
        entries = [client, *client.get("keys", [])]
        secrets += [entry[field] for entry in entries for field in ("key", "sha256") if field in entry]
    assert secrets
    for run in (runs.well, runs.broken, runs.mended):
        texts = [run.play.output, *(path.read_text(encoding="utf-8") for path in run.folder.iterdir())]
        assert not [secret for secret in secrets for text in texts if secret in text]
