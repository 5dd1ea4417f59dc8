"""Keys: how they are made, rotated and kept; real vault files."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _keys
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._keys import Wish
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

NOW = datetime.datetime(2026, 11, 27, 9, tzinfo=datetime.timezone.utc)
OLD, OLDER = {"key": "old" * 12, "made": "2026-01-01T00:00:00Z"}, {"sha256": "ab" * 32}


def vault(*names: str) -> VaultLib:
    """A vault with a password for each id."""
    return VaultLib([(name, VaultSecret(f"password of {name}".encode())) for name in names])


def keep(path: Path, wish: Wish, secrets: VaultLib | None = None, check: bool = False) -> dict[str, Any]:
    """Run the whole of it. No key is in the result."""
    result = _keys.ensure(str(path), secrets or vault("default"), wish, check)
    if path.exists():
        for entries in content(path, secrets).values():
            assert not any(entry.get("key", "no key") in json.dumps(result) for entry in entries)
    return result


def content(path: Path, secrets: VaultLib | None = None) -> dict[str, Any]:
    """The keys in the file."""
    return yaml.safe_load((secrets or vault("default")).decrypt(path.read_bytes()))["vault_gateway_keys"]


def put(path: Path, text: str, secrets: VaultLib | None = None) -> None:
    """A file that somebody wrote."""
    path.write_bytes((secrets or vault("default")).encrypt(text))


def test_first_keys() -> None:
    """Every named client has a key that the gateway takes; the others are left alone."""
    keys = _keys.change({"c": [OLD]}, Wish(["a", "b", "a"]), NOW)
    assert list(keys) == ["c", "a", "b"] and keys["c"] == [OLD]
    [entry] = keys["a"]
    assert len(entry["key"]) == 48 and entry["key"].isalnum() and entry["made"] == "2026-11-27T09:00:00Z" and "expires" not in entry
    assert entry["key"] != keys["b"][0]["key"]
    assert _keys.change(keys, Wish(["a", "b", "c"]), NOW) == keys


def test_rotation() -> None:
    """The new key is the first; the old ones end; a second rotation waits for the end of the first."""
    early = {"key": "e" * 40, "expires": "2026-11-28"}
    keys = _keys.change({"a": [OLD, OLDER, early]}, Wish(["a"], rotate=True, grace_seconds=7 * 86400), NOW)
    assert keys["a"][1:] == [{**OLD, "expires": "2026-12-04T09:00:00Z"}, {**OLDER, "expires": "2026-12-04T09:00:00Z"}, early]
    assert _keys.change(keys, Wish(["a"], rotate=True, grace_seconds=5), NOW) == keys
    # one has expired: it is dropped, and nothing else happens
    later = NOW + datetime.timedelta(days=3)
    dropped = _keys.change(keys, Wish(["a"], rotate=True), later)
    assert dropped["a"] == keys["a"][:3] and _keys.change(keys, Wish(["a"]), later) == dropped
    assert _keys.change(keys, Wish(["b"]), later)["a"] == keys["a"]
    # all old ones have: a new rotation
    after = _keys.change(keys, Wish(["a"], rotate=True, grace_seconds=60), NOW + datetime.timedelta(days=8))["a"]
    assert len(after) == 2 and after[1]["key"] == keys["a"][0]["key"] and after[1]["expires"] == "2026-12-05T09:01:00Z"


def test_end_of_a_rotation() -> None:
    """The newest key stays, as it is."""
    keys = _keys.change({"a": [OLD], "b": [OLD]}, Wish(["a", "b"], rotate=True, grace_seconds=60), NOW)
    retired = _keys.change(keys, Wish(["a"], retire=True), NOW)
    assert retired == {"a": keys["a"][:1], "b": keys["b"]}
    assert _keys.change(retired, Wish(["a"], retire=True), NOW) == retired
    assert _keys.change(keys, Wish(["a", "x"], state="absent"), NOW) == {"b": keys["b"]}


def test_a_client_whose_keys_have_all_expired_gets_one() -> None:
    """A file never has a client without a key."""
    [entry] = _keys.change({"a": [{**OLD, "expires": "2026-11-27T09:00:00Z"}]}, Wish(["a"], retire=True), NOW)["a"]
    assert entry["key"] != OLD["key"]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("2026-12-04", "2026-12-04T00:00:00+00:00"),
        ("2026-12-04T09:00:00Z", "2026-12-04T09:00:00+00:00"),
        ("2026-12-04T09:00:00", "2026-12-04T09:00:00+00:00"),
        ("2026-12-04T09:00:00+02:00", "2026-12-04T09:00:00+02:00"),
    ],
)
def test_times(text: str, parsed: str) -> None:
    """As in the inventory: a day begins at midnight in UTC."""
    assert _keys._moment(text).isoformat() == parsed  # pylint: disable=protected-access


def test_file(tmp_path: Path) -> None:
    """Made, closed, encrypted, foreseen; nothing changes twice."""
    path = tmp_path / "keys.yml"
    plan = keep(path, Wish(["a"]), check=True)
    made = plan["clients"][0]["keys"][0]["made"]
    assert plan["changed"] and plan["clients"] == [{"name": "a", "count": 1, "keys": [{"id": "", "made": made, "expires": ""}]}]
    assert plan["added"] == [] and "a (new key), made 20" in plan["diff"]["after"] and not path.exists()
    made = keep(path, Wish(["a"]))
    [entry] = content(path)["a"]
    identity = hashlib.sha256(entry["key"].encode()).hexdigest()[:8]
    assert made["changed"] and made["added"] == [identity] and made["clients"][0]["keys"] == [{"id": identity, "made": entry["made"], "expires": ""}]
    assert made["diff"] == {"before": "", "after": f"a {identity}, made {entry['made']}, valid\n"}
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.1;AES256\n")
    before = path.read_bytes()
    again = keep(path, Wish(["a"]))
    assert not again["changed"] and again["added"] == [] and again["diff"]["before"] == again["diff"]["after"]
    assert keep(path, Wish(["a"], rotate=True, grace_seconds=60), check=True)["changed"] and path.read_bytes() == before
    rotated = keep(path, Wish(["a"], rotate=True, grace_seconds=3600))
    assert rotated["clients"][0]["count"] == 2 and rotated["removed"] == [] and rotated["clients"][0]["keys"][1]["id"] == identity
    assert f"a {identity}, made {entry['made']}, valid until 20" in rotated["diff"]["after"]
    assert keep(path, Wish(["a"], retire=True))["removed"] == [identity]
    # what is left is text, not a time, for Ansible's own YAML too
    assert {type(value) for entries in content(path).values() for entry in entries for value in entry.values()} == {str}
    assert [child.name for child in tmp_path.iterdir()] == ["keys.yml"]


def test_what_it_was_encrypted_with_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id and the password that opened the file; for a new file the configured id, or the first."""
    both, path = vault("default", "prod"), tmp_path / "keys.yml"
    path.write_bytes(both.encrypt("vault_gateway_keys: {}", secret=dict(both.secrets)["prod"], vault_id="prod"))
    keep(path, Wish(["a"]), both)
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;prod\n") and content(path, vault("prod"))["a"]
    # an id in the header that is not the password's
    path.write_bytes(both.encrypt("vault_gateway_keys: {}", secret=dict(both.secrets)["prod"]))
    keep(path, Wish(["a"]), both)
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.1;AES256\n") and content(path, vault("prod"))["a"]
    keep(tmp_path / "first.yml", Wish(["a"]), both)
    assert content(tmp_path / "first.yml", vault("default"))["a"]
    monkeypatch.setattr(constants, "DEFAULT_VAULT_ENCRYPT_IDENTITY", "prod")
    keep(tmp_path / "chosen.yml", Wish(["a"]), both)
    assert content(tmp_path / "chosen.yml", vault("prod"))["a"]
    with pytest.raises(ModelError, match="cannot encrypt"):
        keep(tmp_path / "other.yml", Wish(["a"]), vault("default"))


