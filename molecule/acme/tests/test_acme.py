"""The certificate of an ACME authority: what the gateway serves, how it is renewed, and what happens when the authority refuses."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Iterator

import pytest
from scenario import on_host, pid, play

GATEWAYS = ("acme-gw12", "acme-gw13")
AUTHORITY = "acme-authority"
CONVERGE = "molecule/acme/converge.yml"
LIVE = "/etc/letsencrypt/live/gpufleet-gateway"
RENEWAL = "/etc/letsencrypt/renewal/gpufleet-gateway.conf"
HOOK = "/etc/letsencrypt/renewal-hooks/deploy/gpufleet-gateway"
HOOK_UNIT = "gpufleet-gateway-certificate.service"
KEY = "acme-scenario-test-key-0123456789abcdef"

each_gateway = pytest.mark.parametrize("name", GATEWAYS)


def served(name: str) -> tuple[str, list[str]]:
    """Serial number and names of the certificate that the gateway serves to another host."""
    ask = f"openssl s_client -connect {name}:443 -servername {name} </dev/null 2>/dev/null | openssl x509 -noout -serial -ext subjectAltName"
    text = on_host(AUTHORITY).check_output(ask)
    serial = re.search(r"serial=(\w+)", text)
    assert serial, text
    return serial[1], re.findall(r"DNS:([^,\s]+)", text)


def health(name: str) -> str:
    """What another host, which trusts the root of the authority and nothing else, gets from the gateway."""
    return on_host(AUTHORITY).check_output(f"curl -sS --max-time 10 --cacert /etc/ssl/acme-root.pem https://{name}/health")


def make_due(name: str) -> None:
    """Pebble's certificates are valid for five years: renew them as if that were soon over."""
    on_host(name).check_output(f"sed -i -E 's/^(# )?renew_before_expiry.*/renew_before_expiry = 3650 days/' {RENEWAL}")


def not_due(name: str) -> None:
    """And as it was."""
    on_host(name).check_output(f"sed -i -E 's/^renew_before_expiry.*/# renew_before_expiry = 30 days/' {RENEWAL}")


def wait_for_another(name: str, serial: str) -> str:
    """The serial number that the gateway serves once it is another one; a reload takes a moment."""
    deadline = time.monotonic() + 5
    while (now := served(name)[0]) == serial and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


@each_gateway
def test_another_host_trusts_the_gateway(name: str) -> None:
    assert json.loads(health(name))["status"] == "ok"
    assert served(name)[1] == [name]


@each_gateway
def test_the_timer_runs_now_and_at_boot_and_the_hook_is_executable(name: str) -> None:
    timer = on_host(name).service("certbot.timer")
    assert timer.is_running and timer.is_enabled
    assert on_host(name).file(HOOK).mode == 0o755
    # that of the own authority was not made
    assert not on_host(name).file("/etc/gpufleet/gateway/tls/server.crt").exists


