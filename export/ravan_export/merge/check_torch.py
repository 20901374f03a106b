"""A loaded Hugging Face model, run on the batches the artifact was run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ravan_export.merge.check import Array, Expected, Gap, gap_of
from ravan_export.pooling import Pooling, pool

__all__ = ["ExternalHead", "check_torch"]


@dataclass(frozen=True, slots=True)
class ExternalHead:
    """A task head behind the model: logits = W f + b, f = sqrt(d) x / ||x|| of pooled vectors x."""

    pooling: Pooling
    weight: Array
    bias: Array

    def logits(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [batch, labels] of token vectors [batch, length, width] under a mask."""
        vectors = pool(hidden, mask.float(), self.pooling)
        if self.pooling.dense is not None:
            vectors = self.pooling.dense.applied(vectors)
        vectors = torch.nn.functional.normalize(vectors)
        scaled = vectors * vectors.shape[1] ** 0.5
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        return torch.nn.functional.linear(scaled, weight, bias)


def check_torch(
    model: Any,  # noqa: ANN401  (any model of transformers)
    expected: list[Expected],
    head: ExternalHead | None,
) -> Gap:
    """Run a loaded Hugging Face model on the same batches as the artifact.

    Args:
        model: As a user would load it.
        expected: From :func:`expectations`.
        head: Where the task head stands behind the model.
    """
    total = Gap(0.0, 0, 0)
    for item in expected:
        batch = {name: torch.from_numpy(np.array(array)) for name, array in item.inputs.items()}
        labels = torch.from_numpy(np.array(item.batch["labels"]))
        with torch.no_grad():
            if head is not None:
                hidden = model(**batch).last_hidden_state.float()
                total += gap_of(item, head.logits(hidden, batch["attention_mask"]).numpy())
                continue
            # Not every classifier takes labels; every language model makes its own loss of them.
            output = model(**batch, labels=labels) if item.logits is None else model(**batch)
        if item.logits is None:
            loss = float(output.loss)
            total += Gap(abs(loss - item.loss) if np.isfinite(loss) else float("inf"), 0, 0)
        else:
            total += gap_of(item, output.logits.float().numpy())
    return total
