# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The certificate authority of the controller: real files, real certificates."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from ansible_collections.gpufleet.ollama.plugins.module_utils import _certificate
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_certificate

NAMES = ["gw1", "llm.example.org", "10.0.0.5", "fd00::5"]


def ensure(directory: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """Run the decision with defaults."""
    options = {"name": "gw1", "names": NAMES, "days": 365, "renew_days": 30, "check": False, **changes}
    return _certificate.ensure(str(directory / "ca"), **options)


def read(path: str) -> x509.Certificate:
    """A certificate from a file."""
    return x509.load_pem_x509_certificate(pathlib.Path(path).read_bytes())


def mode(path: str) -> int:
    """Permission bits."""
    return os.stat(path).st_mode & 0o777


def content(directory: pathlib.Path) -> dict[str, bytes]:
    """All files of the authority."""
    return {path.name: path.read_bytes() for path in (directory / "ca").iterdir()}


def test_openssl_accepts_the_certificate_for_its_names_as_a_server(tmp_path: pathlib.Path) -> None:
    result = ensure(tmp_path)
    assert result["changed"] and result["reason"] == "there is none" and result["before"] is None
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", result["ca_path"]]
    for check in (["-verify_hostname", "llm.example.org"], ["-verify_ip", "10.0.0.5"], ["-verify_ip", "fd00::5"]):
        subprocess.run([*verify, *check, result["certificate_path"]], check=True, capture_output=True)
    wrong = subprocess.run([*verify, "-verify_hostname", "other.example.org", result["certificate_path"]], check=False, capture_output=True)
    assert wrong.returncode != 0


def test_a_clients_certificate_is_none_of_a_server(tmp_path: pathlib.Path) -> None:
    """And the other way round; the first name is the subject, by which a server knows the client."""
    found = {usage: ensure(tmp_path, name=usage, names=["gpu1.example.org"], usage=usage) for usage in ("server", "client")}
    for usage, result in found.items():
        for purpose, wanted in (("sslserver", usage == "server"), ("sslclient", usage == "client")):
            verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", result["ca_path"], result["certificate_path"]]
            assert (subprocess.run(verify, check=False, capture_output=True).returncode == 0) is wanted, (usage, purpose)
    assert read(found["client"]["certificate_path"]).subject.rfc4514_string() == "CN=gpu1.example.org"


def test_renewal_when_the_use_changed(tmp_path: pathlib.Path) -> None:
    """Once: the new one is kept."""
    ensure(tmp_path)
    assert ensure(tmp_path, usage="client")["reason"] == "it is not one of a client"
    assert not ensure(tmp_path, usage="client")["changed"]


def test_the_leaf_is_signed_by_the_authority_and_is_none_itself(tmp_path: pathlib.Path) -> None:
    result = ensure(tmp_path)
    leaf, ca = read(result["certificate_path"]), read(result["ca_path"])
    ca.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm))
    assert leaf.issuer == ca.subject
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 363 < (_certificate.not_after(leaf) - _certificate.now()).days <= 365
    assert result["after"]["fingerprint"] == _certificate.fingerprint(leaf)


def test_keys_and_directory_are_closed(tmp_path: pathlib.Path) -> None:
    result = ensure(tmp_path)
    assert mode(str(tmp_path / "ca")) == 0o700
    assert mode(result["key_path"]) == mode(str(tmp_path / "ca" / "ca.key")) == 0o600
    os.chmod(result["key_path"], 0o644)
    assert ensure(tmp_path, check=True)["changed"] and mode(result["key_path"]) == 0o644
    assert ensure(tmp_path)["changed"] and mode(result["key_path"]) == 0o600
    assert not ensure(tmp_path)["changed"]


def test_a_second_run_changes_nothing(tmp_path: pathlib.Path) -> None:
    ensure(tmp_path)
    before = content(tmp_path)
    again = ensure(tmp_path, names=list(reversed(NAMES)))
    assert not again["changed"] and again["reason"] == ""
    assert content(tmp_path) == before


def test_an_address_may_be_written_in_another_way(tmp_path: pathlib.Path) -> None:
    ensure(tmp_path)
    assert not ensure(tmp_path, names=["gw1", "llm.example.org", "10.0.0.5", "FD00:0:0::0005"])["changed"]


def test_check_mode_foresees_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    result = ensure(tmp_path, check=True)
    assert result["changed"] and result["after"]["names"] == NAMES and result["after"]["fingerprint"] == ""
    assert not (tmp_path / "ca").exists()
    made = ensure(tmp_path)
    before = content(tmp_path)
    assert ensure(tmp_path, check=True)["after"]["fingerprint"] == made["after"]["fingerprint"]
    assert ensure(tmp_path, check=True, names=["other"])["changed"]
    assert content(tmp_path) == before


def test_renewal_in_the_last_days(tmp_path: pathlib.Path) -> None:
    ensure(tmp_path, days=31)
    assert not ensure(tmp_path)["changed"]
    ensure(tmp_path, days=29, names=["gw1"])
    result = ensure(tmp_path, names=["gw1"])
    assert result["reason"] == "it ends in 28 days"
    assert result["before"]["fingerprint"] != result["after"]["fingerprint"]


