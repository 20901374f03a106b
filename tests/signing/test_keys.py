"""Key files, made and read by openssl as well."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.signing import (
    key_id,
    load_private_key,
    load_public_key,
    make_private_key,
    write_public_key,
)

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def openssl(*words: str | Path) -> bytes:
    assert OPENSSL is not None
    return subprocess.run([OPENSSL, *map(str, words)], check=True, capture_output=True).stdout


def test_a_key_comes_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    made = make_private_key(path)
    assert load_private_key(path).private_bytes_raw() == made.private_bytes_raw()
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_public_key(tmp_path / "release.pub", made.public_key())
    public = load_public_key(tmp_path / "release.pub")
    raw = made.public_key().public_bytes_raw()
    assert public.public_bytes_raw() == raw
    assert key_id(public) == hashlib.sha256(raw).hexdigest()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    make_private_key(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="there is a file already"):
        make_private_key(path)
    assert path.read_bytes() == before


@needs_openssl
def test_openssl_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.key", tmp_path / "theirs.key"
    made = make_private_key(ours)
    public = openssl("pkey", "-in", ours, "-pubout", "-outform", "DER")
    assert public[-32:] == made.public_key().public_bytes_raw()
    openssl("genpkey", "-algorithm", "ed25519", "-out", theirs)
    openssl("pkey", "-in", theirs, "-pubout", "-out", tmp_path / "theirs.pub")
    loaded = load_private_key(theirs).public_key().public_bytes_raw()
    assert loaded == load_public_key(tmp_path / "theirs.pub").public_bytes_raw()


@needs_openssl
def test_an_encrypted_key_needs_its_password(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.key", tmp_path / "locked.key"
    made = make_private_key(plain)
    openssl("pkey", "-in", plain, "-aes256", "-passout", "pass:sesame", "-out", path)
    with pytest.raises(UsageError, match="encrypted, and nobody is there to ask"):
        load_private_key(path)
    with pytest.raises(UsageError, match="no private key can be read"):
        load_private_key(path, lambda: b"wrong")
    opened = load_private_key(path, lambda: b"sesame")
    assert opened.private_bytes_raw() == made.private_bytes_raw()


def test_what_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    other = generate_private_key(65537, 1024)
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ours = make_private_key(tmp_path / "ours.key")
    write_public_key(tmp_path / "ours.pub", ours.public_key())
    for content in (b"", b"\0" * 50, b"-----BEGIN PRIVATE KEY-----\nAAAA\n", private, public):
        path.write_bytes(content)
        for load in (load_private_key, load_public_key):
            with pytest.raises(UsageError, match=f"{path}"):
                load(path)
    with pytest.raises(UsageError, match="no private key"):
        load_private_key(tmp_path / "ours.pub")
    with pytest.raises(UsageError, match="no public key"):
        load_public_key(tmp_path / "ours.key")
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(StorageError, match="more than 10000 bytes"):
        load_public_key(path)
    with pytest.raises(UsageError, match="no such file"):
        load_public_key(tmp_path / "missing")
    with pytest.raises(StorageError, match="cannot read the key"):
        load_public_key(tmp_path)
