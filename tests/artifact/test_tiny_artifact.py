"""The tiny artifact is what it says: its graphs and its numpy reference equal torch autograd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from tests.tiny_artifact import (
    LAYER,
    Method,
    TinySizes,
    make_tiny_artifact,
    reference,
    tiny_rows,
    tiny_step_batch,
)

Arrays = dict[str, NDArray[Any]]
METHODS: tuple[Method, ...] = ("ravan", "fedit", "head-only")
SCALE = 16.0 / TinySizes().rank


def moved(artifact: Artifact) -> Arrays:
    generator = np.random.default_rng(5)
    return {
        name: array + generator.standard_normal(array.shape).astype(np.float32) * np.float32(0.3)
        for name, array in artifact.initial_heads().items()
    }


def error(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-30))


def by_torch(artifact: Artifact, params: Arrays, batch: Arrays) -> Arrays:
    """The model as one writes it in torch, float64, gradients by autograd."""
    import torch

    base = {name: torch.tensor(array, dtype=torch.float64) for name, array in artifact.base.items()}
    p = {
        name: torch.tensor(array, dtype=torch.float64, requires_grad=True)
        for name, array in params.items()
    }
    ids, mask, labels = (
        torch.tensor(batch[name]) for name in ("input_ids", "attention_mask", "labels")
    )
    shown = mask[:, :, None].double()
    x = (base["embedding.weight"][ids] * shown).sum(1) / shown.sum(1).clamp(min=1)
    y = torch.nn.functional.linear(x, base[f"{LAYER}.weight"], base[f"{LAYER}.bias"])
    if f"{LAYER}.H" in p:
        for i in range(p[f"{LAYER}.s"].shape[0]):
            A, B = base[f"{LAYER}.A"][i], base[f"{LAYER}.Bt"][i].T
            y = y + p[f"{LAYER}.s"][i] * (x @ A.T @ p[f"{LAYER}.H"][i].T @ B.T)
    if f"{LAYER}.lora_A" in p:
        y = y + SCALE * (x @ p[f"{LAYER}.lora_A"].T @ p[f"{LAYER}.lora_B"].T)
    logits = torch.nn.functional.linear(torch.tanh(y), p["task_head.weight"], p["task_head.bias"])
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss_sum": loss.detach().numpy(), "logits": logits.detach().numpy()}
    for name, tensor in p.items():
        assert tensor.grad is not None
        found[f"grad.{name}"] = tensor.grad.numpy()
    return found


def by_onnxruntime(artifact: Artifact, params: Arrays, batch: Arrays, role: str) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(artifact.base_folder)
    )
    session = onnxruntime.InferenceSession(
        artifact.graph_path("whole", role).read_bytes(), options, ["CPUExecutionProvider"]
    )
    feed = dict(batch) | {
        basis.name: artifact.base[basis.name] for basis in artifact.manifest.bases
    }
    H, s = params.get(f"{LAYER}.H"), params.get(f"{LAYER}.s")
    for name, array in params.items():
        if name not in (f"{LAYER}.H", f"{LAYER}.s"):
            feed[name] = array
    if H is not None and s is not None:
        feed[f"{LAYER}.G"] = s[:, None, None] * H
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, feed), strict=True))
    if H is not None and s is not None and role == "step":
        dG = found.pop(f"grad.{LAYER}.G")
        found[f"grad.{LAYER}.H"] = s[:, None, None] * dG
        found[f"grad.{LAYER}.s"] = (H * dG).sum((1, 2))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_graphs_and_reference_equal_torch(tmp_path: Path, method: Method) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny", method=method)
    params, batch = moved(artifact), tiny_step_batch(6, 9)
    truth = by_torch(artifact, params, batch)
    numpys = reference(dict(artifact.base), params, batch, SCALE)
    step = by_onnxruntime(artifact, params, batch, "step")
    evaluation = by_onnxruntime(artifact, params, batch, "eval")
    assert set(step) == {"loss_sum", "count", "correct"} | {f"grad.{name}" for name in params}
    assert set(evaluation) == {"loss_sum", "count", "correct", "logits"}
    for name, value in truth.items():
        assert error(numpys[name], value) < 1e-12, name
        assert error(step.get(name, evaluation.get(name)), value) < 1e-5, name
    for found in (step, evaluation, numpys):
        assert found["count"] == 4
        assert found["correct"] == numpys["correct"]
    assert error(evaluation["loss_sum"], truth["loss_sum"]) < 1e-5


def test_heads_that_are_zero_may_be_left_out(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny")
    params, batch = moved(artifact), tiny_step_batch(6, 9)
    params[f"{LAYER}.H"][[0, 3]] = 0
    running = np.array([1, 2])
    fewer = {**params, f"{LAYER}.H": params[f"{LAYER}.H"][running]}
    fewer[f"{LAYER}.s"] = params[f"{LAYER}.s"][running]
    bases = {name: artifact.base[name][running] for name in (f"{LAYER}.A", f"{LAYER}.Bt")}
    part = replace(artifact, base=dict(artifact.base) | bases)
    one = by_onnxruntime(artifact, params, batch, "step")
    two = by_onnxruntime(part, fewer, batch, "step")
    assert error(two["loss_sum"], one["loss_sum"]) < 1e-6
    assert error(two[f"grad.{LAYER}.H"], one[f"grad.{LAYER}.H"][running]) < 1e-5


def test_padding_and_rows_that_do_not_count_change_nothing(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny")
    params, batch = moved(artifact), tiny_step_batch(6, 9)
    wide = {
        name: np.pad(array, ((0, 0), (0, 4))) for name, array in batch.items() if array.ndim == 2
    }
    one = by_onnxruntime(artifact, params, batch, "step")
    two = by_onnxruntime(artifact, params, batch | wide, "step")
    counted = {name: array[:4] for name, array in batch.items()}
    three = by_onnxruntime(artifact, params, counted, "step")
    for name, value in one.items():
        assert error(two[name], value) < 1e-6
        assert error(three[name], value) < 1e-6


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    one = make_tiny_artifact(tmp_path / "one")
    two = make_tiny_artifact(tmp_path / "two")
    other = make_tiny_artifact(tmp_path / "three", seed=1)
    assert one.digest == two.digest != other.digest


def test_the_bench_size_has_ten_kilobytes_of_heads(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny", sizes=TinySizes(width=32, heads=4, rank=24))
    assert 9_500 <= artifact.manifest.files["heads.safetensors"].size <= 11_000


def test_rows_use_the_vocabulary_and_the_labels() -> None:
    rows = tiny_rows(9, words=5)
    assert [label for _, label in rows[:3]] == ["label0", "label1", "label2"]
    assert all(len(text.split()) == 5 for text, _ in rows)
