"""Who saves what first, who deletes old backups, who tries out whose; and what is refused."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._backups import backup_environment, backup_plan, backup_report
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

PLACE = "s3:https://s3.example.org/backups/fleet"
OPTIONS = {"repository": PLACE, "format": "restic", "password": "not a secret", "stores": ["/var/lib/ollama/models"], "keep_daily": 7}
MODELS = ["llama3.2:1b", {"name": "bot", "from": "llama3.2:1b"}, {"name": "other", "from": "llama3.2:1b", "system": "Be brief."}]
HOSTS = ["gpu1", "gpu2", "gpu3"]


def fleet(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hosts that all save to one place, with variables of some over it."""
    common = {"ollama_backup_enabled": True, "ollama_backup_repository": PLACE, "ollama_models": MODELS}
    return {host: {**common, **more.get(host, {})} for host in HOSTS}


def plan(host: str, hostvars: dict[str, dict[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
    """The plan of a host."""
    return backup_plan({**OPTIONS, **options}, host, hostvars or fleet(), HOSTS)


def refused(**options: Any) -> str:
    """The words of a refusal."""
    with pytest.raises(ModelError) as caught:
        plan("gpu1", **options)
    return str(caught.value)


def test_the_first_host_owns() -> None:
    """What several have is saved first by the first of them; it deletes for all; each is tried out on another host."""
    assert plan("gpu1") == {"owners": {}, "prunes": True, "drills": ["gpu2"], "together": HOSTS}
    assert plan("gpu2") == {"owners": {"bot:latest": "gpu1", "other:latest": "gpu1"}, "prunes": False, "drills": ["gpu3"], "together": HOSTS}
    assert plan("gpu3")["drills"] == ["gpu1"]


def test_only_hosts_that_have_it_own() -> None:
    """Neither one that has no such model, nor one whose instances do not serve it, nor one that saves elsewhere or nowhere."""
    for values in (
        {"ollama_models": ["llama3.2:1b"]}, {"ollama_instances": [{"name": "a", "models": ["llama3.2:1b"]}]}, {"ollama_backup_enabled": False},
        {"ollama_backup_repository": "/srv/backups"}, {"ollama_models_mount": {"src": "nas:/m", "fstype": "nfs4", "writer": "gpu9"}},
    ):
        assert plan("gpu2", fleet(gpu1=values))["owners"] == {}, values
        assert plan("gpu3", fleet(gpu1=values))["owners"] == {"bot:latest": "gpu2", "other:latest": "gpu2"}, values
    away = plan("gpu2", fleet(gpu1={"ollama_backup_enabled": False}))
    assert away["prunes"] and away["together"] == ["gpu2", "gpu3"]


def test_owners_may_be_named() -> None:
    """By any spelling of the model."""
    found = plan("gpu1", owners={"Bot": "gpu3"})
    assert found["owners"] == {"bot:latest": "gpu3"}
    assert plan("gpu3", owners={"bot": "gpu3"})["owners"] == {"other:latest": "gpu1"}
    assert plan("gpu2", drill_hosts=["gpu1", "gpu3"])["drills"] == ["gpu1", "gpu3"]


def test_a_host_alone_tries_out_its_own() -> None:
    """There is nobody else."""
    found = backup_plan(OPTIONS, "gpu1", fleet(), ["gpu1"])
    assert found == {"owners": {}, "prunes": True, "drills": ["gpu1"], "together": ["gpu1"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repository": ""}, "ollama_backup_repository of gpu1 is empty: say where backups go"),
        ({"format": "cas"}, "is no directory, which ollama_backup_format: cas needs"),
        ({"password": ""}, "ollama_backup_password of gpu1 is empty"),
        ({"repository": "/var/lib/ollama/models/backup"}, "inside the store /var/lib/ollama/models"),
        ({"repository": "/srv/my backups"}, "choose a path without blanks"),
        ({"repository": "/srv/../etc"}, "choose a path without blanks"),
        ({"repository": "/home/backup/fleet"}, "which the sandbox of the units hides"),
        ({"repository": "/root"}, "which the sandbox of the units hides"),
        ({"repository": "/var/tmp/fleet", "format": "cas"}, "which the sandbox of the units hides"),
        ({"password": "not a secret "}, "begins or ends with a blank"),
        ({"repository": "s3:https://:443/b"}, "is no repository"),
        ({"repository": "sftp:me@nas:/srv"}, "is reached by SFTP: give ollama_backup_ssh_key"),
        ({"rate_limit": "fast"}, "ollama_backup_rate_limit of gpu1: 'fast' is no number of bytes"),
        ({"keep_weekly": -1}, "ollama_backup_keep_weekly of gpu1 is -1"),
        ({"owners": {"bot": "gpu12"}}, "ollama_backup_owners has 'gpu12' for bot, which is no host of the group ollama"),
        ({"drill_hosts": ["gp1"]}, "ollama_backup_drill_hosts has 'gp1'"),
        ({"environment": {"AWS KEY": "x"}}, "give the names of environment variables"),
        ({"environment": {"AWS_KEY": "x\ny"}}, "has a line break"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    """One sentence, with the option and the host."""
    assert message in refused(**options)


def test_what_is_not() -> None:
    """Plain files need no password; SFTP may have a command of its own; a store of another name is no store within."""
    assert plan("gpu1", repository="/srv/backups", format="cas", password="")
    assert plan("gpu1", repository="sftp:me@nas:/srv", restic_options=["sftp.command=ssh nas -s sftp"])
    assert plan("gpu1", repository="sftp:me@nas:/srv", ssh_key="k", ssh_known_hosts="h")
    assert plan("gpu1", repository="/var/lib/ollama/models-backup") and plan("gpu1", repository="/homes/backup")


def test_the_environment_is_quoted() -> None:
    """As systemd reads it: what a shell would read, but for $."""
    text = backup_environment({"AWS_SECRET_ACCESS_KEY": 'a"b\\c $d'}, PLACE, "p w")
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert list(lines) == ["AWS_SECRET_ACCESS_KEY", "RESTIC_PASSWORD", "RESTIC_REPOSITORY"]
    assert shlex.split(lines["AWS_SECRET_ACCESS_KEY"]) == ['a"b\\c $d'] and lines["RESTIC_PASSWORD"] == '"p w"'
    assert backup_environment({}, "", "") == ""


def test_report() -> None:
    """A line for each model."""
    models = [{"name": "bot:latest", "backup_bytes": 5, "registry_bytes": 7}]
    assert backup_report([{"models": models}, {}]) == ["bot:latest: 5 bytes in the backup, 7 bytes that a registry has"]
