"""Who said this: keys, and requests that are signed with them."""

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

__all__ = [
    "SIGNATURE_HEADERS",
    "RequestSignature",
    "device_of_key",
    "key_id",
    "load_private_key",
    "load_public_key",
    "make_private_key",
    "sign_request",
    "write_public_key",
]
