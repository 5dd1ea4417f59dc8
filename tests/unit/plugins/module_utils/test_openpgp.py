"""Fingerprints of OpenPGP keys, against what gpg says of keys that it has made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _openpgp

GPG = ["gpg", "--batch", "--quiet", "--yes", "--passphrase", "", "--pinentry-mode", "loopback"]


def make(home: Path, *kinds: str) -> tuple[str, list[str]]:
    """Keys of these kinds, in one armored block, and their fingerprints as gpg says them."""
    home.mkdir(mode=0o700)
    env = {**os.environ, "GNUPGHOME": str(home)}
    for number, kind in enumerate(kinds):
        subprocess.run([*GPG, "--quick-gen-key", f"Key {number} <key{number}@example.org>", kind, "default", "never"], check=True, env=env)
    armored = subprocess.run([*GPG, "--armor", "--export"], check=True, env=env, capture_output=True, text=True).stdout
    listing = subprocess.run(["gpg", "--show-keys", "--with-colons"], check=True, env=env, input=armored, capture_output=True, text=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    lines = listing.splitlines()
    return armored, [lines[number + 1].split(":")[9] for number, line in enumerate(lines) if line.startswith("pub:")]


@pytest.fixture(scope="module", name="keys")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Two keys in one block."""
    # the path of a socket in there must not be long
    return make(tmp_path_factory.mktemp("two") / "g", "rsa3072", "ed25519")


@pytest.fixture(scope="module", name="key")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key as repositories have it: RSA, with a subkey."""
    armored, fingerprints = make(tmp_path_factory.mktemp("one") / "g", "rsa2048")
    return armored, fingerprints[0]


def test_fingerprints(keys: tuple[str, list[str]]) -> None:
    """Those of the primary keys, in their order."""
    assert len(keys[1]) == 2 and _openpgp.key_fingerprints(keys[0]) == keys[1]


def test_the_right_key(key: tuple[str, str], keys: tuple[str, list[str]]) -> None:
    """However the fingerprint is written, and whatever line ends the file has; several keys when all of them are wanted."""
    armored, fingerprint = key
    spaced = " ".join(fingerprint.lower()[number:number + 4] for number in range(0, 40, 4))
    assert _openpgp.check(armored, ["A" * 40, spaced]) == [fingerprint]
    assert _openpgp.check(armored.replace("\n", "\r\n"), [fingerprint]) == [fingerprint]
    assert _openpgp.check(keys[0], keys[1]) == keys[1]


def refused(text: str, *wanted: str) -> str:
    """Why a key is not trusted."""
    with pytest.raises(_openpgp.KeyProblem) as problem:
        _openpgp.check(text, wanted)
    return str(problem.value)


def test_a_wrong_key(key: tuple[str, str], keys: tuple[str, list[str]]) -> None:
    """Also one that comes together with the right one: apt would trust both."""
    assert refused(key[0], "A" * 40) == f"it holds the key {key[1]}, and {'A' * 40} is wanted"
    assert f"holds the key {', '.join(keys[1])}" in refused(keys[0], keys[1][0])
    assert "is wanted" in refused(key[0])


def test_two_blocks(key: tuple[str, str]) -> None:
    """Programs disagree about the second one."""
    assert "one block" in refused(key[0] + key[0], key[1])
    assert "one block" in refused(key[0] + "-----BEGIN PGP SIGNATURE-----\n", key[1])


@pytest.mark.parametrize("text", ["", "<html>404</html>", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n"])
def test_no_key(text: str) -> None:
    """A page that says sorry is no key."""
    assert "OpenPGP" in refused(text, "A" * 40)


def test_a_key_that_is_cut_off(key: tuple[str, str]) -> None:
    """Lines are missing at its end."""
    lines = key[0].splitlines()
    assert "cut off" in refused("\n".join([*lines[:8], lines[-1]]), key[1])


@pytest.mark.parametrize("value", ["", "3BF863CC", "EB693B3035CD5710E231E123A4B469963BF863CX"])
def test_no_fingerprint(value: str, key: tuple[str, str]) -> None:
    """A short id can be made by anybody."""
    assert "40 hex digits" in refused(key[0], value)
