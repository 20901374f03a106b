"""What the graphs of each task take and give beside the trainables (docs/artifact.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PLAN_FORMS", "SIGNATURES", "PlanForm", "Signature"]

TEXT_INPUTS = frozenset({"input_ids", "attention_mask"})
DECODER_INPUTS = frozenset({"decoder_input_ids", "decoder_attention_mask"})
IMAGE_INPUTS = frozenset({"pixel_values"})


@dataclass(frozen=True, slots=True)
class Signature:
    """The batch of one task.

    Args:
        reads: Which object of the manifest says how data become inputs.
        inputs: Inputs that graphs may take.
        required: Those they always take.
        label_axes: Dimensions of ``labels``: 1 for [batch], 2 for [batch, length].
        logits_axes: Dimensions of the evaluation's ``logits``, the last of which counts the label
            map; None: it gives none (a row for each token of a vocabulary would not fit a device).
    """

    reads: Literal["text", "image"]
    inputs: frozenset[str]
    required: frozenset[str]
    label_axes: int
    logits_axes: int | None

    @property
    def label_map(self) -> bool:
        """Whether the task chooses among named labels."""
        return self.logits_axes is not None


def _text(label_axes: int, logits_axes: int | None) -> Signature:
    return Signature("text", TEXT_INPUTS, frozenset({"input_ids"}), label_axes, logits_axes)


SIGNATURES: Mapping[str, Signature] = {
    "text-classification": _text(1, 2),
    "token-classification": _text(2, 3),
    "masked-lm": _text(2, None),
    "causal-lm": _text(2, None),
    "seq2seq": Signature(
        "text",
        TEXT_INPUTS | DECODER_INPUTS,
        frozenset({"input_ids", "decoder_input_ids"}),
        2,
        None,
    ),
    "image-classification": Signature("image", IMAGE_INPUTS, IMAGE_INPUTS, 1, 2),
}
"""By task, as the manifest names it."""


@dataclass(frozen=True, slots=True)
class PlanForm:
    """What the files of one plan take and give.

    Args:
        roles: Its graphs.
        opset: Of its graphs, where they are ONNX for stock runtimes; else None.
        host_bases: Whether the host feeds the bases, so that the number of heads K is dynamic. Else
            they lie in the plan's files and every head runs: K is h.
        domains: Whose operators its ONNX files may use; none: it has no such files.
        paths: Where its graphs lie, where a runtime looks for them by name; empty: anywhere.
        blobs: Files that it has beside them, likewise.
        fixed_sizes: Whether the size of every dynamic dimension is fixed, in ``limits``. Such a plan has
            one blob, its data file.
    """

    roles: frozenset[str]
    opset: int | None
    host_bases: bool
    domains: frozenset[str] = frozenset()
    fixed_sizes: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()


_ONNX = frozenset({"", "ai.onnx"})

PLAN_FORMS: Mapping[str, PlanForm] = {
    "whole": PlanForm(frozenset({"step", "eval"}), 18, host_bases=True, domains=_ONNX),
    "executorch": PlanForm(frozenset({"step", "eval"}), None, host_bases=False, fixed_sizes=True),
    "ort-training": PlanForm(
        frozenset({"step", "eval"}),
        18,
        host_bases=False,
        domains=_ONNX | {"com.microsoft"},
        paths={
            "step": "plans/ort-training/training_model.onnx",
            "eval": "plans/ort-training/eval_model.onnx",
        },
        blobs=frozenset(
            {"plans/ort-training/optimizer_model.onnx", "plans/ort-training/checkpoint"}
        ),
    ),
}
"""By plan. A reader ignores plans that are not here, and does not run them."""
