"""The model's tokenizer as one ``tokenizer.json``, which every device reads with the same code."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.errors import ModelError

__all__ = ["TOKENIZER_FILE", "tokenizer_bytes"]

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
