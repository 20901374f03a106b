"""Keeps what libraries say about their own insides away from a user of the commands."""

from __future__ import annotations

import logging

__all__ = ["quiet_imports"]


def quiet_imports() -> None:
    """Call before anything that imports torch.

    ExecuTorch brings torchao; optimum and transformers import it, and torch then warns about how it
    registers its types.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
