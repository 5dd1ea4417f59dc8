"""Lines arrive with host, unit and request, none is lost and all are in order, whatever is cut or rebooted; nobody else gets in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Iterator

import pytest
from ansible_collections.gpufleet.ollama.plugins.module_utils import _certificate
from conftest import CA_DIR, CLIENT, COLLECTOR, REMOTE, came_in_order, numbers, received, wait_until, why, write_lines
from scenario import on_host

LOG = "/var/log/nginx/gpufleet-gateway.log"
UPLOAD = f"https://{COLLECTOR}:19532/upload"
KEY = "/etc/gpufleet/logs/tls/own.key"
# an entry in the format that hosts send
ENTRY = "__REALTIME_TIMESTAMP=1700000000000000\n__MONOTONIC_TIMESTAMP=1\n_BOOT_ID=00000000000000000000000000000001\nMESSAGE=forged\n\n"


def test_a_line_arrives_within_seconds_with_host_and_unit() -> None:
    on_host(CLIENT).check_output("systemd-run --quiet --unit=probe /bin/echo a line of a unit")
    found = wait_until(lambda: received("_SYSTEMD_UNIT=probe.service", f"_HOSTNAME={CLIENT}", "_TRANSPORT=stdout"), 10)
    assert [entry["MESSAGE"] for entry in found] == ["a line of a unit"], why()


def test_a_request_is_found_by_its_id_over_a_rotation() -> None:
    """The file that nginx would write, renamed as logrotate does, and written to for a moment under its old name."""
    host = on_host(CLIENT)
    ids = [f"{number:032x}" for number in range(1, 4)]
    lines = [json.dumps({"id": identifier, "status": 200}) for identifier in ids]
    host.check_output(f"mkdir -p {Path(LOG).parent} && echo '{lines[0]}' >{LOG} && chown root:adm {LOG} && chmod 0640 {LOG}")
    assert wait_until(lambda: received(f"REQUEST_ID={ids[0]}")), why()
    host.check_output(f"mv {LOG} {LOG}.1 && echo '{lines[1]}' >>{LOG}.1 && echo '{lines[2]}' >{LOG} && chown root:adm {LOG} && chmod 0640 {LOG}")
    assert wait_until(lambda: received(f"REQUEST_ID={ids[1]}") and received(f"REQUEST_ID={ids[2]}")), why()
    for identifier, line in zip(ids, lines):
        entry = received(f"REQUEST_ID={identifier}")
        assert [(item["MESSAGE"], item["_HOSTNAME"], item["_SYSTEMD_UNIT"]) for item in entry] == [(line, CLIENT, "gpufleet-gateway-log.service")]


def test_keys_are_roots_and_journals_are_of_the_group_adm() -> None:
    for name in (CLIENT, COLLECTOR):
        folder, key = on_host(name).file(str(Path(KEY).parent)), on_host(name).file(KEY)
        assert (folder.user, folder.mode, key.user, key.mode) == ("root", 0o700, "root", 0o600)
    for name, unit in ((CLIENT, "systemd-journal-upload"), (COLLECTOR, "gpufleet-logs-tls"), (COLLECTOR, "gpufleet-logs-receiver")):
        uid = on_host(name).check_output(f"stat -c %u /proc/$(systemctl show --value --property=MainPID {unit})")
        assert uid != "0", unit
        given = f"/run/credentials/{unit}.service/own.key"
        if unit != "gpufleet-logs-receiver":
            # nobody but root and the unit's user
            assert on_host(name).check_output(f"runuser -u nobody -- cat {given} 2>&1; true").endswith("Permission denied")
    folder = on_host(COLLECTOR).file(REMOTE)
    assert (folder.user, folder.group, folder.mode) == ("systemd-journal-remote", "adm", 0o2750)
    journals = on_host(COLLECTOR).check_output(f"stat -c '%G %a' {REMOTE}/*.journal").splitlines()
    assert set(journals) == {"adm 640"}
    assert (CA_DIR.stat().st_mode & 0o777, (CA_DIR / "ca.key").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.fixture(scope="module", name="wrong")
def _wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a stranger may have, as options of curl on the client."""
    other = tmp_path_factory.mktemp("other") / "ca"
    made = {
        "another_authority": _certificate.ensure(str(other), CLIENT, [CLIENT], 30, 1, False, "client"),
        "a_server": _certificate.ensure(str(CA_DIR), "a-server", [CLIENT], 30, 1, False, "server"),
        "not_in_the_inventory": _certificate.ensure(str(CA_DIR), "stranger", ["stranger"], 30, 1, False, "client"),
    }
    options = {"none": ""}
    for name, result in made.items():
        for kind in ("certificate", "key"):
            text = Path(result[f"{kind}_path"]).read_text(encoding="ascii")
            on_host(CLIENT).check_output(f"umask 077; echo '{text}' >/root/{name}.{kind}")
        options[name] = f"--cert /root/{name}.certificate --key /root/{name}.key"
    yield options
    on_host(CLIENT).check_output("rm /root/*.certificate /root/*.key")
    for name in ("a-server", "stranger"):
        for suffix in ("crt", "key"):
            (CA_DIR / f"{name}.{suffix}").unlink()


@pytest.mark.parametrize(("kind", "status"), [("none", "400"), ("another_authority", "400"), ("a_server", "400"), ("not_in_the_inventory", "403")])
def test_nobody_else_gets_in(wrong: dict[str, str], kind: str, status: str) -> None:
    """The same request with the host's own certificate is taken, as the next test shows."""
    assert send(wrong[kind]) == status
    assert not received("MESSAGE=forged")


