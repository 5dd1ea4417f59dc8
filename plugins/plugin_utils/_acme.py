# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Certificates of an ACME authority, as certbot gets them: which names they have, and why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

# the ways of certbot that answer by HTTP-01, which proves no wildcard (RFC 8555, 8.3)
_HTTP = re.compile(r"(?:--(?:authenticator|configurator)[= ])?(?:--)?(?:standalone|webroot)")
# what certbot says whatever happened
_NOISE = re.compile(r"Saving debug log|Ask for help|Requesting a certificate|Renewing an existing|Account registered|Some challenges have failed|Hint:|[-\s]*$")
_REASON_MAX = 400


def acme_names(names: Iterable[Mapping[str, Any]], given: Iterable[Any], arguments: Iterable[Any]) -> list[str]:
    """The names that the certificate of a gateway gets.

    Args: C(names), as C(gateway_server_names) returns them, what was C(given) for them, and the C(arguments) of certbot.
    V(localhost) is left out, and so is the address of a host for which no names were given.
    """
    names = list(names)
    addresses = [name["name"] for name in names if name["address"]]
    if addresses and list(given):
        raise ModelError(
            f"ollama_gateway_server_names has {', '.join(addresses)}, and certbot gets no certificates for IP addresses: give host names only, "
            "or leave ollama_gateway_acme_enabled off"
        )
    result = [name["name"] for name in names if not name["address"] and name["name"] != "localhost"]
    if not result:
        raise ModelError("the gateway has no name that an ACME authority could certify: set ollama_gateway_server_names")
    wildcards = [name for name in result if name.startswith("*.")]
    if wildcards and any(_HTTP.fullmatch(str(argument)) for argument in arguments):
        raise ModelError(
            f"ollama_gateway_server_names has {', '.join(wildcards)}, and a wildcard is certified over DNS only: set ollama_gateway_acme_arguments "
            "to those of a DNS plugin of certbot, or give each name"
        )
    return result


def acme_reason(lines: Iterable[str]) -> str:
    """Why certbot got no certificate: the authority's own words when it gave any, in one line, taken from all lines that certbot printed."""
    domain, problems, others = "", [], []
    for line in map(str.strip, lines):
        if line.startswith("Domain:"):
            domain = line.removeprefix("Domain:").strip()
        elif line.startswith("Detail:"):
            problems.append(f"{domain}: {line.removeprefix('Detail:').strip()}")
        elif not _NOISE.match(line) and not line.endswith(":"):
            others.append(line)
    # the last line is the cause: above it stands what was tried
    reason = "; ".join(problems) or (others[-1] if others else "certbot does not say why")
    return reason if len(reason) <= _REASON_MAX else f"{reason[: _REASON_MAX - 1]}…"
