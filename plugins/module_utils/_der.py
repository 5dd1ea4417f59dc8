# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""When a certificate ends. The standard library tells it only of one that it verified, and hosts have no other library for certain."""

from __future__ import annotations

import datetime
import ssl

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


class DerError(ValueError):
    """The bytes are no certificate."""


def _element(data: bytes, place: int) -> tuple[int, int, int]:
    """Tag, and where the content of the element at a place begins and ends (X.690, 8.1)."""
    try:
        tag, length, begin = data[place], data[place + 1], place + 2
        if length & 0x80:
            count = length & 0x7F
            length, begin = int.from_bytes(data[begin:begin + count], "big"), begin + count
    except IndexError:
        raise DerError("the certificate is cut off") from None
    if begin + length > len(data):
        raise DerError("the certificate is cut off")
    return tag, begin, begin + length


def not_after(data: bytes) -> float:
    """Seconds since 1970 at which a certificate in DER form ends (RFC 5280, 4.1). DerError when it is none."""
    tag, begin, _end = _element(data, 0)
    inner, place, _end = _element(data, begin)
    if tag != _SEQUENCE or inner != _SEQUENCE:
        raise DerError("this is no certificate")
    if _element(data, place)[0] == _VERSION:
        place = _element(data, place)[2]
    # serial number, signature algorithm, issuer
    for _unused in range(3):
        place = _element(data, place)[2]
    _tag, begin, _end = _element(data, place)
    tag, begin, end = _element(data, _element(data, begin)[2])
    text = data[begin:end].decode("ascii", "replace")
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits mean 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise DerError("this is no certificate")
    try:
        return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.timezone.utc).timestamp()
    except ValueError:
        raise DerError("the certificate has no time that can be read") from None


def pem_not_after(text: str) -> float:
    """The same for the first certificate in a PEM file."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise DerError("there is no certificate in the file")
    return not_after(ssl.PEM_cert_to_DER_cert(begin + text.partition(begin)[2].partition(end)[0] + end))
