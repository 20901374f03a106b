"""The device's side of the network."""

from ravan_edge.device.connection import ServerConnection, refusals_as_errors

__all__ = ["ServerConnection", "refusals_as_errors"]
