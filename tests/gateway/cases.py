"""Requests to the gateway, and what must come of each: see Case in table.py. The clients are those of molecule/main_chain/molecule.yml."""

from __future__ import annotations

import json
from typing import Any

from table import Case

MODEL, EMBEDDER = "smollm2:135m", "all-minilm"
# whose body names a model, beside /api/chat
WITH_MODEL = (
    "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
)
ZEROS = "0" * 64

# status -> message, OpenAI's type and code, Anthropic's type
ERRORS = {
    400: ("bad request", "invalid_request_error", "bad_request", "invalid_request_error"),
    401: ("missing or wrong credentials", "invalid_request_error", "invalid_api_key", "authentication_error"),
    403: ("not allowed", "permission_error", "forbidden", "permission_error"),
    404: ("not found", "not_found_error", "not_found", "not_found_error"),
    405: ("method not allowed", "invalid_request_error", "method_not_allowed", "invalid_request_error"),
    413: ("request body too large", "invalid_request_error", "request_too_large", "request_too_large"),
    414: ("request line too long", "invalid_request_error", "uri_too_long", "invalid_request_error"),
    415: ("compressed bodies are not accepted", "invalid_request_error", "unsupported_encoding", "invalid_request_error"),
    501: ("this transfer encoding is not supported", "invalid_request_error", "not_implemented", "invalid_request_error"),
    505: ("this version of HTTP is not supported", "invalid_request_error", "http_version", "invalid_request_error"),
}


def error(status: int, path: str, message: str = "") -> Any:
    """The body of a refusal, in the form of the API that the path is of."""
    default, kind, code, anthropic = ERRORS[status]
    text = message or default
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": anthropic, "message": text}}
    if path.startswith("/v1/"):
        return {"error": {"message": text, "type": kind, "param": None, "code": code}}
    return {"error": text}


def encoded(content: Any) -> bytes:
    """A body: bytes as they are, anything else in JSON."""
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def chunked(body: bytes, size: int = 65536) -> bytes:
    """A body in chunks."""
    pieces = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


def request(method: str, path: str, *headers: str, body: Any = None, client: str = "table", close: bool = True, chunks: bool = False) -> bytes:
    """The bytes of a request, of a client with its key, or of nobody."""
    lines = [f"{method} {path} HTTP/1.1", "Host: <name>", *headers]
    if close:
        lines.append("Connection: close")
    if client:
        lines.append(f"Authorization: Bearer <key {client}>")
    content = b"" if body is None else encoded(body)
    if chunks:
        lines.append("Transfer-Encoding: chunked")
        content = chunked(content)
    elif body is not None:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def passes(name: str, method: str, path: str, body: Any = None, *headers: str, reached: str = "", sent: Any = None, ollama: int = 200, **how: Any) -> Case:
    """A request that reaches Ollama, on the path C(reached) when it is another one; C(ollama): what that answers."""
    line = f"{method} {reached or path} HTTP/1.1"
    return Case(name, request(method, path, *headers, body=body, **how), (200,), reached=(line,), sent=sent, ollama=(ollama,))


def refused(name: str, status: int, method: str, path: str, body: Any = None, *headers: str, says: str = "", form: str = "", **how: Any) -> Case:
    """A request that the gateway refuses; C(form): a path of the API in whose form it says so."""
    shown = {"www-authenticate": 'Bearer realm="ollama", Basic realm="ollama"'} if status == 401 else {}
    return Case(name, request(method, path, *headers, body=body, **how), (status,), error(status, form or path, says), shown)


def raw(
    name: str, data: bytes, *statuses: int, says: str = "", form: str = "/api/", reached: tuple[str, ...] = (), ollama: tuple[int, ...] | None = None
) -> Case:
    """Bytes as they are, and the statuses of all answers."""
    body = error(statuses[0], form, says) if statuses and statuses[0] >= 400 else None
    return Case(name, data, statuses, body, reached=reached, ollama=ollama)


# -- who it is ----------------------------------------------------------------------------------------------------------------

VERSION = "/api/version"
PULL_BODY = {"model": "-no-name", "stream": False}


def stranger(name: str, *headers: str, status: int = 401, path: str = VERSION, method: str = "GET", body: Any = None) -> Case:
    """Refused for its credentials."""
    return refused(name, status, method, path, body, *headers, client="")


def known(name: str, *headers: str) -> Case:
    """Let in for its credentials."""
    return passes(name, "GET", VERSION, None, *headers, client="")


