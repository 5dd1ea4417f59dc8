# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The API keys of the gateway's clients: how they are made, rotated, and kept in a vaulted file of the controller.

The file holds one variable, C(vault_gateway_keys): for each client a list of keys, the newest first. An entry has C(key), or C(sha256) when
only the holder has the key; C(made), a time; and C(expires) when the key is on its way out. No message and no description holds a key: what
names one is its id, the first 8 hex digits of its SHA-256.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import secrets
import stat
import string
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, is_encrypted, match_encrypt_secret, parse_vaulttext_envelope

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

Entry = dict[str, Any]
Keys = dict[str, list[Entry]]

VARIABLE = "vault_gateway_keys"
# letters and digits only: a key survives every shell and every form
_ALPHABET = string.ascii_letters + string.digits
_KEY_LENGTH = 48
_ID_DIGITS = 8
# what the gateway takes
_CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]{32,256}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"key", "sha256", "made", "expires"}
# of a request for the version: a client need not have the class of that, and without an instance to ask the key was good all the same
_ACCEPTED = [200, 403, 502, 503, 504]
_REFUSED = [401]
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_HEAD = """\
# API keys of the gateway's clients, the newest of each first. The playbook gpufleet.ollama.rotate_keys replaces them.
# Comments other than these are not kept.
"""


class Wish(NamedTuple):
    """What is wanted of the keys of some clients."""

    clients: Sequence[str]
    state: str = "present"
    rotate: bool = False
    retire: bool = False
    grace_seconds: int = 0


def now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def api_key_sha256(key: Any) -> str:
    """SHA-256 of an API key, in hex."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ModelError("api_key_sha256 got what is no API key: give 32 to 256 printable characters and no blanks")
    return hashlib.sha256(key.encode()).hexdigest()


def key_id(entry: Entry) -> str:
    """What names a key in results and logs."""
    return (entry["sha256"] if "sha256" in entry else api_key_sha256(entry["key"]))[:_ID_DIGITS]


def _moment(text: str) -> datetime.datetime:
    """A time in UTC, or the beginning of a day. ValueError for anything else."""
    # Python understands the Z itself since 3.11
    found = datetime.datetime.fromisoformat(re.sub(r"Z$", "+00:00", text))
    return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)


def made_at(entry: Mapping[str, Any]) -> float | None:
    """When a key was made, in seconds since 1970; None where nobody noted it."""
    try:
        return _moment(str(_text(entry["made"]))).timestamp()
    except (KeyError, ValueError):
        return None


def _text(value: Any) -> Any:
    """A time that was written without quotes is no text for YAML."""
    if isinstance(value, datetime.datetime):
        return (value.astimezone(datetime.timezone.utc) if value.tzinfo else value).strftime(_TIME)
    return value.isoformat() if isinstance(value, datetime.date) else value


def _entry(where: str, client: str, raw: Any) -> Entry:
    if not isinstance(raw, Mapping) or set(raw) - _FIELDS or ("key" in raw) == ("sha256" in raw):
        raise ModelError(f"{where}: a key of {client} is not understood: give key or sha256, and optionally made and expires")
    entry = {field: _text(value) for field, value in raw.items()}
    if "key" in entry and not (isinstance(entry["key"], str) and _KEY.fullmatch(entry["key"])):
        raise ModelError(f"{where}: a key of {client} must have 32 to 256 printable characters and no blanks")
    if "sha256" in entry and not (isinstance(entry["sha256"], str) and _SHA256.fullmatch(entry["sha256"])):
        raise ModelError(f"{where}: a sha256 of {client} must be 64 hex digits in lower case")
    if "expires" in entry:
        try:
            _moment(entry["expires"])
        except (TypeError, ValueError):
            raise ModelError(f"{where}: a key of {client} expires at {entry['expires']!r}: give a date, or a time such as 2027-01-31T12:00:00Z") from None
    return entry


def load(where: str, text: str) -> Keys:
    """The keys in the decrypted text of the file C(where)."""
    try:
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        # what the parser says may quote a key
        raise ModelError(f"{where} is no YAML: mend it with ansible-vault edit") from None
    if not isinstance(raw, Mapping) or set(raw) - {VARIABLE}:
        raise ModelError(f"{where} must hold the variable {VARIABLE} and nothing else: move other variables to a file of their own")
    clients = raw.get(VARIABLE) or {}
    if not isinstance(clients, Mapping) or not all(isinstance(entries, list) for entries in clients.values()):
        raise ModelError(f"{where}: {VARIABLE} must be a mapping of clients, each with a list of keys")
    return {_name(name): [_entry(where, name, entry) for entry in entries] for name, entries in clients.items()}


def dump(keys: Keys) -> str:
    """The text of the file."""
    return _HEAD + yaml.safe_dump({VARIABLE: keys}, sort_keys=False, width=4096)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _CLIENT_NAME.fullmatch(name):
        raise ModelError(f"{name!r} is no name of a client: give lower-case letters, digits, -, _ and ., at most 64")
    # the texts of a play are of a class of Ansible's, which YAML does not write
    return f"{name}"


def _is_over(entry: Entry, time: datetime.datetime) -> bool:
    return "expires" in entry and _moment(entry["expires"]) <= time


def _is_rotating(entries: list[Entry]) -> bool:
    """Whether a rotation began and did not end: all keys but the newest are on their way out."""
    return len(entries) > 1 and "expires" not in entries[0] and all("expires" in entry for entry in entries[1:])


def change(keys: Keys, wish: Wish, time: datetime.datetime) -> Keys:
    """The keys as they are wanted; those of other clients as they were.

    A rotation that began is not begun again, so whoever brings the keys to the gateways may start anew where he failed.
    """
    names = list(dict.fromkeys(map(_name, wish.clients)))
    result = dict(keys)
    for name in names:
        if wish.state == "absent":
            result.pop(name, None)
            continue
        entries = [entry for entry in keys.get(name, []) if not _is_over(entry, time)]
        if wish.retire:
            entries = entries[:1]
        if not entries or (wish.rotate and not _is_rotating(entries)):
            end = time + datetime.timedelta(seconds=wish.grace_seconds)
            entries = [_made(time), *(_ending(entry, end) for entry in entries)]
        result[name] = entries
    return result


def _made(time: datetime.datetime) -> Entry:
    return {"key": "".join(secrets.choice(_ALPHABET) for _number in range(_KEY_LENGTH)), "made": time.strftime(_TIME)}


def _ending(entry: Entry, end: datetime.datetime) -> Entry:
    earlier = "expires" in entry and _moment(entry["expires"]) <= end
    return entry if earlier else {**entry, "expires": end.strftime(_TIME)}


def describe(keys: Keys, names: Iterable[str], unknown: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The keys without the keys: dicts of name, count and keys (id, made, expires). C(unknown): ids of keys that are not kept."""
    hidden = set(unknown)

    def one(entry: Entry) -> dict[str, str]:
        name = key_id(entry)
        return {"id": "" if name in hidden else name, "made": str(entry.get("made", "")), "expires": entry.get("expires", "")}

    return [{"name": name, "count": len(keys.get(name, [])), "keys": [one(entry) for entry in keys.get(name, [])]} for name in dict.fromkeys(names)]


