# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gateway adds to a plain proxy_pass over TLS: `python tests/bench/gateway.py`.

The gateway is the role's own files, whole: TLS, key, limits, body scan, model routing, token tap, metrics, audit log. Beside it runs the same
nginx binary with proxy_pass alone. Both stand before the same upstreams, on loopback: another nginx with a canned answer, and a small server
of streams. Every nginx has one worker, so that its CPU time (/proc/PID/schedstat) can be told apart; slices of load alternate within a
round, streams run through both at once, and what counts is the median of the rounds' differences or ratios: a busy machine slows both alike.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/gateway")]

# pylint: disable=wrong-import-position
from local import HOST, LocalGateway, free_port, nginx, upstream_hosts  # noqa: E402
from verdict import missed  # noqa: E402

# What is wanted of each figure: at most this. Times of the processor grow on a busy machine, of plain too: ratios do less.
WANTED = {
    "added to a request, p50 (ms)": 1.0,
    "added CPU of a request (us)": 60.0,
    "added CPU of a request with a long answer (us)": 200.0,
    "added time to the first token, p50 (ms)": 1.0,
    "added lag of a streamed piece, p50 (ms)": 1.0,
    "CPU of a streamed piece, ratio to plain": 1.5,
    "CPU of a request, 1,000 clients known to one": 1.15,
    # other series and limits for each request, so less is in the processor's caches
    "CPU of a request, 1,000 clients calling to one": 1.6,
    "memory of a worker for 1,000 clients (MiB)": 4.0,
    "added CPU of a request, 10 hosts (us)": 30.0,
    "added CPU of a request, 100 hosts (us)": 80.0,
    "CPU of a scrape (ms)": 100.0,
    "added lag of streams during a scrape, worst piece (ms)": 30.0,
}
STREAM_PIECES, STREAM_PAUSE = 100, 0.02
ANSWER = json.dumps({
    "model": "bench:1b", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "word " * 40}, "done": True,
    "done_reason": "stop", "total_duration": 900000000, "prompt_eval_count": 26, "prompt_eval_duration": 90000000, "eval_count": 40,
    "eval_duration": 800000000,
})
# long ones, whose tokens are found by other names than Ollama's own, or are in part not there
LONG_ANSWERS = {
    "/v1/chat/completions": json.dumps({"choices": [{"message": {"role": "assistant", "content": "word " * 1600}}], "usage": {
        "prompt_tokens": 26, "completion_tokens": 40}}),
    "/api/embed": json.dumps({"model": "bench:1b", "embeddings": [[0.0123] * 1000], "prompt_eval_count": 66}),
}
PROMPT = "Why is the sky blue? " * 20
Figures = dict[str, float]


def key(number: int) -> str:
    """The API key of a client."""
    return hashlib.sha256(f"bench {number}".encode()).hexdigest()


