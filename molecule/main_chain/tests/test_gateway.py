# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway: who may call what, how answers arrive, and what it keeps of the keys."""

from __future__ import annotations

import json
import secrets
import shlex
from typing import Any, NamedTuple

import pytest
from scenario import in_group, on_host, variables_of

GATEWAYS = in_group("gateway")
CA = "/etc/gpufleet/gateway/tls/ca.crt"
WRONG_KEY = "w" * 40

pytestmark = pytest.mark.parametrize("name", GATEWAYS)


class Answer(NamedTuple):
    """An answer of the gateway."""

    status: int
    body: str
    headers: dict[str, str]


class Gateway:
    """A gateway, called from itself with curl."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.host = on_host(name)
        values = variables_of(name)
        self.key = values["ollama_gateway_clients"][0]["key"]
        self.users = values.get("ollama_gateway_users") or []
        models = values["ollama_models"]
        self.models = [model if isinstance(model, str) else model["name"] for model in models]
        self.secrets = [item["key"] for item in values["ollama_gateway_clients"]] + [item["password"] for item in self.users]

    def journal(self) -> str:
        """What nginx says, for a failed assertion."""
        return self.host.run("journalctl --no-pager -n 20 -u nginx; tail -n 20 /var/log/nginx/*error.log").stdout

    def metrics(self) -> str:
        """What it says of itself."""
        return self.host.check_output("curl -sS --max-time 10 http://$(hostname -i):9113/metrics")

    def curl(self, *arguments: str) -> str:
        """The command line of curl for this gateway."""
        fixed = ["curl", "-sS", "--max-time", "60", "--cacert", CA, "--path-as-is", "--resolve", f"{self.name}:443:127.0.0.1"]
        return shlex.join([*fixed, *arguments])

    def call(self, path: str, *arguments: str, key: str | None = "") -> Answer:
        """Send a request: with the first client's key unless another one, or None, is given."""
        given = self.key if key == "" else key
        secret = ["-H", f"Authorization: Bearer {given}"] if given else []
        done = self.host.run(self.curl("-i", "--http1.1", *secret, *arguments, f"https://{self.name}{path}"))
        assert done.rc == 0, f"{path}: {done.stderr}\n{self.journal()}"
        head, _blank, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        lines = head.splitlines()
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}
        return Answer(int(lines[0].split()[1]), body, headers)


@pytest.fixture(name="gateway")
def _gateway(name: str) -> Gateway:
    return Gateway(name)


def post(body: dict[str, Any]) -> list[str]:
    """Arguments of curl for a body in JSON."""
    return ["-H", "Content-Type: application/json", "-d", json.dumps(body)]


def test_nginx_runs_now_and_at_boot(gateway: Gateway) -> None:
    service = gateway.host.service("nginx")
    assert service.is_running and service.is_enabled, gateway.journal()
    assert gateway.host.run("nginx -t").rc == 0
    assert not gateway.host.run("ss -Hltn 'sport = :80'").stdout


def test_a_start_of_nginx_that_fails_is_tried_again(gateway: Gateway) -> None:
    shown = gateway.host.check_output("systemctl show nginx --property=Restart,StartLimitIntervalUSec,Wants,After,NeedDaemonReload")
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    assert (unit["Restart"], unit["StartLimitIntervalUSec"], unit["NeedDaemonReload"]) == ("on-failure", "0", "no"), unit
    assert "network-online.target" in unit["Wants"] and {"network-online.target", "nss-lookup.target"} <= set(unit["After"].split()), unit


def test_health_is_open_and_says_nothing_more(gateway: Gateway) -> None:
    answer = gateway.call("/health", key=None)
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"}), gateway.journal()


def test_a_streamed_answer_arrives_in_pieces(gateway: Gateway) -> None:
    body = {"model": gateway.models[0], "messages": [{"role": "user", "content": "Tell me a long story."}], "options": {"num_predict": 64}}
    send = gateway.curl("-N", "-H", f"Authorization: Bearer {gateway.key}", *post(body), f"https://{gateway.name}/api/chat")
    script = f"{send} | while IFS= read -r line; do echo \"$(date +%s.%N) $line\"; done"
    done = gateway.host.run("bash -o pipefail -c %s", script)
    assert done.rc == 0, done.stderr + gateway.journal()
    times, chunks = zip(*(line.split(" ", 1) for line in done.stdout.splitlines()))
    last = json.loads(chunks[-1])
    assert len(chunks) >= 5 and last.get("done") is True, done.stdout[-2000:]
    assert not any(json.loads(chunk)["done"] for chunk in chunks[:-1])
    seconds = [float(time) for time in times]
    # one that was held back would arrive at once
    assert seconds[-1] - seconds[0] > 0.2, seconds
    assert len({round(second, 2) for second in seconds}) >= 3, seconds


