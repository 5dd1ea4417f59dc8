"""An Ollama of the upstream installer: its place is taken without a download of models, or it serves on; and all of ours can be removed."""

from __future__ import annotations

import json
from typing import Any

from scenario import OLLAMA, on_host, play

HOST = "instances-adopt"
UPSTREAM_INSTALL = "molecule/instances/upstream_install.yml"
OLD_STORE = "/usr/share/ollama/.ollama/models"


def host() -> Any:
    """The host."""
    return on_host(HOST)


def answer(path: str) -> Any:
    """An answer of the API."""
    return json.loads(host().check_output(f"curl -fsS --max-time 10 http://127.0.0.1:11434{path}"))


def names() -> list[str]:
    """The models."""
    return sorted(item["name"] for item in answer("/api/tags")["models"])


def test_its_place_was_taken() -> None:
    """The new release serves the models that were there, which were not downloaded again; nothing is left of the old one."""
    assert answer("/api/version")["version"] == "0.34.4"
    assert names() == ["all-minilm:latest", "smollm2:135m"]
    newer = host().check_output("find /var/lib/ollama/models/blobs -type f -newer /opt/ollama/0.34.4/release.env")
    assert newer == "" and int(host().check_output("ls /var/lib/ollama/models/blobs | wc -l")) >= 4
    for path in ("/etc/systemd/system/ollama.service", "/usr/local/lib/ollama", OLD_STORE):
        assert not host().file(path).exists, path
    assert host().file("/usr/local/bin/ollama").linked_to == "/opt/ollama/0.34.4/bin/ollama"
    keys = [host().check_output(f"sha256sum <{home}/.ollama/id_ed25519") for home in ("/usr/share/ollama", "/var/lib/ollama")]
    assert keys[0] == keys[1]


def test_uninstall_leaves_nothing() -> None:
    """The plan changes nothing; the run leaves no file, no unit, no user."""
    plan = play("uninstall", "--check", "--diff", "-l", HOST)
    assert plan.status == 0 and plan.says("-ollama@default.service") and plan.says("-/opt/ollama/0.34.4"), plan
    assert names()
    done = play("uninstall", "-l", HOST, ollama_keep_models=True)
    assert done.status == 0, done
    assert host().file("/var/lib/ollama/models/manifests").exists
    done = play("uninstall", "-l", HOST)
    assert done.status == 0, done
    assert host().check_output("systemctl list-units --all --plain --no-legend '*ollama*.service'") == ""
    assert not host().user("ollama").exists
    # the home that the upstream installer made is not ours
    left = host().check_output("find / -xdev \\( -iname '*ollama*' -o -name '*gpufleet*' \\) -not -path '/proc/*' -not -path '/usr/share/ollama*'")
    assert left == "", left
    assert play("uninstall", "-l", HOST).changed(HOST) == 0


def test_a_foreign_install_is_refused_without_the_option() -> None:
    """Nothing is done to an Ollama that nobody said should go."""
    assert play(UPSTREAM_INSTALL).status == 0
    done = play(OLLAMA, "-l", HOST, ollama_adopt=False)
    assert done.failed_with("the Ollama of /etc/systemd/system/ollama.service: set ollama_adopt: true to take its place"), done
    assert done.changed(HOST) == 0


def test_a_failed_adoption_leaves_the_old_one_serving() -> None:
    """The release does not serve under the new configuration: the old service has its store back, and answers."""
    done = play(OLLAMA, "-l", HOST, ollama_instances=[{"name": "default", "memory_max": "3M"}], ollama_ready_timeout_seconds=15)
    assert done.failed_with("The host went back to the Ollama of /etc/systemd/system/ollama.service"), done
    assert answer("/api/version")["version"] == "0.32.9"
    assert names() == ["all-minilm:latest", "smollm2:135m"]
    assert host().file(OLD_STORE).is_directory and not host().file(OLD_STORE).is_symlink
    assert host().service("ollama.service").is_enabled
    assert play(OLLAMA, "-l", HOST).status == 0
    assert answer("/api/version")["version"] == "0.34.4" and names() == ["all-minilm:latest", "smollm2:135m"]