def request(number: int = 0, model: str = "bench:1b", pieces: int = 0, path: str = "/api/chat") -> bytes:
    """A POST, as a client of that number sends it; pieces: of a stream."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": bool(pieces), "options": {"num_predict": pieces or 1}})
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key(number)}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


# --- the server of streams, a process of its own -------------------------------------------------------------------------------------------

async def answer_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of a connection. Each piece says when it was sent; the first is sent at once."""
    def send(piece: dict[str, Any]) -> None:
        text = json.dumps(piece) + "\n"
        writer.write(f"{len(text):x}\r\n{text}\r\n".encode())

    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]))) if length else {}
            pieces = body.get("options", {}).get("num_predict", 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(pieces):
                if number:
                    await asyncio.sleep(STREAM_PAUSE)
                send({"model": "stream:1b", "message": {"role": "assistant", "content": " word"}, "done": False, "at": time.monotonic_ns()})
            send({"model": "stream:1b", "done": True, "prompt_eval_count": 26, "eval_count": pieces, "eval_duration": 1000000 * pieces + 1})
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            if head.split(b"\r\n", 1)[0].endswith(b"HTTP/1.0"):
                break
    writer.close()


async def serve_streams(port: int) -> None:
    """Until killed."""
    server = await asyncio.start_server(answer_streams, "127.0.0.1", port, backlog=256)
    async with server:
        await server.serve_forever()


# --- the processes that are measured -------------------------------------------------------------------------------------------------------

class Nginx:
    """An nginx of the same binary, with a configuration of our own and one worker."""

    def __init__(self, folder: Path, http: str) -> None:
        folder.mkdir(mode=0o755)
        prefix = nginx()
        if prefix is None:
            raise SystemExit("there is no nginx with Lua: run tests/rig/bootstrap test")
        temp = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user www-data;\n" if os.getuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ worker_connections 4096; }}\n"
            f"http {{\naccess_log off;\nkeepalive_requests 1000000;\n{temp}{http}\n}}\n", encoding="utf-8")
        libraries = ":".join(str(prefix / part / "x86_64-linux-gnu") for part in ("usr/lib", "lib"))
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if prefix != Path("/") else dict(os.environ)
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [prefix / "usr/sbin/nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"], env=environment)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def wait_for(port: int, host: str = "127.0.0.1") -> None:
    """Until somebody listens."""
    until = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        if time.monotonic() > until:
            raise SystemExit(f"nobody listens on port {port}")
        time.sleep(0.02)


def worker_of(process: subprocess.Popen[bytes]) -> int:
    """The only worker of an nginx."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()[0])


def cpu(pid: int) -> int:
    """Nanoseconds that a process ran."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])


def memory(pid: int) -> float:
    """MiB of its own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) / 1024


def canned(location: str, answer: str) -> str:
    """A location that answers so. nginx takes no word of 4 KiB or more."""
    parts = [answer[start:start + 3000] for start in range(0, len(answer), 3000)]
    values = "".join(f"set $part{number} '{part}';\n" for number, part in enumerate(parts))
    return f"location {location} {{\n{values}return 200 {''.join(f'$part{number}' for number in range(len(parts)))};\n}}\n"


class Target(NamedTuple):
    """Where load goes."""

    name: str
    port: int
    worker: int


# --- load ----------------------------------------------------------------------------------------------------------------------------------

class Connection:
    """Requests over TLS, one after another on a connection that stays open."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname=HOST)
        self.rest = b""

    def send(self, data: bytes) -> None:
        """Send a request."""
        self.socket.sendall(data)

    def receive(self) -> None:
        """Read the canned answer; anything else ends the run, since it would not be what is to be measured."""
        data = self.rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", data[:end + 2])
        if not data.startswith(b"HTTP/1.1 200") or not length:
            raise SystemExit(f"an answer was: {data[:300]!r}")
        end += 4 + int(length[1])
        while len(data) < end:
            data += self._more()
        self.rest = data[end:]

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("a connection was closed")
        return data


def run(context: ssl.SSLContext, target: Target, requests: list[bytes], width: int) -> tuple[float, float]:
    """So many requests at once, each batch when the last has ended. Returns p50 in ms, and the worker's CPU time a request, in us."""
    # new ones, since nginx closes a connection after 1,000 requests; one request each that is not counted
    connections = [Connection(target.port, context) for _unused in range(width)]
    for connection in connections:
        connection.send(requests[0])
        connection.receive()
    times = []
    used = cpu(target.worker)
    for first in range(0, len(requests), width):
        batch = requests[first:first + width]
        began = time.monotonic()
        for connection, data in zip(connections, batch):
            connection.send(data)
        for connection, _data in zip(connections, batch):
            connection.receive()
        times.append(time.monotonic() - began)
    used = cpu(target.worker) - used
    for connection in connections:
        connection.socket.close()
    return median(times) * 1000, used / 1000 / len(requests)


