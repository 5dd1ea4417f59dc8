"""The journal goes to Elasticsearch instead, for which a stand-in records what it gets, and back to the collector."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import CLIENT, COLLECTOR, CONVERGE, PROJECT, numbers, wait_until, why, write_lines
from scenario import on_host, play

PASSWORD = "a-password-of-the-test"
DOCUMENTS = "/root/documents.json"
UNIT = "gpufleet-logs-rsyslog"
# a run of verify may follow another
AWAY = f"away-{time.time_ns()}"
VARIABLES = {
    "ollama_logs_destination": "elasticsearch",
    "ollama_logs_elasticsearch_url": f"https://{COLLECTOR}:9200",
    "ollama_logs_elasticsearch_user": "fleet",
    "ollama_logs_elasticsearch_password": PASSWORD,
    "ollama_logs_elasticsearch_ca_path": "/etc/ssl/search.pem",
}
START = (
    "systemd-run --quiet --unit=search --property=Restart=no "
    f"/usr/bin/python3 /root/search.py /root/search.crt /root/search.key 'fleet:{PASSWORD}' {DOCUMENTS}"
)


@pytest.fixture(scope="module", autouse=True)
def _stand_in() -> None:
    """Its program, and a certificate that the client is given."""
    host = on_host(COLLECTOR)
    program = (PROJECT / "molecule/logs/files/elasticsearch_stand_in.py").read_text(encoding="utf-8")
    host.check_output(f"cat >/root/search.py <<'END'\n{program}\nEND\n")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=search"
    host.check_output(f"{make} -addext subjectAltName=DNS:{COLLECTOR} -keyout /root/search.key -out /root/search.crt 2>/dev/null")
    certificate = host.check_output("cat /root/search.crt")
    on_host(CLIENT).check_output(f"echo '{certificate}' >/etc/ssl/search.pem")
    host.run("systemctl stop search.service")
    host.check_output(START)


def documents(tag: str) -> list[dict[str, Any]]:
    """What came with a tag, in order."""
    lines = on_host(COLLECTOR).run(f"cat {DOCUMENTS}").stdout.splitlines()
    return [entry["document"] for entry in map(json.loads, lines) if entry["document"].get("identifier") == tag]


def test_the_switch_takes_the_upload_away_and_shows_no_password() -> None:
    done = play(CONVERGE, "--diff", "--limit", CLIENT, **VARIABLES)
    assert done.status == 0 and PASSWORD not in done.output, done
    host = on_host(CLIENT)
    assert host.service(UNIT).is_running and host.service(UNIT).is_enabled
    assert not host.service("systemd-journal-upload").is_running and not host.service("systemd-journal-upload").is_enabled
    assert not host.service("rsyslog").is_running
    assert not host.file("/etc/gpufleet/logs/tls").exists
    config = host.file("/etc/gpufleet/logs/rsyslog.conf")
    assert (config.user, config.mode) == ("root", 0o600)
    # one of systemd's dynamic users
    assert int(host.check_output(f"stat -c %u /proc/$(systemctl show --value --property=MainPID {UNIT})")) >= 61184


def test_documents_have_host_unit_and_request() -> None:
    request = f"{time.time_ns():032x}"
    on_host(CLIENT).check_output(f"echo '{{\"id\":\"{request}\",\"status\":200}}' >>/var/log/nginx/gpufleet-gateway.log")
    found = wait_until(lambda: [item for item in documents("gpufleet-gateway") if item.get("request_id") == request], 30)
    assert len(found) == 1, on_host(CLIENT).run(f"journalctl --no-pager -n 20 -u {UNIT}").stdout
    assert (found[0]["host"], found[0]["unit"], json.loads(found[0]["message"])["id"]) == (CLIENT, "gpufleet-gateway-log.service", request)


def test_nothing_is_lost_while_elasticsearch_is_away() -> None:
    """The connection that stood breaks, and rsyslog tries again."""
    host = on_host(COLLECTOR)
    host.check_output("systemctl stop search.service")
    write_lines(AWAY, 1000)
    assert wait_until(lambda: "suspend" in on_host(CLIENT).run(f"journalctl -u {UNIT} --since=-1min").stdout)
    host.check_output(START)
    wait_until(lambda: len(documents(AWAY)) >= 1000, 60)
    # in the order of the journal, each once
    assert list(int(item["message"]) for item in documents(AWAY)) == list(range(1, 1001))


def test_the_way_back_goes_on_where_it_ended() -> None:
    """The collector gets what was written meanwhile, too: the upload's place in the journal has been kept."""
    done = play(CONVERGE, "--limit", CLIENT)
    assert done.status == 0, done
    assert not on_host(CLIENT).service(UNIT).is_running
    assert not on_host(CLIENT).file("/etc/gpufleet/logs/rsyslog.conf").exists
    wait_until(lambda: len(numbers(AWAY)) >= 1000, 30)
    assert numbers(AWAY) == list(range(1, 1001)), why()