CREDENTIALS = [
    stranger("nobody"),
    stranger("nobody-on-a-path-that-is-not-there", path="/nothing"),
    stranger("nobody-at-the-root", path="/"),
    stranger("nobody-with-a-wrong-method", method="PUT", path="/api/chat", body={}),
    stranger("nobody-pulls", method="POST", path="/api/pull", body=PULL_BODY),
    stranger("nobody-in-openai-form", method="POST", path="/v1/chat/completions", body={"model": MODEL}),
    stranger("nobody-in-anthropic-form", method="POST", path="/v1/messages", body={"model": MODEL}),
    stranger("nobody-with-a-compressed-body", "Content-Encoding: gzip", method="POST", path="/api/chat", body=b"\x1f\x8b"),
    stranger("wrong-key", f"Authorization: Bearer {'w' * 40}"),
    stranger("key-in-the-other-case", "Authorization: Bearer <KEY table>"),
    stranger("key-with-more", "Authorization: Bearer <key table>x"),
    stranger("key-twice-in-one-header", "Authorization: Bearer <key table> <key table>"),
    stranger("key-in-a-list", "Authorization: Bearer <key table>, Bearer <key table-admin>"),
    stranger("key-quoted", 'Authorization: Bearer "<key table>"'),
    stranger("key-percent-encoded", "Authorization: Bearer %3Ckey%3E<key table>"),
    stranger("key-behind-a-tab", "Authorization: Bearer\t<key table>"),
    stranger("key-without-a-scheme", "Authorization: <key table>"),
    stranger("key-with-another-scheme", "Authorization: Token <key table>"),
    stranger("scheme-alone", "Authorization: Bearer"),
    stranger("empty-authorization", "Authorization:"),
    stranger("empty-x-api-key", "x-api-key:"),
    stranger("bearer-in-x-api-key", "x-api-key: Bearer <key table>"),
    stranger("x-api-key-in-the-other-case", "x-api-key: <KEY table>"),
    stranger("x-api-key-twice", "x-api-key: <key table>", "x-api-key: <key table>"),
    stranger("x-api-key-twice-the-first-wrong", f"x-api-key: {'w' * 40}", "x-api-key: <key table>"),
    stranger("x-api-key-with-underscores", "x_api_key: <key table>"),
    stranger("sha256-of-a-key", "Authorization: Bearer <old sha256>"),
    stranger("expired-key", "Authorization: Bearer <old expired>"),
    stranger("long-key", f"Authorization: Bearer {'w' * 7000}"),
    stranger("key-in-a-cookie", "Cookie: key=<key table>; Authorization=Bearer <key table>"),
    stranger("key-for-a-proxy", "Proxy-Authorization: Bearer <key table>"),
    stranger("key-in-a-trusted-header", "X-Forwarded-User: table", "X-Remote-User: table", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"),
    stranger("client-certificate-in-a-header", "X-SSL-Client-Verify: SUCCESS", "X-SSL-Client-S-DN: CN=table"),
    stranger("key-in-the-query", path=f"{VERSION}?key=<key table>&api_key=<key table>&access_token=<key table>"),
    stranger("wrong-password", "Authorization: Basic <user wrong>"),
    stranger("basic-without-a-colon", "Authorization: Basic bm8tY29sb24="),
    stranger("basic-of-an-unknown-user", "Authorization: Basic bm9ib2R5OnBhc3N3b3Jk"),
    stranger("basic-that-is-no-base64", "Authorization: Basic %%%"),
    stranger("basic-empty", "Authorization: Basic "),
    raw("two-authorization-headers", request("GET", VERSION, "Authorization: Bearer <key table>"), 400),
    raw("two-authorization-headers-the-first-wrong", request("GET", VERSION, "Authorization: Bearer wrong"), 400),
    refused("header-that-is-too-long", 400, "GET", VERSION, None, f"Authorization: Bearer {'w' * 9000}", client=""),
    raw("user-in-an-absolute-target", b"GET https://a:b@<name>/api/version HTTP/1.1\r\nHost: <name>\r\n\r\n", 400),
    known("bearer", "Authorization: Bearer <key table>"),
    known("bearer-in-lower-case", "authorization: bearer <key table>"),
    known("bearer-in-upper-case", "AUTHORIZATION: BEARER <key table>"),
    known("bearer-and-blanks", "Authorization:   Bearer   <key table>   "),
    known("x-api-key", "x-api-key: <key table>"),
    known("x-api-key-in-upper-case", "X-API-KEY: <key table>"),
    known("x-api-key-beside-a-wrong-bearer", f"Authorization: Bearer {'w' * 40}", "x-api-key: <key table>"),
    known("key-that-will-expire", "Authorization: Bearer <old rotated>"),
    known("key-given-as-sha256", "Authorization: Bearer <old hashed>"),
    known("basic", "Authorization: Basic <user>"),
    known("basic-in-lower-case", "Authorization: basic <user>"),
    Case("health", request("GET", "/health", client=""), (200,), {"status": "ok"}),
    Case("health-with-a-wrong-key", request("GET", "/health", "Authorization: Bearer wrong", client=""), (200,), {"status": "ok"}),
    Case("health-head", request("HEAD", "/health", client=""), (200,)),
    Case("health-with-a-body", request("POST", "/health", client="", body={"model": MODEL}), (200,), {"status": "ok"}),
    Case("health-behind-a-path", request("GET", "/api/pull/../../health", client=""), (200,), {"status": "ok"}),
]

# -- paths --------------------------------------------------------------------------------------------------------------------

NEEDS_ADMIN = "this needs the class admin"
PATHS = [
    # the same path, written otherwise: what is decided by is what is sent on
    *(
        refused(f"pull-as-{path}", 403, "POST", path, PULL_BODY, says=NEEDS_ADMIN, form="/api/")
        for path in (
            "//api/pull", "/api//pull", "/api/./pull", "/api/chat/../pull", "/api/../api/pull", "/api/%70ull", "/api/chat/%2e%2e/pull", "/%61pi/pull",
            "/api/chat%2f..%2fpull", "/api%2fpull", "/api/pull?model=x", "/api/pull#x", "https://<name>/api/pull", "/v1/models/../../api/pull",
            "/health/../api/pull", "/api/chat/../../api/pull", "/api/%2e/pull", "/v1/%2e%2e/api/pull", "/v1/models/..%2f..%2fapi%2fpull",
        )
    ),
    *(
        refused(f"not-found-{path}", 404, "POST", path, PULL_BODY, form="/v1/" if path.startswith("/v1/") else "/api/")
        for path in (
            "/api/pull/", "/api/pull;", "/api/pull;x=/api/chat", "/api/pull%20", "/api/pull%09", "/api/pull%0a", "/api/pull%0d%0aX-Injected:%201", "/API/PULL",
            "/api/Pull", "/api/pull%3f", "/api/pull%23", "/api/%2570ull", "/api/chat/%252e%252e/pull", "/api%252fpull", "/api/pull.",
            "/api\\pull",
            "/api/..;/api/pull", "/api/\u043full", "/api/%c0%aepull", "/api/%ef%bc%8fpull", "/api", "/v1", "/", "/_malformed", "/_oauth2", "/@refuse",
            "/metrics", "/upstreams", "/ready", "/stub_status", "/api/me", "/api/signout", "/api/user/keys/x", "/api/status", "/api/experimental/web_search",
            "/api/experimental/web_fetch", "/api/experimental/model-recommendations", "/v1/audio/transcriptions", "/v1/files", "/v1/models/",
            "/v1/models/a/b", "/v1/chat/completions/", "/api/blobs", f"/api/blobs/sha256:{ZEROS[1:]}", f"/api/blobs/sha256:{'A' * 64}",
            f"/api/blobs/sha256-{ZEROS}", f"/api/blobs/sha256:{ZEROS}/..", "/favicon.ico",
        )
    ),
    refused("path-that-leaves-the-root", 400, "POST", "/../api/pull", PULL_BODY),
    refused("path-that-leaves-the-root-encoded", 400, "POST", "/%2e%2e/api/pull", PULL_BODY),
    refused("nul-in-a-path", 400, "POST", "/api/chat%00", PULL_BODY),
    refused("half-an-escape-in-a-path", 400, "POST", "/api/chat%4", PULL_BODY),
    raw("nul-itself-in-a-path", request("POST", "/api/chat\0", body={"model": MODEL}), 400),
    raw("blank-in-a-path", request("GET", "/api/version /api/ps"), 400),
    raw("path-without-a-slash", request("GET", "api/version"), 400),
    raw("asterisk", request("OPTIONS", "*"), 400),
    raw("line-that-is-too-long", request("GET", f"/{'a' * 9000}"), 414),
    passes("chat-behind-two-slashes", "POST", "//api/chat", {"model": MODEL}, reached="/api/chat"),
    passes("chat-behind-pull", "POST", "/api/pull/../chat", {"model": MODEL}, reached="/api/chat"),
    passes("chat-encoded", "POST", "/api/%63hat", {"model": MODEL}, reached="/api/chat"),
    passes("chat-absolute", "POST", "https://<name>/api/chat", {"model": MODEL}, reached="/api/chat"),
    passes("model-by-id", "GET", f"/v1/models/{MODEL}"),
    passes("model-by-an-encoded-id", "GET", "/v1/models/smollm2%3A135m", reached=f"/v1/models/{MODEL}"),
    passes("model-by-an-id-and-a-line-end", "GET", f"/v1/models/{MODEL}%0a", reached=f"/v1/models/{MODEL}"),
    passes("model-by-id-without-the-query", "GET", f"/v1/models/{MODEL}?x=%0d%0aX-Injected:%201", reached=f"/v1/models/{MODEL}"),
    refused("line-ends-in-an-id", 404, "GET", "/v1/models/%0d%0aX-Injected:%201"),
    refused("line-ends-behind-an-id", 404, "GET", f"/v1/models/{MODEL}%0d%0aX-Injected:%201"),
    refused("path-in-an-id", 403, "GET", "/v1/models/..%2f..%2fapi%2fps", form="/api/", says=NEEDS_ADMIN),
    refused("dots-as-id", 404, "GET", "/v1/models/.hidden"),
    refused("digest-and-more", 404, "POST", f"/api/blobs/sha256:{ZEROS}0", b"x"),
]

# -- endpoints, classes and methods -------------------------------------------------------------------------------------------

CHAT = {"model": MODEL, "messages": []}
TALK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
# method, path, class, body, what Ollama answers
ENDPOINTS: list[tuple[str, str, str, Any, int]] = [
    ("POST", "/api/chat", "chat", CHAT, 200),
    ("POST", "/api/generate", "chat", {"model": MODEL}, 200),
    ("POST", "/v1/chat/completions", "chat", TALK, 200),
    ("POST", "/v1/completions", "chat", {"model": MODEL, "prompt": "hi", "max_tokens": 1}, 200),
    ("POST", "/v1/responses", "chat", {"model": MODEL, "input": "hi", "max_output_tokens": 1}, 200),
    ("POST", "/v1/messages", "chat", TALK, 200),
    ("POST", "/api/embed", "embed", {"model": EMBEDDER, "input": "hi"}, 200),
    ("POST", "/api/embeddings", "embed", {"model": EMBEDDER, "prompt": "hi"}, 200),
    ("POST", "/v1/embeddings", "embed", {"model": EMBEDDER, "input": "hi"}, 200),
    ("POST", "/api/show", "read", {"model": MODEL}, 200),
    ("GET", "/api/version", "read", None, 200),
    ("HEAD", "/api/version", "read", None, 200),
    ("GET", f"/v1/models/{MODEL}", "read", None, 200),
    # with an error of Ollama: nothing must change on a fleet
    ("POST", "/api/pull", "admin", PULL_BODY, 400),
    ("POST", "/api/push", "admin", {"model": "no-such-model", "stream": False}, 500),
    ("POST", "/api/create", "admin", PULL_BODY, 400),
    ("POST", "/api/copy", "admin", {"source": "no-such-model", "destination": "other"}, 404),
    ("DELETE", "/api/delete", "admin", {"model": "no-such-model"}, 404),
    ("HEAD", f"/api/blobs/sha256:{ZEROS}", "admin", None, 404),
    ("POST", f"/api/blobs/sha256:{ZEROS}", "admin", b"x", 400),
    ("GET", "/api/ps", "admin", None, 200),
]
CLASSES = {"table": ("chat", "embed", "read"), "table-read": ("read",), "table-embed": ("embed",), "table-admin": ("chat", "embed", "read", "admin")}
ALLOWED = {
    "/api/chat": "POST", "/api/generate": "POST", "/api/embed": "POST", "/api/show": "POST", "/v1/chat/completions": "POST", "/v1/messages": "POST",
    "/api/pull": "POST", "/api/delete": "DELETE", "/api/ps": "GET", "/v1/models": "GET", "/api/tags": "GET, HEAD", "/api/version": "GET, HEAD",
    f"/v1/models/{MODEL}": "GET", f"/api/blobs/sha256:{ZEROS}": "HEAD, POST",
}


def with_class(client: str, method: str, path: str, kind: str, body: Any, ollama: int) -> Case:
    """A client at an endpoint."""
    name = f"{client}-{method}-{path.replace(ZEROS, '')}"
    if kind in CLASSES[client]:
        return passes(name, method, path, body, client=client, ollama=ollama)
    return refused(name, 403, method, path, body, client=client, says=f"this needs the class {kind}")


def wrong_method(method: str, path: str, *headers: str) -> Case:
    """A method that an endpoint does not have."""
    case = refused(f"{method}-{path.replace(ZEROS, '')}{'-and-' + headers[0] if headers else ''}", 405, method, path, {"model": MODEL}, *headers)
    return case._replace(headers={"allow": ALLOWED[path]})


METHODS = [
    *(wrong_method(method, "/api/chat") for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "FOO", "POSTS", "_")),
    *(wrong_method("PUT", path) for path in ALLOWED if path != "/api/chat"),
    *(wrong_method("POST", path) for path in ("/api/delete", "/api/ps", "/v1/models", "/api/tags", f"/v1/models/{MODEL}")),
    wrong_method("HEAD", "/v1/models"),
    wrong_method("GET", "/api/pull"),
    wrong_method("GET", "/api/chat", "X-HTTP-Method-Override: POST"),
    wrong_method("GET", "/api/chat", "X-HTTP-Method: POST"),
    refused("method-in-a-header", 403, "POST", "/api/pull", PULL_BODY, "X-HTTP-Method-Override: GET", "X-Method-Override: GET", says=NEEDS_ADMIN),
    passes("method-in-a-header-of-a-show", "POST", "/api/show", {"model": MODEL}, "X-HTTP-Method-Override: DELETE"),
    raw("post-in-lower-case", request("post", "/api/chat", body={"model": MODEL}), 400),
    raw("method-with-a-sign", request("PO:ST", "/api/chat", body={"model": MODEL}), 400),
    raw("trace", request("TRACE", "/api/version"), 405),
    raw("connect", request("CONNECT", "<name>:443"), 400),
    raw("upgrade", request("GET", VERSION, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), 200, reached=("GET /api/version HTTP/1.1",)),
    raw("expect", request("POST", "/api/show", "Expect: 100-continue", body={"model": MODEL}), 200, reached=("POST /api/show HTTP/1.1",)),
]
LISTS = [
    Case("tags", request("GET", "/api/tags"), (200,), reached=None),
    Case("tags-head", request("HEAD", "/api/tags"), (200,), reached=None),
    Case("models", request("GET", "/v1/models"), (200,), reached=None),
    Case("tags-of-a-client-with-models", request("GET", "/api/tags", client="table-models"), (200,), lacks="hidden", reached=None),
    Case("models-of-a-client-with-models", request("GET", "/v1/models", client="table-models"), (200,), lacks="hidden", reached=None),
    refused("tags-without-the-class", 403, "GET", "/api/tags", client="table-embed", says="this needs the class read"),
    refused("models-without-the-class", 403, "GET", "/v1/models", client="table-embed", says="this needs the class read"),
    refused("instance-that-is-not-there", 400, "GET", "/api/ps", None, "X-Gateway-Instance: none/none", client="table-admin",
            says="X-Gateway-Instance names no instance: give host/instance"),
    passes("instance-of-a-client-that-may-not", "GET", VERSION, None, "X-Gateway-Instance: none/none"),
]

