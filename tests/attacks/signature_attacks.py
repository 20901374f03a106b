"""Abuses of ``signature.json``: each lies beside the manifest of ``files/valid``.

All are made with one key whose 32 secret bytes are 0, 1, 2, ..., 31.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.signing import ENVELOPE_MAX_BYTES, ArtifactStatement, sign_statement
from ravan_edge.signing.envelope import seal
from ravan_edge.signing.statement import PAYLOAD_TYPE
from tests.attacks.attack import Attack

__all__ = ["signature_attacks"]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

Document = dict[str, Any]


def signature_attacks(manifest: bytes) -> Iterator[Attack]:
    digest = hashlib.sha256(manifest).hexdigest()
    statement = ArtifactStatement(
        artifact=digest,
        name="tiny",
        sequence=3,
        issued_at=1_800_000_000,
        expires_at=1_831_536_000,
        public_key=KEY.public_key().public_bytes_raw().hex(),
    )
    signed, said = sign_statement(statement, KEY), statement.to_bytes()
    sig: str = json.loads(signed)["signatures"][0]["sig"]

    def attack(name: str, tries: str, says: str | None, content: bytes) -> Attack:
        return Attack(f"signatures/{name}.json", tries, says, content)

    def change(name: str, tries: str, says: str, edit: Callable[[Document], object]) -> Attack:
        document: Document = json.loads(signed)
        edit(document)
        return attack(name, tries, says, json.dumps(document).encode())

    def one(name: str, tries: str, says: str, **members: object) -> Attack:
        """Other members of the one signature."""
        return change(name, tries, says, lambda d: d["signatures"][0].update(members))

    def payload(name: str, tries: str, says: str, content: bytes) -> Attack:
        """Signed by the right key, but not what a statement may be."""
        return attack(name, tries, says, seal(PAYLOAD_TYPE, content, KEY).to_bytes())

    def say(name: str, tries: str, says: str, old: bytes, new: bytes) -> Attack:
        assert old in said
        return payload(name, tries, says, said.replace(old, new))

    yield attack("accept-plain", "as `ravan sign` writes it", None, signed)
    document = json.loads(signed)
    other_order = json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode()
    yield attack("accept-other-order", "other white space, other order", None, other_order)
    yield attack("empty", "no bytes", "no JSON", b"")
    yield attack("list", "a list", "no JSON object", b"[]")
    yield attack("bom", "a byte order mark", "no JSON", b"\xef\xbb\xbf" + signed)
    yield attack("utf16", "UTF-16", "no JSON", signed.decode().encode("utf-16-le"))
    yield attack(
        "not-utf8", "a byte that is not UTF-8", "no JSON", signed.replace(b"vnd", b"v\xff")
    )
    deep = b'{"payload":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    yield attack("deep", "30,000 lists in each other", "refused", deep)
    huge = signed + b" " * (ENVELOPE_MAX_BYTES + 1 - len(signed))
    yield attack("huge", "65,537 bytes", "more than 65536 bytes", huge)
    yield attack(
        "member-twice", "two payloads", "twice", signed.replace(b"{", b'{"payload": "",', 1)
    )
    yield attack("nan", "a number that JSON has not", "NaN", b'{"payload": NaN}')
    yield change("member-more", "a member more", "expected payload", lambda d: d.update(more=1))
    yield change("member-control", "a member that clears the terminal", "\\x1b",
                 lambda d: d.update({"\x1b[2J": 1}))  # fmt: skip
    yield change("member-less", "no type", "expected payload", lambda d: d.pop("payloadType"))
    yield change("type", "another type", "payloadType",
                 lambda d: d.update(payloadType="text/\x1b[2J"))  # fmt: skip
    yield change("no-signature", "no signature", "exactly one", lambda d: d.update(signatures=[]))
    yield change("two-signatures", "the same signature twice", "exactly one",
                 lambda d: d["signatures"].append(d["signatures"][0]))  # fmt: skip
    yield change("text-signature", "a text in place of the signature", "no object",
                 lambda d: d.update(signatures=[sig]))  # fmt: skip
    yield one("signature-member", "a member more of the signature", "expected keyid", cert="x")
    yield one("key-capitals", "a key id in capitals", "keyid is not", keyid="AB" * 32)
    yield one("key-other", "another key id", "is wrong", keyid="0" * 64)
    yield one("sig-short", "three bytes in place of a signature", "3 bytes", sig="AAAA")
    yield one("sig-zero", "64 zero bytes", "is wrong", sig="A" * 86 + "==")
    yield one("sig-url", "base64 as in URLs", "standard base64", sig="-_" + "A" * 84 + "==")
    yield one("sig-unpadded", "base64 without padding", "standard base64", sig=sig.rstrip("="))
    yield one("sig-bits", "base64 with other unused bits", "standard base64", sig="A" * 85 + "B==")
    yield one("sig-letters", "letters beyond ASCII", "standard base64", sig="\u00e9" * 86 + "==")
    yield change("payload-line", "a line break in base64", "standard base64",
                 lambda d: d.update(payload=d["payload"][:8] + "\n" + d["payload"][8:]))  # fmt: skip
    raw = bytearray(said)
    raw[said.index(b'"sequence":3') + len(b'"sequence":')] += 1
    forged = json.loads(seal(PAYLOAD_TYPE, bytes(raw), KEY).to_bytes())
    yield change("payload-changed", "sequence 4 under the signature of 3", "is wrong",
                 lambda d: d.update(payload=forged["payload"]))  # fmt: skip
    strange = json.loads(seal("text/plain", said, KEY).to_bytes())["signatures"]
    yield change("type-signed", "a signature of another type", "is wrong",
                 lambda d: d.update(signatures=strange))  # fmt: skip
    theirs = seal(PAYLOAD_TYPE, said, OTHER)
    yield attack("other-key", "another key than the payload names", "is wrong", theirs.to_bytes())
    named = json.loads(theirs.to_bytes())["signatures"][0]["sig"]
    yield one("other-key-named", "another key under this one's id", "is wrong", sig=named)
    yield payload("say-text", "a payload that is no JSON", "no JSON", b"hello")
    yield say("say-twice", "a payload with two names", "twice", b"{", b'{"name":"x",')
    yield say("say-more", "a payload with a member more", "more", b"{", b'{"more":1,')
    version = b'"schema_version":1'
    yield say("say-newer", "a newer payload", "newer version", version, b'"schema_version":2')
    yield say("say-text-version", "a version that is text", "schema_version",
              version, b'"schema_version":"1"')  # fmt: skip
    number = b'"sequence":3'
    for name, value in (("0", b"0"), ("negative", b"-1"), ("float", b"3.0"), ("true", b"true"),
                        ("huge", b"9007199254740992"), ("digits", b"3" * 5000)):  # fmt: skip
        says = "no JSON" if name == "digits" else "sequence"
        yield say(f"say-sequence-{name}", f"sequence: {name}", says, number, b'"sequence":' + value)
    yield say("say-times", "it ends before it begins", "later", b"1831536000", b"1800000000")
    yield say("say-year", "a year beyond all calendars", "expires_at", b"1831536000", b"9" * 15)
    yield say("say-name-line", "a name with a line break", "name", b'"tiny"', b'"tiny\\n"')
    yield say("say-name-control", "a name that clears the terminal", "name",
              b'"tiny"', b'"\\u001b[2J"')  # fmt: skip
    yield say("say-name-empty", "no name", "name", b'"tiny"', b'""')
    yield say("say-digest", "a digest in capitals", "artifact",
              digest.encode(), digest.upper().encode())  # fmt: skip
    own = statement.public_key.encode()
    yield say("say-key", "another public key", "is wrong", own, b"11" * 32)
    yield attack(
        "other-artifact",
        "the signature of another artifact",
        "is of artifact",
        sign_statement(statement.model_copy(update={"artifact": "0" * 64}), KEY),
    )