@each_gateway
def test_a_renewal_by_the_timers_service_cuts_nothing_and_is_served(name: str) -> None:
    before, nginx = served(name)[0], pid(name, "nginx")
    stream = subprocess.Popen(
        ["docker", "exec", AUTHORITY, "curl", "-sSN", "--cacert", "/etc/ssl/acme-root.pem", "-H", f"Authorization: Bearer {KEY}",
         f"https://{name}/api/generate", "-d", '{"model": "stand-in", "prompt": "hi"}'],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stream.stdout and json.loads(stream.stdout.readline())["done"] is False
    make_due(name)
    on_host(name).check_output("systemctl start certbot.service")
    not_due(name)
    after = wait_for_another(name, before)
    assert after != before
    assert stream.poll() is None, "the stream ended before the renewal did"
    rest = stream.communicate(timeout=30)[0].splitlines()
    assert after == on_host(name).check_output(f"openssl x509 -noout -serial -in {LIVE}/cert.pem").removeprefix("serial=")
    assert pid(name, "nginx") == nginx
    assert len(rest) == 39 and json.loads(rest[-1])["done"] is True
    assert health(name)


def test_the_play_after_a_renewal_changes_nothing() -> None:
    done = play(CONVERGE)
    assert done.status == 0, done
    assert {name: done.changed(name) for name in GATEWAYS} == dict.fromkeys(GATEWAYS, 0), done


@pytest.fixture(name="broken")
def _broken() -> Iterator[str]:
    """A gateway where somebody broke another site of nginx; mended afterwards."""
    name = GATEWAYS[0]
    on_host(name).check_output("echo 'no such directive;' >/etc/nginx/conf.d/other.conf")
    yield name
    on_host(name).check_output("rm -f /etc/nginx/conf.d/other.conf")


def test_a_hook_that_fails_is_a_failed_unit_until_one_succeeds(broken: str) -> None:
    before, host = served(broken)[0], on_host(broken)
    make_due(broken)
    host.check_output("systemctl start certbot.service")
    assert HOOK_UNIT in host.check_output("systemctl --failed --plain --no-legend")
    assert "unknown directive" in host.check_output(f"journalctl --no-pager -u {HOOK_UNIT}")
    assert served(broken)[0] == before and health(broken)
    host.check_output("rm /etc/nginx/conf.d/other.conf && systemctl start certbot.service")
    not_due(broken)
    assert wait_for_another(broken, before) != before
    assert HOOK_UNIT not in host.check_output("systemctl --failed --plain --no-legend")


def test_the_renewal_of_another_sites_certificate_is_none_of_the_gateways() -> None:
    host = on_host(GATEWAYS[1])
    count = f"journalctl --no-pager -o cat -u {HOOK_UNIT} | wc -l"
    before = host.check_output(count)
    host.check_output(f"env RENEWED_LINEAGE=/etc/letsencrypt/live/other {HOOK}")
    assert host.check_output(count) == before


def test_other_names_get_another_certificate_by_a_reload() -> None:
    name, other = GATEWAYS
    nginx, before = pid(name, "nginx"), served(name)[0]
    # a name that the gateway is reached by too, which only check mode is asked about
    plan = play(CONVERGE, "--check", "--tags", "certificate", "--limit", name, ollama_gateway_server_names=[name, other])
    # it is asked for, and what it was asked for with is written
    assert plan.status == 0 and plan.changed(name) == 2 and served(name)[0] == before, plan
    done = play(CONVERGE, "--limit", name, ollama_gateway_server_names=[name, f"{name}.gpufleet-acme"])
    assert done.status == 0, done
    assert sorted(served(name)[1]) == [name, f"{name}.gpufleet-acme"]
    back = play(CONVERGE, "--limit", name)
    assert back.status == 0 and served(name)[1] == [name], back
    assert pid(name, "nginx") == nginx


BAD_INPUT = {
    "no_email": ({"ollama_gateway_acme_email": ""}, "ollama_gateway_acme_email is empty: give the address"),
    "two_sources": (
        {"ollama_gateway_tls_certificate_path": f"{LIVE}/fullchain.pem", "ollama_gateway_tls_key_path": f"{LIVE}/privkey.pem"},
        "ollama_gateway_acme_enabled and ollama_gateway_tls_certificate_path are both set",
    ),
    "wildcard": ({"ollama_gateway_server_names": ["*.example.org"]}, "a wildcard is certified over DNS only"),
    "no_ca": ({"ollama_gateway_acme_ca_path": "/etc/ssl/none.pem"}, "has no file /etc/ssl/none.pem: put the CA there"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_stops_before_the_first_change(kind: str) -> None:
    variables, message = BAD_INPUT[kind]
    done = play(CONVERGE, "--limit", GATEWAYS[1], **variables)
    assert done.failed_with(message) and done.changed(GATEWAYS[1]) == 0, done


def test_a_refusal_is_one_sentence_with_the_authoritys_reason() -> None:
    name = GATEWAYS[1]
    before = served(name)
    done = play(CONVERGE, "--tags", "certificate", "--limit", name, ollama_gateway_server_names=[name, "nowhere.example"])
    assert done.failed_with(f"{name} got no certificate for {name}, nowhere.example from https://acme-authority:14000/dir: nowhere.example: "), done
    assert done.says("no such host (more is in /var/log/letsencrypt/letsencrypt.log). Nothing else was changed"), done
    # of all that certbot prints, nothing else
    assert "Saving debug log" not in done.output and "Hint:" not in done.output, done
    assert done.changed(name) == 0
    assert served(name) == before and health(name)


def test_an_authority_that_is_down_keeps_no_gateway_from_serving() -> None:
    """Nothing is asked of the authority after this: Pebble forgets its accounts."""
    name = GATEWAYS[1]
    before, host = served(name), on_host(name)
    on_host(AUTHORITY).check_output("systemctl stop pebble.service")
    # nothing is asked for, so nobody is missed
    assert play(CONVERGE, "--tags", "certificate", "--limit", name).status == 0
    done = play(CONVERGE, "--tags", "certificate", "--limit", name, ollama_gateway_server_names=[name, "nowhere.example"])
    assert done.failed_with("Connection refused (more is in /var/log/letsencrypt/letsencrypt.log)"), done
    make_due(name)
    assert host.run("systemctl start certbot.service").rc != 0
    assert "certbot.service" in host.check_output("systemctl --failed --plain --no-legend")
    assert served(name) == before and health(name)


def test_without_acme_the_hook_goes_and_the_certificate_stays() -> None:
    name = GATEWAYS[1]
    given = {"ollama_gateway_tls_certificate_path": f"{LIVE}/fullchain.pem", "ollama_gateway_tls_key_path": f"{LIVE}/privkey.pem"}
    done = play(CONVERGE, "--tags", "certificate", "--limit", name, ollama_gateway_acme_enabled=False, **given)
    assert done.status == 0 and done.changed(name) == 1, done
    assert not on_host(name).file(HOOK).exists
    assert on_host(name).file(f"{LIVE}/cert.pem").exists