# -- bodies -------------------------------------------------------------------------------------------------------------------

NO_OBJECT, NO_END, NO_JSON = "the body must be a JSON object", "the JSON object has no end", "the body is no valid JSON"
NO_MODEL, NO_ASCII = "model is required", "a field has a name with letters that are not ASCII"
TWICE, LOWER = "the field {} is there twice", "write the field {} in lower case"
BAD_BODIES: list[tuple[str, bytes, str]] = [
    ("empty", b"", NO_OBJECT),
    ("blanks", b" \r\n\t ", NO_OBJECT),
    ("list", b'[{"model":"smollm2:135m"}]', NO_OBJECT),
    ("text", b'"model"', NO_OBJECT),
    ("number", b"1", NO_OBJECT),
    ("null", b"null", NO_OBJECT),
    ("form", b"model=smollm2:135m", NO_OBJECT),
    ("byte-order-mark", b'\xef\xbb\xbf{"model":"smollm2:135m"}', NO_OBJECT),
    ("utf-16", '{"model":"smollm2:135m"}'.encode("utf-16"), NO_OBJECT),
    ("utf-16-le", '{"model":"smollm2:135m"}'.encode("utf-16-le"), NO_JSON),
    ("utf-16-be", '{"model":"smollm2:135m"}'.encode("utf-16-be"), NO_OBJECT),
    ("utf-32-le", '{"model":"smollm2:135m"}'.encode("utf-32-le"), NO_JSON),
    ("no-break-space", b'\xc2\xa0{"model":"smollm2:135m"}', NO_OBJECT),
    ("comment", b'/**/{"model":"smollm2:135m"}', NO_OBJECT),
    ("compressed", b"\x1f\x8b\x08\x00{", NO_OBJECT),
    ("open", b"{", NO_END),
    ("open-name", b'{"model', NO_JSON),
    ("open-value", b'{"model":"smollm2:135m', NO_END),
    ("open-object", b'{"model":"smollm2:135m"', NO_END),
    ("open-list", b'{"messages":[{"a":[}],"model":"smollm2:135m"', NO_END),
    ("escaped-end", b'{"model":"smollm2:135m\\"}', NO_END),
    ("name-without-quotes", b'{model:"smollm2:135m"}', NO_JSON),
    ("single-quotes", b"{'model':'smollm2:135m'}", NO_JSON),
    ("comma-at-the-end", b'{"model":"smollm2:135m",}', NO_JSON),
    ("comma-at-the-start", b'{,"model":"smollm2:135m"}', NO_JSON),
    ("no-colon", b'{"model" "smollm2:135m"}', NO_JSON),
    ("comment-in-the-object", b'{/*"model":"x",*/"model":"smollm2:135m"}', NO_JSON),
    ("no-such-escape-in-a-name", b'{"\\x6dodel":"smollm2:135m"}', NO_JSON),
    ("half-a-pair-in-a-name", b'{"\\ud800":1,"model":"smollm2:135m"}', NO_JSON),
    # Go takes names in any case, the last of two, and decodes escapes
    ("model-twice", b'{"model":"smollm2:135m","model":"other"}', TWICE.format("model")),
    ("model-twice-the-same", b'{"model":"smollm2:135m","model":"smollm2:135m"}', TWICE.format("model")),
    ("model-and-null", b'{"model":"smollm2:135m","model":null}', TWICE.format("model")),
    ("model-twice-with-an-escape", b'{"model":"smollm2:135m","mod\\u0065l":"other"}', TWICE.format("model")),
    ("model-in-upper-case", b'{"MODEL":"smollm2:135m"}', LOWER.format("model")),
    ("model-in-both-cases", b'{"model":"smollm2:135m","MODEL":"other"}', LOWER.format("model")),
    ("model-in-mixed-case", b'{"model":"smollm2:135m","mOdEl":"other"}', LOWER.format("model")),
    ("model-in-upper-case-by-an-escape", b'{"model":"smollm2:135m","\\u004dodel":"other"}', LOWER.format("model")),
    ("model-behind-text-with-an-escaped-slash", b'{"a":"\\\\","MODEL":"other","model":"smollm2:135m"}', LOWER.format("model")),
    ("model-behind-text-with-an-escaped-quote", b'{"a":"\\\\\\"","MODEL":"other","model":"smollm2:135m"}', LOWER.format("model")),
    ("model-behind-brackets-in-text", b'{"a":{"b":"}]"},"c":["[{"],"MODEL":"other","model":"smollm2:135m"}', LOWER.format("model")),
    ("name-in-upper-case", b'{"model":"smollm2:135m","NAME":"other"}', LOWER.format("name")),
    ("keep-alive-in-upper-case", b'{"model":"smollm2:135m","Keep_Alive":-1}', LOWER.format("keep_alive")),
    ("options-in-upper-case", b'{"model":"smollm2:135m","Options":{"num_gpu":0}}', LOWER.format("options")),
    ("max-tokens-in-upper-case", b'{"model":"smollm2:135m","MAX_TOKENS":9}', LOWER.format("max_tokens")),
    ("stream-options-in-upper-case", b'{"model":"smollm2:135m","Stream_Options":{}}', LOWER.format("stream_options")),
    ("kelvin-sign", '{"model":"smollm2:135m","\u212aeep_alive":-1}'.encode(), NO_ASCII),
    ("kelvin-sign-escaped", b'{"model":"smollm2:135m","\\u212aeep_alive":-1}', NO_ASCII),
    ("long-s", '{"model":"smollm2:135m","option\u017f":{"num_gpu":0}}'.encode(), NO_ASCII),
    ("long-s-escaped", b'{"model":"smollm2:135m","\\u017ftream":false}', NO_ASCII),
    ("umlaut", '{"model":"smollm2:135m","m\u00f6del":1}'.encode(), NO_ASCII),
    ("bytes-that-are-no-utf-8", b'{"model":"smollm2:135m","\xff":1}', NO_ASCII),
    ("options-twice", b'{"model":"smollm2:135m","options":{},"options":{"num_gpu":0}}', TWICE.format("options")),
    ("stream-twice", b'{"model":"smollm2:135m","stream":true,"stream":false}', TWICE.format("stream")),
    ("keep-alive-twice", b'{"model":"smollm2:135m","keep_alive":1,"keep_alive":-1}', TWICE.format("keep_alive")),
    ("option-twice", b'{"model":"smollm2:135m","options":{"num_ctx":1,"num_ctx":99999}}', TWICE.format("num_ctx")),
    ("option-twice-with-an-escape", b'{"model":"smollm2:135m","options":{"num_ctx":1,"num\\u005fctx":99999}}', TWICE.format("num_ctx")),
    ("options-list", b'{"model":"smollm2:135m","options":[{"num_gpu":0}]}', "options must be an object"),
    ("options-text", b'{"model":"smollm2:135m","options":"{}"}', "options must be an object"),
    ("options-number", b'{"model":"smollm2:135m","options":1}', "options must be an object"),
    ("model-missing", b"{}", NO_MODEL),
    ("model-empty", b'{"model":""}', NO_MODEL),
    ("model-null", b'{"model":null}', NO_MODEL),
    ("model-number", b'{"model":1}', NO_MODEL),
    ("model-true", b'{"model":true}', NO_MODEL),
    ("model-list", b'{"model":["smollm2:135m"]}', NO_MODEL),
    ("model-object", b'{"model":{"model":"smollm2:135m"}}', NO_MODEL),
    ("model-in-name", b'{"name":"smollm2:135m"}', NO_MODEL),
    ("model-nested", b'{"options":{"model":"smollm2:135m"}}', NO_MODEL),
    ("model-behind-the-object", b'{}{"model":"smollm2:135m"}', NO_MODEL),
    ("model-and-nul", b'{"model\\u0000":"smollm2:135m"}', NO_MODEL),
    ("model-and-nul-itself", b'{"model\x00":"smollm2:135m"}', NO_MODEL),
    ("model-and-a-blank", b'{"model ":"smollm2:135m"}', NO_MODEL),
    ("model-of-half-a-pair", b'{"model":"\\ud800"}', NO_MODEL),
    ("many-fields", b"{" + b'"a":1,' * 2000 + b'"model":"smollm2:135m"}', "the object has too many fields"),
    ("many-options", b'{"model":"smollm2:135m","options":{' + b'"a":1,' * 2000 + b'"b":1}}', "the object has too many fields"),
    ("model-that-is-too-long", b'{"model":"' + b"x" * 513 + b'"}', "the name of the model is too long"),
]
GOOD_BODIES: list[tuple[str, bytes]] = [
    ("blanks-around", b' \r\n\t{ "model" \n:\t"smollm2:135m" } \n'),
    ("text-behind", b'{"model":"smollm2:135m"} and more'),
    ("object-behind", b'{"model":"smollm2:135m"}{"model":"other","keep_alive":-1}'),
    ("escapes-in-a-name", b'{"\\u006dode\\u006c":"smollm2:135m"}'),
    ("escapes-in-a-value", b'{"model":"smo\\u006clm2:135m"}'),
    ("unknown-fields", b'{"none":1,"model":"smollm2:135m","also":{"MODEL":"other","model":1,"model":2}}'),
    ("names-in-messages", b'{"messages":[],"format":{"MODEL":"x","keep_alive":1},"model":"smollm2:135m"}'),
    ("brackets-in-text", b'{"a":"}]{[\\"","model":"smollm2:135m"}'),
    ("slashes-in-text", b'{"a":"\\\\\\\\","b":"\\\\\\"","model":"smollm2:135m"}'),
    ("nul-in-a-name", b'{"a\\u0000":1,"model":"smollm2:135m"}'),
    ("other-letters-in-text", '{"a":"\u212a\u017f\u00f6","model":"smollm2:135m"}'.encode()),
    ("deep", b'{"a":' + b"[" * 400 + b"]" * 400 + b',"model":"smollm2:135m"}'),
    ("options-null", b'{"model":"smollm2:135m","options":null}'),
    ("options-empty", b'{"model":"smollm2:135m","options":{}}'),
    ("options-of-no-interest", b'{"model":"smollm2:135m","options":{"temperature":0.5,"NUM_GPU":1}}'),
    ("brackets", b'{"a":[' + b"[],{}," * 9000 + b'0],"model":"smollm2:135m"}'),
    ("numbers", b'{"a":-1.5e+3,"b":[1,2.0],"model":"smollm2:135m","c":true,"d":null}'),
]
BODIES = [
    *(refused(f"body-{name}", 400, "POST", "/api/chat", body, says=says) for name, body, says in BAD_BODIES),
    *(passes(f"body-{name}", "POST", "/api/chat", body) for name, body in GOOD_BODIES),
    # a body in chunks is looked at as well
    *(
        refused(f"chunks-{name}", 400, "POST", "/api/chat", body, says=says, chunks=True)
        for name, body, says in BAD_BODIES if name in ("model-twice", "model-in-both-cases", "kelvin-sign", "empty")
    ),
    passes("chunks", "POST", "/api/chat", CHAT, chunks=True, sent=CHAT),
    # errors in the form of the API that was called
    *(
        refused(f"model-missing-{path}", 400, "POST", path, b"{}", says=NO_MODEL)
        for path in WITH_MODEL
    ),
    *(
        refused(f"model-twice-{path}", 400, "POST", path, b'{"model":"smollm2:135m","model":"other"}', says=TWICE.format("model"))
        for path in WITH_MODEL
    ),
    refused("delete-without-a-model", 400, "DELETE", "/api/delete", b"{}", says=NO_MODEL, client="table-admin"),
    refused("delete-without-a-body", 400, "DELETE", "/api/delete", says=NO_OBJECT, client="table-admin"),
    refused("pull-in-both-cases", 400, "POST", "/api/pull", b'{"model":"-","Model":"x"}', says=LOWER.format("model"), client="table-admin"),
    passes("show-by-name", "POST", "/api/show", {"name": MODEL}),
    passes("show-by-name-and-no-model", "POST", "/api/show", {"model": "", "name": MODEL}),
    refused("show-by-name-and-null", 400, "POST", "/api/show", {"model": None, "name": MODEL}, says=NO_MODEL),
    *(passes(f"type-{kind}", "POST", "/api/chat", CHAT, f"Content-Type: {kind}") for kind in ("text/plain", "multipart/form-data; boundary=x", "")),
    *(
        refused(f"encoding-{kind}", 415, "POST", path, CHAT, f"Content-Encoding: {kind}")
        for kind, path in (
            ("gzip", "/api/chat"), ("GZIP", "/api/chat"), ("deflate", "/api/generate"), ("br", "/v1/messages"), ("zstd", "/v1/responses"),
            ("identity, zstd", "/v1/chat/completions"), ("x", "/api/embed"), ("gzip, identity", "/api/show"),
        )
    ),
    refused("two-encodings-the-first-harmless", 415, "POST", "/v1/responses", CHAT, "Content-Encoding: identity", "Content-Encoding: zstd"),
    refused("two-encodings-the-last-harmless", 415, "POST", "/v1/responses", CHAT, "Content-Encoding: zstd", "Content-Encoding: identity"),
    passes("encoding-identity", "POST", "/api/chat", CHAT, "Content-Encoding: Identity"),
    passes("encoding-empty", "POST", "/api/chat", CHAT, "Content-Encoding:"),
]

