"""What devices and servers send each other."""

from ravan_edge.protocol.update_file import decode_update, encode_update, read_update
from ravan_edge.protocol.update_info import UpdateInfo
from ravan_edge.protocol.update_reader import Update, UpdateReader, UpdateView

__all__ = [
    "Update",
    "UpdateInfo",
    "UpdateReader",
    "UpdateView",
    "decode_update",
    "encode_update",
    "read_update",
]
