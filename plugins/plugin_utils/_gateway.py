# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's part of the data model: who may call it, and by which names it is called.

No message holds a key or a password.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError, reach, url_host

_CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
# what stands in an HTTP header as one word (RFC 9110, 5.6.2 and 11.2)
_KEY = re.compile(r"[\x21-\x7e]{32,256}")
# printable ASCII: a browser and curl would send the rest in different encodings
_PASSWORD = re.compile(r"[\x20-\x7e]{16,256}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_RATE = re.compile(r"[1-9]\d{0,5}r/[sm]")
_SERVER_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def _entries(variable: str, raw: Any, fields: set[str]) -> list[dict[str, Any]]:
    """The items of a list of clients or users: names checked and unique, every field known and given."""
    result: list[dict[str, Any]] = []
    for number, item in enumerate(raw, start=1):
        if not isinstance(item, Mapping):
            raise ModelError(f"{variable}: entry {number} is no mapping: give {' and '.join(sorted(fields))}")
        name = item.get("name")
        if not isinstance(name, str) or not _CLIENT_NAME.fullmatch(name):
            raise ModelError(f"{variable}: entry {number} has the name {name!r}: give lower-case letters, digits, -, _ and ., at most 64")
        if set(item) - fields:
            unknown = ", ".join(sorted(map(str, set(item) - fields)))
            raise ModelError(f"{variable}: {name} has the unknown field {unknown}: known are {', '.join(sorted(fields))}")
        if fields - set(item):
            raise ModelError(f"{variable}: {name} has no {', '.join(sorted(fields - set(item)))}")
        if any(name == other["name"] for other in result):
            raise ModelError(f"{variable} has {name} twice: rename one, since logs and limits tell clients apart by name")
        result.append(dict(item))
    return result


def gateway_clients(raw: Iterable[Any]) -> list[dict[str, str]]:
    """C(ollama_gateway_clients), checked, with the SHA-256 of each key in place of the key, sorted by name.

    Returns dicts of name, sha256 (hex).
    """
    result = []
    holders: dict[str, str] = {}
    for client in _entries("ollama_gateway_clients", raw, {"name", "key"}):
        name, key = client["name"], client["key"]
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ModelError(
                f"ollama_gateway_clients: the key of {name} must have 32 to 256 printable characters and no blanks: "
                "make one with openssl rand -hex 32"
            )
        digest = hashlib.sha256(key.encode()).hexdigest()
        if digest in holders:
            raise ModelError(f"ollama_gateway_clients: {holders[digest]} and {name} have the same key: give each its own")
        holders[digest] = name
        result.append({"name": name, "sha256": digest})
    return sorted(result, key=lambda client: client["name"])


def gateway_users(raw: Iterable[Any], clients: Iterable[Mapping[str, Any]], host: str) -> list[dict[str, str]]:
    """C(ollama_gateway_users) of the gateway C(host), checked, sorted by name.

    Returns dicts of name, password, salt. The salt of sha512-crypt is derived from host and name, so that a second run
    makes the same hash; a salt need be unique, not secret.
    """
    result = []
    taken = {client.get("name") for client in clients if isinstance(client, Mapping)}
    for user in _entries("ollama_gateway_users", raw, {"name", "password"}):
        name, password = user["name"], user["password"]
        if not isinstance(password, str) or not _PASSWORD.fullmatch(password):
            raise ModelError(
                f"ollama_gateway_users: the password of {name} must have 16 to 256 printable ASCII characters: nginx checks it on every "
                "request, so its hash is a fast one and the strength is the password's own; make one with openssl rand -base64 18"
            )
        if name in taken:
            raise ModelError(f"{name} is both in ollama_gateway_users and in ollama_gateway_clients: rename one, since the log names both alike")
        salt = hashlib.sha256(f"{host}:{name}".encode()).hexdigest()[:16]
        result.append({"name": name, "password": password, "salt": salt})
    return sorted(result, key=lambda user: user["name"])


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


def gateway_rate(rate: Any) -> str:
    """A request rate, as nginx takes it."""
    if not isinstance(rate, str) or not _RATE.fullmatch(rate):
        raise ModelError(f"ollama_gateway_rate is {rate!r}: give requests per second or minute, such as 10r/s or 30r/m")
    return rate
