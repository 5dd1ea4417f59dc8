"""Opens a page in a headless Chromium and says what happened. Runs in a container without a network, as /look.py.

usage: look.py PAGE OUT
Writes OUT/WIDTH.png for each width and OUT/page.pdf, and prints one line of JSON: requests (URLs), messages (of the console and of the browser),
widths (width -> how wide the page is), nodes (role and name of the accessibility tree), printed (whether what is folded up is on paper, too).
It speaks the DevTools protocol over two pipes, each message ends in a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from typing import Any

WIDTHS = {390: 844, 1280: 900}
SECONDS = 60
COMMAND = (
    "chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe", "about:blank",
)


class Browser:
    """A browser with one page."""

    def __init__(self) -> None:
        (read_commands, self._write), (self._read, write_answers) = os.pipe(), os.pipe()

        def attach() -> None:
            # the browser reads from 3 and writes to 4; first out of the way, since they may be these numbers themselves
            commands, answers = os.dup(read_commands), os.dup(write_answers)
            high = [os.dup2(number, 100 + place) for place, number in enumerate((commands, answers))]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
            COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=attach, close_fds=False,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._count, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise SystemExit("the browser ended")
            self._buffer += chunk
        raw, _zero, self._buffer = self._buffer.partition(b"\0")
        return json.loads(raw)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its result."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._count:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def value(self, expression: str) -> Any:
        """What an expression is in the page; a page's own policy does not hinder it."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page whole."""
        self.ask("Page.navigate", url=url)
        until = time.monotonic() + SECONDS
        while self.value("document.readyState") != "complete" or self.value("location.href") != url:
            if time.monotonic() > until:
                raise SystemExit("the page does not load")
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def messages(events: list[dict[str, Any]]) -> list[str]:
    """What the page and the browser had to say."""
    found = []
    for event in events:
        said = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            found.append(f"{said['entry']['level']}: {said['entry']['text']}")
        elif event.get("method") == "Runtime.consoleAPICalled":
            found.append(f"{said['type']}: {said['args']}")
        elif event.get("method") == "Runtime.exceptionThrown":
            found.append(f"exception: {said['exceptionDetails'].get('text')}")
    return found


def main() -> None:
    """Look."""
    page, output = sys.argv[1:]
    browser = Browser()
    widths = {}
    for width, height in WIDTHS.items():
        browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        browser.open(f"file://{page}")
        widths[width] = browser.value("document.documentElement.scrollWidth")
        shot = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(f"{output}/{width}.png", "wb") as file:
            file.write(base64.b64decode(shot["data"]))
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    browser.ask("Emulation.setEmulatedMedia", media="print")
    printed = browser.value("[...document.querySelectorAll('details > div')].every(part => part.checkVisibility())")
    with open(f"{output}/page.pdf", "wb") as file:
        file.write(base64.b64decode(browser.ask("Page.printToPDF", printBackground=True)["data"]))
    time.sleep(0.3)
    # what came meanwhile
    browser.value("0")
    browser.close()
    print(json.dumps({
        "requests": [event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"],
        "messages": messages(browser.events),
        "widths": widths,
        "nodes": [[node["role"]["value"], node.get("name", {}).get("value", "")] for node in nodes if not node.get("ignored")],
        "printed": printed,
    }))


if __name__ == "__main__":
    main()
