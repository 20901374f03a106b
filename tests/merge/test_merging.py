"""Merging as the settings say: clipping, heads that too few trained, several processes, optimisers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ravan_edge.artifact import Role, TensorEntry
from ravan_edge.errors import NumericsError, UsageError
from ravan_edge.merge import (
    ExactSum,
    Gathered,
    Gathering,
    HeadVectors,
    Merged,
    MergeName,
    MergeScale,
    MergeSettings,
    RoundRule,
    ServerOptimizerName,
    Weight,
    Weighting,
    combined,
    merge,
    staleness_factor,
)
from ravan_edge.merge.clipping import clipped, norm
from ravan_edge.methods import ParameterLayout
from ravan_edge.methods.ravan import Ravan

TABLE = [
    TensorEntry(name="q.H", role=Role.CORE, shape=(3, 2, 2), layer="q"),
    TensorEntry(name="q.s", role=Role.SCALE, shape=(3,), layer="q"),
    TensorEntry(name="task_head.weight", role=Role.TASK_HEAD, shape=(2, 3), layer=None),
    TensorEntry(name="v.H", role=Role.CORE, shape=(3, 2, 2), layer="v"),
    TensorEntry(name="v.s", role=Role.SCALE, shape=(3,), layer="v"),
    TensorEntry(name="task_head.bias", role=Role.TASK_HEAD, shape=(2,), layer=None),
]
METHOD = Ravan(ParameterLayout.from_table(TABLE))
SIZE = METHOD.layout.size
PLACES: list[list[int]] = [
    *[list(range(4 * head, 4 * head + 4)) for head in range(3)],
    *[list(range(21 + 4 * head, 25 + 4 * head)) for head in range(3)],
    [*range(15, 21), *range(36, 38)],
]
"""By hand: the numbers of each vector in the parameter vector."""

ROBUST = [
    MergeSettings(MergeName.MEDIAN, byzantine=1),
    MergeSettings(MergeName.TRIMMED_MEAN, byzantine=1),
    MergeSettings(MergeName.KRUM, byzantine=0),
    MergeSettings(MergeName.MULTI_KRUM, byzantine=0),
    MergeSettings(MergeName.GEOMETRIC_MEDIAN, byzantine=1),
]
SCALE = MergeScale.for_cohort(8)
Device = tuple[NDArray[np.float32], NDArray[np.bool_] | None]


def device(generator: np.random.Generator, heads: list[int] | None = None) -> Device:
    """A difference and its mask; ``heads``: of both layers; None: all."""
    chosen = None
    if heads is not None:
        chosen = {layer: np.array(heads, np.int32) for layer in "qv"}
    training = METHOD.training(np.zeros(SIZE, np.float32), chosen)
    start = METHOD.start_round(np.zeros(SIZE, np.float32))
    moved = (start + generator.normal(0, 0.1, SIZE)).astype(np.float32)
    return METHOD.difference(moved, np.zeros(SIZE, np.float32), training), training.mask


def some_heads(seed: int = 0) -> list[Device]:
    """Head 0 of each layer is trained by five devices, head 1 by three, head 2 by two."""
    generator = np.random.default_rng(seed)
    return [device(generator, heads) for heads in ([0, 1, 2], [0, 1], [0, 1], [0, 2], [0])]


def start_heads() -> NDArray[np.float32]:
    heads = np.random.default_rng(9).normal(0, 1, SIZE).astype(np.float32)
    heads[METHOD.layout.mask(Role.SCALE)] = 1.0
    return heads


def gather(
    folder: Path, settings: MergeSettings, devices: list[Device], weight: Weight | None = None
) -> Gathered:
    found = Gathering(settings, METHOD, SCALE, folder / f"{len(list(folder.iterdir()))}.rows")
    for difference, mask in devices:
        found.add(difference, mask, weight or Weight())
    return found.finished()


def merged(folder: Path, settings: MergeSettings, devices: list[Device]) -> Merged:
    return merge(settings, METHOD, start_heads(), gather(folder, settings, devices))


def test_vectors_are_heads_and_everything_else() -> None:
    vectors = HeadVectors(METHOD.layout)
    assert vectors.sizes == (4, 4, 4, 4, 4, 4, 8)
    numbers = np.arange(SIZE, dtype=np.float32)
    row = vectors.to_row(numbers)
    assert [row[place].astype(int).tolist() for place in vectors.places()] == PLACES
    back = vectors.from_row(row)
    scales = METHOD.layout.mask(Role.SCALE)
    np.testing.assert_array_equal(back[~scales], numbers[~scales])
    assert not back[scales].any()


@pytest.mark.parametrize("settings", ROBUST, ids=lambda s: str(s.merge))
def test_a_head_that_too_few_trained_keeps_its_bits(
    settings: MergeSettings, tmp_path: Path
) -> None:
    assert settings.least_trainers == 3
    heads, result = start_heads(), merged(tmp_path, settings, some_heads())
    kept = [2, 5]  # head 2 of both layers
    assert result.kept == len(kept)
    for number, place in enumerate(PLACES):
        same = result.heads[place].tobytes() == heads[place].tobytes()
        assert same is (number in kept)
    scales = METHOD.layout.mask(Role.SCALE)
    assert result.heads[scales].tobytes() == heads[scales].tobytes()
    assert not list(tmp_path.iterdir()), "files of differences are deleted"


@pytest.mark.parametrize("settings", ROBUST, ids=lambda s: str(s.merge))
def test_a_vector_is_merged_from_its_trainers_alone(
    settings: MergeSettings, tmp_path: Path
) -> None:
    """Head 1 of a layer comes out as if nobody but its three trainers had been there."""
    devices = some_heads()
    everybody = merged(tmp_path, settings, devices).heads
    trainers = [(difference, None) for difference, _ in devices[:3]]
    for number in (1, 4):
        alone = merged(tmp_path, settings, trainers).heads
        assert everybody[PLACES[number]].tobytes() == alone[PLACES[number]].tobytes()


@pytest.mark.parametrize("settings", [MergeSettings(), *ROBUST], ids=lambda s: str(s.merge))
@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
def test_order_and_number_of_processes_change_no_bit(
    settings: MergeSettings,
    order: list[int],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, devices = tmp_path_factory.mktemp("rows"), some_heads()
    expected = merged(folder, settings, devices).heads.tobytes()
    shuffled = [devices[number] for number in order]
    parts = [gather(folder, settings, part) for part in (shuffled[:cut], shuffled[cut:])]
    found = merge(settings, METHOD, start_heads(), combined(parts))
    assert found.heads.tobytes() == expected


def test_the_plain_mean_is_the_exact_merge(tmp_path: Path) -> None:
    total = ExactSum.empty(SIZE, SCALE)
    for difference, mask in some_heads():
        total.add(difference, mask)
    result = merged(tmp_path, MergeSettings(), some_heads())
    assert result.heads.tobytes() == total.apply(start_heads()).tobytes()
    assert (result.kept, result.moments) == (0, None)
    assert merged(tmp_path, MergeSettings(), some_heads()[4:]).kept == 4


@given(
    hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(-63, 63, width=32)),
    st.floats(0.01, 200),
)
def test_clipping_bounds_the_whole_difference(difference: NDArray[np.float32], most: float) -> None:
    length = math.sqrt(math.fsum(float(x) ** 2 for x in difference))
    assert norm(difference) == pytest.approx(length, rel=1e-12)
    found = clipped(difference, most)
    if norm(difference) <= most:
        assert found is difference
    else:
        assert norm(found) == pytest.approx(most, rel=1e-6)
        expected = difference.astype(np.float64) * (most / length)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-40)


def test_the_norm_adds_one_after_the_other() -> None:
    """Also over the blocks in which it is computed."""
    difference = np.random.default_rng(3).normal(0, 1, 70_000).astype(np.float32)
    total = 0.0
    for x in difference.tolist():
        total += x * x
    assert norm(difference) == math.sqrt(total)


@pytest.mark.parametrize("settings", [MergeSettings(max_norm=0.3), *ROBUST])
def test_clipped_and_stale_differences_are_like_smaller_ones(
    settings: MergeSettings, tmp_path: Path
) -> None:
    weight = Weight(1, staleness_factor(2))
    robust = MergeSettings(settings.merge, settings.byzantine, max_norm=0.3)
    smaller = []
    for difference, mask in some_heads():
        short = clipped(difference, 0.3)
        if robust.is_robust:  # the mean takes the factor into its integers
            short = (short.astype(np.float64) * weight.share).astype(np.float32)
        smaller.append((short, mask))
    plain = MergeSettings(settings.merge, settings.byzantine)
    left = weight if not robust.is_robust else None
    expected = merge(plain, METHOD, start_heads(), gather(tmp_path, plain, smaller, left))
    found = merge(robust, METHOD, start_heads(), gather(tmp_path, robust, some_heads(), weight))
    assert found.heads.tobytes() == expected.heads.tobytes()


@pytest.mark.parametrize("settings", [MergeSettings(max_norm=1.0), *ROBUST])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 64.0, -1e30])
def test_bad_numbers_are_refused_and_leave_no_trace(
    settings: MergeSettings, bad: float, tmp_path: Path
) -> None:
    gathering = Gathering(settings, METHOD, SCALE, tmp_path / "rows")
    good = some_heads()
    for difference, mask in good:
        gathering.add(difference, mask)
    wrong = good[0][0].copy()
    wrong[0] = bad
    with pytest.raises(NumericsError, match="expected numbers below 64"):
        gathering.add(wrong, None)
    found = merge(settings, METHOD, start_heads(), gathering.finished())
    assert found.heads.tobytes() == merged(tmp_path, settings, good).heads.tobytes()


@pytest.mark.parametrize("name", list(ServerOptimizerName)[1:])
@pytest.mark.parametrize("rule", [MergeSettings(), ROBUST[1]], ids=lambda s: str(s.merge))
def test_an_optimizer_takes_the_merged_difference_as_gradient(
    name: ServerOptimizerName, rule: MergeSettings, tmp_path: Path
) -> None:
    settings = MergeSettings(rule.merge, rule.byzantine, server_optimizer=name, server_lr=0.5)
    optimizer = settings.optimizer()
    assert optimizer is not None
    heads, moments = start_heads(), None
    expected, state = start_heads(), optimizer.init(SIZE)
    for seed in range(3):
        devices = some_heads(seed)
        result = merge(settings, METHOD, heads, gather(tmp_path, settings, devices), moments)
        heads, moments = result.heads, result.moments
        zero = np.zeros(SIZE, np.float32)
        plain = merge(rule, METHOD, zero, gather(tmp_path, rule, devices))
        trained = plain.heads != 0
        state, step = optimizer.apply(state, plain.heads.astype(np.float64), trained)
        expected = (expected + step).astype(np.float32)
    np.testing.assert_allclose(heads, expected, rtol=1e-4, atol=1e-6)
    still = METHOD.layout.mask(Role.SCALE)
    if rule.is_robust:
        still[PLACES[2] + PLACES[5]] = True
    assert heads[still].tobytes() == start_heads()[still].tobytes()
    assert moments is not None
    begun = optimizer.init(SIZE)
    for tensor, values in moments.tensors.items():
        assert values[still].tobytes() == begun.tensors[tensor][still].tobytes()


def test_moments_of_another_optimizer_are_not_used(tmp_path: Path) -> None:
    momentum = MergeSettings(server_optimizer=ServerOptimizerName.MOMENTUM)
    adam = MergeSettings(server_optimizer=ServerOptimizerName.ADAM)
    before = merged(tmp_path, momentum, some_heads()).moments
    gathered = gather(tmp_path, adam, some_heads())
    found = merge(adam, METHOD, start_heads(), gathered, before)
    assert found.heads.tobytes() == merged(tmp_path, adam, some_heads()).heads.tobytes()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"byzantine": 1}, "--byzantine: 1 with --merge mean"),
        ({"merge": MergeName.KRUM}, "--byzantine: is needed with --merge krum"),
        ({"merge": MergeName.TRIMMED_MEAN}, "--byzantine: is needed with --merge trimmed-mean"),
        ({"max_norm": 0.0}, "--max-norm: 0.0 is out of range"),
        ({"server_lr": 0.1}, "--server-lr: 0.1 with --server-optimizer none"),
        (
            {"server_optimizer": ServerOptimizerName.ADAM, "server_momentum": 0.5},
            "--server-momentum: 0.5 with --server-optimizer adam",
        ),
        (
            {"server_optimizer": ServerOptimizerName.MOMENTUM, "server_beta2": 0.5},
            "--server-beta2: 0.5 with --server-optimizer momentum",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError) as found:
        MergeSettings(**options)  # type: ignore[arg-type]
    assert complaint in str(found.value)
    assert found.value.exit_code == 2


def test_too_few_updates_and_other_weights_are_refused() -> None:
    krum = MergeSettings(MergeName.KRUM, byzantine=2)
    krum.check(RoundRule(), 7, "--goal")
    with pytest.raises(UsageError, match=r"--byzantine: .* needs 7 updates"):
        krum.check(RoundRule(), 6, "--goal")
    with pytest.raises(UsageError, match="--weighting: examples with --merge krum"):
        krum.check(RoundRule(weighting=Weighting.EXAMPLES), 9, "--goal")
    MergeSettings().check(RoundRule(weighting=Weighting.EXAMPLES), 1, "--goal")
    with pytest.raises(UsageError, match=r"--merge: .* needs 3 updates"):
        MergeSettings(MergeName.KRUM, byzantine=0).check(RoundRule(), 2, "--goal")


def test_settings_come_back_from_json() -> None:
    for settings in [MergeSettings(), *ROBUST]:
        assert MergeSettings.from_dict(settings.as_dict()) == settings