def test_the_openai_api_answers(gateway: Gateway) -> None:
    body = {"model": gateway.models[0], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    answer = gateway.call("/v1/chat/completions", *post(body))
    assert answer.status == 200 and json.loads(answer.body)["choices"], answer.body + gateway.journal()
    models = gateway.call("/v1/models")
    assert models.status == 200
    first = json.loads(models.body)["data"][0]["id"]
    assert gateway.call(f"/v1/models/{first}").status == 200


@pytest.mark.parametrize("path", ["/api/tags", "/api/pull", "/nothing", "/"])
@pytest.mark.parametrize("key", [None, WRONG_KEY])
def test_without_a_valid_key_every_path_answers_alike(gateway: Gateway, path: str, key: str | None) -> None:
    answer = gateway.call(path, key=key)
    assert answer.status == 401
    assert json.loads(answer.body) == {"error": "missing or wrong credentials"}
    assert 'Bearer realm="ollama"' in answer.headers["www-authenticate"]


def test_without_a_valid_key_the_openai_api_answers_in_its_own_form(gateway: Gateway) -> None:
    answer = gateway.call("/v1/chat/completions", *post({}), key=None)
    assert answer.status == 401
    assert json.loads(answer.body)["error"]["code"] == "invalid_api_key"


def test_ways_to_send_credentials(gateway: Gateway) -> None:
    assert gateway.call("/api/tags").status == 200, gateway.journal()
    assert gateway.call("/api/tags", "-H", f"x-api-key: {gateway.key}", key=None).status == 200
    assert gateway.call("/api/tags", "-H", f"x-api-key: {gateway.key.swapcase()}", key=None).status == 401
    for user in gateway.users:
        assert gateway.call("/api/tags", "-u", f"{user['name']}:{user['password']}", key=None).status == 200, gateway.journal()
        assert gateway.call("/api/tags", "-u", f"{user['name']}:{user['password']}x", key=None).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:" + 64 * "0"),
        ("GET", "/api/ps"),
        # other ways to write /api/pull and /api/ps
        ("POST", "//api/pull"),
        ("POST", "/api/chat/../pull"),
        ("POST", "/api/%70ull"),
        ("GET", "/v1/models/..%2f..%2fapi%2fps"),
    ],
)
def test_what_changes_models_needs_the_class_admin(gateway: Gateway, method: str, path: str) -> None:
    answer = gateway.call(path, "-X", method, *(post({"model": "x"}) if method != "GET" else []))
    assert answer.status == 403 and "the class admin" in answer.body, answer


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/me"), ("POST", "/API/PULL"), ("GET", "/v1/models/%0d%0aX-Injected:%201"), ("GET", "/")])
def test_what_is_not_served_is_not_found(gateway: Gateway, method: str, path: str) -> None:
    answer = gateway.call(path, "-X", method, *(post({"model": "x"}) if method != "GET" else []))
    assert answer.status == 404 and "not found" in answer.body, answer


def test_a_wrong_method_is_refused(gateway: Gateway) -> None:
    answer = gateway.call("/api/chat")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert json.loads(answer.body) == {"error": "method not allowed"}


def test_too_many_requests_are_refused_for_that_client_only(gateway: Gateway) -> None:
    # those who have no key share the budget of their address
    many = gateway.host.run(gateway.curl("-o", "/dev/null", "-w", "%{http_code}\\n", f"https://{gateway.name}/api/tags?[1-60]"))
    statuses = many.stdout.split()
    assert set(statuses) == {"401", "429"} and statuses.count("401") >= 20, statuses
    assert gateway.call("/api/tags").status == 200
    refused = gateway.call("/api/tags", key=WRONG_KEY)
    assert refused.status == 401 or refused.headers["retry-after"] == "1"


