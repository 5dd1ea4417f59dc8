"""When a certificate ends, against certificates of the library cryptography."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.gpufleet.ollama.plugins.module_utils import _der


def certificate(end: datetime.datetime) -> x509.Certificate:
    """A certificate that signs itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 60)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), end - datetime.timedelta(days=90), end)
    return builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{number}.example.org") for number in range(40)]), False).sign(key, hashes.SHA256())


@pytest.mark.parametrize("end", [
    datetime.datetime(2027, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc),
    # the first year of the other form
    datetime.datetime(2050, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.datetime(1999, 12, 31, tzinfo=datetime.timezone.utc),
])
def test_not_after(end: datetime.datetime) -> None:
    """Both forms of times, in DER and in PEM behind other texts."""
    made = certificate(end)
    assert _der.not_after(made.public_bytes(serialization.Encoding.DER)) == end.timestamp()
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    other = certificate(end + datetime.timedelta(days=1)).public_bytes(serialization.Encoding.PEM).decode()
    # of a chain the first is the server's own
    assert _der.pem_not_after(f"subject: somebody\n{pem}{other}") == end.timestamp()


def test_what_is_no_certificate() -> None:
    """One kind of error for everything that is none, and for one that was cut anywhere."""
    whole = certificate(datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)).public_bytes(serialization.Encoding.DER)
    for data in (b"", b"\x30", b"hello", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x02\x00", *(whole[:length] for length in range(0, len(whole), 7))):
        with pytest.raises(_der.DerError):
            _der.not_after(data)
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nnothing", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"):
        with pytest.raises(ValueError):
            _der.pem_not_after(text)