def send(options: str) -> str:
    """The status that an entry is answered with."""
    command = f"curl -s -o /dev/null -w '%{{http_code}}' --cacert /etc/gpufleet/logs/tls/ca.crt {options} --data-binary @- " \
        f"-H 'Content-Type: application/vnd.fdo.journal' {UPLOAD}"
    return on_host(CLIENT).check_output(f"printf '{ENTRY.replace(chr(10), '%sn' % chr(92))}' | {command}")


def test_the_receiver_is_out_of_reach_and_the_hosts_own_certificate_opens() -> None:
    assert on_host(COLLECTOR).run("curl -s http://127.0.0.1:19532/upload").rc == 7
    assert on_host(CLIENT).run(f"curl -s http://{COLLECTOR}:19531/").rc == 7
    assert send("--cert /etc/gpufleet/logs/tls/own.crt --key /etc/gpufleet/logs/tls/own.key") == "202"
    assert wait_until(lambda: received("MESSAGE=forged")), why()


def test_the_journal_is_kept_and_no_limit_drops_lines() -> None:
    """More than journald takes of a unit in 30 seconds by default, which is 10000."""
    assert on_host(CLIENT).check_output("journalctl --header | grep -c 'File path: /var/log/journal/'")
    write_lines("flood", 15000)
    wait_until(lambda: len(numbers("flood")) >= 15000, 40)
    assert numbers("flood") == list(range(1, 15001)), why()


@pytest.fixture(name="cut")
def _cut() -> Iterator[None]:
    """No packet of the client's reaches the collector's port, and nobody is told."""
    table = "add table inet cut; add chain inet cut input { type filter hook input priority -10; }; add rule inet cut input tcp dport 19532 drop"
    on_host(COLLECTOR).check_output(f"nft '{table}'")
    yield
    on_host(COLLECTOR).run("nft delete table inet cut")


def test_nothing_is_lost_over_a_cut_of_the_network(cut: None) -> None:
    """A cut that is longer than an upload may hang."""
    write_lines("cut", 2000)
    # long enough for systemd to end the hanging upload
    restarts = "systemctl show --value --property=NRestarts systemd-journal-upload"
    before = int(on_host(CLIENT).check_output(restarts))
    assert wait_until(lambda: int(on_host(CLIENT).check_output(restarts)) > before, 60), why()
    assert numbers("cut") == []
    on_host(COLLECTOR).check_output("nft delete table inet cut")
    healed = time.monotonic()
    wait_until(lambda: len(came_in_order("cut")) >= 2000, 45)
    assert came_in_order("cut") == list(range(1, 2001)), why()
    assert time.monotonic() - healed < 45


def test_nothing_is_lost_over_a_reboot_of_the_collector() -> None:
    """Its services come back by themselves; lines of before are still there."""
    write_lines("before", 10)
    assert wait_until(lambda: len(came_in_order("before")) == 10), why()
    boot = "cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1"
    was = on_host(COLLECTOR).check_output(boot)
    on_host(COLLECTOR).run("systemctl reboot")
    write_lines("reboot", 500)
    assert wait_until(lambda: on_host(COLLECTOR).run(f"{boot}; systemctl is-active gpufleet-logs-tls.service").stdout not in (was, "") and
                      on_host(COLLECTOR).run("systemctl is-active --quiet gpufleet-logs-tls.service").rc == 0, 40)
    wait_until(lambda: len(came_in_order("reboot")) >= 500, 30)
    assert came_in_order("reboot") == list(range(1, 501)), why()
    assert came_in_order("before") == list(range(1, 11))


def test_the_collector_says_when_each_host_was_heard_last() -> None:
    on_host(COLLECTOR).check_output("systemctl start gpufleet-logs-keep.service")
    text = on_host(COLLECTOR).check_output("cat /var/lib/prometheus/node-exporter/ollama_logs.prom; date +%s.%N")
    last = float(text.split(f'ollama_logs_last_received_timestamp_seconds{{source="{CLIENT}"}} ')[1].split()[0])
    assert 0 <= float(text.splitlines()[-1]) - last < 120
    assert on_host(CLIENT).service("gpufleet-logs-heartbeat.timer").is_enabled


def test_old_journals_go() -> None:
    """Those that nothing came to for longer than they are kept, also one of a host that was taken off; the one that is written stays."""
    host = on_host(COLLECTOR)
    rotate = f"journalctl --directory={REMOTE} --list-boots >/dev/null; ls {REMOTE}/*@*.journal 2>/dev/null | wc -l"
    active = host.check_output(f"ls {REMOTE}/remote-127*.journal | grep -v @")
    name = Path(active).name.removesuffix(".journal")
    # as systemd-journal-remote names one that it has done with
    done = f"{REMOTE}/{name}@00000000000000000000000000000001-0000000000000001-000600000000000{{}}.journal"
    old, new, gone, quiet = done.format(1), done.format(2), f"{REMOTE}/remote-127.128.0.1.journal", f"{REMOTE}/remote-127.128.0.2.journal"
    host.check_output(" && ".join(f"cp --preserve {active} '{path}'" for path in (old, new, gone, quiet)))
    host.check_output(f"touch -d '-92 days' '{old}' {gone} && touch -d '-89 days' '{new}' {quiet}")
    assert host.check_output(rotate) == "2"
    host.check_output("systemctl start gpufleet-logs-keep.service")
    assert [host.file(path).exists for path in (old, new, gone, quiet, active)] == [False, True, False, True, True]
    host.check_output(f"rm '{new}' {quiet}")
