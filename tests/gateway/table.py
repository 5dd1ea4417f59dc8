"""What a request to the gateway must lead to: the form of a case, and a client that sends bytes exactly as they are written.

The cases are in cases.py. They are run against a gateway on loopback (tests/unit/gateway/test_table.py), which sees what reached Ollama, and
against the gateways of a fleet (molecule/main_chain/tests/test_gateway_table.py). Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import time
from typing import Any, NamedTuple

TRIES = 12
# the key of which the inventory has only the SHA-256
HASHED_KEY = "main-chain-table-hashed-key-0123456789abcdef"
TIMEOUT_SECONDS = 30


class Target(NamedTuple):
    """A gateway: where it listens, the name that its certificate has, whom it is signed by (PEM), and the secrets of those who call it.

    C(keys): client -> key. C(old): what stands for other keys, see C(filled). C(user): name and password of a Basic user.
    """

    address: str
    port: int
    name: str
    ca: str
    keys: dict[str, str]
    old: dict[str, str]
    user: tuple[str, str]


def secrets(clients: list[dict[str, Any]], users: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, str], tuple[str, str]]:
    """The last three fields of a target, from the role's variables."""
    expired, rotated, hashed = next(client for client in clients if client["name"] == "table")["keys"]
    old = {"expired": expired["key"], "rotated": rotated["key"], "hashed": HASHED_KEY, "sha256": hashed["sha256"]}
    return {client["name"]: client["key"] for client in clients}, old, (users[0]["name"], users[0]["password"])


class Answer(NamedTuple):
    """An answer: status, headers (names in lower case), body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Case(NamedTuple):
    """A request and what must come of it.

    C(data): all bytes that are sent, in which C(filled) puts secrets. C(statuses): of all answers that come back, none when the gateway closes
    the connection. C(body): JSON of the first answer, of a refusal. C(headers): what must be in those of the first answer. C(lacks): text that
    must not be in its body. C(reached): the request lines that reach Ollama; None: the gateway asks by itself. C(sent): the JSON body that
    Ollama gets, where it matters. C(ollama): the statuses where an Ollama answers, when they differ.
    """

    id: str
    data: bytes
    statuses: tuple[int, ...]
    body: Any = None
    headers: dict[str, str] = {}
    lacks: str = ""
    reached: tuple[str, ...] | None = ()
    sent: Any = None
    ollama: tuple[int, ...] | None = None

    @property
    def head(self) -> bool:
        """Whether the answer has no body, whatever its headers say."""
        return self.data.startswith(b"HEAD ")


def filled(target: Target, data: bytes) -> bytes:
    """The bytes with the gateway's name and the secrets in the places of C(<name>), C(<key CLIENT>), C(<KEY CLIENT>) (in the other case),
    C(<old NAME>), C(<user>) and C(<user wrong>) (Basic credentials)."""
    places = {"name": target.name}
    for client, key in target.keys.items():
        places.update({f"key {client}": key, f"KEY {client}": key.swapcase()})
    places.update({f"old {name}": key for name, key in target.old.items()})
    name, password = target.user
    places["user"] = base64.b64encode(f"{name}:{password}".encode()).decode()
    places["user wrong"] = base64.b64encode(f"{name}:{password}x".encode()).decode()
    for place, text in places.items():
        data = data.replace(f"<{place}>".encode(), text.encode())
    return data


def _first(data: bytes, head: bool) -> tuple[Answer, bytes] | None:
    """The first answer of what was received, and what follows it; None while it is not whole."""
    top, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    lines = top.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}
    if head or status < 200 or status in (204, 304):
        return Answer(status, headers, b""), rest
    if "content-length" in headers:
        length = int(headers["content-length"])
        return (Answer(status, headers, rest[:length]), rest[length:]) if len(rest) >= length else None
    if headers.get("transfer-encoding") != "chunked":
        # to the end of the connection
        return None
    body = b""
    while True:
        size, line_end, rest = rest.partition(b"\r\n")
        length = int(size, 16) if line_end else 0
        if not line_end or len(rest) < length + 2:
            return None
        body, rest = body + rest[:length], rest[length + 2:]
        if length == 0:
            return Answer(status, headers, body), rest


def _answers(data: bytes, head: bool, ended: bool) -> list[Answer]:
    found = []
    while data and (one := _first(data, head)):
        found.append(one[0])
        data = one[1]
    if data and ended:
        top, _blank, body = data.partition(b"\r\n\r\n")
        with contextlib.suppress(IndexError, ValueError):
            found.append(Answer(int(top.split()[1]), {}, body))
    # 100 Continue is none
    return [answer for answer in found if answer.status >= 200]


def exchange(target: Target, data: bytes, head: bool = False) -> list[Answer]:
    """Send the bytes on a connection of their own; all answers until the gateway says that it closes it, or does."""
    context = ssl.create_default_context(cadata=target.ca)
    received = b""
    with socket.create_connection((target.address, target.port), timeout=TIMEOUT_SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname=target.name) as connection:
            # refused before all of it was sent, or closed without a word
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                connection.sendall(data)
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                while piece := connection.recv(65536):
                    received += piece
                    answers = _answers(received, head, ended=False)
                    if answers and answers[-1].headers.get("connection") == "close":
                        return answers
    return _answers(received, head, ended=True)


def send(target: Target, case: Case) -> list[Answer]:
    """The answers to a case. Who is not known is limited by address; where that is not what the case is about, it is sent again, later."""
    answers: list[Answer] = []
    for _try in range(TRIES):
        answers = exchange(target, filled(target, case.data), case.head)
        if 429 in case.statuses or not any(answer.status == 429 for answer in answers):
            break
        time.sleep(float(next(answer for answer in answers if answer.status == 429).headers["retry-after"]))
    return answers


def problem(case: Case, answers: list[Answer], ollama: bool) -> str:
    """What is wrong with the answers, or nothing. C(ollama): an Ollama, or what stands in for it, answers; else something that always says 200."""
    wanted = case.ollama if ollama and case.ollama is not None else case.statuses
    got = tuple(answer.status for answer in answers)
    if got != wanted:
        return f"statuses {got}, not {wanted}: {[answer.body[:300] for answer in answers]}"
    if not answers:
        return ""
    first = answers[0]
    for name, value in case.headers.items():
        if first.headers.get(name) != value:
            return f"{name} is {first.headers.get(name)!r}, not {value!r}"
    if case.lacks and case.lacks.encode() in first.body:
        return f"{case.lacks} is in {first.body[:300]!r}"
    if case.body is None or case.head:
        return ""
    try:
        content = json.loads(first.body)
    except ValueError:
        return f"the body is no JSON: {first.body[:300]!r}"
    return "" if content == case.body else f"the body is {content}, not {case.body}"


def curl_has_http2() -> bool:
    """Whether this machine has a curl that speaks HTTP/2."""
    try:
        return "HTTP2" in subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False


def http2(target: Target, ca_path: str, *arguments: str, path: str) -> tuple[int, str]:
    """Status and body of a request over HTTP/2, sent with curl; arguments as C(filled) takes them."""
    done = subprocess.run(
        ["curl", "-sS", "--http2", "--path-as-is", "--max-time", str(TIMEOUT_SECONDS), "--cacert", ca_path,
         "--resolve", f"{target.name}:{target.port}:{target.address}", "-w", "\n%{http_version} %{http_code}",
         *(filled(target, argument.encode()).decode() for argument in arguments), f"https://{target.name}:{target.port}{path}"],
        capture_output=True, text=True, check=True,
    )
    body, _line, last = done.stdout.rpartition("\n")
    version, status = last.split()
    assert version == "2", last
    return int(status), body
