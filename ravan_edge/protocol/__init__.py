"""What devices and servers send each other."""

from ravan_edge.protocol.update_file import (
    Update,
    UpdateInfo,
    decode_update,
    encode_update,
    read_update,
)

__all__ = ["Update", "UpdateInfo", "decode_update", "encode_update", "read_update"]