def test_link(tmp_path: Path) -> None:
    """Followed, and still a link afterwards."""
    (tmp_path / "shared").mkdir()
    link = tmp_path / "keys.yml"
    link.symlink_to("shared/real.yml")
    keep(link, Wish(["a"]))
    keep(link, Wish(["a"], rotate=True, grace_seconds=60))
    assert link.is_symlink() and len(content(tmp_path / "shared/real.yml")["a"]) == 2


def test_writers_wait_for_one_another(tmp_path: Path) -> None:
    """No key of another run is lost."""
    path = tmp_path / "keys.yml"
    threads = [threading.Thread(target=keep, args=(path, Wish([f"c{number}"]))) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(content(path)) == [f"c{number}" for number in range(6)]


def test_a_change_of_an_editor_is_kept(tmp_path: Path) -> None:
    """Who knows no lock loses nothing either."""
    path, secrets = tmp_path / "keys.yml", vault("default")
    keep(path, Wish(["a"]))
    file = _keys.KeyFile(str(path), secrets)
    with file.locked():
        keys = file.read()
        put(path, "vault_gateway_keys: {}")
        with pytest.raises(ModelError, match="changed by somebody else just now"):
            file.write(_keys.change(keys, Wish(["b"]), NOW))
    assert content(path) == {} and [child.name for child in tmp_path.iterdir()] == ["keys.yml"]


def test_by_hand(tmp_path: Path) -> None:
    """Times without quotes are times; a hash is a key too; nothing is rewritten that need not be."""
    path = tmp_path / "keys.yml"
    put(path, f"# mine\nvault_gateway_keys: {{a: [{{key: {'k' * 40}, made: 2026-01-01, expires: 2099-01-01T00:00:00Z}}, {{sha256: {'ab' * 32}}}]}}")
    before = path.read_bytes()
    found = keep(path, Wish(["a"]))
    assert not found["changed"] and path.read_bytes() == before
    assert [key["expires"] for key in found["clients"][0]["keys"]] == ["2099-01-01T00:00:00Z", ""] and found["clients"][0]["keys"][1]["id"] == "abababab"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML"),
        ("- a", "nothing else"),
        ("vault_gateway_keys: {}\nvault_other: x", "move other variables to a file of their own"),
        ("vault_gateway_keys: [a]", "a mapping of clients"),
        ("vault_gateway_keys: {a: SECRET}", "each with a list of keys"),
        ("vault_gateway_keys: {A: []}", "'A' is no name of a client"),
        ("vault_gateway_keys: {a: [SECRET]}", "give key or sha256"),
        ("vault_gateway_keys: {a: [{key: SECRET}]}", "32 to 256 printable characters"),
        ("vault_gateway_keys: {a: [{key: SECRET, sha256: x}]}", "give key or sha256"),
        ("vault_gateway_keys: {a: [{sha256: SECRET}]}", "64 hex digits"),
        (f"vault_gateway_keys: {{a: [{{sha256: {'ab' * 32}, expires: soon}}]}}", "expires at 'soon': give a date"),
        (f"vault_gateway_keys: {{a: [{{sha256: {'ab' * 32}, owner: x}}]}}", "optionally made and expires"),
    ],
)
def test_what_is_not_understood(tmp_path: Path, text: str, sentence: str) -> None:
    """One sentence without what is in the file."""
    path = tmp_path / "keys.yml"
    put(path, text)
    before = path.read_bytes()
    with pytest.raises(ModelError, match=sentence) as error:
        keep(path, Wish(["a"], rotate=True))
    assert "SECRET" not in str(error.value) and path.read_bytes() == before