class Stream:
    """An answer that comes in pieces: when each was sent (its own word) and when it was here."""

    def __init__(self, target: Target, context: ssl.SSLContext) -> None:
        self.target = target
        self.connection = Connection(target.port, context)
        self.tail = b""
        self.pieces: list[tuple[float, float]] = []
        self.began = 0.0
        self.done = True

    def start(self, pieces: int) -> None:
        """Ask for a stream."""
        self.tail, self.pieces, self.done = b"", [], False
        self.began = time.monotonic()
        self.connection.socket.settimeout(10)
        self.connection.send(request(model="stream:1b", pieces=pieces))
        self.connection.socket.setblocking(False)

    def read(self) -> None:
        """Take what is there."""
        while True:
            try:
                data = self.connection.socket.recv(65536)
            except ssl.SSLWantReadError:
                return
            now = time.monotonic()
            if not data:
                raise SystemExit("a stream broke off")
            data = self.tail + data
            for found in re.finditer(rb'"at": (\d+)', data):
                self.pieces.append((int(found[1]) / 1e9, now))
            self.done = data.endswith(b"\r\n0\r\n\r\n")
            # what was counted must not be counted twice
            self.tail = data[data.rfind(b"\n{") + 1:] if not data.endswith(b"\n") else data[-6:]

    def lags(self) -> list[float]:
        """Milliseconds of each piece."""
        return [(here - sent) * 1000 for sent, here in self.pieces]


def follow(streams: list[Stream], each_turn: Callable[[selectors.BaseSelector], None] = lambda selector: None) -> None:
    """Read streams until all have ended."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.connection.socket, selectors.EVENT_READ, stream.read)
        until = time.monotonic() + 60
        while not all(stream.done for stream in streams):
            if time.monotonic() > until:
                raise SystemExit("streams do not end")
            each_turn(selector)
            for found, _events in selector.select(0.01):
                found.data()


# --- what is measured ----------------------------------------------------------------------------------------------------------------------

def percentile(values: list[float], part: float) -> float:
    """Of a list."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def measure_requests(context: ssl.SSLContext, targets: dict[str, Target], rounds: int) -> Figures:
    """Small requests: latency with one connection, CPU with eight."""
    waits: dict[str, list[float]] = {name: [] for name in targets}
    costs: dict[str, list[float]] = {name: [] for name in targets}
    # a client's first request makes its series
    run(context, targets["1,000 callers"], [request(client) for client in range(1000)], 8)
    for number in range(-1, rounds):
        names = list(targets)
        # nobody always runs after the same one
        names = names[number % len(names):] + names[:number % len(names)]
        for name in names:
            clients = [index % 1000 for index in range(number * 400, number * 400 + 400)] if name == "1,000 callers" else [0] * 400
            cost = run(context, targets[name], [request(client) for client in clients], 8)[1]
            wait = run(context, targets[name], [request()] * 200, 1)[0]
            # the first round warms up
            if number >= 0:
                costs[name].append(cost)
                waits[name].append(wait)
    print(f"\nrequests: {rounds} rounds of 400 on 8 connections for the CPU time, and of 200 on one for the time they take")
    print(f"{'':16} {'p50 ms':>8} {'CPU us':>8} {'added ms':>9} {'added us':>9} {'CPU ratio':>10}")
    for name in targets:
        added_wait, added, ratio = (median(how(a, b) for a, b in zip(values[name], values["plain"])) for values, how in (
            (waits, lambda a, b: a - b), (costs, lambda a, b: a - b), (costs, lambda a, b: a / b)))
        print(f"{name:16} {median(waits[name]):8.3f} {median(costs[name]):8.1f} {added_wait:9.3f} {added:9.1f} {ratio:10.2f}")

    def added_cpu(name: str, base: str) -> float:
        return median(a - b for a, b in zip(costs[name], costs[base]))

    return {
        "added to a request, p50 (ms)": median(a - b for a, b in zip(waits["gateway"], waits["plain"])),
        "added CPU of a request (us)": added_cpu("gateway", "plain"),
        "CPU of a request, 1,000 clients known to one": median(a / b for a, b in zip(costs["1,000 clients"], costs["gateway"])),
        "CPU of a request, 1,000 clients calling to one": median(a / b for a, b in zip(costs["1,000 callers"], costs["gateway"])),
        "added CPU of a request, 10 hosts (us)": added_cpu("10 hosts", "gateway"),
        "added CPU of a request, 100 hosts (us)": added_cpu("100 hosts", "gateway"),
    }


