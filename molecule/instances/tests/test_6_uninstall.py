"""Several instances, a store of its own and a mounted one are removed in one go."""

from __future__ import annotations

from scenario import on_host, play

HOST = "instances-deb13"


def test_uninstall() -> None:
    """Units, stores and the entry of the mount go; a second run finds nothing to do."""
    host = on_host(HOST)
    assert host.file("/var/lib/ollama").is_directory and host.mount_point("/srv/models").exists
    done = play("uninstall", "-l", HOST)
    assert done.status == 0, done
    assert host.check_output("systemctl list-units --all --plain --no-legend 'ollama*.service'") == ""
    assert not host.mount_point("/srv/models").exists and "/srv/models" not in host.file("/etc/fstab").content_string
    for path in ("/var/lib/ollama", "/srv/models", "/opt/ollama", "/etc/ollama"):
        assert not host.file(path).exists, path
    assert play("uninstall", "-l", HOST).changed(HOST) == 0
