# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A small certificate authority in a directory of the controller, and the certificates of servers and clients that it issues.

Layout: C(ca.key), C(ca.crt), and C(<name>.key), C(<name>.crt) of each server or client. Keys are EC P-256, mode 0600, in a
directory of mode 0700. An authority that was put there by hand may have another EC key, or an RSA key.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
import re
import tempfile
from typing import Any, Iterator, NamedTuple

# ansible-core depends on cryptography, so a controller has it; the import waits for main(), which says so when it is missing
try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    CRYPTOGRAPHY_ERROR = None
except ImportError as error:
    CRYPTOGRAPHY_ERROR = error

CA_DAYS = 3650
# clients may have clocks that are behind
BACKDATE = datetime.timedelta(hours=1)
# what a certificate is for: a server's is of no use to who wants to pass for a client, and the other way round
USAGES = ("server", "client")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


class CertificateError(Exception):
    """The certificate cannot be made; the text is for the user."""


class Issued(NamedTuple):
    """A certificate with its key."""

    certificate: Any
    key: Any


def now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def not_after(certificate: Any) -> datetime.datetime:
    """When a certificate ends (cryptography before 42 has the naive form only)."""
    value = getattr(certificate, "not_valid_after_utc", None)
    return value if value is not None else certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def fingerprint(certificate: Any) -> str:
    """SHA-256 of a certificate, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def names_of(certificate: Any) -> list[str]:
    """The subject alternative names of a certificate, as text, in order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def usage_of(certificate: Any) -> str:
    """What a certificate is for, one of USAGES; empty when it is for something else, or for both."""
    try:
        found = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ""
    return next((usage for usage in USAGES if found == [_purpose(usage)]), "")


def _purpose(usage: str) -> Any:
    return {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}[usage]


