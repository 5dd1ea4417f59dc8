"""A stand-in for Ollama that is there, and whose every generation takes sixteen seconds."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Any GET says the version and that there are no models; any POST is a generation."""

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()

    def do_GET(self) -> None:
        self._answer()
        self.wfile.write(json.dumps({"version": "0.34.4", "models": []}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()
        for number in range(40):
            self.wfile.write(json.dumps({"response": f"{number} ", "done": number == 39}).encode() + b"\n")
            time.sleep(0.4)


ThreadingHTTPServer(("0.0.0.0", 11434), Handler).serve_forever()
