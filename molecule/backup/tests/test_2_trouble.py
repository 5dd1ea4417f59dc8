"""Storage that is away or damaged, hosts that want no backup any more, and what the role leaves on a host."""

from __future__ import annotations

import shlex

import pytest

from conftest import FROM, ROLE, STORAGE, TEXTFILES, TO, digests, metrics
from scenario import on_host, play, variables_of

UNITS = ("gpufleet-backup.service", "gpufleet-backup-drill.service")


@pytest.mark.parametrize("name", [FROM, TO])
def test_secrets_are_roots_alone(name: str) -> None:
    """Password and key are in files that nobody else reads, and in no unit."""
    host = on_host(name)
    assert host.check_output("stat -c %a:%U /etc/gpufleet/ollama_backup") == "700:root"
    assert set(host.check_output("stat -c %a:%U /etc/gpufleet/ollama_backup/*").splitlines()) == {"600:root"}
    text = "".join(host.check_output(f"systemctl cat {unit}; systemctl show {unit} -p Environment -p ExecStart") for unit in UNITS)
    assert "not a secret" not in text and "/srv/storage" not in text


def test_the_units_are_shut_in() -> None:
    """As the other units of the fleet; and the timers wait."""
    host = on_host(FROM)
    for unit, most in zip(UNITS, (3.5, 4.0)):
        score = float(host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1").split("level for")[1].split(":")[1].split()[0])
        assert score <= most, f"{unit}: {score}"
        assert host.run(f"systemctl is-active {unit.replace('.service', '.timer')}").stdout.strip() == "active"


def test_storage_that_is_away() -> None:
    """One sentence, on the terminal and as a metric; the last good one is remembered."""
    good = metrics(FROM, "backup")
    on_host(TO).check_output("systemctl stop ssh.socket ssh.service")
    try:
        done = play("backup", "-l", FROM)
        assert done.failed_with("the repository backup-b:/srv/storage/fleet cannot be reached"), done
        assert not on_host(FROM).run("systemctl start gpufleet-backup.service").succeeded
        found = metrics(FROM, "backup")
        key = "ollama_backup_last_success_timestamp_seconds"
        assert found["ollama_backup_success"] == 0 and found[key] == good[key]
    finally:
        on_host(TO).check_output("systemctl start ssh.service")
    on_host(FROM).check_output("systemctl reset-failed gpufleet-backup.service; systemctl start gpufleet-backup.service")
    assert metrics(FROM, "backup")["ollama_backup_success"] == 1


def test_storage_whose_disk_is_not_mounted() -> None:
    """The role makes no new repository for a host that was backed up there, nor does a new password."""
    host = on_host(TO)
    host.check_output(f"mv {STORAGE} {STORAGE}-away")
    try:
        done = play(ROLE, "-l", FROM)
        assert done.failed_with("backup-a was backed up to this repository before, so none is made in its place"), done
        done = play(ROLE, "-l", FROM, ollama_backup_password="another", ollama_backup_old_password="not a secret")
        assert done.failed_with("there is no repository at") and not host.file(STORAGE).exists, done
    finally:
        host.check_output(f"mv {STORAGE}-away {STORAGE}")
    assert play(ROLE, "-l", FROM).changed(FROM) == 0


def test_drills_that_are_not_wanted_any_more() -> None:
    """What the last one told would be too old one day."""
    host, told = on_host(TO), f"{TEXTFILES}/gpufleet_ollama_drill.prom"
    assert host.file(told).exists
    assert play(ROLE, "-l", TO, ollama_backup_drill_enabled=False).status == 0
    assert not host.file(told).exists and not host.file("/var/lib/gpufleet-backup/drill.json").exists
    assert play(ROLE, "-l", TO).status == 0


def test_storage_that_is_damaged() -> None:
    """Bytes of all packs are others, since it is not known which are those of this host's backup: the drill fails and says so, and its metric with it."""
    host = on_host(TO)
    host.check_output(f"cp -a {STORAGE}/data /root/data")
    flip = "chmod u+w $0 && printf '\\377\\377\\377\\377' | dd of=$0 bs=1 seek=40 conv=notrunc status=none"
    host.check_output("find %s -type f -exec sh -c %s {} ';'", f"{STORAGE}/data", flip)
    try:
        before = digests(TO)
        done = play("backup_drill", "-l", TO)
        assert done.status != 0 and done.says("damaged"), done
        assert metrics(TO, "drill")['ollama_backup_drill_success{backup_host="backup-a"}'] == 0 and digests(TO) == before
        assert host.check_output("find /var/lib/gpufleet-drill -mindepth 1") == ""
    finally:
        host.check_output(f"rm -r {STORAGE}/data && mv /root/data {STORAGE}/data")
    host.check_output("systemctl reset-failed gpufleet-backup-drill.service; systemctl start gpufleet-backup-drill.service")


def test_another_password() -> None:
    """Not before all hosts take part; then all of them back up with the new one, and the old one, which the inventory still has, breaks nothing."""
    old, new = variables_of(FROM)["ollama_backup_password"], "another one of ours"
    both = {"ollama_backup_password": new, "ollama_backup_old_password": old}
    storage = on_host(TO)
    was = storage.check_output(f"ls {STORAGE}/keys")
    done = play("rotate_backup_password", "-l", FROM, **both)
    assert done.failed_with("backup-b did not pass the check, cannot be reached, or is left out by --limit"), done
    plan = play("rotate_backup_password", "--check", **both)
    assert plan.status == 0 and plan.changed(FROM) > 0 and plan.says("check mode: nothing was changed"), plan
    assert storage.check_output(f"ls {STORAGE}/keys") == was
    try:
        done = play("rotate_backup_password", "--diff", **both)
        assert done.status == 0 and done.says("take ollama_backup_old_password out of the vault"), done
        assert new not in done.output and old not in done.output
        # the one key that is left is another one: with it both hosts save
        now = storage.check_output(f"ls {STORAGE}/keys").split()
        assert len(now) == 1 and now != was.split()
        wrong = play(ROLE)
        assert wrong.failed_with("the password of the repository backup-b:/srv/storage/fleet is wrong"), wrong
        for name in (FROM, TO):
            on_host(name).check_output("systemctl start gpufleet-backup.service")
        assert play("rotate_backup_password", **both).changed(FROM) == 0
    finally:
        # as the inventory says, for who converges these hosts again
        storage.run(f"printf %s {shlex.quote(old)} | RESTIC_PASSWORD={shlex.quote(new)} restic -r {STORAGE} key passwd --new-password-file /dev/stdin")
        storage.check_output(f"chown -R storage: {STORAGE}")


def test_a_host_that_wants_none_any_more() -> None:
    """All is removed but the backups, also after a run that was broken off; then the plan for a host without any of it
    changes nothing, and says what would come."""
    host = on_host(FROM)
    host.check_output("systemctl disable --now gpufleet-backup.timer && rm /etc/systemd/system/gpufleet-backup.timer")
    assert play(ROLE, "-l", FROM, ollama_backup_enabled=False).status == 0
    places = "/etc/systemd/system /etc/gpufleet /usr/local/lib/gpufleet /var/lib/systemd /var/lib/prometheus /var/cache"
    left = host.check_output(f"find {places} -path '*gpufleet*backup*' -o -name 'gpufleet_ollama_*'")
    assert left == "" and on_host(TO).check_output(f"ls {STORAGE}/snapshots") != ""
    assert play(ROLE, "-l", FROM, ollama_backup_enabled=False).changed(FROM) == 0
    plan = play(ROLE, "--check", "--diff", "-l", FROM)
    assert plan.status == 0 and plan.changed(FROM) > 3 and not plan.says("not a secret"), plan
    assert not host.file("/etc/gpufleet/ollama_backup").exists