def measure_long_answers(context: ssl.SSLContext, plain: Target, gateway: Target, rounds: int) -> Figures:
    """The token tap reads the end of each answer."""
    added = {}
    for path in LONG_ANSWERS:
        requests = [request(path=path)] * 100
        added[path] = median(run(context, gateway, requests, 8)[1] - run(context, plain, requests, 8)[1] for _round in range(rounds))
    print("\nanswers of 8 KiB, added CPU: " + "; ".join(f"{path} {cost:.0f} us" for path, cost in added.items()))
    return {"added CPU of a request with a long answer (us)": max(added.values())}


def measure_streams(context: ssl.SSLContext, targets: list[Target], rounds: int) -> Figures:
    """Streams through both at once, so that both meet the same machine."""
    first: dict[str, list[float]] = {target.name: [] for target in targets}
    single = [Stream(target, context) for target in targets]
    for number in range(60):
        for stream in single[::1 if number % 2 else -1]:
            stream.start(1)
            follow([stream])
            if number >= 5:
                first[stream.target.name].append((stream.pieces[0][1] - stream.began) * 1000)
    streams = [Stream(targets[number % 2], context) for number in range(16)]
    lags: dict[str, list[float]] = {target.name: [] for target in targets}
    costs: dict[str, list[float]] = {target.name: [] for target in targets}
    for _round in range(rounds):
        used = {target.name: cpu(target.worker) for target in targets}
        for stream in streams:
            stream.start(STREAM_PIECES)
        follow(streams)
        for target in targets:
            mine = [stream for stream in streams if stream.target is target]
            pieces = sum(len(stream.pieces) for stream in mine)
            if pieces != STREAM_PIECES * len(mine):
                raise SystemExit(f"{pieces} pieces of {STREAM_PIECES * len(mine)} came")
            lags[target.name].extend(lag for stream in mine for lag in stream.lags())
            costs[target.name].append((cpu(target.worker) - used[target.name]) / 1000 / pieces)
    print(f"\nstreams: 55 of one piece, one by one, for the first token; then {rounds} rounds of {len(streams)} at once, {STREAM_PIECES} pieces each")
    print(f"{'':16} {'first token ms':>15} {'lag p50 ms':>11} {'p99 ms':>8} {'CPU us/piece':>13}")
    for target in targets:
        name = target.name
        print(f"{name:16} {median(first[name]):15.3f} {median(lags[name]):11.3f} {percentile(lags[name], 0.99):8.2f} {median(costs[name]):13.1f}")
    return {
        "added time to the first token, p50 (ms)": median(a - b for a, b in zip(first["gateway"], first["plain"])),
        "added lag of a streamed piece, p50 (ms)": median(lags["gateway"]) - median(lags["plain"]),
        "CPU of a streamed piece, ratio to plain": median(a / b for a, b in zip(costs["gateway"], costs["plain"])),
    }


class Scraper:
    """Scrapes from time to time, in the loop that reads streams."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.spans: list[tuple[float, float]] = []
        self.began = 0.0
        self.next = time.monotonic() + 0.3

    def turn(self, selector: selectors.BaseSelector) -> None:
        """Begin a scrape when it is time."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 0.3
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        connection.setblocking(False)
        self.began = time.monotonic()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while connection.recv(1 << 20):
                    pass
                selector.unregister(connection)
                connection.close()
                self.spans.append((self.began, time.monotonic()))

        selector.register(connection, selectors.EVENT_READ, read)


