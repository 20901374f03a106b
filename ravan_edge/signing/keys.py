"""ed25519 keys in files: private ones in PKCS 8, public ones in SubjectPublicKeyInfo, both PEM.

So ``openssl genpkey -algorithm ed25519`` makes one, and ``openssl pkey`` reads ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = [
    "key_id",
    "load_private_key",
    "load_public_key",
    "make_private_key",
    "signed_by",
    "write_public_key",
]

_MOST_BYTES = 10_000


def key_id(key: Ed25519PublicKey) -> str:
    """The sha256 of the 32 bytes of a public key, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def signed_by(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    """Whether a signature of some bytes is this key's."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def make_private_key(path: Path) -> Ed25519PrivateKey:
    """A new key, in a file that only its owner may read; durable.

    Raises:
        UsageError: There is a file already: a key is never overwritten.
        StorageError: It cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    if path.exists():
        raise UsageError("there is a file already", where=str(path), hint="choose another name")
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomic(path, [content], private=True)
    return key


def write_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """A public key, for everybody.

    Raises:
        StorageError: It cannot be written.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    write_atomic(path, [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)])


def load_private_key(
    path: Path, password: Callable[[], bytes | None] = lambda: None
) -> Ed25519PrivateKey:
    """A private key from its file.

    Args:
        path: PEM.
        password: Asked if the key is encrypted; None: there is none.

    Raises:
        UsageError: It is none, not there, of another kind, or encrypted and the password is missing or wrong.
        StorageError: It cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path)
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            given = password()
            if given is None:
                raise UsageError(
                    "the key is encrypted, and nobody is there to ask for its password",
                    where=str(path),
                    hint="run this on a terminal, or decrypt it: openssl pkey -in KEY -out PLAIN",
                ) from None
            key = load_pem_private_key(content, given)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"no private key can be read: {str(error)[:100]}",
            where=str(path),
            hint="expected an ed25519 key in PEM, as `ravan keys create` makes it",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"a key of another kind ({type(key).__name__}), expected ed25519",
            where=str(path),
            hint="make one with `ravan keys create`",
        )
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """A public key from its file.

    Raises:
        UsageError: It is none, not there, or of another kind.
        StorageError: It cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"no public key can be read: {str(error)[:100]}",
            where=str(path),
            hint="expected an ed25519 key in PEM, the .pub of `ravan keys create`",
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            f"a key of another kind ({type(key).__name__}), expected ed25519",
            where=str(path),
            hint="name the .pub of `ravan keys create`",
        )
    return key


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UsageError("there is no such file", where=str(path), hint="check the path")
    with storage_errors(path, "read the key"), path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise StorageError(
            f"more than {_MOST_BYTES} bytes", where=str(path), hint="this is no key: check the path"
        )
    return content