def test_renewal_when_names_authority_or_key_changed(tmp_path: pathlib.Path) -> None:
    first = ensure(tmp_path)
    assert ensure(tmp_path, names=["gw1"])["reason"] == "the names changed"
    for file in ("ca.key", "ca.crt"):
        (tmp_path / "ca" / file).unlink()
    assert ensure(tmp_path, names=["gw1"])["reason"] == "the authority is another one"
    pathlib.Path(first["key_path"]).write_bytes((tmp_path / "ca" / "ca.key").read_bytes())
    assert ensure(tmp_path, names=["gw1"])["reason"] == "there is none"
    assert not ensure(tmp_path, names=["gw1"])["changed"]


def test_a_leaf_does_not_outlive_its_authority_nor_is_renewed_every_day(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_certificate, "CA_DAYS", 20)
    result = ensure(tmp_path)
    assert _certificate.not_after(read(result["certificate_path"])) == _certificate.not_after(read(result["ca_path"]))
    assert not ensure(tmp_path)["changed"]


def put_authority(directory: pathlib.Path, key: Any, algorithm: Any) -> None:
    """An authority of an operator, whose key identifier is not the SHA-1 of its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example CA")])
    now = _certificate.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectKeyIdentifier(b"12345678"), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .sign(key, algorithm)
    )
    (directory / "ca").mkdir(mode=0o700, exist_ok=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "ca" / "ca.key").write_bytes(private)
    (directory / "ca" / "ca.crt").write_bytes(certificate.public_bytes(pem))


def test_an_operators_own_authority_may_have_an_rsa_key(tmp_path: pathlib.Path) -> None:
    ensure(tmp_path)
    put_authority(tmp_path, rsa.generate_private_key(65537, 2048), hashes.SHA256())
    result = ensure(tmp_path)
    assert result["reason"] == "the authority is another one"
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", result["ca_path"], result["certificate_path"]]
    subprocess.run(verify, check=True, capture_output=True)
    assert not ensure(tmp_path)["changed"]
    # and one of the same name with another kind of key
    put_authority(tmp_path, ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    assert ensure(tmp_path)["reason"] == "the authority is another one"
    subprocess.run(verify, check=True, capture_output=True)
    assert not ensure(tmp_path)["changed"]
    put_authority(tmp_path, rsa.generate_private_key(65537, 2048), hashes.SHA256())
    assert ensure(tmp_path)["reason"] == "the authority is another one"


def test_an_authority_with_another_key_is_refused(tmp_path: pathlib.Path) -> None:
    put_authority(tmp_path, ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(_certificate.CertificateError, match="neither an EC nor an RSA key"):
        ensure(tmp_path)


def test_half_an_authority_is_not_replaced_silently(tmp_path: pathlib.Path) -> None:
    ensure(tmp_path)
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(_certificate.CertificateError, match="restore the missing one"):
        ensure(tmp_path)


def test_an_expired_authority_says_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(tmp_path)
    later = _certificate.now() + datetime.timedelta(days=_certificate.CA_DAYS + 1)
    monkeypatch.setattr(_certificate, "now", lambda: later)
    with pytest.raises(_certificate.CertificateError, match="has expired"):
        ensure(tmp_path)


@pytest.mark.parametrize("changes", [{"name": "ca"}, {"name": "../x"}, {"name": ""}, {"names": []}, {"names": ["é"]}])
def test_impossible_wishes(tmp_path: pathlib.Path, changes: dict[str, Any]) -> None:
    with pytest.raises(_certificate.CertificateError):
        ensure(tmp_path, **changes)


def test_gateways_that_start_at_once_share_one_authority(tmp_path: pathlib.Path) -> None:
    # processes in a real play; threads do here, since each opens the lock file for itself
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: ensure(tmp_path, name=f"gw{number}"), range(8)))
    ca = read(results[0]["ca_path"])
    for result in results:
        leaf = read(result["certificate_path"])
        ca.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm))


def test_the_module(tmp_path: pathlib.Path, run_module: Callable[..., dict[str, Any]]) -> None:
    def run(**more: Any) -> dict[str, Any]:
        result = run_module(ollama_certificate.main, **{**params, **more})
        assert "PRIVATE KEY" not in json.dumps(result)
        return result

    params = {"ca_dir": str(tmp_path / "ca"), "name": "gw1", "subject_alt_names": ["gw1"]}
    foreseen = run(check=True)
    assert foreseen["changed"] and foreseen["diff"]["after"]["names"] == ["gw1"] and not (tmp_path / "ca").exists()
    made = run()
    assert made["changed"] and made["fingerprint"] == _certificate.fingerprint(read(made["certificate_path"]))
    again = run()
    assert not again["changed"] and again["fingerprint"] == made["fingerprint"]
    failed = run(name="ca")
    assert failed["failed"] and "cannot name the files" in failed["msg"]
    unwritable = tmp_path / "file"
    unwritable.touch()
    assert "cannot keep the certificates" in run(ca_dir=str(unwritable / "x"))["msg"]
