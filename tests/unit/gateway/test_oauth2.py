"""Who comes through an OAuth2 proxy: nginx asks a stand-in for one, as it would ask oauth2-proxy."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import local
import pytest
from fleet import Fleet, key
from stand_in import eventually

PASSWORD = "p" * 24
GOOD_COOKIE, GOOD_TOKEN = "_oauth2_proxy=good", "Bearer eyJ.good.token"
# what the proxy was asked, and what it answers to the good ones
ASKED: list[tuple[str, str, dict[str, str]]] = []
STATUS = [202]


class Proxy(BaseHTTPRequestHandler):
    """A stand-in for oauth2-proxy: its endpoint /oauth2/auth."""

    def answer(self) -> None:
        """202 with a name for the good cookie and the good token, 401 for all else."""
        ASKED.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        good = self.headers.get("Cookie") == GOOD_COOKIE or self.headers.get("Authorization") == GOOD_TOKEN
        self.send_response(STATUS[0] if good else 401)
        if good:
            self.send_header("X-Auth-Request-User", "ada")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Nothing."""


@pytest.fixture(scope="module")
def started(start_fleet: Callable[..., Fleet]) -> Iterator[Fleet]:
    """A gateway with a proxy."""
    port = local.free_port()
    server = ThreadingHTTPServer(("127.0.0.1", port), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield start_fleet(
        ollama_gateway_oauth2_url=f"http://127.0.0.1:{port}/oauth2/auth",
        ollama_gateway_oauth2_policy={"classes": ["chat"], "models": ["shared"], "concurrency": 2},
        ollama_gateway_users=[{"name": "dashboard", "password": PASSWORD, "classes": ["read"]}],
    )
    server.shutdown()
    server.server_close()


@pytest.fixture
def oauth2(started: Fleet) -> Fleet:
    """The same, as new."""
    ASKED.clear()
    STATUS[0] = 202
    return started.reset()


def test_a_cookie_or_a_token_that_the_proxy_takes(oauth2: Fleet) -> None:
    for number, header in enumerate([{"Cookie": GOOD_COOKIE}, {"Authorization": GOOD_TOKEN}], start=1):
        answer = oauth2.caller.call("/api/chat?x=1", {"model": "shared"}, **header)
        assert answer.status == 200
        method, path, headers = ASKED[-1]
        assert (method, path, len(ASKED)) == ("GET", "/oauth2/auth", number)
        assert "content-length" not in headers and "transfer-encoding" not in headers
        assert headers["x-forwarded-uri"] == "/api/chat"
    lines = oauth2.logged(2, client="oauth2", status=200)
    assert [(line["user"], line["model"], line["route"], line["tokens_out"], line["key"]) for line in lines] == [("ada", "shared", "/api/chat", "4", "")] * 2
    assert eventually(lambda: oauth2.metric('nginx_http_requests_total{route="/api/chat",status="200",client="oauth2"}') == 2)
    assert oauth2.metric('ollama_gateway_client_generations{client="oauth2"}') == 0
    # neither is passed on
    for hit in (hit for upstream in oauth2.upstreams for hit in upstream.hits):
        assert not {"cookie", "authorization", "x-auth-request-user"} & {name.lower() for name in hit.headers}


@pytest.mark.parametrize("headers", [{}, {"Cookie": "_oauth2_proxy=bad"}, {"Authorization": "Bearer bad"}])
def test_what_the_proxy_refuses(oauth2: Fleet, headers: dict[str, str]) -> None:
    answer = oauth2.caller.call("/v1/chat/completions", {"model": "shared"}, **headers)
    assert (answer.status, answer.data["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == 'Bearer realm="ollama", Basic realm="ollama"'
    assert sum(oauth2.spread()) == 0 and len(ASKED) == 1
    assert oauth2.logged(status=401)[0]["client"] == ""
    # a header that says who one is does not help
    assert oauth2.caller.call("/api/tags", X_Auth_Request_User="ada").status == 401


def test_holders_of_keys_and_passwords_are_not_asked_for(oauth2: Fleet) -> None:
    basic = f"Basic {base64.b64encode(f'dashboard:{PASSWORD}'.encode()).decode()}"
    wrong = f"Basic {base64.b64encode(b'dashboard:wrong').decode()}"
    assert oauth2.caller.chat(key("team")).status == 200
    assert oauth2.caller.chat(key("five")).status == 200
    assert oauth2.caller.call("/api/tags", Authorization=basic, Cookie=GOOD_COOKIE).status == 200
    assert oauth2.caller.call("/api/tags", Authorization=wrong).status == 401
    assert oauth2.caller.call("/health").status == 200
    assert not ASKED
    assert oauth2.logged(client="team")[0]["model"] == "shared" and oauth2.logged(client="dashboard")[0]["status"] == 200
    assert eventually(lambda: oauth2.metric('ollama_gateway_client_generations{client="five"}') == 0)


def test_the_policy_applies(oauth2: Fleet) -> None:
    def status(path: str, data: object = None) -> int:
        return oauth2.caller.call(path, data, Cookie=GOOD_COOKIE).status

    assert status("/api/chat", {"model": "only2"}) == 403
    assert status("/api/tags") == 403  # class read
    assert status("/api/pull", {"model": "shared"}) == 403
    assert status("/api/nothing") == 404
    assert status("/api/chat", {"model": "shared", "keep_alive": 0}) == 403
    assert sum(oauth2.spread()) == 0
    connections = [oauth2.caller.connect() for _unused in range(2)]
    for connection in connections:
        oauth2.caller.send(connection, "/api/chat", {"model": "shared", "act": {"wait": 20}}, Cookie=GOOD_COOKIE)
    assert eventually(lambda: oauth2.metric('ollama_gateway_client_generations{client="oauth2"}') == 2)
    assert status("/api/chat", {"model": "shared"}) == 429
    for connection in connections:
        connection.close()
    assert eventually(lambda: status("/api/chat", {"model": "shared"}) == 200)


def test_a_proxy_that_fails_lets_nobody_in(oauth2: Fleet) -> None:
    STATUS[0] = 500
    answer = oauth2.caller.call("/api/chat", {"model": "shared"}, Cookie=GOOD_COOKIE)
    assert (answer.status, answer.data) == (500, {"error": "internal error"})
    STATUS[0] = 403
    assert oauth2.caller.call("/api/chat", {"model": "shared"}, Cookie=GOOD_COOKIE).status == 403
    assert sum(oauth2.spread()) == 0
    assert oauth2.caller.chat(key("team")).status == 200
