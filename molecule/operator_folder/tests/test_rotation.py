"""New keys, passwords and certificates in the place of old ones, while a holder goes on asking."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

testinfra_hosts = ["rig://box"]
FLEET = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "fleet"
ENVIRON = {
    **os.environ,
    "ANSIBLE_CONFIG": str(FLEET / "ansible.cfg"),
    "ANSIBLE_COLLECTIONS_PATH": str(FLEET / "collections"),
    "ANSIBLE_FORCE_COLOR": "false",
    "ANSIBLE_NOCOLOR": "true",
}


class Holder:
    """Asks the gateway with a key all the time, and keeps how it was answered."""

    def __init__(self, address: str, key: str) -> None:
        self.address, self.key, self.answers, self.stopped = address, key, [], threading.Event()
        self.thread = threading.Thread(target=self._go_on)
        self.context = ssl.create_default_context(cafile=str(FLEET / "ca/ca.crt"))

    def ask(self, key: str) -> int | str:
        """Status of a request on a connection of its own, or what went wrong."""
        connection = http.client.HTTPSConnection("box", timeout=10)
        try:
            # the name is the box's, and only its address is known here
            connection.sock = self.context.wrap_socket(socket.create_connection((self.address, 443), timeout=10), server_hostname="box")
            connection.request("GET", "/api/version", headers={"Authorization": f"Bearer {key}"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    def _go_on(self) -> None:
        # below the rate that a client may have
        while not self.stopped.wait(0.25):
            self.answers.append(self.ask(self.key))

    def stop(self) -> None:
        """The last answer is there afterwards."""
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()


def keys() -> list[dict[str, Any]]:
    """The keys of team-a in the operator's vault, the newest first."""
    command = ["ansible-vault", "view", "prod/group_vars/all/gateway_keys.yml"]
    done = subprocess.run(command, cwd=FLEET, env=ENVIRON, capture_output=True, text=True, check=True)
    return yaml.safe_load(done.stdout)["vault_gateway_keys"]["team-a"]


def name_of(entry: dict[str, Any]) -> str:
    """What names a key."""
    return hashlib.sha256(entry["key"].encode()).hexdigest()[:8]


