# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The table of requests (tests/gateway/cases.py) against every gateway of the fleet, over the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cases import CASES, HTTP2
from scenario import in_group, on_host, variables_of
from table import Case, Target, curl_has_http2, http2, problem, secrets, send

GATEWAYS = in_group("gateway")


@pytest.fixture(scope="module", name="target", params=GATEWAYS)
def gateway(request: pytest.FixtureRequest) -> Target:
    """A gateway."""
    name, values = request.param, variables_of(request.param)
    host = on_host(name)
    address = host.check_output("hostname -i").split()[0]
    ca = host.file("/etc/gpufleet/gateway/tls/ca.crt").content_string
    return Target(address, 443, name, ca, *secrets(values["ollama_gateway_clients"], values["ollama_gateway_users"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_request(target: Target, case: Case) -> None:
    answers = send(target, case)
    assert not (wrong := problem(case, answers, ollama=True)), wrong


@pytest.mark.skipif(not curl_has_http2(), reason="there is no curl with HTTP/2 on this machine")
@pytest.mark.parametrize(("arguments", "path", "status", "body"), HTTP2, ids=str)
def test_request_over_http2(tmp_path: Path, target: Target, arguments: list[str], path: str, status: int, body: Any) -> None:
    (tmp_path / "ca.crt").write_text(target.ca, encoding="utf-8")
    answer = http2(target, str(tmp_path / "ca.crt"), *arguments, path=path)
    assert answer[0] == status, answer
    assert body is None or json.loads(answer[1]) == body
