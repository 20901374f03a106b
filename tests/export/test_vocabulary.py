"""The loss over a vocabulary by slices: torch's numbers, and never a [tokens, vocabulary] matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ravan_edge.plans.conformance import relative_error
from ravan_export.graph import Builder
from ravan_export.graph.finish import finish
from ravan_export.graph.value import INT64
from ravan_export.tasks.vocabulary import VocabularyLoss, next_tokens

Arrays = dict[str, NDArray[Any]]
WIDTH = 8


def session(
    words: int,
    slices: int,
    options: onnxruntime.SessionOptions,
    *,
    bias: bool,
    softcap: float | None,
) -> onnxruntime.InferenceSession:
    """The loss alone, as a graph of its own."""
    builder = Builder()
    hidden = builder.input("hidden", ("batch", "length", WIDTH))
    labels = builder.input("labels", ("batch", "length"), INT64)
    frozen = {"vocabulary": builder.input("vocabulary", (words, WIDTH))}
    if bias:
        frozen["bias"] = builder.input("bias", (words,))
    if softcap is not None:
        frozen["softcap"] = builder.constant(softcap)
    loss = VocabularyLoss(builder, frozen, slices)(hidden, next_tokens(builder, labels))
    outputs = {name: builder.exact(value) for name, value in loss.outputs.items()}
    outputs["gradient"] = builder.exact(loss.gradient)
    return onnxruntime.InferenceSession(
        finish(builder, outputs, {}).SerializeToString(), options, ["CPUExecutionProvider"]
    )


def numbers(words: int, shape: tuple[int, int]) -> Arrays:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, words, shape)
    labels[rng.random(shape) < 0.3] = -100
    return {
        "hidden": rng.standard_normal((*shape, WIDTH)).astype(np.float32),
        "labels": labels,
        "vocabulary": rng.standard_normal((words, WIDTH)).astype(np.float32),
        "bias": rng.standard_normal(words).astype(np.float32),
    }


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slices", [1, 3, 50])
def test_loss_and_gradient_are_torchs(slices: int, bias: bool, softcap: float | None) -> None:
    feed = numbers(37, (3, 11))
    if not bias:
        del feed["bias"]
    hidden = torch.from_numpy(feed["hidden"]).requires_grad_()
    logits = functional.linear(
        hidden,
        torch.from_numpy(feed["vocabulary"]),
        torch.from_numpy(feed["bias"]) if bias else None,
    )
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    target = torch.from_numpy(feed["labels"])[:, 1:]
    expected = functional.cross_entropy(logits[:, :-1].transpose(1, 2), target, reduction="sum")
    (gradient,) = torch.autograd.grad(expected, hidden)
    kept = target != -100
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    loss, count, correct, found = session(37, slices, options, bias=bias, softcap=softcap).run(
        None, feed
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert count == kept.sum()
    assert correct == (logits.argmax(-1)[:, :-1] == target)[kept].sum()
    assert relative_error(found, gradient.numpy()) < 5e-6


@pytest.mark.parametrize("order", ["DEFAULT", "PRIORITY_BASED"])
def test_one_slice_is_done_before_the_next_begins(order: str, tmp_path: Path) -> None:
    """512 tokens of 32,000 words would be 65 MB; eight slices hold 8.2 MB, one after the other."""
    words, slices, shape = 32_000, 8, (1, 513)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.execution_order = getattr(onnxruntime.ExecutionOrder, order)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    runner = session(words, slices, options, bias=False, softcap=None)
    feed = numbers(words, shape)
    feed["labels"] = np.abs(feed["labels"])
    del feed["bias"]
    runner.run(None, feed)
    events = json.loads(Path(runner.end_profiling()).read_text())
    kernels = [event["args"] for event in events if event.get("cat") == "Node" and "args" in event]
    kernels = [arguments for arguments in kernels if "output_size" in arguments]
    largest = max(int(arguments["output_size"]) for arguments in kernels)
    assert 0.9 * 512 / slices * words * 4 < largest <= (512 / slices + 1) * words * 4
    large = [item["op_name"] for item in kernels if item["op_name"] in {"LogSoftmax", "Exp"}]
    assert large == ["LogSoftmax", "Exp"] * slices
