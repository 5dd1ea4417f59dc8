"""Module signing_key: a key of RFC 9580's examples from a server on loopback."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import signing_key

# the sample certificate of RFC 9580, appendix A.3: version 6
KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

xioGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laPCsQYf
GwoAAABCBYJjh3/jAwsJBwUVCg4IDAIWAAKbAwIeCSIhBssYbE8GCaaX5NUt+mxy
KwwfHifBilZwj2Ul7Ce62azJBScJAgcCAAAAAK0oIBA+LX0ifsDm185Ecds2v8lw
gyU2kCcUmKfvBXbAf6rhRYWzuQOwEn7E/aLwIwRaLsdry0+VcallHhSu4RN6HWaE
QsiPlR4zxP/TP7mhfVEe7XWPxtnMUMtf15OyA51YBM4qBmOHf+MZAAAAIIaTJINn
+eUBXbki+PSAld2nhJh/LVmFsS+60WyvXkQ1wpsGGBsKAAAALAWCY4d/4wKbDCIh
BssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce62azJAAAAAAQBIKbpGG2dWTX8
j+VjFM21J0hqWlEg+bdiojWnKfA5AQpWUWtnNwDEM0g12vYxoWM8Y81W+bHBw805
I8kWVkXU6vFOi+HWvv/ira7ofJu16NnoUkhclkUrk0mXubZvyl4GBg==
-----END PGP PUBLIC KEY BLOCK-----
"""
FINGERPRINT = "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"
OTHER = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"

Served = dict[str, Any]


@pytest.fixture(name="served")
def server() -> Iterator[Served]:
    """What a server on loopback answers: text, status, its url, and how often it was asked."""
    state: Served = {"text": KEY, "status": 200, "asked": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            """The text."""
            state["asked"] += 1
            self.send_response(state["status"])
            self.end_headers()
            self.wfile.write(state["text"].encode())

        def log_message(self, *_arguments: Any) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        state["url"] = f"http://127.0.0.1:{running.server_address[1]}/gpg.key"
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield state
        running.shutdown()


@pytest.fixture(name="run")
def runner(tmp_path: Path, served: Served, run_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The module with these options over the usual ones."""
    monkeypatch.setattr(signing_key, "PAUSE", 0.0)
    usual = {"url": served["url"], "fingerprints": [OTHER, FINGERPRINT], "path": str(tmp_path / "key.asc"), "advice": "Ask somebody"}
    return lambda check=False, **options: run_module(signing_key.main, check=check, **{**usual, **options})


def test_fetched_once(tmp_path: Path, served: Served, run: Callable[..., Any]) -> None:
    """Written when it is not there, and then not even asked for; a mode that was changed is put right."""
    path = tmp_path / "key.asc"
    result = run(check=True)
    assert (result["changed"], result["fingerprints"], path.exists(), served["asked"]) == (True, [FINGERPRINT], False, 1)
    assert run()["changed"] and path.read_text(encoding="utf-8") == KEY and path.stat().st_mode & 0o777 == 0o644
    assert not run()["changed"] and served["asked"] == 2
    path.chmod(0o600)
    assert run()["changed"] and path.stat().st_mode & 0o777 == 0o644 and served["asked"] == 2


def test_another_key_is_replaced(tmp_path: Path, run: Callable[..., Any]) -> None:
    """What is there and is not wanted is no key to keep."""
    (tmp_path / "key.asc").write_text("another", encoding="utf-8")
    assert run()["changed"] and (tmp_path / "key.asc").read_text(encoding="utf-8") == KEY


@pytest.mark.parametrize(
    ("change", "options", "text", "asked"),
    [
        ({}, {"fingerprints": [OTHER]}, f"it holds the key {FINGERPRINT}, and {OTHER} is wanted", 1),
        ({"text": "<html>sorry</html>"}, {}, "this is no armored OpenPGP key", 1),
        ({"status": 404}, {}, "it cannot be fetched: HTTP Error 404: Not Found", 3),
        ({}, {"url": "http://127.0.0.1:1/gpg.key"}, "it cannot be fetched: Request failed", 0),
        ({}, {"fingerprints": ["BAD9ACC9"]}, "'BAD9ACC9' is no fingerprint of a key: give all 40 hex digits", 0),
    ],
)
def test_refused(tmp_path: Path, served: Served, run: Callable[..., Any], change: Served, options: Any, text: str, asked: int) -> None:
    """One sentence with the URL and the advice; what is there stays."""
    (tmp_path / "key.asc").write_text("before", encoding="utf-8")
    served.update(change)
    result = run(**options)
    assert result["failed"] and result["msg"].startswith(f"{options.get('url', served['url'])}: {text}"), result["msg"]
    assert result["msg"].endswith(". Nothing was trusted. Ask somebody")
    assert (tmp_path / "key.asc").read_text(encoding="utf-8") == "before" and served["asked"] == asked
