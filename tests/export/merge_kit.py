"""Tiny models with a tokenizer of real words, heads as if trained, and what the artifact says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ravan_edge.artifact import Artifact, Role, open_artifact, read_heads, write_heads
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step

VERSION = 7
TEXTS = [
    "where is my new card",
    "card",
    "the transfer did not arrive and my money is gone",
    "please change the pin of my card",
    "top up",
    "an unheard word",
]
_WORDS = (
    "where is my new card the transfer did not arrive and money gone please change pin of top up"
)

Array = NDArray[Any]


def give_words(folder: Path) -> None:
    """Replace the folder's tokenizer by one of words with [CLS] and [SEP], as transformers saves it."""
    pad_first = "roberta" not in (folder / "config.json").read_text("utf-8")
    special = ["[PAD]", "[CLS]"] if pad_first else ["[CLS]", "[PAD]"]
    names = [*special, "[SEP]", "[UNK]", *_WORDS.split()]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )
    wrapped.save_pretrained(folder)
    if (folder / "modules.json").is_file():  # what sentence-transformers reads and we do not
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        named = [module | {"name": str(module["idx"])} for module in modules]
        (folder / "modules.json").write_text(json.dumps(named))
        path = folder / "1_Pooling" / "config.json"
        config = json.loads(path.read_text("utf-8")) | {"word_embedding_dimension": 16}
        path.write_text(json.dumps(config))


def with_words(model: Path, path: Path) -> None:
    """A copy of a tiny model that reads words."""
    shutil.copytree(model, path)
    give_words(path)


def trained(artifact: Artifact, path: Path, *, seed: int = 0, size: float = 0.3) -> Path:
    """A heads file as training could have left it: every number moved, folded."""
    rng = np.random.default_rng(seed)
    heads = artifact.initial_heads()
    for entry in artifact.manifest.tensors:
        if entry.role is not Role.SCALE:
            noise = size * rng.standard_normal(entry.shape)
            heads[entry.name] = (heads[entry.name] + noise).astype(np.float32)
    write_heads(path, artifact, heads, VERSION)
    return path


def encoded(artifact: Artifact, texts: list[str]) -> dict[str, Array]:
    """Texts as the artifact's own tokenizer reads them, padded."""
    assert artifact.tokenizer_path is not None
    assert artifact.manifest.text is not None
    tokenizer = Tokenizer.from_file(str(artifact.tokenizer_path))
    tokenizer.enable_padding(pad_id=artifact.manifest.text.pad_id)
    tokenizer.enable_truncation(min(64, artifact.manifest.text.max_length))
    rows = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
    }


def artifact_logits(folder: Path, heads: Path | None, texts: list[str] = TEXTS) -> Array:
    """Logits of the artifact's evaluation on texts."""
    artifact = open_artifact(folder)
    method = method_for(artifact.manifest)
    tensors = artifact.initial_heads() if heads is None else read_heads(heads, artifact)
    vector = method.layout.pack(tensors)
    training = method.training(vector, None)
    batch = encoded(artifact, texts) | {"labels": np.zeros(len(texts), np.int64)}
    with open_step(artifact, "whole", RuntimeSettings(threads=2)) as step:
        step.use_heads(training.running)
        found: Array = step.evaluate(batch, method.to_graph(vector, training)).logits
    return found
