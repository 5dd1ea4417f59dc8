"""A stand-in for Elasticsearch that takes documents over its bulk API from one user, and appends them to a file as lines of JSON.

usage: elasticsearch_stand_in.py CERTIFICATE KEY USER:PASSWORD DOCUMENTS
"""

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CERTIFICATE, KEY, LOGIN, DOCUMENTS = sys.argv[1:]


class Handler(BaseHTTPRequestHandler):
    """A question for the health is answered; a bulk request is recorded, each document with its index and action."""

    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Basic {base64.b64encode(LOGIN.encode()).decode()}":
            self._answer(401, b"{}")
            return
        lines = [json.loads(line) for line in body.splitlines() if line]
        with open(DOCUMENTS, "a", encoding="utf-8") as file:
            for action, document in zip(lines[::2], lines[1::2]):
                file.write(json.dumps({"action": action, "document": document}) + "\n")
        items = [{next(iter(action)): {"status": 201}} for action in lines[::2]]
        self._answer(200, json.dumps({"took": 1, "errors": False, "items": items}).encode())


server = ThreadingHTTPServer(("0.0.0.0", 9200), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