def lines(clients: Iterable[Mapping[str, Any]]) -> str:
    """A description as text, a line for each key."""
    return "".join(
        f"{client['name']} {key['id'] or '(new key)'}, made {key['made'] or 'at an unknown time'}, valid{' until ' * bool(key['expires'])}{key['expires']}\n"
        for client in clients
        for key in client["keys"]
    )


class KeyFile:
    """The vaulted file. A link is followed, and stays."""

    def __init__(self, path: str, vault: VaultLib) -> None:
        self.shown = path
        self.path = os.path.realpath(path)
        self.vault = vault
        self.raw: bytes | None = None
        # what the file was encrypted with, and the name of that
        self.secret: Any = None
        self.vault_id: str | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time. The directory is what is locked, so no file is left in it."""
        try:
            handle = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ModelError(f"cannot keep keys in {self.shown}: {error.strerror} ({os.path.dirname(self.path)})") from None
        try:
            # some network filesystems lock no directories; write() looks before it replaces
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> bytes | None:
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise ModelError(f"{self.shown} is no file: give the path of a file")
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelError(f"cannot read {self.shown}: {error.strerror}") from None

    def read(self) -> Keys:
        """What is in the file; nothing when there is none."""
        if not self.vault.secrets:
            raise ModelError(
                f"{self.shown} is kept encrypted, and Ansible was given no vault password: set vault_password_file in ansible.cfg, or give "
                "--vault-password-file FILE or --ask-vault-pass"
            )
        self.raw = self._read()
        if self.raw is None:
            return {}
        if not is_encrypted(self.raw):
            raise ModelError(
                f"{self.shown} is not encrypted, so others may have read its keys: encrypt it with ansible-vault encrypt {self.shown}, take the clear "
                "text out of git and backups, and rotate the keys"
            )
        try:
            plain, _vault_id, self.secret = self.vault.decrypt_and_get_vault_id(self.raw)
            self.vault_id = parse_vaulttext_envelope(self.raw)[3]
        except AnsibleError:
            raise ModelError(f"{self.shown} cannot be opened with the vault password that Ansible was given: give the one that it was encrypted with") from None
        try:
            return load(self.shown, plain.decode())
        except UnicodeDecodeError:
            raise ModelError(f"{self.shown} is no UTF-8: mend it with ansible-vault edit") from None

    def write(self, keys: Keys) -> None:
        """Replace the file whole, encrypted as it was. Call it under the lock, after read()."""
        if self.secret is None:
            try:
                self.vault_id, self.secret = match_encrypt_secret(self.vault.secrets, constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
            except AnsibleError as error:
                raise ModelError(f"cannot encrypt {self.shown}: {error}") from None
        encrypted = self.vault.encrypt(dump(keys), secret=self.secret, vault_id=self.vault_id)
        try:
            # mkstemp makes it 0600
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=f".{os.path.basename(self.path)}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(encrypted)
                    # a gateway must not get a key that a crash takes from here
                    os.fsync(stream.fileno())
                # an editor knows no lock
                if self._read() != self.raw:
                    raise ModelError(f"{self.shown} was changed by somebody else just now: run it again")
                os.replace(temporary, self.path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise ModelError(f"cannot write {self.shown}: {error.strerror}") from None


def ensure(path: str, vault: VaultLib, wish: Wish, check: bool) -> dict[str, Any]:
    """Bring the keys of some clients into the wanted state. Returns the module's result; nothing in it is a secret."""
    file = KeyFile(path, vault)
    with file.locked():
        before = file.read()
        after = change(before, wish, now())
        changed = after != before
        if changed and not check:
            file.write(after)
    had = {name: [key_id(entry) for entry in before.get(name, [])] for name in wish.clients}
    has = {name: [key_id(entry) for entry in after.get(name, [])] for name in wish.clients}
    # a key that check mode made is forgotten, so its id says nothing
    made = {identity for name in had for identity in has[name] if identity not in had[name]}
    clients = describe(after, wish.clients, made if check else ())
    return {
        "changed": changed,
        "path": path,
        "clients": clients,
        "added": [] if check else sorted(made),
        "removed": sorted({identity for name in had for identity in had[name] if identity not in has[name]}),
        "diff": {"before": lines(describe(before, wish.clients)), "after": lines(clients)},
    }


