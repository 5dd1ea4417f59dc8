# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a scrape of the exporter costs: `python tests/bench/exporter.py`.

The exporter runs as the role installs it, with 4 instances of 100 models each, 4 of them loaded, and a store of 100 models on disk. The
instances are one server with canned answers, in a process of its own. What a scrape takes is compared with the least that it could take: the same
questions to the same server, one after the other, and their answers parsed. A second exporter looks through the store all the time, not once a
minute. All alternate, and what counts is the median of all rounds, and of the rounds' ratios: a busy machine slows all alike. `--python` runs
the exporters with another interpreter, such as a distribution's own.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Callable, Iterator

import yaml
from verdict import missed

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/ollama_exporter"

# What is wanted of each figure: at most this
WANTED = {
    "a scrape, p50 (ms)": 50.0,
    "a scrape, ratio to asking alone": 5.0,
    "CPU of a scrape (ms)": 50.0,
    "resident memory after all scrapes (MiB)": 40.0,
    "a scrape while the store is looked through, ratio to one without": 3.0,
    "looking through a store of 100 models (ms)": 500.0,
    "a scrape with a hung instance, beyond its timeout (ms)": 550.0,
}
INSTANCES, MODELS, LOADED, TIMEOUT = 4, 100, 4, 1
PATHS = ("/api/version", "/api/tags", "/api/ps")
Figures = dict[str, float]


def digest(text: str) -> str:
    """64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def answers() -> dict[str, bytes]:
    """What an instance says, as long as the real one's answers are."""
    details = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "8.0B", "quantization_level": "Q4_K_M"}
    stored = [
        {"name": f"library-{number}/llama3.1:8b", "model": f"library-{number}/llama3.1:8b", "modified_at": "2026-11-05T09:15:42.123456789Z",
         "size": 4_920_753_328 + number, "digest": digest(str(number)), "details": details, "capabilities": ["completion", "tools"]}
        for number in range(MODELS)
    ]
    loaded = [{**item, "size_vram": item["size"], "expires_at": "2318-07-04T22:27:55.123456789Z", "context_length": 8192} for item in stored[:LOADED]]
    return {"/api/version": b'{"version":"0.34.4"}', "/api/tags": json.dumps({"models": stored}).encode(), "/api/ps": json.dumps({"models": loaded}).encode()}


async def serve(port: int) -> None:
    """Instances with canned answers; the one at /hung answers nothing."""
    canned = {path.encode(): b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
              for path, body in answers().items()}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                if path.startswith(b"/hung"):
                    await asyncio.sleep(3600)
                writer.write(canned[path])
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def make_store(path: Path) -> None:
    """A store of as many models, each with five layers, one of them shared by all."""
    (path / "blobs").mkdir(parents=True)
    for number in range(MODELS):
        layers = []
        for kind in ("model", "template", "license", "params", "config"):
            name = digest(kind if kind == "license" else f"{kind} {number}")
            (path / f"blobs/sha256-{name}").write_bytes(b"x")
            layers.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{name}", "size": 1})
        manifest = path / f"manifests/registry.ollama.ai/library-{number}/llama3.1/8b"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), encoding="utf-8")


def install(folder: Path) -> Path:
    """The exporter with its modules, as the role lays them out."""
    role = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    modules = folder / "ollama_exporter/ansible_collections/gpufleet/ollama/plugins/module_utils"
    modules.mkdir(parents=True)
    (folder / "ollama_exporter/ansible_collections/__init__.py").touch()
    for name in role["__ollama_exporter_modules"]:
        shutil.copy(ROOT / "plugins/module_utils" / name, modules)
    return Path(shutil.copy(ROLE / "files/ollama_exporter.py", folder))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("a process of the benchmark did not start")
        time.sleep(0.02)


class Exporter:
    """A running exporter."""

    def __init__(self, python: str, folder: Path, urls: list[str], scan_seconds: int = 60) -> None:
        folder.mkdir()
        program = install(folder)
        text = program.read_text(encoding="utf-8")
        if "\nSCAN_SECONDS = 60\n" not in text:
            raise SystemExit("the exporter has another SCAN_SECONDS than this benchmark knows")
        program.write_text(text.replace("\nSCAN_SECONDS = 60\n", f"\nSCAN_SECONDS = {scan_seconds}\n"), encoding="utf-8")
        self.port = free_port()
        wanted = {f"library-{number}/llama3.1:8b": f"sha256:{digest(str(number))}" for number in range(MODELS)}
        config = {"address": "127.0.0.1", "port": self.port, "timeout_seconds": TIMEOUT, "instances": [
            {"name": f"i{number}", "url": url, "store": str(folder.parent / "store"), "gpu_expected": True, "models": wanted}
            for number, url in enumerate(urls)]}
        path = folder / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [python, "-I", str(program), str(path)], stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process)

    def scrape(self) -> str:
        """The metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def cpu(self) -> float:
        """Milliseconds that it has run so far, all threads, those that ended too."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def ask_alone(port: int) -> None:
    """What every exporter of these figures must do: all questions, and their answers parsed."""
    for _number in range(INSTANCES):
        for path in PATHS:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Connection": "close"})
            json.loads(connection.getresponse().read())
            connection.close()