# -- sizes --------------------------------------------------------------------------------------------------------------------


def padded(size: int, **fields: Any) -> bytes:
    """A body of so many bytes, the fields at its end."""
    tail = encoded(fields)[1:]
    return b'{"pad":"' + b"x" * (size - len(tail) - 10) + b'",' + tail


def announced(name: str, method: str, path: str, size: int, client: str = "table") -> Case:
    """A body that is refused for the length it would have."""
    return refused(name, 413, method, path, None, f"Content-Length: {size}", client=client)


SIZES = [
    announced("show-too-large", "POST", "/api/show", 65537),
    announced("version-too-large", "GET", VERSION, 65537),
    announced("pull-too-large", "POST", "/api/pull", 65537, client="table-admin"),
    announced("delete-too-large", "DELETE", "/api/delete", 65537, client="table-admin"),
    announced("embed-too-large", "POST", "/api/embed", (4 << 20) + 1),
    announced("openai-embeddings-too-large", "POST", "/v1/embeddings", (4 << 20) + 1),
    announced("create-too-large", "POST", "/api/create", (4 << 20) + 1, client="table-admin"),
    announced("chat-too-large", "POST", "/api/chat", (32 << 20) + 1),
    announced("openai-chat-too-large", "POST", "/v1/chat/completions", (32 << 20) + 1),
    announced("messages-too-large", "POST", "/v1/messages", (32 << 20) + 1),
    announced("not-found-too-large", "POST", "/nothing", 65537),
    raw("length-beyond-all-numbers", request("POST", "/api/chat", f"Content-Length: {'9' * 30}"), 400),
    refused("chunks-too-large", 413, "POST", "/api/show", padded(65537, model=MODEL), chunks=True),
    refused("embed-chunks-too-large", 413, "POST", "/api/embed", padded((4 << 20) + 1, model=EMBEDDER), chunks=True),
    passes("show-as-large-as-it-may-be", "POST", "/api/show", padded(65536, model=MODEL), sent=json.loads(padded(65536, model=MODEL))),
    # beyond what nginx keeps in its buffer
    passes("large", "POST", "/api/generate", padded(3 << 20, model=MODEL), sent=json.loads(padded(3 << 20, model=MODEL))),
    passes("large-chunks", "POST", "/api/generate", padded(3 << 20, model=MODEL), sent=json.loads(padded(3 << 20, model=MODEL)), chunks=True),
    refused("large-in-both-cases", 400, "POST", "/api/generate", padded(3 << 20, model=MODEL, MODEL="other"), says=LOWER.format("model")),
    refused("large-chunks-in-both-cases", 400, "POST", "/api/generate", padded(3 << 20, model=MODEL, MODEL="other"), says=LOWER.format("model"), chunks=True),
    refused("large-of-another-model", 403, "POST", "/api/generate", padded(3 << 20, model="other"), client="table-models",
            says="the model other is not allowed for this client"),
    passes("large-with-a-cap", "POST", "/api/generate", padded(3 << 20, model=MODEL), client="table-caps",
           sent={**json.loads(padded(3 << 20, model=MODEL)), "options": {"num_predict": 16}}),
]

