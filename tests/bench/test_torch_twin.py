"""Kit and slow twin: two rounds of the same small federation, by code that shares only the choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.head_twin import FeatureSet, feature_set, federate_head
from bench.torch_twin import Twin, TwinSettings, average, federate, fold, score
from bench.twin_run import Choices, adapt, choose, initial_heads
from ravan_edge.artifact import Artifact, read_heads
from ravan_edge.data import TokenisedDataset, read_rows, tokenise
from ravan_edge.simulate import SimulationRequest, SimulationSettings, simulate
from ravan_edge.training import LocalSettings
from tests.tiny_artifact import Method, TinySizes, make_tiny_artifact, tiny_rows

ROUNDS = 2
STEPS = 6
BATCH = 7
LR, TASK_HEAD_LR = 0.02, 0.005
SEED = 3


class _Tiny(nn.Module):
    """The tiny artifact's model up to its task head (tests/tiny_graph.py)."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        base = {
            name: nn.Parameter(torch.from_numpy(np.array(artifact.base[name])))
            for name in ("embedding.weight", "encoder.dense.weight", "encoder.dense.bias")
        }
        self.embedding = nn.Embedding(*base["embedding.weight"].shape)
        self.embedding.weight = base["embedding.weight"]
        self.encoder = nn.Module()
        self.encoder.dense = nn.Linear(*base["encoder.dense.weight"].shape[::-1])
        self.encoder.dense.weight = base["encoder.dense.weight"]
        self.encoder.dense.bias = base["encoder.dense.bias"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        shown = attention_mask.unsqueeze(-1).float()
        x = (self.embedding(input_ids) * shown).sum(1) / shown.sum(1)
        return torch.tanh(self.encoder.dense(x))


def _features(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return model(input_ids, attention_mask)


def _twin(artifact: Artifact) -> Twin:
    sizes = TinySizes()
    twin = Twin(_Tiny(artifact), _features, sizes.width, sizes.labels)
    adapt(twin, artifact)
    return twin


def _write(path: Path, count: int, seed: int) -> Path:
    rows = [f"{text},{label}" for text, label in tiny_rows(count, seed=seed)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def _tokens(artifact: Artifact, path: Path) -> TokenisedDataset:
    tokenizer = artifact.tokenizer_path
    assert tokenizer is not None
    names = artifact.manifest.labels
    return tokenise(read_rows(path), tokenizer, max_length=16, label_names=names)


def _choices(train: TokenisedDataset) -> Choices:
    return choose(
        train,
        devices=6,
        per_round=3,
        rounds=ROUNDS,
        rule="dirichlet:0.3",
        validation=0.0,
        seed=SEED,
    )


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_two_rounds_end_in_the_same_heads_and_scores(method: Method, tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "artifact", method=method)
    train, test = _write(tmp_path / "train.csv", 200, 1), _write(tmp_path / "test.csv", 60, 2)
    local = LocalSettings(local_steps=STEPS, batch_size=BATCH, lr=LR, task_head_lr=TASK_HEAD_LR)
    settings = SimulationSettings(
        local=local,
        devices=6,
        per_round=3,
        rounds=ROUNDS,
        partition="dirichlet:0.3",
        validation=0.0,
        max_length=16,
        seed=SEED,
    )
    run = tmp_path / "run"
    summary = simulate(SimulationRequest(artifact.folder, train, test, run, settings), workers=1)
    kit = read_heads(run / "heads" / "last.safetensors", artifact)

    twin = _twin(artifact)
    shared = _choices(_tokens(artifact, train))
    start = initial_heads(artifact)
    options = TwinSettings(SEED, STEPS, BATCH, LR, TASK_HEAD_LR, pad_id=0)
    *_, heads = federate(twin, start, shared.train, shared.parts, shared.cohorts, options)

    assert kit.keys() == heads.keys()
    for name, value in kit.items():
        moved = (heads[name] - start[name]).norm().item()
        apart = np.linalg.norm(heads[name].numpy() - value)
        assert apart <= 2e-4 * moved + 1e-12, name
        assert moved > 0 or name.endswith(".s"), name
    found = score(twin, heads, _tokens(artifact, test), pad_id=0)
    assert found.accuracy == pytest.approx(summary["final"]["accuracy"])
    assert found.loss == pytest.approx(summary["final"]["loss"], rel=1e-4)


def test_features_computed_once_train_the_same_task_head(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "artifact", method="head-only")
    shared = _choices(_tokens(artifact, _write(tmp_path / "train.csv", 120, 1)))
    twin = _twin(artifact)
    options = TwinSettings(SEED, STEPS, BATCH, LR, LR, pad_id=0)
    rows: FeatureSet = feature_set(twin, shared.train, pad_id=0)
    slow = federate(
        twin, initial_heads(artifact), shared.train, shared.parts, shared.cohorts, options
    )
    quick = federate_head(
        initial_heads(artifact),
        rows,
        shared.parts,
        shared.cohorts,
        seed=SEED,
        lr=LR,
        batch_size=BATCH,
        steps=STEPS,
    )
    for one, other in zip(slow, quick, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_the_merge_is_the_mean_of_s_times_h() -> None:
    uploads = [
        fold({"q.H": torch.full((2, 3, 3), core), "q.s": torch.tensor(scales)})
        for core, scales in ((1.0, [1.0, 2.0]), (3.0, [0.5, 1.0]))
    ]
    merged = average(uploads)
    assert merged["q.H"][:, 0, 0].tolist() == [1.25, 2.5]
    assert merged["q.s"].tolist() == [1.0, 1.0]
