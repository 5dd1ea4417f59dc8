"""What a host has is taken off again, whatever state it is in, and a collector that does not answer stops no run."""

from __future__ import annotations

from conftest import CLIENT, COLLECTOR, CONVERGE
from scenario import on_host, play

UNINSTALL = "molecule/logs/uninstall.yml"
UPLOAD = "systemd-journal-upload.service"
DROPIN = "/etc/systemd/system/alloy.service.d/gpufleet.conf"
PASSWORD = "/etc/gpufleet/logs/loki-password"


def test_a_collector_that_does_not_answer_changes_nothing_and_stops_nothing() -> None:
    """The upload ends at once and is started again and again. A certificate that was changed is given to it all the same."""
    on_host(COLLECTOR).check_output("systemctl stop gpufleet-logs-tls.socket gpufleet-logs-tls.service")
    host = on_host(CLIENT)
    host.check_output(f"systemctl restart {UPLOAD}")
    for _run in range(2):
        done = play(CONVERGE, "--limit", CLIENT)
        assert done.status == 0 and done.changed(CLIENT) == 0, done
    host.check_output("echo >>/etc/gpufleet/logs/tls/ca.crt")
    done = play(CONVERGE, "--limit", CLIENT)
    assert done.status == 0 and done.changed(CLIENT) == 2, done
    on_host(COLLECTOR).check_output("systemctl start gpufleet-logs-tls.socket gpufleet-logs-tls.service")


def test_what_elasticsearch_would_refuse_stops_before_the_first_change() -> None:
    wrong = {"ollama_logs_destination": "elasticsearch", "ollama_logs_elasticsearch_url": f"https://{COLLECTOR}:9200"}
    for name, value in (("ollama_logs_elasticsearch_index", "Logs"), ("ollama_logs_elasticsearch_ca_path", "/etc/ssl/not-there.pem")):
        done = play(CONVERGE, "--limit", CLIENT, **wrong, **{name: value})
        assert done.failed_with(f"Give an {name} (is {value})") and done.changed(CLIENT) == 0, done


def test_a_part_whose_package_was_never_installed_is_taken_off() -> None:
    """Alloy's files are there before its package is."""
    host = on_host(CLIENT)
    host.check_output(f"mkdir -p $(dirname {DROPIN}) && touch {DROPIN} {PASSWORD}")
    done = play(CONVERGE, "--limit", CLIENT)
    assert done.status == 0, done
    assert not host.file(DROPIN).exists and not host.file(PASSWORD).exists


def test_the_role_leaves_the_journals_and_nothing_else() -> None:
    """On the host that sends and on the collector; a second run finds nothing to do."""
    done = play(UNINSTALL)
    assert done.status == 0, done
    for name in (CLIENT, COLLECTOR):
        host = on_host(name)
        assert host.check_output("find /etc /var/lib /usr/local -path '*gpufleet?*' -o -name journal-upload -o -name alloy.service.d") == ""
        assert host.check_output("systemctl list-units --plain --no-legend --state=active 'gpufleet*' 'systemd-journal-upload*'") == ""
        started = "systemctl show --timestamp=unix --value --property=ActiveEnterTimestamp systemd-journald.service"
        assert int(host.check_output(f"echo $(($(date +%s) - $({started} | tr -d @)))")) < 60
    assert on_host(COLLECTOR).check_output("ls /var/log/journal/remote/remote-127*.journal")
    again = play(UNINSTALL)
    assert again.status == 0 and again.changed(CLIENT) == again.changed(COLLECTOR) == 0, again
