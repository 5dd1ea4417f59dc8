# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's part of the data model: who may call it, and by which names it is called.

No message holds a key or a password.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError, reach, url_host

CLASSES = ("chat", "embed", "read", "admin")
DEFAULT_CLASSES = CLASSES[:3]
# the fields of a client, a user or those who come through the OAuth2 proxy that say what they may do
POLICY = ("classes", "models", "rate", "burst", "concurrency", "max_predict", "max_context", "tokens_per_minute", "tokens_per_day")
OAUTH2_NAME = "oauth2"

_CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
# what stands in an HTTP header as one word (RFC 9110, 5.6.2 and 11.2)
_KEY = re.compile(r"[\x21-\x7e]{32,256}")
# printable ASCII: a browser and curl would send the rest in different encodings
_PASSWORD = re.compile(r"[\x20-\x7e]{16,256}")
# what may stand in a model's name, and * for any text
_PATTERN = re.compile(r"[A-Za-z0-9_.:/*-]{1,512}")
# of RFC 2253, as nginx writes it
_SUBJECT = re.compile(r"[\x20-\x7e]{3,512}")
_PROXY_URL = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?|https?://\[[0-9A-Fa-f:]+\](:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_RATE = re.compile(r"[1-9]\d{0,5}r/[sm]")
_SERVER_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def _entries(variable: str, raw: Any, required: set[str], optional: set[str]) -> list[dict[str, Any]]:
    """The items of a list of clients or users: names checked and unique, every field known, the required ones given."""
    result: list[dict[str, Any]] = []
    known = sorted({*required, *optional})
    for number, item in enumerate(raw, start=1):
        if not isinstance(item, Mapping):
            raise ModelError(f"{variable}: entry {number} is no mapping: give {' and '.join(sorted(required))}")
        name = item.get("name")
        if not isinstance(name, str) or not _CLIENT_NAME.fullmatch(name):
            raise ModelError(f"{variable}: entry {number} has the name {name!r}: give lower-case letters, digits, -, _ and ., at most 64")
        if set(item) - set(known):
            unknown = ", ".join(sorted(map(str, set(item) - set(known))))
            raise ModelError(f"{variable}: {name} has the unknown field {unknown}: known are {', '.join(known)}")
        # a field that the role's argument_specs completed is none that was given
        given = {field: value for field, value in item.items() if value is not None}
        if required - set(given):
            raise ModelError(f"{variable}: {name} has no {', '.join(sorted(required - set(given)))}")
        if any(name == other["name"] for other in result):
            raise ModelError(f"{variable} has {name} twice: rename one, since logs and limits tell clients apart by name")
        if name == OAUTH2_NAME:
            raise ModelError(f"{variable} has {name}, which is what logs and metrics call those who came through the OAuth2 proxy: rename it")
        result.append(given)
    return result


def _count(where: str, value: Any) -> int:
    """A whole number that is not negative; one that comes from the command line is text."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,12}", str(value)):
        raise ModelError(f"{where} is {value!r}: give a whole number, or 0 for no limit")
    return int(str(value))


def gateway_policy(where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a client may do, checked and completed.

    Args: how to name it in a message, the fields of an entry, and the C(defaults): rate, burst, concurrency.
    Returns classes, models (patterns), rate, burst, zone (the name of the rate limit that counts it), and the counts concurrency, max_predict,
    max_context, tokens_per_minute, tokens_per_day, where 0 means no limit.
    """
    classes, patterns = given.get("classes", DEFAULT_CLASSES), given.get("models", [])
    if not isinstance(classes, (list, tuple)) or not classes or not set(classes) <= set(CLASSES):
        raise ModelError(f"{where}: classes is {classes!r}: give a list of some of {', '.join(CLASSES)}")
    if not isinstance(patterns, (list, tuple)):
        raise ModelError(f"{where}: models is {patterns!r}: give a list of names, in which * stands for any text")
    for pattern in patterns:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise ModelError(f"{where}: models has {pattern!r}: give names of models, in which * stands for any text")
    rate = gateway_rate(given.get("rate", defaults["rate"]), f"{where}: rate")
    burst = _count(f"{where}: burst", given.get("burst", defaults["burst"]))
    return {
        "classes": sorted(set(classes), key=CLASSES.index),
        "models": sorted(set(patterns)),
        "rate": rate,
        "burst": burst,
        "zone": f"{rate.replace('/', '')}_{burst}",
        "concurrency": _count(f"{where}: concurrency", given.get("concurrency", defaults["concurrency"])),
        **{field: _count(f"{where}: {field}", given.get(field, 0)) for field in ("max_predict", "max_context", "tokens_per_minute", "tokens_per_day")},
    }


