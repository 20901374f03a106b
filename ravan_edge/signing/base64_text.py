"""Base64 of which there is one spelling only."""

from __future__ import annotations

from base64 import b64decode, b64encode

__all__ = ["from_base64"]


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a text in the standard alphabet, padded, with no bits left over.

    Args:
        text: From anybody.
        name: Of the text, for the message.

    Raises:
        ValueError: It is spelled in another way, or is no base64.
    """
    try:
        content = b64decode(text, validate=True)
    except ValueError:  # also binascii.Error, and characters that are not ASCII
        content = b""
    if b64encode(content).decode() != text:
        raise ValueError(f"{name} is not standard base64 with its padding")
    return content
