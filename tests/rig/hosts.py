"""Start and remove the test hosts: containers with systemd as init that behave as bare-metal hosts.

usage: hosts.py up NETWORK NAME=IMAGE [NAME=IMAGE ...] [--publish NAME:HOSTPORT:PORT ...]
       hosts.py down NETWORK NAME [NAME ...]
Used by the demo and by every Molecule scenario, so that the options of a host stand in one place.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

LABEL = "owner=gpufleet-rig"

# No --privileged: it fails where the machine itself lacks a capability, and it would let a host change the machine's own
# sysctls and clock. SYS_PTRACE lets root see which process holds a socket, as on any host. The device rule lets a host make
# nodes of NVIDIA's major number, which a test may open.
OPTIONS = (
    "--restart always --stop-signal SIGRTMIN+3 --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --cgroupns host "
    "-v /sys/fs/cgroup:/sys/fs/cgroup:rw --tmpfs /run --tmpfs /tmp"
).split() + ["--device-cgroup-rule", "c 195:* rwm"]

BOOTED = """
until s=$(systemctl is-system-running --wait 2>/dev/null); [ "$s" = running ]; do
    [ "$s" = degraded ] && { systemctl --failed --no-legend; exit 1; }
    sleep 0.2
done
"""

# an installed Debian has package lists; a fresh image has none
PACKAGE_LISTS = "ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get update -qq"


class RigError(RuntimeError):
    """Something of the rig failed; the text is for the user."""


def docker(*args: str, check: bool = True) -> str:
    """Run a docker command and return its output."""
    try:
        done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RigError("there is no docker command on this machine") from None
    if check and done.returncode:
        raise RigError(f"docker {' '.join(args[:3])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def is_running(name: str) -> bool:
    """True when a container of this name runs."""
    return docker("inspect", "-f", "{{.State.Running}}", name, check=False) == "true"


def ensure_network(network: str) -> None:
    """Make the user network that lets hosts resolve one another."""
    if not docker("network", "ls", "-q", "--filter", f"name=^{network}$"):
        docker("network", "create", "--label", LABEL, network)


def start(name: str, image: str, network: str, *extra: str, command: tuple[str, ...] = ("/usr/local/sbin/rig-init",)) -> bool:
    """Start a container of the rig unless it runs; what is left of a killed start is replaced. Returns True if started."""
    if is_running(name):
        return False
    docker("rm", "-f", "-v", name, check=False)
    docker("run", "-d", "--name", name, "--hostname", name, "--network", network, "--label", LABEL, *OPTIONS, *extra, image, *command)
    return True


def wait_until_booted(name: str) -> None:
    """Wait for systemd, and give the host the package lists that an installed system has."""
    for what, script, seconds in (("boot", BOOTED, 90), ("fetch its package lists", PACKAGE_LISTS, 300)):
        try:
            done = subprocess.run(["docker", "exec", name, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise RigError(f"the host {name} did not {what} within {seconds} s") from None
        if done.returncode:
            raise RigError(f"the host {name} did not {what}: {(done.stdout + done.stderr).strip()}")


def remove(names: list[str], network: str) -> None:
    """Remove containers, their volumes, and the network when nothing else is in it."""
    if names:
        docker("rm", "-f", "-v", *names, check=False)
    docker("network", "rm", network, check=False)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("network")
    parser.add_argument("hosts", nargs="+")
    parser.add_argument("--publish", action="append", default=[], metavar="NAME:HOSTPORT:PORT", help="publish a port on loopback")
    args = parser.parse_args()
    try:
        if args.action == "down":
            remove([host.partition("=")[0] for host in args.hosts], args.network)
            return 0
        up(args.network, dict(host.split("=", 1) for host in args.hosts), args.publish)
    except RigError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


def up(network: str, hosts: dict[str, str], publish: list[str]) -> None:
    """Start hosts (name -> image) and wait until they are ready for Ansible."""
    ensure_network(network)
    for name, image in hosts.items():
        ports = [entry.split(":", 1)[1] for entry in publish if entry.split(":", 1)[0] == name]
        start(name, image, network, *(option for port in ports for option in ("-p", f"127.0.0.1:{port}")))
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(wait_until_booted, hosts))


if __name__ == "__main__":
    sys.exit(main())