def test_tls(gateway: Gateway) -> None:
    url = f"https://{gateway.name}/health"
    new = [gateway.host.run(gateway.curl("--tls-max", version, url)).rc for version in ("1.2", "1.3")]
    assert new == [0, 0]
    old = gateway.host.run(gateway.curl("--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", url))
    assert old.rc == 35, old
    assert gateway.host.run(gateway.curl("--http1.1", f"http://{gateway.name}:443/health")).stdout.find("ok") == -1


def test_an_unknown_name_gets_nothing(gateway: Gateway) -> None:
    unknown = gateway.host.run("curl -sk --max-time 10 --resolve other.example:443:127.0.0.1 https://other.example/health")
    assert unknown.rc == 35 and not unknown.stdout
    foreign = gateway.host.run(gateway.curl("--http1.1", "-H", "Host: other.example", f"https://{gateway.name}/health"))
    assert "ok" not in foreign.stdout


def files_with(secret: str) -> dict[str, str]:
    """The files, the lines of the journal and the processes of every host that hold a text, by host."""
    # in two parts, so that the search does not find itself
    pattern = f"[{secret[0]}]{secret[1:]}"
    script = (
        f"grep -rlaE -D skip -e '{pattern}' /etc /var /run /opt /root /home /srv /tmp 2>/dev/null; "
        f"journalctl --no-pager | grep -E -e '{pattern}'; ps -eo args | grep -E -e '{pattern}' | grep -v grep"
    )
    found = {name: on_host(name).run("bash -c %s", script).stdout for name in in_group("all")}
    return {name: text for name, text in found.items() if text}


def test_keys_and_passwords_are_nowhere(gateway: Gateway) -> None:
    for secret in gateway.secrets:
        assert not files_with(secret)
        assert secret not in gateway.metrics()


@pytest.mark.parametrize(("file", "mode"), [("clients.json", 0o600), ("htpasswd", 0o640), ("tls/server.key", 0o600), ("tls", 0o700)])
def test_secrets_are_closed(gateway: Gateway, file: str, mode: int) -> None:
    found = gateway.host.file(f"/etc/gpufleet/gateway/{file}")
    assert (found.mode, found.user) == (mode, "root")


def test_the_log_names_the_client_and_no_host_keeps_a_prompt(gateway: Gateway) -> None:
    mark = f"a-prompt-of-{secrets.token_hex(6)}-that-must-not-be-kept"
    ask = {"model": gateway.models[0], "prompt": mark, "stream": False, "options": {"num_predict": 1}}
    gateway.call(f"/api/generate?query={mark}", *post(ask))
    lines = gateway.host.run("tail -n 50 /var/log/nginx/gpufleet-gateway.log").stdout.splitlines()
    entry = [json.loads(line) for line in lines if '"/api/generate"' in line][-1]
    assert entry["client"] == "team-a" and entry["status"] == 200 and entry["route"] == "/api/generate", entry
    assert entry["model"] == gateway.models[0] and entry["tokens_out"] == "1" and entry["id"], entry
    # refused ones, one that is too large for the memory, and one that Ollama refuses
    for body in ({**ask, "model": ""}, {**ask, "options": {"num_gpu": 1}}, {**ask, "model": "no-such-model"}):
        assert gateway.call("/v1/chat/completions", *post(body)).status in (400, 403, 404)
    assert gateway.call("/api/embed", *post({"model": "all-minilm", "input": mark})).status == 200
    fill = f"python3 -c 'import json; print(json.dumps(dict(model=\"no-such-model\", prompt=\"{mark} \" * 60000)))'"
    url, key = f"https://{gateway.name}/api/generate", f"Authorization: Bearer {gateway.key}"
    sent = gateway.curl("-o", "/dev/null", "-w", "%{http_code}", "-H", key, "-d", "@-", url)
    assert gateway.host.check_output("bash -c %s", f"{fill} | {sent}") == "404"
    assert not files_with(mark)
    assert mark not in gateway.metrics()


def test_every_line_of_the_log_is_json_in_ascii(gateway: Gateway) -> None:
    assert gateway.call("/caf%e9/%00/%22", key=WRONG_KEY).status in (400, 401)
    gateway.call("/caf%e9/%22", key=WRONG_KEY)
    lines = gateway.host.check_output("cat /var/log/nginx/gpufleet-gateway.log").splitlines()
    assert lines and all(line.isascii() and isinstance(json.loads(line), dict) for line in lines)
    assert json.loads(lines[-1])["uri"] == "(not ASCII)"
