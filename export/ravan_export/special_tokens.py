"""A tokenizer's special tokens as ids, the mask among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ravan_edge.errors import ModelError
from ravan_export.tokenizer import tokenizer_bytes

__all__ = ["SpecialTokens", "special_tokens"]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What masking must know of a tokenizer.

    Args:
        mask_id: The mask token; None where it has none.
        vocabulary: How many token ids there are, all of them rows of the model's matrix.
        special_ids: All special tokens, ascending: those transformers calls special, and those
            ``tokenizer.json`` marks so.
    """

    mask_id: int | None
    vocabulary: int
    special_ids: tuple[int, ...]


def special_tokens(folder: Path, rows: int) -> SpecialTokens:
    """The special tokens of a model folder's tokenizer.

    transformers knows what a tokenizer's class calls its mask where no file says it; the ids are
    those of ``tokenizer.json``, which is what devices read.

    Args:
        folder: Of the model.
        rows: Of the vocabulary matrix; ids beyond them are none.

    Raises:
        ModelError: The tokenizer cannot be read.
    """
    from transformers import AutoTokenizer

    loaded = Tokenizer.from_str(tokenizer_bytes(folder).decode("utf-8"))
    try:
        known = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever a broken file raises
        raise ModelError(
            f"the tokenizer cannot be loaded: {type(error).__name__}",
            where=str(folder),
            hint="save it with the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        ) from error

    def number(token: str | None) -> int | None:
        found = None if token is None else loaded.token_to_id(str(token))
        return found if found is not None and found < rows else None

    special = {number(token) for token in known.all_special_tokens}
    special |= {
        index for index, token in loaded.get_added_tokens_decoder().items() if token.special
    }
    return SpecialTokens(
        mask_id=number(known.mask_token),
        vocabulary=min(rows, loaded.get_vocab_size()),
        special_ids=tuple(sorted(index for index in special if index is not None and index < rows)),
    )
