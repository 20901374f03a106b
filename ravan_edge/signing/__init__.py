"""Who said this: keys, and the requests and artifacts that are signed with them."""

from ravan_edge.signing.artifacts import (
    check_key,
    check_time,
    checked_statement,
    default_name,
    sign_artifact,
    signature_bytes,
    signature_of,
)
from ravan_edge.signing.envelope import ENVELOPE_MAX_BYTES
from ravan_edge.signing.keys import (
    key_id,
    load_private_key,
    load_public_key,
    make_private_key,
    write_public_key,
)
from ravan_edge.signing.requests import (
    SIGNATURE_HEADERS,
    RequestSignature,
    device_of_key,
    sign_request,
)
from ravan_edge.signing.statement import (
    ArtifactStatement,
    SignedStatement,
    date_text,
    read_statement,
    sign_statement,
)
from ravan_edge.signing.tokens import MOST_TOKEN_BYTES, read_token, read_token_file

__all__ = [
    "ENVELOPE_MAX_BYTES",
    "MOST_TOKEN_BYTES",
    "SIGNATURE_HEADERS",
    "ArtifactStatement",
    "RequestSignature",
    "SignedStatement",
    "check_key",
    "check_time",
    "checked_statement",
    "date_text",
    "default_name",
    "device_of_key",
    "key_id",
    "load_private_key",
    "load_public_key",
    "make_private_key",
    "read_statement",
    "read_token",
    "read_token_file",
    "sign_artifact",
    "sign_request",
    "sign_statement",
    "signature_bytes",
    "signature_of",
    "write_public_key",
]