# -- models: table-models may use smollm2:135m, all-minilm, team/*, qwen*:8b and library/lib* -----------------------------------------------------


def not_allowed(name: str) -> str:
    """What a client reads whose list lacks a model; what could not be one's name is not repeated."""
    return f"the model {name} is not allowed for this client"


MODELS = [
    *(
        passes(f"model-{name}", "POST", "/api/show", {"model": name}, client="table-models", ollama=ollama)
        for name, ollama in (
            ("smollm2:135m", 200), ("SMOLLM2:135M", 200), ("library/smollm2:135m", 200), ("registry.ollama.ai/library/smollm2:135m", 200),
            ("Registry.Ollama.AI/Library/SmolLM2:135m", 200), ("all-minilm", 200), ("all-minilm:latest", 200), ("ALL-MINILM:LATEST", 200),
            ("library/all-minilm", 200), ("team/none", 404), ("registry.ollama.ai/team/none:1b", 404), ("Team/None:1b", 404), ("qwen2.5:8b", 404),
            ("registry.ollama.ai/library/qwen:8b", 404), ("libnone:1b", 404), ("library/libnone", 404),
        )
    ),
    *(
        refused(f"model-{name!r}", 403, "POST", "/api/show", {"model": name}, client="table-models", says=not_allowed(name if shown else "invalid"))
        for name, shown in (
            ("other", True), ("smollm2", True), ("smollm2:latest", True), ("smollm2:135", True), ("smollm2:135m-cloud", True), ("smollm2:cloud", True),
            ("smollm2:135m:local", True), ("smollm2:135m:cloud", True), ("all-minilm:local", True), ("all-minilm:cloud", True), ("all-minilm-cloud", True),
            ("x/smollm2:135m", True), ("hf.co/library/smollm2:135m", True), ("library/x/smollm2:135m", True), ("registry.ollama.ai/smollm2:135m", True),
            ("registry.ollama.ai:443/library/smollm2:135m", True), ("registry.ollama.ai/library/library/smollm2:135m", True),
            ("https://registry.ollama.ai/library/smollm2:135m", True), ("smollm2:135m/../other", True), ("smollm2:", True), ("..", True),
            ("smollm2:135m@sha256:" + ZEROS, False), ("smollm2:135m ", False), (" smollm2:135m", False), ("smollm2:135m\n", False), ("smollm2:135m\0", False),
            ("\u017fmollm2:135m", False), ("smollm2:135m\u200b", False), ("*", False), ("team*", False), ("team", True), ("x/team/none", True),
            # Ollama takes a scheme in front of the registry: these are the model `other`
            ("qwen:x://registry.ollama.ai/library/other:8b", True), ("team/x://registry.ollama.ai/library/other", True),
            ("qwen://registry.ollama.ai/library/other:8b", True),
            # and these are of another registry
            ("qwen.example:8443/some/model:8b", True), ("libx.example/some/model", True), ("qwen:4b", True), ("qwen2.5:8b-cloud", True),
            ("some/libnone", True), ("library/some/libnone", True), ("x" * 300, False),
        )
    ),
    *(
        refused(f"model-other-{path}", 403, "POST", path, {**body, "model": "other"}, client="table-models", says=not_allowed("other"))
        for _method, path, kind, body, _ollama in ENDPOINTS if kind in ("chat", "embed")
    ),
    *(
        passes(f"model-of-the-list-{path}", "POST", path, body, client="table-models")
        for _method, path, kind, body, _ollama in ENDPOINTS if kind in ("chat", "embed")
    ),
    refused("model-other-by-id", 403, "GET", "/v1/models/other", client="table-models", says=not_allowed("other")),
    refused("model-other-by-an-encoded-id", 403, "GET", "/v1/models/%6fther:1b", client="table-models", says=not_allowed("other:1b")),
    refused("model-other-by-id-and-a-line-end", 403, "GET", "/v1/models/other%0a", client="table-models", says=not_allowed("other")),
    refused("model-cloud-by-id", 403, "GET", f"/v1/models/{MODEL}-cloud", client="table-models", says=not_allowed(f"{MODEL}-cloud")),
    passes("model-of-the-list-by-id", "GET", f"/v1/models/{MODEL}", client="table-models"),
    passes("model-of-the-list-by-id-in-upper-case", "GET", "/v1/models/SMOLLM2:135M", client="table-models"),
    refused("model-other-by-name", 403, "POST", "/api/show", {"name": "other"}, client="table-models", says=not_allowed("other")),
    refused("model-other-beside-a-name", 403, "POST", "/api/show", {"model": "other", "name": MODEL}, client="table-models", says=not_allowed("other")),
    refused(
        "model-other-by-name-beside-an-empty-model", 403, "POST", "/api/show", {"model": "", "name": "other"}, client="table-models", says=not_allowed("other")
    ),
    refused("model-other-by-an-escape", 403, "POST", "/api/chat", b'{"model":"\\u006fther"}', client="table-models", says=not_allowed("other")),
    refused("model-other-in-chunks", 403, "POST", "/api/chat", {"model": "other"}, client="table-models", says=not_allowed("other"), chunks=True),
    passes("model-other-of-a-client-without-a-list", "POST", "/api/show", {"model": "other"}, ollama=404),
]