def test_what_is_no_vault(tmp_path: Path) -> None:
    """Refused, with what to do."""
    path = tmp_path / "keys.yml"
    with pytest.raises(ModelError, match="set vault_password_file in ansible.cfg, or give --vault-password-file FILE"):
        _keys.ensure(str(path), VaultLib(), Wish(["a"]), False)
    path.write_text("vault_gateway_keys: {}", encoding="utf-8")
    with pytest.raises(ModelError, match="is not encrypted, so others may have read its keys: encrypt it with ansible-vault encrypt"):
        keep(path, Wish(["a"]))
    put(path, "vault_gateway_keys: {}", vault("prod"))
    with pytest.raises(ModelError, match="give the one that it was encrypted with"):
        keep(path, Wish(["a"]))
    with pytest.raises(ModelError, match="is no file"):
        keep(tmp_path, Wish(["a"]))
    with pytest.raises(ModelError, match="cannot keep keys in .*No such file or directory"):
        keep(tmp_path / "none/keys.yml", Wish(["a"]))
    os.remove(path)


KEPT = {"a": [{"key": "n" * 40}, {**OLD, "expires": "2099-01-01"}, OLDER, {"key": "x" * 40, "expires": "2020-01-01"}], "b": [{"key": "b" * 40}]}
CLIENTS = [
    {"name": "a", "keys": KEPT["a"]}, {"name": "b", "keys": KEPT["b"] + [OLDER]}, {"name": "cert", "certificate": "CN=c"}, {"name": "own", "keys": [OLDER]},
]


