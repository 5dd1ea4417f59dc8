# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The log host has the lines of all hosts: a request is found there by its id, and its prompt is not."""

from __future__ import annotations

import json
import secrets
import time

from scenario import in_group, on_host, variables_of

OLLAMA = in_group("ollama")
GATEWAYS = in_group("gateway")
(COLLECTOR,) = in_group("logs")
# a line is sent at once; the rest is for a busy machine
PATIENCE_SECONDS = 30


def journal(*match: str) -> list[dict[str, str]]:
    """Entries on the log host, those of its own journal too."""
    done = on_host(COLLECTOR).run(f"journalctl --quiet --merge --output=json {' '.join(match)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def waited_for(*match: str) -> list[dict[str, str]]:
    """The same, once there are any."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := journal(*match)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def test_a_request_is_found_on_the_log_host_by_its_id_and_its_prompt_is_nowhere() -> None:
    """Through each gateway, one of which is the log host itself; Ollama's own lines of both hosts are there as well."""
    end = f"end-{secrets.token_hex(6)}"
    mark = f"a-prompt-of-{secrets.token_hex(6)}-that-must-not-be-sent"
    for name in GATEWAYS:
        values, host = variables_of(name), on_host(name)
        body = json.dumps({"model": values["ollama_models"][0], "prompt": mark, "stream": False, "options": {"num_predict": 1}})
        curl = f"curl -sS --max-time 60 --cacert /etc/gpufleet/gateway/tls/ca.crt --resolve {name}:443:127.0.0.1 -D - -o /dev/null"
        key = values["ollama_gateway_clients"][0]["key"]
        head = host.check_output(f"{curl} -H 'Authorization: Bearer {key}' -d '{body}' 'https://{name}/api/generate?query={mark}'")
        request = next(line.split(":")[1].strip() for line in head.splitlines() if line.lower().startswith("x-request-id:"))
        found = waited_for(f"REQUEST_ID={request}")
        assert len(found) == 1, host.run("journalctl --no-pager -n 20 -u gpufleet-gateway-log -u systemd-journal-upload").stdout
        line = json.loads(found[0]["MESSAGE"])
        assert (found[0]["_HOSTNAME"], found[0]["_SYSTEMD_UNIT"]) == (name, "gpufleet-gateway-log.service")
        assert (line["id"], line["status"], line["client"]) == (request, 200, "team-a"), line
    for name in OLLAMA:
        assert waited_for(f"_HOSTNAME={name}", "_SYSTEMD_UNIT=ollama@default.service"), name
    # what was written meanwhile has come when a later line has
    for name in sorted({*OLLAMA, *GATEWAYS}):
        on_host(name).check_output(f"logger -t {end} the last line of {name}")
        assert waited_for("-t", end, f"_HOSTNAME={name}"), name
    assert not [entry for entry in journal("--since=-10min") if mark in json.dumps(entry)]
