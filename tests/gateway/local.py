"""A gateway on loopback, for tests and benchmarks: the role's own files in a real nginx with its Lua module, without a host around it.

The nginx is the machine's, or the one that tests/rig/bootstrap unpacked into .venv/nginx.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv/nginx"
LUA = ROOT / "roles/ollama_gateway/files/lua"
HOST = "gw"


def nginx() -> Path | None:
    """An nginx whose Lua module is there, too."""
    for prefix in (Path("/"), UNPACKED):
        if (prefix / "usr/lib/nginx/modules/ngx_http_lua_module.so").is_file() and (prefix / "usr/sbin/nginx").is_file():
            return prefix
    return None


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def upstream_hosts(ports: list[int], **options: dict[str, Any]) -> dict[str, Any]:
    """Inventory of Ollama hosts on loopback: gpu1, gpu2 … with a port each. Options are host variables, by host."""
    return {
        f"gpu{number}": {
            "ollama_listen_address": "127.0.0.1",
            "ollama_instances": [{"name": "default", "port": port}],
            **options.get(f"gpu{number}", {}),
        }
        for number, port in enumerate(ports, start=1)
    }


class LocalGateway:
    """A running gateway. C(hosts): inventory name -> host variables of Ollama hosts; options: variables of the role."""

    def __init__(self, folder: Path, hosts: dict[str, Any], workers: int = 2, **options: Any) -> None:
        self.folder, self.hosts, self.workers = folder, hosts, workers
        self.port, self.metrics_port = free_port(), free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        prefix = nginx()
        assert prefix is not None, "there is no nginx with Lua on this machine"
        self.prefix = prefix
        for name in ("tls", "logs", "drained", "body"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # workers run as another user
        for path in (folder, *folder.parents):
            if path != Path("/") and os.access(path, os.W_OK) and not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)
        self._certificate()
        (folder / "lua").symlink_to(LUA)
        self.write(**options)

    def _certificate(self) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
             "-addext", f"subjectAltName=DNS:{HOST},DNS:localhost", "-keyout", self.folder / "tls/server.key", "-out", self.folder / "tls/server.crt"],
            check=True, capture_output=True,
        )

    @property
    def ca(self) -> Path:
        """What a client must trust."""
        return self.folder / "tls/server.crt"

    def write(self, **options: Any) -> None:
        """Write the files anew with other options."""
        self.options = {**self.options, **options}
        variables = {
            "__ollama_gateway_dir": str(self.folder),
            "__ollama_gateway_drained_dir": str(self.folder / "drained"),
            "__ollama_gateway_body_dir": str(self.folder / "body"),
            "__ollama_gateway_log_path": str(self.folder / "logs/access.log"),
            "__ollama_gateway_error_log_path": str(self.folder / "logs/error.log"),
            "__ollama_gateway_platform": {"http2_directive": False},
            "__ollama_gateway_tls_fingerprint": "test",
            "__ollama_gateway_names": [{"name": name, "server_name": name, "address": False} for name in (HOST, "localhost")],
            "__ollama_management_address": "127.0.0.1",
            "__ollama_management_host": "127.0.0.1",
            "__ollama_own_address": "",
            "ollama_gateway_listen_addresses": ["127.0.0.1"],
            "ollama_gateway_port": self.port,
            "ollama_gateway_metrics_port": self.metrics_port,
            **self.options,
        }
        variables["__ollama_gateway_config_id"] = hashlib.sha256(json.dumps(variables, sort_keys=True).encode()).hexdigest()[:16]
        groups = {"ollama": {"hosts": self.hosts}, "gateway": {"hosts": {"localhost": {}}}}
        inventory = {"all": {"hosts": {"localhost": {"ansible_python_interpreter": sys.executable}}, "children": groups}}
        path = self.folder / "inventory.json"
        path.write_text(json.dumps(inventory), encoding="utf-8")
        values = self.folder / "variables.json"
        values.write_text(json.dumps(variables), encoding="utf-8")
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", path, Path(__file__).with_name("render.yml"), "-e", f"@{values}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        self._write_nginx()

    def _write_nginx(self) -> None:
        root = "" if self.prefix == Path("/") else str(self.prefix)
        lua = f"{root}/usr/share/lua/5.1/?.lua;;"
        binary = f"{root}/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;"
        user = "user www-data;" if os.getuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(f"""
load_module {root}/usr/lib/nginx/modules/ndk_http_module.so;
load_module {root}/usr/lib/nginx/modules/ngx_http_lua_module.so;
{user}
daemon off;
worker_processes {self.workers};
pid {self.folder}/nginx.pid;
error_log {self.folder}/logs/main.log warn;
events {{ worker_connections 4096; }}
http {{
  lua_package_path "{lua}";
  lua_package_cpath "{binary}";
  access_log off;
  client_body_temp_path {self.folder}/client;
  proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi;
  uwsgi_temp_path {self.folder}/uwsgi;
  scgi_temp_path {self.folder}/scgi;
  include {self.folder}/gateway.conf;
}}
""", encoding="utf-8")

    def _command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        libraries = ":".join(str(self.prefix / folder / "x86_64-linux-gnu") for folder in ("usr/lib", "lib"))
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if self.prefix != Path("/") else dict(os.environ)
        return [str(self.prefix / "usr/sbin/nginx"), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "logs/main.log"), *arguments], environment

    def run(self, *arguments: str) -> str:
        """What nginx says when it is called with arguments, such as -t."""
        command, environment = self._command(*arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def start(self) -> "LocalGateway":
        """Start nginx and wait for it."""
        command, environment = self._command()
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # pylint: disable=consider-using-with
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[0].decode() + self.errors())
            with contextlib.suppress(OSError):
                self.management("/ready")
                return self
            time.sleep(0.05)
        raise AssertionError("nginx does not start: " + self.errors())

    def reload(self) -> None:
        """Load the files that were written; returns when the new workers answer."""
        assert self.process is not None
        wanted = json.loads((self.folder / "clients.json").read_text(encoding="utf-8"))["config_id"]
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if f'ollama_gateway_config_info{{id="{wanted}"}} 1' in self.management("/metrics"):
                return
            time.sleep(0.05)
        raise AssertionError("nginx did not take the configuration: " + self.errors())

    def stop(self) -> None:
        """End nginx."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def errors(self) -> str:
        """What nginx says."""
        logs = [path for path in sorted((self.folder / "logs").glob("*.log")) if "access" not in path.name]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace")[-3000:] for path in logs)

    def management(self, path: str) -> str:
        """An answer of the management address, whatever its status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def log(self) -> list[dict[str, Any]]:
        """The lines of the access log."""
        path = self.folder / "logs/access.log"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