# -- options, and caps: table-caps has max_predict 16 and max_context 2048 -------------------------------------------------------------------------

ADMIN_OPTIONS = {"num_gpu": 0, "main_gpu": 0, "num_thread": 1, "num_batch": 1, "use_mmap": False, "draft_num_predict": 1}


def cap(name: str, limit: int = 16) -> str:
    """What a client reads whose number is beyond its cap."""
    return f"{name} must be a number from 1 to {limit} for this client"


def capped(name: str, path: str, body: Any, sent: Any = None, **how: Any) -> Case:
    """A request of a client with caps, and what Ollama gets of it."""
    return passes(name, "POST", path, body, client="table-caps", sent=json.loads(encoded(body)) if sent is None else sent, **how)


def beyond(name: str, path: str, body: Any, says: str) -> Case:
    """A request that is beyond a cap."""
    return refused(name, 400, "POST", path, body, client="table-caps", says=says)


def options(text: str) -> bytes:
    """A body with these options."""
    return f'{{"model":"{MODEL}","options":{text}}}'.encode()


LIMITED = {"model": MODEL, "options": {"num_predict": 16}}
OPTIONS = [
    *(
        refused(f"keep-alive-{value}", 403, "POST", path, {"model": MODEL, "keep_alive": value}, says="keep_alive needs the class admin")
        for value, path in (
            (0, "/api/generate"), (-1, "/api/chat"), ("5m", "/api/embed"), ("24h", "/api/embeddings"), (None, "/api/chat"), ("1m", "/v1/chat/completions"),
            (1, "/v1/messages"),
        )
    ),
    refused("keep-alive-by-an-escape", 403, "POST", "/api/chat", b'{"model":"smollm2:135m","keep\\u005falive":0}', says="keep_alive needs the class admin"),
    *(
        refused(f"option-{name}-{path}", 403, "POST", path, {"model": MODEL, "options": {name: value}}, says=f"{name} needs the class admin")
        for name, value in ADMIN_OPTIONS.items() for path in ("/api/chat", "/api/embed")
    ),
    refused("option-null", 403, "POST", "/api/generate", {"model": MODEL, "options": {"num_gpu": None}}, says="num_gpu needs the class admin"),
    refused("option-by-an-escape", 403, "POST", "/api/generate", options('{"num\\u005fgpu":0}'), says="num_gpu needs the class admin"),
    passes("admin-keep-alive", "POST", "/api/generate", {"model": MODEL, "keep_alive": "5m"}, client="table-admin", sent={"model": MODEL, "keep_alive": "5m"}),
    passes("admin-option", "POST", "/api/generate", {"model": MODEL, "options": {"num_thread": 1}}, client="table-admin",
           sent={"model": MODEL, "options": {"num_thread": 1}}),
    passes("no-cap", "POST", "/api/generate", {"model": MODEL, "options": {"num_predict": -1}}, sent={"model": MODEL, "options": {"num_predict": -1}}),
]
CAPS = [
    capped("cap-without-options", "/api/chat", {"model": MODEL}, LIMITED),
    capped("cap-generate", "/api/generate", {"model": MODEL}, LIMITED),
    capped("cap-options-empty", "/api/chat", options("{}"), LIMITED),
    capped("cap-options-of-blanks", "/api/chat", options("{ \n }"), LIMITED),
    capped("cap-options-null", "/api/chat", options("null"), LIMITED),
    capped("cap-null", "/api/chat", options('{"num_predict":null}'), LIMITED),
    capped("cap-null-and-more", "/api/chat", options('{"seed":1,"num_predict": null ,"top_k":2}'),
           {"model": MODEL, "options": {"seed": 1, "num_predict": 16, "top_k": 2}}),
    capped("cap-beside-others", "/api/chat", options('{"seed":1}'), {"model": MODEL, "options": {"seed": 1, "num_predict": 16}}),
    capped("cap-kept", "/api/chat", options('{"num_predict":8}')),
    capped("cap-reached", "/api/chat", options('{"num_predict":16}')),
    capped("cap-float", "/api/chat", options('{"num_predict":8.0}')),
    capped("cap-exponent", "/api/chat", options('{"num_predict":1e1}')),
    capped("cap-of-a-name-in-upper-case", "/api/chat", options('{"NUM_PREDICT":99}'), {"model": MODEL, "options": {"NUM_PREDICT": 99, "num_predict": 16}}),
    capped(
        "cap-of-a-nested-name", "/api/chat", options('{"a":{"num_predict":99}}'), {"model": MODEL, "options": {"a": {"num_predict": 99}, "num_predict": 16}}
    ),
    capped("cap-in-chunks", "/api/chat", {"model": MODEL}, LIMITED, chunks=True),
    *(
        beyond(f"cap-{value}", "/api/chat", options(f'{{"num_predict":{value}}}'), cap("num_predict"))
        for value in (
            # 0 and what is cut to it is no limit for Ollama
            "17", "-1", "-2", "0", "0.5", "-0", "0e9", "16.5", "1e9", "1e400", "99999999999999999999",
            '"8"', '"17"', "true", "[8]", '{"a":8}', "NaN", "Infinity", "0x8f",
        )
    ),
    beyond("cap-by-an-escape", "/api/chat", options('{"num\\u005fpredict":99}'), cap("num_predict")),
    beyond("cap-twice", "/api/chat", options('{"num_predict":8,"num_predict":99}'), TWICE.format("num_predict")),
    beyond("cap-generate-beyond", "/api/generate", options('{"num_predict":17}'), cap("num_predict")),
    capped("cap-openai", "/v1/chat/completions", {k: v for k, v in TALK.items() if k != "max_tokens"}, {**TALK, "max_tokens": 16}),
    capped("cap-openai-null", "/v1/chat/completions", {**TALK, "max_tokens": None}, {**TALK, "max_tokens": 16}),
    capped("cap-openai-kept", "/v1/chat/completions", {**TALK, "max_tokens": 3}),
    capped("cap-openai-new-name", "/v1/chat/completions", {**TALK, "max_tokens": None, "max_completion_tokens": 3},
           {**TALK, "max_tokens": 3, "max_completion_tokens": 3}),
    *(beyond(f"cap-openai-{value}", "/v1/chat/completions", {**TALK, "max_tokens": value}, cap("max_tokens")) for value in (17, -1, 0, "3", 1e9)),
    *(
        beyond(f"cap-openai-new-name-{value}", "/v1/chat/completions", {**TALK, "max_completion_tokens": value}, cap("max_completion_tokens"))
        for value in (17, -1, 0, "3")
    ),
    capped("cap-completions", "/v1/completions", {"model": MODEL, "prompt": "hi"}, {"model": MODEL, "prompt": "hi", "max_tokens": 16}),
    beyond("cap-completions-beyond", "/v1/completions", {"model": MODEL, "prompt": "hi", "max_tokens": 17}, cap("max_tokens")),
    capped("cap-responses", "/v1/responses", {"model": MODEL, "input": "hi"}, {"model": MODEL, "input": "hi", "max_output_tokens": 16}),
    beyond("cap-responses-beyond", "/v1/responses", {"model": MODEL, "input": "hi", "max_output_tokens": 17}, cap("max_output_tokens")),
    beyond("cap-responses-0", "/v1/responses", {"model": MODEL, "input": "hi", "max_output_tokens": 0}, cap("max_output_tokens")),
    capped("cap-responses-by-the-wrong-name", "/v1/responses", {"model": MODEL, "input": "hi", "max_tokens": 3},
           {"model": MODEL, "input": "hi", "max_tokens": 3, "max_output_tokens": 16}),
    capped("cap-messages", "/v1/messages", {k: v for k, v in TALK.items() if k != "max_tokens"}, {**TALK, "max_tokens": 16}),
    beyond("cap-messages-beyond", "/v1/messages", {**TALK, "max_tokens": 17}, cap("max_tokens")),
    beyond("cap-messages-twice", "/v1/messages", b'{"model":"smollm2:135m","max_tokens":3,"max_tokens":99}', TWICE.format("max_tokens")),
    capped("context", "/api/chat", options('{"num_ctx":2048,"num_predict":8}')),
    capped("context-null", "/api/chat", options('{"num_ctx":null,"num_predict":8}')),
    *(
        beyond(f"context-{value}", path, options(f'{{"num_ctx":{value}}}'), cap("num_ctx", 2048))
        for value, path in (
            ("2049", "/api/chat"), ("-1", "/api/generate"), ("0", "/api/chat"), ('"2048"', "/api/chat"), ("1e6", "/api/embed"), ("2048.5", "/api/embeddings"),
        )
    ),
    capped("no-cap-for-embeddings", "/api/embed", {"model": EMBEDDER, "input": "hi"}),
]

