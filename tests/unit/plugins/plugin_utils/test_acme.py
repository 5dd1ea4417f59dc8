# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which names a certificate of an ACME authority has, and what is read from certbot when there is none."""

from __future__ import annotations

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _acme
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._gateway import gateway_server_names
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

STANDALONE = ["--standalone"]
# as certbot 2.1 and 4.0 print it
CHALLENGE = """
Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for a.example and b.example

Certbot failed to authenticate some domains (authenticator: standalone). The Certificate Authority reported these problems:
  Domain: a.example
  Type:   connection
  Detail: 192.0.2.7: Fetching http://a.example/.well-known/acme-challenge/x: Connection refused

  Domain: b.example
  Type:   dns
  Detail: no such host

Hint: The Certificate Authority failed to download the challenge files from the temporary standalone webserver started by Certbot on port 80. \
Ensure that the listed domains point to this machine and that it can accept inbound connections from the internet.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile /var/log/letsencrypt/letsencrypt.log or re-run Certbot with \
-v for more details.
"""
DOWN = """
Saving debug log to /var/log/letsencrypt/letsencrypt.log
An unexpected error occurred:
ValueError: Requesting ca.example/dir: Connection refused
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile /var/log/letsencrypt/letsencrypt.log or re-run Certbot with \
-v for more details.
"""
USAGE = """
usage:
  certbot [SUBCOMMAND] [options] [-d DOMAIN] [-d DOMAIN] ...

Certbot can obtain and install HTTPS/TLS/SSL certificates.  By default,
it will attempt to use a webserver both for obtaining and installing the
certificate.
certbot: error: unrecognized arguments: --bogus
"""


def names(given: list[str], arguments: list[str], **hostvars: str) -> list[str]:
    """The names of the gateway gw1.example."""
    return _acme.acme_names(gateway_server_names(given, "gw1.example", hostvars), given, arguments)


def test_a_certificate_has_the_names_of_the_gateway_and_not_localhost() -> None:
    assert names(["llm.example", "LLM2.example"], STANDALONE) == ["llm.example", "llm2.example"]
    assert names([], STANDALONE) == ["gw1.example"]


def test_an_address_is_left_out_unless_it_was_given() -> None:
    assert names([], STANDALONE, ansible_host="192.0.2.7") == ["gw1.example"]
    with pytest.raises(ModelError, match=r"has 192\.0\.2\.7, ::1, and certbot gets no certificates for IP addresses"):
        names(["llm.example", "192.0.2.7", "::1"], STANDALONE)


def test_a_gateway_needs_a_name() -> None:
    with pytest.raises(ModelError, match="no name that an ACME authority could certify"):
        names(["localhost"], STANDALONE)


@pytest.mark.parametrize("arguments", [STANDALONE, ["--webroot", "-w", "/var/www/html"], ["-a", "webroot"], ["--authenticator=standalone"]])
def test_a_wildcard_cannot_be_proved_over_http(arguments: list[str]) -> None:
    with pytest.raises(ModelError, match=r"has \*\.llm\.example, and a wildcard is certified over DNS only"):
        names(["llm.example", "*.llm.example"], arguments)


def test_a_wildcard_can_be_proved_over_dns() -> None:
    assert names(["*.llm.example"], ["--dns-rfc2136"]) == ["*.llm.example"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (CHALLENGE, "a.example: 192.0.2.7: Fetching http://a.example/.well-known/acme-challenge/x: Connection refused; b.example: no such host"),
        (DOWN, "ValueError: Requesting ca.example/dir: Connection refused"),
        (USAGE, "certbot: error: unrecognized arguments: --bogus"),
        ("The requested dns-x plugin does not appear to be installed\nAsk for help", "The requested dns-x plugin does not appear to be installed"),
        ("Saving debug log to x\n- - - -\n", "certbot does not say why"),
        ("", "certbot does not say why"),
    ],
)
def test_the_reason_is_one_line(output: str, reason: str) -> None:
    assert _acme.acme_reason(output.splitlines()) == reason


def test_a_long_reason_is_cut() -> None:
    assert len(_acme.acme_reason(["word " * 200])) == 400