def _kept(keys: Any) -> Keys:
    if not isinstance(keys, Mapping) or not all(isinstance(entries, Sequence) and not isinstance(entries, str) for entries in keys.values()):
        raise ModelError(f"{VARIABLE} must be a mapping of clients, each with a list of keys")
    return {str(name): [_entry(VARIABLE, str(name), entry) for entry in entries] for name, entries in keys.items()}


def _has_key(client: Mapping[str, Any]) -> bool:
    """Who has a certificate only, or gave away the SHA-256 only, has no key that could be made for him."""
    return bool(client.get("key")) or any(isinstance(entry, Mapping) and "key" in entry for entry in client.get("keys") or [])


def rotatable(clients: Iterable[Any], keys: Any, asked: Any = "") -> list[str]:
    """The clients of C(ollama_gateway_clients) whose keys are to be rotated: those that are asked for, or all.

    Each of them must take its keys from C(vault_gateway_keys), or the gateways would never see a new one.
    """
    inventory = {client["name"]: client for client in clients if isinstance(client, Mapping) and "name" in client}
    names = [name.strip() for name in asked.split(",") if name.strip()] if isinstance(asked, str) else list(asked)
    if unknown := [str(name) for name in names if name not in inventory]:
        raise ModelError(f"ollama_gateway_clients has no {', '.join(unknown)}: it has {', '.join(inventory) or 'no clients'}")
    kept = _kept(keys)
    names = names or [name for name, client in inventory.items() if name in kept or _has_key(client)]
    if not names:
        raise ModelError("ollama_gateway_clients has no client with a key: there is nothing to rotate")
    for name in names:
        given = inventory[name].get("keys") or []
        theirs = {key_id(_entry("ollama_gateway_clients", name, entry)) for entry in given}
        if not kept.get(name) or not theirs.issuperset(map(key_id, kept[name])):
            raise ModelError(
                f"the keys of {name} do not come from {VARIABLE}, so a new one would not reach the gateways: write "
                f"keys: \"{{{{ {VARIABLE}['{name}'] }}}}\" into its entry of ollama_gateway_clients (a key: beside it stays valid until you take it out)"
            )
    return names


def key_checks(keys: Any, names: Iterable[str], older: str = "valid") -> list[dict[str, Any]]:
    """The keys of some clients, which are secrets, and how a gateway must answer them: dicts of client, id, key, statuses (of HTTP).

    Left out are those that have expired, or do in the next minute, and those of which only the SHA-256 is known. C(older): whether the keys
    that are not the newest are V(valid), V(gone) or V(ignored).
    """
    kept, soon = _kept(keys), now() + datetime.timedelta(minutes=1)
    return [
        {"client": name, "id": key_id(entry), "key": entry["key"], "statuses": _REFUSED if number and older == "gone" else _ACCEPTED}
        for name in names
        for number, entry in enumerate(kept.get(name, [])[: 1 if older == "ignored" else None])
        if "key" in entry and not _is_over(entry, soon)
    ]


def newest_keys(keys: Any, names: Iterable[str]) -> Keys:
    """The keys as they are when the older ones of some clients are gone."""
    kept, asked = _kept(keys), set(names)
    return {name: entries[:1] if name in asked else entries for name, entries in kept.items()}