def measure_scrapes(context: ssl.SSLContext, plain: Target, gateway: LocalGateway, target: Target) -> Figures:
    """A scrape of about 5,000 series, alone and while streams run."""
    run(context, target, [request(client, model) for client in range(1000) for model in ("bench:1b", "bench:2b")], 8)
    costs, text = [], ""
    for _number in range(5):
        used = cpu(target.worker)
        text = gateway.management("/metrics")
        costs.append((cpu(target.worker) - used) / 1e6)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    scraper = Scraper(gateway.metrics_port)
    streams = [Stream(way, context) for _unused in range(6) for way in (plain, target)]
    for stream in streams:
        stream.start(STREAM_PIECES * 2)
    follow(streams, scraper.turn)

    def worst(way: Target, span: tuple[float, float]) -> float:
        return max(((here - sent) * 1000 for stream in streams if stream.target is way for sent, here in stream.pieces if span[0] <= here <= span[1] + 0.03),
                   default=0.0)

    # where others run, the worker loses its processor now and then: the best quarter shows what is its own
    worsts = {way.name: percentile([worst(way, span) for span in scraper.spans], 0.25) for way in (plain, target)}
    took = [(end - began) * 1000 for began, end in scraper.spans]
    print(f"\nscrape: {len(lines)} lines, {len(text) / 1024:.0f} KiB; CPU {median(costs):.1f} ms alone; {len(took)} while 12 streams ran: "
          f"{median(took):.0f} ms each; the worst piece of a stream came {worsts[target.name]:.1f} ms late through the gateway, {worsts[plain.name]:.1f} ms "
          "through plain (best quarter of the scrapes)")
    return {"CPU of a scrape (ms)": median(costs), "added lag of streams during a scrape, worst piece (ms)": worsts[target.name] - worsts[plain.name]}


def tokens(gateway: LocalGateway) -> int:
    """Tokens that the gateway counted."""
    return sum(int(float(value)) for value in re.findall(r"^ollama_gateway_tokens_total\{.*\} (\S+)$", gateway.management("/metrics"), re.M))


# --- the run -------------------------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def rig(folder: Path) -> Iterator[tuple[dict[str, LocalGateway], list[Target]]]:
    """The upstreams, the plain proxy and the gateways, all running."""
    folder.chmod(0o755)
    static_port, stream_port, plain_port, plain_stream_port = (free_port() for _unused in range(4))
    limits: dict[str, Any] = {"rate": "99999r/s", "burst": 100000, "concurrency": 64, "max_predict": 100000, "models": ["bench:*", "stream:1b"]}

    def make(name: str, hosts: int, clients: int) -> LocalGateway:
        # the models are not on all hosts, so requests are routed by model; the stream server is the last
        models = [{"name": "bench:1b"}, {"name": "bench:2b"}]
        options = {f"gpu{number}": {"ollama_listen_address": f"127.0.1.{number}", "ollama_models": models} for number in range(1, hosts + 1)}
        options[f"gpu{hosts + 1}"] = {"ollama_models": [{"name": "stream:1b"}]}
        (folder / name).mkdir()
        return LocalGateway(folder / name, upstream_hosts([static_port] * hosts + [stream_port], **options), workers=1, ollama_gateway_clients=[
            {"name": f"client-{number}", "key": key(number), **limits} for number in range(clients)])

    gateways = {
        "gateway": make("one", 1, 1), "1,000 clients": make("clients", 1, 1000), "10 hosts": make("ten", 10, 1), "100 hosts": make("hundred", 100, 1),
    }
    tls = gateways["gateway"].folder / "tls"
    with contextlib.ExitStack() as stack:
        static = Nginx(folder / "static", "server {\n" + "\n".join(f"listen 127.0.1.{number}:{static_port};" for number in range(1, 101))
                       + "\ndefault_type application/json;\n" + canned("/", ANSWER)
                       + "".join(canned(f"= {path}", answer) for path, answer in LONG_ANSWERS.items()) + "}")
        stack.callback(static.stop)
        streams = stack.enter_context(subprocess.Popen([sys.executable, __file__, "--serve", str(stream_port)]))
        stack.callback(streams.kill)
        wait_for(static_port, "127.0.1.1")
        wait_for(stream_port)
        plain = Nginx(folder / "plain", f"""
ssl_certificate {tls}/server.crt;
ssl_certificate_key {tls}/server.key;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_buffering off;
client_max_body_size 32m;
client_body_buffer_size 1m;
upstream static {{ server 127.0.1.1:{static_port}; keepalive 64; }}
upstream streams {{ server 127.0.0.1:{stream_port}; keepalive 64; }}
server {{ listen 127.0.0.1:{plain_port} ssl; location / {{ proxy_pass http://static; }} }}
server {{ listen 127.0.0.1:{plain_stream_port} ssl; location / {{ proxy_pass http://streams; }} }}""")
        stack.callback(plain.stop)
        wait_for(plain_port)
        worker = worker_of(plain.process)
        plains = [Target("plain", port, worker) for port in (plain_port, plain_stream_port)]
        for name, gateway in gateways.items():
            gateway.start()
            stack.callback(gateway.stop)
        yield gateways, plains


