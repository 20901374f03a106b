"""What devices and servers send each other."""

from ravan_edge.protocol.update_file import (
    Update,
    UpdateReader,
    UpdateView,
    decode_update,
    encode_update,
    read_update,
)
from ravan_edge.protocol.update_info import UpdateInfo

__all__ = [
    "Update",
    "UpdateInfo",
    "UpdateReader",
    "UpdateView",
    "decode_update",
    "encode_update",
    "read_update",
]
