"""Tiny encoders whose tokenizer knows letters, so that any text can be read; and words to learn."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from tests.export.conftest import save

__all__ = [
    "LABELS",
    "SPECIAL",
    "modernbert_config",
    "save_with_letters",
    "tagged_rows",
    "write_tagged",
]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LABELS = ("O", "PERSON", "PLACE")
_WORDS = {
    "PERSON": ("anna", "otto", "mina"),
    "PLACE": ("oslo", "rome", "lima"),
    "O": ("sees", "in", "and", "goes", "to", "from"),
}


def modernbert_config(**more: object) -> PreTrainedConfig:
    """Three layers, two of which see three tokens to each side."""
    return AutoConfig.for_model(
        "modernbert", vocab_size=60, num_labels=3, hidden_size=16, intermediate_size=24,
        num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=40, local_attention=6,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, **more,
    )  # fmt: skip


def save_with_letters(model: torch.nn.Module, folder: Path, *, mask: bool = True) -> Path:
    """Save a model with at least 57 tokens and a WordPiece tokenizer of single letters.

    Args:
        model: A Hugging Face model.
        folder: Where to.
        mask: Whether the tokenizer has a mask token.
    """
    assert isinstance(model, PreTrainedModel)
    save(model, folder)
    pieces = [*SPECIAL, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    tokenizer = Tokenizer(
        models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(list(SPECIAL if mask else SPECIAL[:-1]))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if mask:
        names["mask_token"] = "[MASK]"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def tagged_rows(rows: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sentences in which a word's label follows from the word."""
    rng = random.Random(seed)
    found = []
    for _ in range(rows):
        labels = [rng.choice(LABELS) for _ in range(rng.randint(2, 7))]
        found.append(([rng.choice(_WORDS[label]) for label in labels], labels))
    return found


def write_tagged(path: Path, rows: int, seed: int) -> Path:
    """The sentences as jsonl, with a column of users."""
    lines = [
        json.dumps({"tokens": words, "tags": labels, "user": f"u{index % 3}"})
        for index, (words, labels) in enumerate(tagged_rows(rows, seed))
    ]
    path.write_text("\n".join(lines))
    return path