def took(function: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def figure(text: str, name: str) -> float:
    """The value of the only sample of a metric."""
    [line] = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return float(line.rpartition(" ")[2])


@contextlib.contextmanager
def rig(python: str, folder: Path) -> Iterator[tuple[int, list[Exporter]]]:
    """The server's port, an exporter, one that looks through the store all the time, and one that has a hung instance."""
    make_store(folder / "store")
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen([sys.executable, __file__, "--serve", str(port)]))
        stack.callback(server.kill)
        wait_for(port, server)
        good = [f"http://127.0.0.1:{port}"] * INSTANCES
        exporters = []
        for name, urls, scan_seconds in (("good", good, 60), ("busy", good, 0), ("hung", [*good[1:], f"http://127.0.0.1:{port}/hung"], 60)):
            exporters.append(Exporter(python, folder / name, urls, scan_seconds))
            stack.callback(exporters[-1].stop)
        yield port, exporters


def measure(port: int, exporters: list[Exporter], rounds: int) -> Figures:
    """All of it, and that what was measured is what is meant."""
    exporter, busy, hung = exporters
    start_memory = exporter.memory()
    for _warm in range(5):
        text = exporter.scrape()
        busy.scrape()
        ask_alone(port)
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    counts = {"ollama_model_size_bytes": MODELS, "ollama_model_stale": MODELS, "ollama_model_missing": MODELS, "ollama_model_gpu_ratio": LOADED}
    for name, count in counts.items():
        found = sum(line.startswith(f"{name}{{") for line in samples)
        if found != count * INSTANCES:
            raise SystemExit(f"{found} samples of {name}, not {count * INSTANCES}")
    if figure(text, "ollama_store_blobs") != MODELS * 4 + 1:
        raise SystemExit("the store has other blobs than it should")
    scrapes, beside, alone, looks, used = [], [], [], set(), exporter.cpu()
    for _round in range(rounds):
        scrapes.append(took(exporter.scrape))
        # the end of this one begins to look through the store, while the next one runs
        looks.add(figure(busy.scrape(), "ollama_store_scan_timestamp_seconds"))
        beside.append(took(busy.scrape))
        alone.append(took(lambda: ask_alone(port)))
    if len(looks) < rounds / 2:
        raise SystemExit(f"the store was looked through {len(looks)} times in {rounds} rounds")
    used = (exporter.cpu() - used) / rounds
    print(f"\n{INSTANCES} instances of {MODELS} models: {len(samples)} samples, {len(text) / 1024:.0f} KiB; {rounds} rounds")
    print(f"a scrape p50 {median(scrapes):.1f} ms, p90 {sorted(scrapes)[int(rounds * 0.9)]:.1f} ms; beside a look at the store "
          f"p50 {median(beside):.1f} ms; asking alone p50 {median(alone):.1f} ms; "
          f"resident {start_memory:.1f} MiB at the start, {exporter.memory():.1f} MiB now")
    late = [took(hung.scrape) for _round in range(3)]
    if 'ollama_health_status{ollama_instance="i3"} 0.0' not in hung.scrape():
        raise SystemExit("the hung instance is not reported as one")
    print(f"with a hung instance and a timeout of {TIMEOUT} s: {', '.join(f'{item:.0f}' for item in late)} ms")
    return {
        "a scrape, p50 (ms)": median(scrapes),
        "a scrape, ratio to asking alone": median(a / b for a, b in zip(scrapes, alone)),
        "CPU of a scrape (ms)": used,
        "resident memory after all scrapes (MiB)": exporter.memory(),
        "looking through a store of 100 models (ms)": figure(text, "ollama_store_scan_duration_seconds") * 1000,
        "a scrape with a hung instance, beyond its timeout (ms)": max(late) - TIMEOUT * 1000,
        "a scrape while the store is looked through, ratio to one without": median(a / b for a, b in zip(beside, scrapes)),
    }


def main() -> int:
    """Measure and print. Status 1 when a target is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--python", default=sys.executable, help="interpreter of the exporter, which has prometheus_client")
    options.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="ollama-bench-") as directory, rig(arguments.python, Path(directory)) as (port, exporters):
        figures = measure(port, exporters, arguments.rounds)
    print(f"\nload average {os.getloadavg()[0]:.1f}")
    return int(missed(figures, WANTED) > 0)


if __name__ == "__main__":
    sys.exit(main())
