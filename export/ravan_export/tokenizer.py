"""The model's tokenizer as one ``tokenizer.json``, which every device reads with the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ravan_edge.errors import ModelError
from ravan_export.source import Checkpoint

__all__ = ["TOKENIZER_FILE", "special_token_id", "tokenizer_bytes"]

TOKENIZER_FILE = "tokenizer/tokenizer.json"
_MAX_BYTES = 256 << 20


def tokenizer_bytes(folder: Path) -> bytes:
    """The bytes of ``tokenizer.json``; converted where the folder has an older form.

    Raises:
        ModelError: There is no tokenizer that can be converted.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError("is too large for a tokenizer", where=str(path))
        return path.read_bytes()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
        text: str = tokenizer.backend_tokenizer.to_str()
        # Without a vocabulary transformers makes a tokenizer of special tokens alone.
        empty = tokenizer.backend_tokenizer.get_vocab_size() <= len(tokenizer.all_special_tokens)
    except Exception as error:  # whatever a missing or broken vocabulary raises
        raise _missing(folder, type(error).__name__) from error
    if empty:
        raise _missing(folder, "there is no vocabulary")
    return text.encode()


def _missing(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"has no tokenizer.json, and none can be made: {reason}",
        where=str(folder),
        hint="save it with the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
    )


def special_token_id(checkpoint: Checkpoint, kind: str, words: int) -> int | None:
    """The id of the ``pad``, ``eos``, ``mask`` ... token.

    The configuration's ``<kind>_token_id`` (of a list, the first), else the token that
    ``tokenizer_config.json`` names.

    Args:
        checkpoint: An opened folder.
        kind: Which token.
        words: Rows of the vocabulary matrix; an id beyond them is none.

    Raises:
        ModelError: The tokenizer cannot be read.
    """
    found: Any = getattr(checkpoint.config, f"{kind}_token_id", None)
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None and checkpoint.stored is not None:  # an outline may lack its tokenizer
        named = _tokenizer_config(checkpoint.folder).get(f"{kind}_token")
        if isinstance(named, dict):  # an added token, written out
            named = named.get("content")
        if isinstance(named, str):
            data = tokenizer_bytes(checkpoint.folder)
            found = Tokenizer.from_str(data.decode("utf-8")).token_to_id(named)
    return found if isinstance(found, int) and 0 <= found < words else None


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # it is optional; what must be there is tokenizer.json
    return document if isinstance(document, dict) else {}