def main() -> int:
    """Measure and print. Status 1 when a target is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.serve:
        asyncio.run(serve_streams(arguments.serve))
    began = time.monotonic()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="ollama-bench-") as directory, rig(Path(directory)) as (gateways, plains):
        figures = measure(gateways, plains, arguments.rounds)
    print(f"\nload average {os.getloadavg()[0]:.1f}; the run took {time.monotonic() - began:.0f} s")
    return int(missed(figures, WANTED) > 0)


def measure(gateways: dict[str, LocalGateway], plains: list[Target], rounds: int) -> Figures:
    """All of it, and that what was measured is what was meant."""
    workers = {name: worker_of(gateway.process) for name, gateway in gateways.items() if gateway.process}
    memories = {name: memory(worker) for name, worker in workers.items()}
    starts = {name: cpu(gateway.process.pid) / 1e6 for name, gateway in gateways.items() if gateway.process}
    print("\nstart: " + "; ".join(f"{name} {starts[name]:.0f} ms of CPU, {memories[name]:.1f} MiB a worker" for name in gateways))
    targets = {"plain": plains[0], **{name: Target(name, gateway.port, workers[name]) for name, gateway in gateways.items()}}
    targets["1,000 callers"] = targets["1,000 clients"]
    context = ssl.create_default_context(cafile=str(gateways["gateway"].ca))
    # each gateway has a certificate of its own
    for gateway in gateways.values():
        context.load_verify_locations(str(gateway.ca))
    figures = measure_requests(context, targets, rounds)
    asked = (rounds + 1) * (400 + 8 + 200 + 1)
    for name, gateway in gateways.items():
        here = asked * 2 + 1008 if name == "1,000 clients" else asked
        if tokens(gateway) != here * (26 + 40) or len(gateway.log()) != here:
            raise SystemExit(f"{name} counted {tokens(gateway)} tokens and logged {len(gateway.log())} of {here} requests")
    figures |= measure_long_answers(context, plains[0], targets["gateway"], max(3, rounds // 3))
    figures |= measure_streams(context, [plains[1], targets["gateway"]], 4)
    figures |= measure_scrapes(context, plains[1], gateways["1,000 clients"], targets["1,000 clients"])
    figures["memory of a worker for 1,000 clients (MiB)"] = memories["1,000 clients"] - memories["gateway"]
    return figures


if __name__ == "__main__":
    sys.exit(main())