def run(name: str, *options: str, fails: bool = False) -> str:
    """Run a playbook as an operator does; what it says."""
    command = ["ansible-playbook", name, "-i", "prod", *options]
    done = subprocess.run(command, cwd=FLEET, env=ENVIRON, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert bool(done.returncode) == fails, said[-6000:]
    return said


def rotate(*options: str, fails: bool = False) -> str:
    """The same with the keys, in which there is none."""
    before = keys()
    said = run("gpufleet.ollama.rotate_keys", "--diff", "-v", *options, fails=fails)
    assert not any(entry["key"] in said for entry in before + keys())
    return said


@pytest.fixture(name="holder")
def asking(host: Any) -> Iterator[Holder]:
    """A holder with the newest key."""
    found = Holder(host.check_output("hostname -I").split()[0], keys()[0]["key"])
    found.thread.start()
    yield found
    found.stop()


def test_rotation_under_requests(host: Any, holder: Holder) -> None:
    """No request fails: neither with the old key before the holder changes, nor with the new one; then the old one is refused."""
    [old] = keys()
    plan = rotate("--check")
    assert keys() == [old] and "(new key)" in plan
    said = rotate()
    new, ending = keys()
    assert ending["key"] == old["key"] and "expires" not in new and ending["expires"]
    assert f"team-a {name_of(new)}, made {new['made']}, valid" in said and f"valid until {ending['expires']}" in said
    assert "ansible-vault view" in said and "-e rotate_finish=true" in said
    assert [holder.ask(new["key"]), holder.ask(old["key"])] == [200, 200]

    # a run that is begun again goes on with what is there
    assert rotate() and keys() == [new, ending]

    # a gateway that fails: no key is taken from the file, and nginx serves with what it had
    host.check_output("echo 'nonsense;' > /etc/nginx/conf.d/broken.conf")
    try:
        rotate("-e", "rotate_finish=true", fails=True)
    finally:
        host.check_output("rm /etc/nginx/conf.d/broken.conf")
    assert keys() == [new, ending] and [holder.ask(new["key"]), holder.ask(old["key"])] == [200, 200]

    holder.key = new["key"]
    time.sleep(1)
    said = rotate("-e", "rotate_finish=true")
    time.sleep(1)
    holder.stop()
    assert len(holder.answers) > 20 and set(holder.answers) == {200}, holder.answers
    assert keys() == [new] and [holder.ask(new["key"]), holder.ask(old["key"])] == [200, 401]
    assert "the old keys are gone from all gateways" in said

    # in clear text they are nowhere
    clear = f"printf '%s\\n' {old['key']} {new['key']} | grep -rlsF -D skip -f /dev/stdin /etc /home /opt /root /run /srv /tmp /usr/local /var"
    found = host.run(clear)
    assert (found.rc, found.stdout) == (1, ""), found
    for path in FLEET.rglob("*"):
        if path.is_file() and "collections" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert old["key"] not in text and new["key"] not in text, path


def test_site_agrees(host: Any) -> None:
    """The next run of the site playbook reads the same file, and changes nothing at the gateway."""
    said = run("site.yml", "--tags", "ollama_gateway,ollama_logs")
    assert "changed=0" in said and host.service("nginx").is_running, said[-6000:]


def served(holder: Holder) -> str:
    """The certificate that the gateway shows, which the authority signed."""
    with holder.context.wrap_socket(socket.create_connection((holder.address, 443), timeout=10), server_hostname="box") as connection:
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")


def test_new_certificates_under_requests(host: Any, holder: Holder) -> None:
    """Another key and certificate of the same authority; no request fails, and the plan said so."""
    old, authority = served(holder), (FLEET / "ca/ca.crt").read_text(encoding="utf-8")
    old_key = host.file("/etc/gpufleet/gateway/tls/server.key").sha256sum
    plan = run("gpufleet.ollama.rotate_certificates", "--check", "--diff")
    assert "changed=0" not in plan and served(holder) == old, plan[-6000:]
    said = run("gpufleet.ollama.rotate_certificates", "--diff")
    new = served(holder)
    time.sleep(1)
    holder.stop()
    assert new != old and new.strip() == host.check_output("cat /etc/gpufleet/gateway/tls/server.crt").strip()
    assert host.file("/etc/gpufleet/gateway/tls/server.key").sha256sum != old_key and "PRIVATE KEY" not in said
    assert len(holder.answers) > 20 and set(holder.answers) == {200}, holder.answers
    assert (FLEET / "ca/ca.crt").read_text(encoding="utf-8") == authority


def test_another_password(host: Any) -> None:
    """Written into the vault, brought by the play: the old one is refused, and neither is shown."""
    def password() -> str:
        done = subprocess.run(["ansible-vault", "view", vault], cwd=FLEET, env=ENVIRON, capture_output=True, text=True, check=True)
        return yaml.safe_load(done.stdout)["vault_dashboard_password"]

    def status(word: str) -> str:
        return host.check_output(f"curl -sk --max-time 20 -o /dev/null -w '%{{http_code}}' -u 'dashboard:{word}' https://localhost/api/version")

    vault, new = "prod/group_vars/all/vault.yml", "a-longer-one-than-before-0123456789"
    old = password()
    editor = {**ENVIRON, "EDITOR": f"sed -i 's/^vault_dashboard_password:.*/vault_dashboard_password: {new}/'"}
    subprocess.run(["ansible-vault", "edit", vault], cwd=FLEET, env=editor, capture_output=True, check=True)
    assert password() == new and [status(old), status(new)] == ["200", "401"]
    said = run("site.yml", "--diff", "--tags", "ollama_gateway")
    assert [status(old), status(new)] == ["401", "200"] and old not in said and new not in said


def test_nothing_is_added_that_no_gateway_would_get() -> None:
    """A client whose keys stand elsewhere: a sentence with the line to write, and the file as it was."""
    before = keys()
    clients = '{"ollama_gateway_clients": [{"name": "team-a", "key": "0123456789abcdef0123456789abcdef"}]}'
    said = " ".join(rotate("-e", clients, fails=True).split())
    assert "write keys:" in said and "vault_gateway_keys['team-a']" in said and keys() == before
