"""Image classification: one label for each image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ravan_edge.generator import Purpose, Stream
from ravan_export.graph import Builder, Value
from ravan_export.image_settings import image_settings, model_size
from ravan_export.source import Checkpoint, Source
from ravan_export.tasks.classifier import load_classifier
from ravan_export.tasks.rows import cross_entropy
from ravan_export.tasks.task import IGNORED, Array, Loss, Task

__all__ = ["ImageClassification"]

_ROWS = (3, 2)
_EXAMPLE_ROWS = 3


class ImageClassification(Task):
    """A classifier with its own head; one for other labels gets a new head."""

    name = "image-classification"
    optimum_task = "image-classification"
    dims = {"pixel_values": {0: "batch"}}  # noqa: RUF012  (nobody changes it)
    label_dims = ("batch",)

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load it, with how its images are read."""
        # First: what it refuses needs no weights. An outline reads no images.
        image = None if checkpoint.stored is None else image_settings(checkpoint)
        found = load_classifier(
            checkpoint,
            self.optimum_task,
            labels,
            self.options.seed,
            suffix=("ForImageClassification", "ForImageClassificationWithTeacher"),
            replace_head=True,
        )
        body = getattr(found.model, found.model.base_model_prefix)
        # One position for each patch and for each token that is no patch.
        tokens = int(body.embeddings.position_embeddings.shape[1])
        return Source(
            checkpoint=checkpoint,
            info=checkpoint.info(found.model),
            model=found.model,
            captured=checkpoint.form.capture(found.model).eval(),
            labels=labels,
            task_modules=found.modules,
            task_head=found.head,
            image=image and image.model_copy(update={"tokens": tokens}),
            notices=found.notices,
        )

    def example(self, source: Source) -> dict[str, Tensor]:
        """Pixels [3, channels, height, width]."""
        return {"pixel_values": torch.zeros(_EXAMPLE_ROWS, *_shape(source))}

    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """Cross entropy of the logits [batch, labels]."""
        del frozen
        return cross_entropy(builder, output, labels)

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Normal numbers as pixels; with three rows the last one has no label."""
        rows, shape = _ROWS[use], _shape(source)
        stream = Stream(self.options.seed, Purpose.CONFORMANCE, index=use)
        pixels = stream.normal(rows * int(np.prod(shape))).reshape(rows, *shape)
        words = Stream(self.options.seed, Purpose.CONFORMANCE, index=len(_ROWS) + use).words(rows)
        labels = words.astype(np.int64) % len(source.labels)
        if rows > 2:
            labels[-1] = IGNORED
        return {"pixel_values": pixels.astype(np.float32), "labels": labels}

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """The model's own logits; the loss is torch's."""
        own = {full: values[name] for name, (full, _) in source.task_head.items()}
        inputs = {"pixel_values": batch["pixel_values"]}
        logits = torch.func.functional_call(source.model, own, kwargs=inputs).logits
        return functional.cross_entropy(
            logits, batch["labels"], ignore_index=IGNORED, reduction="sum"
        )


def _shape(source: Source) -> tuple[int, int, int]:
    """Channels, height and width of an image."""
    height, width = model_size(source.checkpoint)
    return int(getattr(source.config, "num_channels", 3)), height, width
