"""The slow twin: federated Ravan in plain torch, written to be read beside the paper.

The same job as ``ravan simulate`` with code of its own where it counts: the pretrained model as
Hugging Face loads it, adapters in the place of its linear layers, autograd, ``torch.optim.Adam``,
and the merge as a float64 mean. Shared with the kit are only choices, so that both see the same
examples in the same order: tokens, partition, cohorts, batches, frozen bases and initial heads
(``bench/twin_run.py`` reads them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from ravan_edge.data import TokenisedDataset, collate, local_round_batches

__all__ = [
    "FrozenLinear",
    "LoraLinear",
    "RavanLinear",
    "Score",
    "State",
    "Twin",
    "TwinSettings",
    "average",
    "federate",
    "score",
    "sentence_features",
    "tensors",
]

State = dict[str, Tensor]
Features = Callable[[nn.Module, Tensor, Tensor], Tensor]

_linear = torch.ops.mkldnn._linear_pointwise


class _FrozenProduct(torch.autograd.Function):
    """x W^T + b, and dX = dY W. By oneDNN: torch's default library runs at half its rate on AMD."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, W: Tensor, Wt: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(Wt)
        product: Tensor = _linear(x, W, b, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (Wt,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _linear(gradients[0].contiguous(), Wt, None, "none", [], ""), None, None, None


class FrozenLinear(nn.Module):
    """W x + b with a frozen W [m, n]."""

    def __init__(self, W: Tensor, b: Tensor | None = None) -> None:
        super().__init__()
        self.W, self.Wt = W.detach().contiguous(), W.detach().T.contiguous()
        self.b = None if b is None else b.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] to [..., m]."""
        product: Tensor = _FrozenProduct.apply(x, self.W, self.Wt, self.b)
        return product


class RavanLinear(nn.Module):
    """y = W x + sum_i s_i B_i H_i A_i x (eq. 4): B_i, A_i frozen, H_i and s_i trained.

    Args:
        linear: W x + b, W [m, n].
        A: [h, r, n], the A_i.
        Bt: [h, r, m], the B_i transposed.
    """

    def __init__(self, linear: FrozenLinear, A: Tensor, Bt: Tensor) -> None:
        super().__init__()
        heads, self.rank, _ = A.shape
        self.linear = linear
        self.A = FrozenLinear(A.flatten(0, 1))  # A_1 .. A_h one below the other: [h r, n]
        self.B = FrozenLinear(Bt.flatten(0, 1).T)  # B_1 .. B_h side by side: [m, h r]
        self.H = nn.Parameter(torch.zeros(heads, self.rank, self.rank))
        self.s = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] to [..., m]."""
        pieces = self.A(x).split(self.rank, dim=-1)
        heads = zip(self.s, self.H, pieces, strict=True)
        y: Tensor = self.linear(x) + self.B(torch.cat([s * (z @ H.T) for s, H, z in heads], dim=-1))
        return y


class LoraLinear(nn.Module):
    """y = W x + (alpha / r) B A x, with A [r, n] and B [m, r] trained (FedIT averages each)."""

    def __init__(self, linear: FrozenLinear, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = linear.W.shape
        self.linear = linear
        self.scaling = alpha / rank
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] to [..., m]."""
        y: Tensor = self.linear(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
        return y


def sentence_features(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens, L2 norm times sqrt(d): features of RMS 1, [rows, d]."""
    tokens = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    shown = attention_mask.unsqueeze(-1).to(tokens.dtype)
    pooled = (tokens * shown).sum(dim=1) / shown.sum(dim=1)
    features: Tensor = functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
    return features


class Twin(nn.Module):
    """A frozen encoder with trained adapters, and a trained linear task head on its features.

    Args:
        encoder: The pretrained model. Its linear layers are replaced.
        features: Called as ``features(encoder, input_ids, attention_mask)``: [rows, width].
        width: Features of a row.
        labels: Classes.
    """

    def __init__(self, encoder: nn.Module, features: Features, width: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(requires_grad=False)  # no dropout
        for name, module in list(encoder.named_modules()):
            if isinstance(module, nn.Linear):
                self._replace(name, FrozenLinear(module.weight, module.bias))
        self.features = features
        self.task_head = nn.Linear(width, labels)
        self.trained = {f"task_head.{k}": v for k, v in self.task_head.named_parameters()}

    def adapt(self, layer: str, adapter: Callable[[FrozenLinear], nn.Module]) -> None:
        """Put an adapter in the place of one linear layer of the encoder."""
        linear = self.encoder.get_submodule(layer)
        assert isinstance(linear, FrozenLinear), f"{layer} is no linear layer"
        adapted = adapter(linear)
        self._replace(layer, adapted)
        self.trained |= {f"{layer}.{k}": v for k, v in adapted.named_parameters()}

    def _replace(self, layer: str, module: nn.Module) -> None:
        parent, _, name = layer.rpartition(".")
        setattr(self.encoder.get_submodule(parent), name, module)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [rows, labels]."""
        logits: Tensor = self.task_head(self.features(self.encoder, input_ids, attention_mask))
        return logits

    def state(self) -> State:
        """Copies of what trains, by the names of the artifact's tensor table."""
        return {name: value.detach().clone() for name, value in self.trained.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Values of what trains, from outside."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state[name])


@dataclass(frozen=True)
class TwinSettings:
    """One federated run; the words are those of ``ravan simulate``."""

    seed: int
    local_steps: int
    batch_size: int
    lr: float
    task_head_lr: float
    pad_id: int


def train_locally(
    model: Twin,
    start: State,
    data: TokenisedDataset,
    batches: Iterable[NDArray[np.int64]],
    settings: TwinSettings,
) -> State:
    """One device's round, from the version's heads with s = 1 and a fresh Adam: what it uploads."""
    model.set_state(start)
    optimiser = torch.optim.Adam(
        {"params": value, "lr": settings.task_head_lr if "task_head." in name else settings.lr}
        for name, value in model.trained.items()
    )
    for indices in batches:
        ids, mask, labels = tensors(data, indices, settings.pad_id)
        loss = functional.cross_entropy(model(ids, mask), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return fold(model.state())


def fold(state: State) -> State:
    """H_i <- s_i H_i, s_i <- 1."""
    folded = dict(state)
    for name, scale in state.items():
        if name.endswith(".s"):
            core = name.removesuffix("s") + "H"
            folded[core] = state[core] * scale[:, None, None]
            folded[name] = torch.ones_like(scale)
    return folded


def average(uploads: Sequence[State]) -> State:
    """H_i <- mean of s_i H_i over the cohort, in float64; the same for everything else."""
    return {
        name: torch.stack([upload[name].double() for upload in uploads]).mean(dim=0).float()
        for name in uploads[0]
    }


def federate(
    model: Twin,
    heads: State,
    data: TokenisedDataset,
    parts: Sequence[NDArray[np.int64]],
    cohorts: Iterable[Sequence[int]],
    settings: TwinSettings,
) -> Iterator[State]:
    """Federated averaging: the merged heads after each round."""
    for number, cohort in enumerate(cohorts):
        uploads = []
        for device in cohort:
            batches = local_round_batches(
                parts[device],
                seed=settings.seed,
                round=number,
                device=device,
                batch_size=settings.batch_size,
                steps=settings.local_steps,
            )
            uploads.append(train_locally(model, heads, data, batches, settings))
        heads = average(uploads)
        yield heads


@dataclass(frozen=True)
class Score:
    """What an evaluation found: shares and means over all rows."""

    accuracy: float
    loss: float


def score(
    model: Twin,
    heads: State,
    data: TokenisedDataset,
    pad_id: int,
    rows: NDArray[np.int64] | None = None,
) -> Score:
    """Accuracy and mean loss of some rows (None: all), in batches of similar length."""
    model.set_state(heads)
    correct, loss = 0, 0.0
    chosen = np.arange(len(data)) if rows is None else rows
    order = chosen[np.argsort(data.lengths[chosen], kind="stable")]
    with torch.inference_mode():
        for begin in range(0, len(order), 64):
            ids, mask, labels = tensors(data, order[begin : begin + 64], pad_id)
            logits = model(ids, mask)
            correct += int((logits.argmax(dim=-1) == labels).sum())
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return Score(correct / len(order), loss / len(order))


def tensors(
    data: TokenisedDataset, indices: NDArray[np.int64], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and mask [rows, length], labels [rows]."""
    batch = collate(data, indices, pad_id)
    ids, mask = (torch.from_numpy(batch.inputs[name]) for name in ("input_ids", "attention_mask"))
    return ids, mask, torch.from_numpy(batch.labels)