def _general_name(name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise CertificateError(f"{name!r} cannot stand in a certificate: give a host name in ASCII, or an IP address") from None


def _public_bytes(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _build(subject: str, issuer: Any, public_key: Any, days: int, end: datetime.datetime | None) -> Any:
    """What the CA's own and all other certificates have in common."""
    after = now() + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        # a common name holds 64 characters at most (RFC 5280, ub-common-name); clients look at the alternative names only
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - BACKDATE)
        .not_valid_after(min(after, end) if end else after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(ca: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_ca() -> Issued:
    """A new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    # the name holds a part of the key's digest, so that two authorities are told apart
    tag = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    subject = f"gpufleet CA {tag}"
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        _build(subject, issuer, key.public_key(), CA_DAYS, None)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
    )
    return Issued(builder.sign(key, hashes.SHA256()), key)


def _authority_key_identifier(ca: Issued) -> Any:
    # an authority of another make may name its key by something else than the SHA-1 of it
    try:
        identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def make_leaf(ca: Issued, names: list[str], days: int, usage: str) -> Issued:
    """A new certificate of a server or a client with a new key; it does not outlive its authority. The first name is its subject, too."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _build(names[0], ca.certificate.subject, key.public_key(), days, not_after(ca.certificate))
        .add_extension(_authority_key_identifier(ca), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_purpose(usage)]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    )
    return Issued(builder.sign(ca.key, hashes.SHA256()), key)


class Directory:
    """The directory of an authority. With O(check) nothing is written, not even the lock."""

    def __init__(self, path: str, check: bool) -> None:
        self.path = path
        self.check = check

    def file(self, name: str) -> str:
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time: the play runs for several gateways at once."""
        if self.check:
            yield
            return
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        with open(self.file(".lock"), "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self, name: str) -> Issued | None:
        """A certificate and its key, or None when either is not there or they do not belong together."""
        try:
            with open(self.file(f"{name}.crt"), "rb") as file:
                certificate = x509.load_pem_x509_certificate(file.read())
            with open(self.file(f"{name}.key"), "rb") as file:
                key = serialization.load_pem_private_key(file.read(), password=None)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise CertificateError(
                f"{self.file(name)}.crt or .key is no certificate or no key in PEM form, or the key has a password: restore or remove both"
            ) from None
        if _public_bytes(certificate.public_key()) != _public_bytes(key.public_key()):
            return None
        return Issued(certificate, key)

    def write(self, name: str, issued: Issued) -> None:
        """Write a key, then its certificate; each appears whole or not at all."""
        if self.check:
            return
        pem = serialization.Encoding.PEM
        key = issued.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for file, content, mode in ((f"{name}.key", key, 0o600), (f"{name}.crt", issued.certificate.public_bytes(pem), 0o644)):
            # mkstemp makes it 0600
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{file}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    os.fchmod(stream.fileno(), mode)
                os.replace(temporary, self.file(file))
            except BaseException:
                os.unlink(temporary)
                raise

    def close_key(self, name: str) -> bool:
        """Take the key of a certificate away from other users. True when they had access."""
        path = self.file(f"{name}.key")
        if not os.stat(path).st_mode & 0o077:
            return False
        if not self.check:
            os.chmod(path, 0o600)
        return True


def why_renew(old: Issued | None, ca: Issued, names: list[str], renew_days: int, usage: str) -> str:
    """Why a certificate must be made anew; empty when it need not."""
    if old is None:
        return "there is none"
    certificate = old.certificate
    if certificate.issuer != ca.certificate.subject or not _is_signed_by(certificate, ca):
        return "the authority is another one"
    if sorted(names_of(certificate)) != sorted(names):
        return "the names changed"
    if usage_of(certificate) != usage:
        return f"it is not one of a {usage}"
    left = not_after(certificate) - now()
    # one that ends with its authority could be renewed every day and live no longer
    if left < datetime.timedelta(days=renew_days) and not_after(certificate) < not_after(ca.certificate):
        return f"it ends in {max(left.days, 0)} days"
    return ""


def _is_signed_by(certificate: Any, ca: Issued) -> bool:
    # not verify_directly_issued_by: cryptography has it since 40 only, and Debian 12 has 38
    key, algorithm = ca.key.public_key(), certificate.signature_hash_algorithm
    if algorithm is None:
        # an Ed25519 key signed it
        return False
    how = [padding.PKCS1v15(), algorithm] if isinstance(key, rsa.RSAPublicKey) else [ec.ECDSA(algorithm)]
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, *how)
    except InvalidSignature:
        return False
    return True


def ensure(path: str, name: str, names: list[str], days: int, renew_days: int, check: bool, usage: str = "server") -> dict[str, Any]:
    """Make the authority and the certificate C(name) of a server or a client where they are missing or must be made anew.

    Returns changed, reason, before and after (each names, not_after, fingerprint; None or unknown values where there is
    none), and the paths ca_path, certificate_path, key_path.
    """
    if not _FILE_NAME.fullmatch(name) or name == "ca":
        raise CertificateError(f"{name!r} cannot name the files of a certificate: give letters, digits, -, _ and ., and not ca")
    names = list(dict.fromkeys(str(_general_name(item).value) for item in names))
    if not names:
        raise CertificateError("a certificate needs at least one name")
    directory = Directory(path, check)
    with directory.locked():
        ca, made_ca = _authority(directory)
        old = directory.read(name)
        reason = why_renew(old, ca, names, renew_days, usage)
        new = make_leaf(ca, names, days, usage) if reason or old is None else old
        if reason:
            directory.write(name, new)
        closed = [directory.close_key(key) for key in ("ca", name) if os.path.exists(directory.file(f"{key}.key"))]
    return {
        "changed": bool(reason) or made_ca or any(closed),
        "reason": reason,
        "before": _describe(old),
        # in check mode the new one is not kept, so its fingerprint says nothing
        "after": _describe(new, fingerprint_known=not (reason and check)),
        "ca_path": directory.file("ca.crt"),
        "certificate_path": directory.file(f"{name}.crt"),
        "key_path": directory.file(f"{name}.key"),
    }


def _authority(directory: Directory) -> tuple[Issued, bool]:
    """The authority of a directory, and whether it was made just now."""
    present = [file for file in ("ca.key", "ca.crt") if os.path.exists(directory.file(file))]
    if not present:
        ca = make_ca()
        directory.write("ca", ca)
        return ca, True
    ca = directory.read("ca")
    if ca is None:
        raise CertificateError(
            f"{directory.path} has no matching pair of ca.key and ca.crt: restore the missing one, or remove both and give every user the new ca.crt"
        )
    if not isinstance(ca.key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise CertificateError(f"{directory.file('ca.key')} is neither an EC nor an RSA key: give an authority with one of them")
    if not_after(ca.certificate) <= now():
        raise CertificateError(f"{directory.file('ca.crt')} has expired: remove ca.crt and ca.key, and give every user the new ca.crt")
    return ca, False


def _describe(issued: Issued | None, fingerprint_known: bool = True) -> dict[str, Any] | None:
    if issued is None:
        return None
    return {
        "names": names_of(issued.certificate),
        "not_after": not_after(issued.certificate).strftime("%Y-%m-%d"),
        "fingerprint": fingerprint(issued.certificate) if fingerprint_known else "",
    }