def test_who_can_be_rotated() -> None:
    """All that have keys, or those that are asked for."""
    assert _keys.rotatable(CLIENTS, KEPT) == ["a", "b"]
    assert _keys.rotatable(CLIENTS, KEPT, "b, a") == ["b", "a"] and _keys.rotatable(CLIENTS, KEPT, ["b"]) == ["b"]


@pytest.mark.parametrize(
    ("clients", "asked", "sentence"),
    [
        (CLIENTS, "x", "has no x: it has a, b, cert, own"),
        (CLIENTS, "own", r"write keys: \"\{\{ vault_gateway_keys\['own'\] \}\}\" into its entry of ollama_gateway_clients"),
        ([{"name": "a", "key": "n" * 40}], "", "the keys of a do not come from vault_gateway_keys"),
        ([{"name": "z", "key": "n" * 40}], "", "the keys of z do not come from vault_gateway_keys"),
        ([{"name": "a", "keys": KEPT["a"][1:]}], "", "the keys of a do not come from"),
        ([{"name": "own", "keys": [OLDER]}], "", "there is nothing to rotate"),
        ([], "", "there is nothing to rotate"),
    ],
)
def test_who_cannot_be_rotated(clients: list[Any], asked: str, sentence: str) -> None:
    """One sentence, with the line to write."""
    with pytest.raises(ModelError, match=sentence):
        _keys.rotatable(clients, KEPT, asked)


def test_how_a_gateway_must_answer() -> None:
    """Keys that are not over and are known."""
    newest, old, other = _keys.key_checks(KEPT, ["a", "b"], "gone")
    assert (newest["client"], newest["key"], newest["id"]) == ("a", "n" * 40, hashlib.sha256(b"n" * 40).hexdigest()[:8])
    assert 200 in newest["statuses"] and 401 not in newest["statuses"] and old["statuses"] == [401] and other["client"] == "b"
    assert 200 in _keys.key_checks(KEPT, ["a"])[1]["statuses"]
    assert [check["key"][0] for check in _keys.key_checks(KEPT, ["a", "b"], "ignored")] == ["n", "b"]
    assert _keys.newest_keys(KEPT, ["a"]) == {"a": KEPT["a"][:1], "b": KEPT["b"]}


def test_hash() -> None:
    """For an inventory that shall not hold the key."""
    assert _keys.api_key_sha256("k" * 32) == hashlib.sha256(b"k" * 32).hexdigest()
    for wrong in ("short", "k" * 31 + " ", 5, None):
        with pytest.raises(ModelError, match="32 to 256 printable characters"):
            _keys.api_key_sha256(wrong)
