"""A part of a bucket in an S3-compatible store: whole objects by their names."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ravan_edge.errors import MissingExtraError, StorageError, UsageError
from ravan_edge.hosts import is_loopback

__all__ = ["Bucket"]

_ADDRESS = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"
    r"(?:/(?P<prefix>[A-Za-z0-9_.=-]+(?:/[A-Za-z0-9_.=-]+)*))?/?"
)
_REASON = re.compile(r"<Code>([^<]{1,100})</Code>\s*<Message>([^<]{1,300})</Message>")
# A request with its repetitions ends within 40 seconds: a database's transaction waits for it meanwhile.
_CLIENT: dict[str, Any] = {"timeout": "20s", "connect_timeout": "5s"}
_RETRIES: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
_HINT = (
    "look whether the store runs, the bucket is there, and the keys may read, write, list and delete "
    "in it; nothing that was acknowledged is lost"
)


class Bucket:
    """Objects under a prefix. Each request is repeated a few times before it fails.

    Keys come from where S3's own tools look, never from an option: ``AWS_ACCESS_KEY_ID`` and its
    companions, the file of ``AWS_SHARED_CREDENTIALS_FILE`` (else ``~/.aws/credentials``) with
    ``AWS_PROFILE``, or what ``AWS_WEB_IDENTITY_TOKEN_FILE`` or ``AWS_CONTAINER_CREDENTIALS_*`` name.

    Args:
        address: ``s3://bucket/prefix``.
        endpoint: Where the store is; None: what ``AWS_ENDPOINT_URL`` says, else Amazon's.
        region: Of the bucket; None: what ``AWS_REGION`` says, else ``us-east-1``.

    Raises:
        UsageError: The address or the endpoint is none, or there are no keys.
        MissingExtraError: The client is not installed.
    """

    def __init__(
        self, address: str, endpoint: str | None = None, region: str | None = None
    ) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise MissingExtraError(
                f"an S3-compatible store needs obstore, which cannot be imported here: {error}",
                where="--objects",
                hint="pip install 'ravan-edge[s3]'",
            ) from error
        found = _ADDRESS.fullmatch(address)
        if found is None or set(found["prefix"] or "a") == {"."} or "/.." in address:
            raise UsageError(
                "this is no address of a bucket: expected s3://bucket/prefix",
                where="--objects",
                hint="a prefix has letters, digits and _ . = - between its slashes",
            )
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = _keys() | ({"region": region} if region else {})
        if endpoint:
            options["endpoint"] = _checked(endpoint)
        client: Any = {**_CLIENT, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
        self._where = address.rstrip("/")
        self._client = obstore
        self._store = S3Store(
            found["bucket"],
            prefix=found["prefix"],
            client_options=client,
            retry_config=_RETRIES,
            **options,
        )

    def name(self, key: str) -> str:
        """How messages call an object."""
        return f"{self._where}/{key}"

    def put(self, key: str, content: bytes) -> None:
        """Keep an object; it is durable when this returns.

        Raises:
            StorageError: It could not be kept.
        """
        with self._errors("write", key):
            self._client.put(self._store, key, content, use_multipart=False)

    def read(self, key: str) -> bytes | None:
        """A whole object; None: there is none.

        Raises:
            StorageError: It cannot be read.
        """
        with self._errors("read", key):
            try:
                return bytes(self._client.get(self._store, key).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        """A part of an object; shorter where that ends.

        Raises:
            StorageError: It is not there, or cannot be read.
        """
        with self._errors("read", key):
            try:
                found = self._client.get_range(self._store, key, start=start, length=length)
            except self._client.exceptions.BaseError as error:
                if "<Code>InvalidRange</Code>" in str(error):
                    return memoryview(b"")
                raise
            return memoryview(found)

    def list(self, folder: str) -> list[str]:
        """The keys of all objects in a folder, ascending.

        Raises:
            StorageError: They cannot be listed.
        """
        with self._errors("list", folder):
            pages = self._client.list(self._store, folder)
            return sorted(str(found["path"]) for page in pages for found in page)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error.

        Raises:
            StorageError: One could not be deleted.
        """
        if keys:
            with self._errors("delete", keys[0]):
                self._client.delete(self._store, list(keys))

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (self._client.exceptions.BaseError, OSError) as error:
            # What a server answers to a wrong signature, or a client shows of its request, is left out.
            raise StorageError(
                f"cannot {action} it: {_reason(error)}", where=self.name(key), hint=_HINT
            ) from None


def _reason(error: BaseException) -> str:
    text = str(error)
    said = _REASON.search(text)
    if said is not None:
        return f"{said[1]}: {said[2]}"
    first = text.split("\n", 1)[0].split("<?xml", 1)[0]
    return re.sub(r"https?://\S+", "the store", first).strip()[:300]


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    is_one = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    if not is_one or parts.query or parts.fragment:
        raise UsageError(
            "this is no address of an S3-compatible store: expected https://host:port",
            where="--objects-endpoint",
            hint="keys do not belong into it: they come from the environment or from a file",
        )
    if parts.scheme == "http" and not is_loopback((parts.hostname or "").lower()):
        raise UsageError(
            f"updates would go to {parts.hostname} where anybody between could read along",
            where="--objects-endpoint",
            hint="use https://; http:// is for this machine only",
        )
    return endpoint.rstrip("/")


def _keys() -> dict[str, str]:
    """From the file of keys, where the environment has none: the client itself reads only that."""
    variables = os.environ
    if variables.get("AWS_ACCESS_KEY_ID") or any(
        variables.get(name)
        for name in (
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        )
    ):
        return {}
    named = variables.get("AWS_SHARED_CREDENTIALS_FILE")
    path = Path(named) if named else Path.home() / ".aws" / "credentials"
    profile = variables.get("AWS_PROFILE", "default")
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        section = dict(parser[profile]) if parser.has_section(profile) else {}
    except (configparser.Error, OSError, UnicodeError):
        section = {}  # no message shows what stands in it
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    found = {name.removeprefix("aws_"): section[name] for name in names if section.get(name)}
    if not {"access_key_id", "secret_access_key"} <= found.keys():
        raise UsageError(
            f"there are no keys for it: not in AWS_ACCESS_KEY_ID, and no profile {profile!r} in {path}",
            where="--objects",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write the file",
        )
    return found