def gateway_zones(policies: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rate limits that nginx keeps, one for each rate and burst that some client has. The first is the default's, which strangers have.

    Returns dicts of zone, rate, burst.
    """
    used = [gateway_policy("ollama_gateway_rate", {}, defaults), *policies]
    return list({policy["zone"]: {key: policy[key] for key in ("zone", "rate", "burst")} for policy in used}.values())


def _expiry(where: str, value: Any) -> int:
    """Seconds since 1970 of a date or a time in UTC; 0 when there is none. YAML makes dates of what looks like one."""
    if value in (None, ""):
        return 0
    try:
        when = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(re.sub(r"Z$", "+00:00", str(value)))
    except ValueError:
        raise ModelError(f"{where}: expires is {value!r}: give a date such as 2027-01-31, or a time in UTC such as 2027-01-31T12:00:00Z") from None
    return int((when if when.tzinfo else when.replace(tzinfo=datetime.timezone.utc)).timestamp())


def _key_sha256(where: str, key: Any) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ModelError(f"{where} must have 32 to 256 printable characters and no blanks: make one with openssl rand -hex 32")
    return hashlib.sha256(key.encode()).hexdigest()


def _keys(client: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The keys of a client, those for rotation too."""
    where = f"ollama_gateway_clients: the key of {client['name']}"
    result = [{"sha256": _key_sha256(where, client["key"]), "expires": 0}] if "key" in client else []
    several = client.get("keys", [])
    if not isinstance(several, (list, tuple)) or not all(isinstance(item, Mapping) for item in several):
        raise ModelError(f"ollama_gateway_clients: keys of {client['name']} is no list of mappings: give key or sha256, and expires where it ends")
    for item in several:
        if set(item) - {"key", "sha256", "expires", "made"} or (item.get("key") is None) == (item.get("sha256") is None):
            raise ModelError(f"ollama_gateway_clients: an entry in keys of {client['name']} must have either key or sha256, and may have expires and made")
        digest = item.get("sha256")
        if digest is None:
            digest = _key_sha256(where, item["key"])
        elif not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ModelError(f"ollama_gateway_clients: a sha256 of {client['name']} is not 64 hexadecimal digits in lower case")
        result.append({"sha256": digest, "expires": _expiry(where, item.get("expires"))})
    return result


def gateway_clients(raw: Iterable[Any], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """C(ollama_gateway_clients), checked, with the SHA-256 of each key in place of the key, sorted by name.

    Args: what the inventory says, and the C(defaults) of C(gateway_policy).
    Returns dicts of name, keys (sha256 in hex, expires in seconds since 1970 or 0), certificate (a subject, or empty) and the policy.
    """
    result = []
    holders: dict[str, str] = {}
    for client in _entries("ollama_gateway_clients", raw, {"name"}, {"key", "keys", "certificate", *POLICY}):
        name, certificate = client["name"], client.get("certificate", "")
        keys = _keys(client)
        if not keys and not certificate:
            raise ModelError(f"ollama_gateway_clients: {name} has no key: give key, keys or certificate")
        if not isinstance(certificate, str) or certificate and not _SUBJECT.fullmatch(certificate):
            raise ModelError(f"ollama_gateway_clients: certificate of {name} is {certificate!r}: give the subject, such as CN=team-a,O=Example")
        for proof in (*(key["sha256"] for key in keys), *([certificate] if certificate else [])):
            if proof in holders:
                if holders[proof] == name:
                    raise ModelError(f"ollama_gateway_clients: {name} has the same key twice: take one out")
                what = "certificate" if proof == certificate else "key"
                raise ModelError(f"ollama_gateway_clients: {holders[proof]} and {name} have the same {what}: give each its own")
            holders[proof] = name
        result.append({"name": name, "keys": keys, "certificate": certificate, **gateway_policy(f"ollama_gateway_clients: {name}", client, defaults)})
    return sorted(result, key=lambda client: client["name"])


def gateway_users(raw: Iterable[Any], clients: Iterable[Mapping[str, Any]], host: str, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """C(ollama_gateway_users) of the gateway C(host), checked, sorted by name.

    Returns dicts of name, password, salt and the policy. The salt of sha512-crypt is derived from host and name, so that a second run
    makes the same hash; a salt need be unique, not secret.
    """
    result = []
    taken = {client.get("name") for client in clients if isinstance(client, Mapping)}
    for user in _entries("ollama_gateway_users", raw, {"name", "password"}, set(POLICY)):
        name, password = user["name"], user["password"]
        if not isinstance(password, str) or not _PASSWORD.fullmatch(password):
            raise ModelError(
                f"ollama_gateway_users: the password of {name} must have 16 to 256 printable ASCII characters: nginx does nothing else while "
                "it checks it, so its hash is a fast one and the strength is the password's own; make one with openssl rand -base64 18"
            )
        if name in taken:
            raise ModelError(f"{name} is both in ollama_gateway_users and in ollama_gateway_clients: rename one, since the log names both alike")
        salt = hashlib.sha256(f"{host}:{name}".encode()).hexdigest()[:16]
        result.append({"name": name, "password": password, "salt": salt, **gateway_policy(f"ollama_gateway_users: {name}", user, defaults)})
    return sorted(result, key=lambda user: user["name"])


def gateway_oauth2(url: Any, policy: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Who comes through the OAuth2 proxy: nobody without its C(url). Returns the policy with its name."""
    if not url:
        return None
    if not isinstance(url, str) or not _PROXY_URL.fullmatch(url):
        raise ModelError(f"ollama_gateway_oauth2_url is {url!r}: give where the proxy answers, such as http://127.0.0.1:4180/oauth2/auth")
    if set(policy) - set(POLICY):
        raise ModelError(f"ollama_gateway_oauth2_policy has the unknown field {', '.join(sorted(set(policy) - set(POLICY)))}: known are {', '.join(POLICY)}")
    given = {field: value for field, value in policy.items() if value is not None}
    return {"name": OAUTH2_NAME, **gateway_policy("ollama_gateway_oauth2_policy", given, defaults)}


def gateway_server_names(raw: Iterable[Any], host: str, hostvars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The names that the gateway C(host) answers to; without any given, its inventory name and the name it is reached by.

    V(localhost) is always one, since the role itself asks the gateway there.
    Returns dicts of name, server_name (as nginx takes it), address (true when it is an IP address).
    """
    names = [str(name).lower() for name in raw] or [host.lower(), str(reach(host, hostvars)).lower()]
    result = []
    for name in dict.fromkeys([*names, "localhost"]):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            if not _SERVER_NAME.fullmatch(name) or len(name) > 253:
                raise ModelError(f"ollama_gateway_server_names has {name!r}: give host names or IP addresses") from None
            result.append({"name": name, "server_name": name, "address": False})
        else:
            result.append({"name": str(address), "server_name": url_host(str(address)), "address": True})
    return result


def _port(value: Any) -> int:
    # a number that comes from the command line is text
    text = str(value)
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ModelError(f"ollama_gateway_port is {value!r}: give a number from 1 to 65535")
    return int(text)


def _conflicts(text: str, port: int) -> tuple[str, str]:
    """On Linux, listening on an address and on every address of its family exclude each other.

    Returns two patterns: of the open sockets, as ss(8) writes them, and of the lines of nginx's configuration that keep nginx
    from listening on the address C(text). (nginx itself merges a line for one address into one for every address.)
    """
    address = ipaddress.ip_address(text)
    everywhere = r"\[::\]" if address.version == 6 else r"0\.0\.0\.0"
    if address.is_unspecified:
        family = r"\[.*\]" if address.version == 6 else r"[0-9.]+"
        return f"^(?!{everywhere}:){family}:{port}$", "(?!)"
    prefix = f"{everywhere}:" if address.version == 6 else rf"(\*:|{everywhere}:)?"
    return f"^{everywhere}:{port}$", rf"(^|[\n{{}};])\s*listen\s+{prefix}{port}[\s;]"


def gateway_listeners(addresses: Iterable[Any], port: Any) -> list[dict[str, Any]]:
    """The sockets that the gateway listens on; loopback is always one, since the role itself asks the gateway there.

    An address is left out when every address of its family is listened on.
    Returns dicts of socket (C(address:port) as nginx takes it), open_conflict and config_conflict (patterns of the open sockets,
    and of the lines of nginx's configuration, that exclude it), check (a listener of the module ollama_port_check).
    """
    port = _port(port)
    texts = []
    for text in addresses:
        try:
            texts.append(str(ipaddress.ip_address(text)))
        except ValueError:
            raise ModelError(f"ollama_gateway_listen_addresses has {text!r}: give IP addresses of the host") from None
    texts.append("127.0.0.1")
    result = []
    for text in dict.fromkeys(texts):
        everywhere = "::" if ":" in text else "0.0.0.0"
        if text != everywhere and everywhere in texts:
            continue
        open_conflict, config_conflict = _conflicts(text, port)
        result.append({
            "socket": f"{url_host(text)}:{port}",
            "open_conflict": open_conflict,
            "config_conflict": config_conflict,
            "check": {"address": text, "port": port, "unit": "nginx.service", "option": "ollama_gateway_port"},
        })
    return result


def gateway_rate(rate: Any, where: str = "ollama_gateway_rate") -> str:
    """A request rate, as nginx takes it."""
    if not isinstance(rate, str) or not _RATE.fullmatch(rate):
        raise ModelError(f"{where} is {rate!r}: give requests per second or minute, such as 10r/s or 30r/m")
    return rate