# -- what Ollama sees of the request's headers, see also the unit test ------------------------------------------------------------------------------

HEADERS = [
    passes(
        "headers", "POST", "/api/chat", CHAT, "Cookie: session=1", "Origin: https://evil.example", "Referer: https://evil.example/", "X-API-Key: other",
        "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.example", "X-Request-ID: spoofed", "Accept-Encoding: gzip",
        "Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive", "TE: trailers", "Keep-Alive: 300",
    ),
    passes("x-forwarded-for-twice", "GET", VERSION, None, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 127.0.0.1, 10.0.0.2"),
    passes("connection-names-a-header", "GET", VERSION, None, "Connection: Host, X-Request-ID, Authorization"),
    passes("many-headers", "GET", VERSION, None, *(f"X-Header-{number}: 1" for number in range(80))),
    # it would stand in Ollama's log
    passes("query", "GET", f"{VERSION}?x=y", reached=VERSION),
    passes("other-host-in-a-header", "GET", VERSION, None, "X-Host: evil.example", "Forwarded: host=evil.example;for=10.0.0.1"),
]

# -- requests that two servers could read in two ways -------------------------------------------------------------------------------------------------

LINE = b"POST /api/chat HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n"
BODY = b'{"model":"smollm2:135m"}'
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
CHUNKS = chunked(BODY)
TE = b"Transfer-Encoding: chunked\r\n"
# what must not be taken for a request of its own
HIDDEN = b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n"
HIDDEN_LENGTH = f"Content-Length: {len(HIDDEN)}\r\n\r\n".encode()
LAST = b"GET /api/version HTTP/1.1\r\nHost: <name>\r\nConnection: close\r\nAuthorization: Bearer <key table>\r\n\r\n"
CLOSE = b"Connection: close\r\n"
REACHED_CHAT, REACHED_VERSION = "POST /api/chat HTTP/1.1", "GET /api/version HTTP/1.1"


def hidden_in(name: str, status: int, line: bytes) -> Case:
    """A refused request with a body that looks like a request, and one behind it."""
    return Case(name, line + HIDDEN_LENGTH + HIDDEN + LAST, (status, 200), reached=(REACHED_VERSION,))


SMUGGLING = [
    raw("length-and-chunks", LINE + LENGTH + TE + b"\r\n" + CHUNKS + HIDDEN, 400),
    raw("chunks-and-length", LINE + TE + b"Content-Length: 4\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("chunks-and-length-0", LINE + TE + b"Content-Length: 0\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("two-lengths", LINE + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY + HIDDEN, 400),
    raw("two-equal-lengths", LINE + LENGTH + LENGTH + b"\r\n" + BODY + HIDDEN, 400),
    raw("list-of-lengths", LINE + b"Content-Length: 24, 24\r\n\r\n" + BODY, 400),
    *(
        raw(f"length-{value}", LINE + f"Content-Length: {value}\r\n\r\n".encode() + BODY + HIDDEN, 400)
        for value in ("+24", "-24", "24 0", "0x18", "24a", "2 4", "1e1", "24;", '"24"', "")
    ),
    raw("two-transfer-encodings", LINE + TE + TE + b"\r\n" + CHUNKS + HIDDEN, 400),
    raw("two-transfer-encodings-the-last-unknown", LINE + TE + b"Transfer-Encoding: x\r\n\r\n" + CHUNKS + HIDDEN, 400),
    *(
        raw(f"transfer-encoding-{value}", LINE + f"Transfer-Encoding: {value}\r\n\r\n".encode() + CHUNKS + HIDDEN, 501)
        for value in ("xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "identity", "chunked;q=1", '"chunked"', "\x0bchunked", "")
    ),
    raw("transfer-encoding-and-a-blank", LINE + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("transfer-encoding-folded", LINE + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("transfer-encoding-and-nul", LINE + b"Transfer-Encoding: chunked\0\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("transfer-encoding-in-another-line", LINE + b"X: x\rTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + HIDDEN, 400),
    raw("header-in-a-second-line", LINE + b"X-Folded: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("header-without-a-colon", LINE + b"X-None\r\n" + LENGTH + CLOSE + b"\r\n" + BODY, 200, reached=(REACHED_CHAT,)),
    raw("header-with-a-blank-in-its-name", LINE + b"X None: 1\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("header-without-a-name", LINE + b": 1\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("nul-in-a-header", LINE + b"X-Nul: a\0b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("nul-in-a-header-name", LINE + b"X-\0: a\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("bare-return-in-a-header", LINE + b"X-Return: a\rb\r\n" + LENGTH + b"\r\n" + BODY, 400),
    raw("old-http-with-chunks", LINE.replace(b"1.1", b"1.0") + TE + b"\r\n" + CHUNKS, 400),
    raw("http-2-in-a-line", b"GET /api/version HTTP/2.0\r\nHost: <name>\r\n\r\n", 505),
    raw("http-3-in-a-line", b"GET /api/version HTTP/3\r\nHost: <name>\r\n\r\n", 505),
    raw("http-in-lower-case", b"GET /api/version http/1.1\r\nHost: <name>\r\n\r\n", 400),
    raw("no-http", b"hello\r\n\r\n", 400),
    raw("preface-of-http-2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    *(
        raw(f"chunk-size-{value!r}", LINE + TE + b"\r\n" + value + b"\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN, 400)
        for value in (b"zz", b"0x18", b"+18", b"-18", b" 18", b"", b"ffffffffffffffffff", b"1_8")
    ),
    raw("chunk-that-is-longer-than-it-says", LINE + TE + b"\r\n3\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN, 400),
    raw("chunk-extension", LINE + CLOSE + TE + b"\r\n18;x=\"y\"\r\n" + BODY + b"\r\n0\r\n\r\n", 200, reached=(REACHED_CHAT,)),
    raw("chunk-size-with-zeros", LINE + CLOSE + TE + b"\r\n00000018\r\n" + BODY + b"\r\n0\r\n\r\n", 200, reached=(REACHED_CHAT,)),
    raw("trailers", LINE + TE + b"\r\n" + CHUNKS[:-2]
        + b"Content-Length: 9\r\nAuthorization: Bearer x\r\n\r\n" + LAST, 200, 200, reached=(REACHED_CHAT, REACHED_VERSION)),
    raw("chunked-in-upper-case", LINE + CLOSE + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKS, 200, reached=(REACHED_CHAT,)),
    raw("bare-line-ends", (LINE + CLOSE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY, 200, reached=(REACHED_CHAT,)),
    raw("old-http", LINE.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY, 200, reached=(REACHED_CHAT,)),
    raw("two-requests", LINE + LENGTH + b"\r\n" + BODY + LAST, 200, 200, reached=(REACHED_CHAT, REACHED_VERSION)),
    raw("the-second-has-no-key", LINE + LENGTH + b"\r\n" + BODY
        + LAST.replace(b"Authorization: Bearer <key table>\r\n", b""), 200, 401, reached=(REACHED_CHAT,)),
    raw("the-second-may-not", LINE + LENGTH + b"\r\n" + BODY
        + b"GET /api/ps HTTP/1.1\r\nHost: <name>\r\nConnection: close\r\nAuthorization: Bearer <key table>\r\n\r\n",
        200, 403, reached=(REACHED_CHAT,)),
    hidden_in("request-in-the-body-of-a-stranger", 401, b"POST /api/chat HTTP/1.1\r\nHost: <name>\r\n"),
    hidden_in("request-in-the-body-of-a-path-that-is-not-there", 404, b"POST /nothing HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n"),
    hidden_in("request-in-the-body-of-a-wrong-method", 405, b"PUT /api/chat HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n"),
    hidden_in("request-in-the-body-without-the-class", 403, b"POST /api/pull HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n"),
    # nginx closes the connection behind a 400
    raw("request-in-a-body-that-is-no-json", LINE + HIDDEN_LENGTH + HIDDEN + LAST, 400, says=NO_OBJECT),
    hidden_in("request-in-a-compressed-body", 415, LINE + b"Content-Encoding: gzip\r\n"),
    raw("request-in-the-body-of-a-get", b"GET /api/version HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n" + HIDDEN_LENGTH + HIDDEN + LAST,
        200, 200, reached=(REACHED_VERSION, REACHED_VERSION)),
    raw("request-in-the-body-of-health", b"GET /health HTTP/1.1\r\nHost: <name>\r\n" + HIDDEN_LENGTH + HIDDEN + LAST, 200, 200, reached=(REACHED_VERSION,)),
    Case("request-in-the-body-of-a-head", b"HEAD /api/version HTTP/1.1\r\nHost: <name>\r\nAuthorization: Bearer <key table>\r\n" + HIDDEN_LENGTH + HIDDEN
         + LAST.replace(b"GET", b"HEAD"), (200, 200), reached=("HEAD /api/version HTTP/1.1", "HEAD /api/version HTTP/1.1")),
    # whom it is for
    Case("no-host", b"GET /api/version HTTP/1.1\r\nAuthorization: Bearer <key table>\r\n\r\n", (400,)),
    raw("two-hosts", b"GET /api/version HTTP/1.1\r\nHost: <name>\r\nHost: <name>\r\n\r\n", 400),
    raw("host-with-a-path", b"GET /api/version HTTP/1.1\r\nHost: <name>/x\r\n\r\n", 400),
    raw("other-host", b"GET /health HTTP/1.1\r\nHost: other.example\r\n\r\n"),
    raw("empty-host", b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", 400),
    raw("other-host-in-the-target", b"GET https://other.example/health HTTP/1.1\r\nHost: <name>\r\n\r\n"),
    raw("localhost-by-number", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:11434\r\n\r\n"),
    raw("other-host-beside-the-target",
        b"GET https://<name>/api/version HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\nAuthorization: Bearer <key table>\r\n\r\n",
        200, reached=(REACHED_VERSION,)),
    raw("host-with-a-port-and-a-dot", b"GET /api/version HTTP/1.1\r\nHost: <name>.:1\r\nConnection: close\r\nAuthorization: Bearer <key table>\r\n\r\n",
        200, reached=(REACHED_VERSION,)),
    raw("old-http-without-a-host", b"GET /health HTTP/1.0\r\n\r\n"),
    raw("first-http", b"GET /health\r\n"),
]

CASES = [
    *CREDENTIALS, *PATHS, *(with_class(client, *endpoint) for client in CLASSES for endpoint in ENDPOINTS), *METHODS, *LISTS, *BODIES, *SIZES, *MODELS,
    *OPTIONS, *CAPS, *HEADERS, *SMUGGLING,
]

# over HTTP/2: arguments of curl, path, status, body of a refusal
HTTP2: list[tuple[list[str], str, int, Any]] = [
    (["-H", "Authorization: Bearer <key table>"], VERSION, 200, None),
    (["-H", "Authorization: Bearer <key table>", "-d", json.dumps(CHAT)], "/api/chat", 200, None),
    (["-H", "x-api-key: <key table>", "-d", json.dumps(CHAT)], "//api/./chat", 200, None),
    (["-H", "Authorization: Bearer <key table>", "-H", "Transfer-Encoding: chunked", "-d", '{"model":"a","model":"b"}'], "/api/chat", 400,
     error(400, "/api/chat", TWICE.format("model"))),
    (["-H", "Authorization: Bearer <key table>", "-d", '{"model":"a","MODEL":"b"}'], "/v1/chat/completions", 400,
     error(400, "/v1/chat/completions", LOWER.format("model"))),
    (["-H", "Authorization: Bearer <key table>", "-d", json.dumps(PULL_BODY)], "/api/chat/../pull", 403, error(403, "/api/pull", NEEDS_ADMIN)),
    (["-H", "Authorization: Bearer <key table-models>", "-d", '{"model":"other"}'], "/v1/messages", 403, error(403, "/v1/messages", not_allowed("other"))),
    (["-H", "Authorization: Bearer <key table>", "-H", "Content-Encoding: gzip", "-d", "x"], "/api/chat", 415, error(415, "/api/chat")),
    (["-H", "Authorization: Bearer <key table>", "-X", "PUT", "-d", "x"], "/api/chat", 405, error(405, "/api/chat")),
    ([], "/v1/models", 401, error(401, "/v1/models")),
    ([], "/health", 200, None),
]
