"""What the contract of plans is tried on: small models of every family, with random weights.

A case is a line in ``CASES``; its artifact is exported once for each method. Batches are random
numbers in the form of the task (ravan_edge/artifact/signature.py), so a case needs no data file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ravan_edge.artifact import Manifest
from ravan_edge.artifact.signature import SIGNATURES
from ravan_edge.data import Batch, Draw
from tests.export.conftest import save, save_sentence_encoder, tiny_config
from tests.export.decoder_models import MODELS, QUICK, save_decoder
from tests.export.t5_models import save_sentence_t5, save_t5
from tests.export.vit_models import save_vit
from tests.export.word_models import modernbert_config, save_with_letters

__all__ = ["CASES", "Case", "FixedRows", "random_batch"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One family with one task.

    Args:
        name: For the test's name.
        task: As the manifest names it.
        build: Saves the model to a folder.
        vocabulary: Token ids are below it; those below 5 may be special.
        labels: How many the task has.
        options: Further options of the export.
        quick: Whether it is in `make test` with the plan `whole`; all are in `make test-full` with it.
    """

    name: str
    task: str
    build: Callable[[Path], None]
    vocabulary: int = 60
    labels: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True


def _classifier(kind: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save(AutoModelForSequenceClassification.from_config(tiny_config(kind)), folder)

    return build


def _tagger(kind: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save(AutoModelForTokenClassification.from_config(tiny_config(kind)), folder)

    return build


def _masked(kind: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save_with_letters(AutoModelForMaskedLM.from_config(tiny_config(kind)), folder)

    return build


def _modern(auto: Any, **more: object) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save_with_letters(auto.from_config(modernbert_config(**more)), folder)

    return build


CASES: tuple[Case, ...] = (
    Case("bert", "text-classification", _classifier("bert")),
    Case("roberta", "text-classification", _classifier("roberta"), quick=False),
    Case("distilbert", "text-classification", _classifier("distilbert"), quick=False),
    Case("sentence", "text-classification", save_sentence_encoder),
    Case("bert-words", "token-classification", _tagger("bert")),
    Case("roberta-words", "token-classification", _tagger("roberta"), quick=False),
    Case("distilbert-words", "token-classification", _tagger("distilbert"), quick=False),
    Case("bert-masked", "masked-lm", _masked("bert"), quick=False),
    Case("roberta-masked", "masked-lm", _masked("roberta")),
    Case("distilbert-masked", "masked-lm", _masked("distilbert"), quick=False),
    Case(
        "modernbert",
        "text-classification",
        _modern(AutoModelForSequenceClassification, classifier_pooling="mean"),
        quick=False,
    ),
    Case(
        "modernbert-cls",
        "text-classification",
        _modern(AutoModelForSequenceClassification, classifier_pooling="cls"),
        quick=False,
    ),
    Case(
        "modernbert-words",
        "token-classification",
        _modern(AutoModelForTokenClassification),
        quick=False,
    ),
    Case("modernbert-masked", "masked-lm", _modern(AutoModelForMaskedLM), quick=False),
    Case("t5-encoder", "text-classification", save_t5, quick=False),
    Case("sentence-t5", "text-classification", save_sentence_t5, quick=False),
    Case("t5", "seq2seq", save_t5),
    Case("t5-gated", "seq2seq", partial(save_t5, kind="t5-gated"), quick=False),
    Case("mt5", "seq2seq", partial(save_t5, kind="mt5"), quick=False),
    *(Case(name, "causal-lm", partial(save_decoder, name), quick=name in QUICK) for name in MODELS),
    Case("vit", "image-classification", partial(save_vit, "vit")),
    Case("deit", "image-classification", partial(save_vit, "deit"), quick=False),
    Case(
        "deit-distilled", "image-classification", partial(save_vit, "deit-distilled"), quick=False
    ),
)


def random_batch(case: Case, manifest: Manifest, rows: int, length: int, seed: int) -> Batch:
    """Random inputs; every row but the first is shorter by a different length, one label is -100."""
    rng = np.random.default_rng(seed)
    inputs: Arrays = {}
    masks: Arrays = {}
    for name in manifest.batch_inputs:
        if name == "pixel_values":
            assert manifest.image is not None
            shape = (rows, manifest.image.channels, manifest.image.height, manifest.image.width)
            inputs[name] = rng.standard_normal(shape).astype(np.float32)
        elif name.endswith("input_ids"):
            inputs[name] = rng.integers(5, case.vocabulary, (rows, length))
        else:
            mask = np.ones((rows, length), np.int64)
            for row in range(1, rows):
                mask[row, max(1, length - 2 * row) :] = 0
            inputs[name] = masks[name] = mask
    assert manifest.text is None or masks
    for name, mask in masks.items():
        ids = inputs[name.replace("attention_mask", "input_ids")]
        assert manifest.text is not None
        ids[mask == 0] = manifest.text.pad_id
    if SIGNATURES[manifest.task].label_axes == 1:
        labels = rng.integers(0, case.labels, rows)
        if rows > 1:
            labels[-1] = -100
        return Batch(inputs, labels)
    written = "decoder_attention_mask" if "decoder_attention_mask" in masks else "attention_mask"
    if manifest.task == "causal-lm":
        labels = inputs["input_ids"].copy()
    else:
        labels = rng.integers(
            0, case.labels if manifest.labels else case.vocabulary, (rows, length)
        )
    labels[masks[written] == 0] = -100
    labels[0, : length // 2] = -100
    return Batch(inputs, labels)


class FixedRows:
    """A data set of one batch: its rows, as they are."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        flat = batch.labels.reshape(batch.rows, -1)
        self.labels: NDArray[np.int32] = flat[:, -1].astype(np.int32)
        self.users: NDArray[np.int32] | None = None
        mask = batch.inputs.get("attention_mask")
        self.lengths: NDArray[np.int64] = (
            np.ones(batch.rows, np.int64) if mask is None else mask.sum(axis=1)
        )

    def __len__(self) -> int:
        return self._batch.rows

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Those rows."""
        del draw
        inputs = {name: array[rows] for name, array in self._batch.inputs.items()}
        return Batch(inputs, self._batch.labels[rows])
