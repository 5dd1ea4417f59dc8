"""Everything that an operator may get wrong in the inventory stops site.yml before the first change, with a sentence that says it."""

from __future__ import annotations

from pathlib import Path

import yaml
from scenario import PROJECT, on_host, play

HOST = "instances-deb12"
ENTRIES = yaml.safe_load((PROJECT / "tests/bad_input.yml").read_text(encoding="utf-8"))


def test_bad_input(tmp_path: Path) -> None:
    """One run of site.yml, in which each mistake is a host of the inventory. All are the same real host, where nothing may change."""
    hosts = {entry["name"]: {"ansible_host": HOST, **entry["vars"]} for entry in ENTRIES}
    inventory = {"all": {"vars": {"ansible_connection": "rig"}, "children": {"ollama": {"hosts": hosts}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    real = on_host(HOST)
    real.check_output("touch /run/before")
    done = play("site", "--forks", "4", inventory=str(tmp_path / "hosts.yml"))
    assert done.status != 0
    assert len(ENTRIES) >= 30
    silent = [entry["name"] for entry in ENTRIES if not done.failed_with(f"{entry['name']}: ") or not done.says(entry["message"])]
    assert not silent, (silent, done)
    # the play that stops is the one of the preflight
    assert "PLAY [Every host]" not in done.output
    assert real.check_output("find /etc /opt /usr /srv /var/lib/ollama -newer /run/before -not -path '/etc/mtab'") == ""
