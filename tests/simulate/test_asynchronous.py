"""Asynchronous runs: against FedBuff written down as the paper has it, and never other bits."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import open_artifact, read_heads
from ravan_edge.data import TextRows, partition, read_rows, tokenise, validation_split
from ravan_edge.errors import InterruptedRunError, NumericsError, UsageError, WorkerError
from ravan_edge.generator import Purpose, Stream
from ravan_edge.merge import RoundMode, RoundRule, Weighting
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.simulate import (
    RoundDone,
    SimulationRequest,
    SimulationSettings,
    simulate,
    worker,
)
from ravan_edge.simulate.clock import Clock, flops_per_token
from ravan_edge.training import LocalResult, LocalSettings, local_round
from tests.simulate.conftest import RequestFor
from tests.simulate.faults import FailingDisk, Killed
from tests.simulate.same_run import comparable, metrics

ASYNC: dict[str, Any] = {
    "rule": RoundRule(RoundMode.ASYNC, buffer=4),
    "partition": "dirichlet:0.5",
    "head_budgets": "2:0.5,4:0.5",
    "per_round": 5,
    "rounds": 6,
    "device_gflops": 0.001,
    "device_spread": 4.0,
}


class World:
    """What devices do, and how long they need: everything that FedBuff takes as given."""

    def __init__(self, request: SimulationRequest, sizes: dict[str, Any]) -> None:
        self.settings = settings = request.settings
        self.artifact = open_artifact(request.artifact)
        manifest, tokenizer = self.artifact.manifest, self.artifact.tokenizer_path
        assert tokenizer is not None
        self.method = method_for(manifest)
        dataset = tokenise(
            read_rows(request.train),
            tokenizer,
            max_length=settings.max_length,
            label_names=manifest.labels,
        )
        self.data = TextRows(dataset, 0)
        labels = dataset.labels.astype(np.int64)
        kept, _ = validation_split(len(labels), labels, settings.validation, settings.seed)
        count, seed = settings.device_count, settings.seed
        parts = partition(labels[kept], None, settings.partition_spec, count, seed)
        self.rows = [kept[part] for part in parts]
        self.heads = [4] * len(parts)
        if settings.budgets is not None:
            self.heads = settings.budgets.deal(len(parts), seed).tolist()
        self.sizes = sizes
        self.fetched: set[int] = set()
        self.clock = Clock.draw(
            len(parts),
            {heads: flops_per_token(manifest, heads) for heads in self.heads},
            seed=seed,
            gflops=settings.device_gflops,
            speed_spread=settings.device_spread,
            download_mbps=settings.download_mbps,
            upload_mbps=settings.upload_mbps,
            bandwidth_spread=settings.bandwidth_spread,
        )

    def order(self, version: int) -> list[int]:
        """In which devices start from a version."""
        some = [device for device, rows in enumerate(self.rows) if len(rows)]
        stream = Stream(self.settings.seed, Purpose.COHORT, round=version)
        return [some[place] for place in stream.permutation(len(some))]

    def train(self, step: Any, x: np.ndarray, version: int, device: int) -> LocalResult:
        return local_round(
            step,
            self.method,
            x.astype(np.float32),
            self.data,
            self.rows[device],
            self.settings.local,
            layers={layer.name: layer.heads for layer in self.artifact.manifest.layers},
            seed=self.settings.seed,
            round=version,
            device=device,
            heads_to_train=self.heads[device],
        )

    def seconds(self, device: int, tokens: int) -> float:
        """Of a whole round of a device."""
        once = 0 if device in self.fetched else self.sizes["download_bytes_once"]
        self.fetched.add(device)
        return self.clock.device_time(
            device,
            heads=self.heads[device],
            tokens=tokens,
            download_bytes=once + self.sizes["download_bytes_per_round"],
            upload_bytes=self.sizes["upload_bytes_by_heads"][str(self.heads[device])],
        ).total


def fedbuff(world: World, step: Any) -> tuple[np.ndarray, list[list[int]]]:
    """Algorithm 1 of the paper in float64, with a server learning rate of 1; and staleness by version.

    A number is divided by how many trained it, a head by its trainers; with weights by examples by
    how many rows they saw.
    """
    settings = world.settings
    K, by_rows = settings.goal, settings.rule.weighting is Weighting.EXAMPLES
    x = world.method.layout.pack(world.artifact.initial_heads()).astype(np.float64)
    now, t, at_work, staleness = 0.0, 0, [], []
    while t < settings.rounds:
        sum_of_updates, divisor, tau = np.zeros(len(x)), np.zeros(len(x)), []
        waiting = world.order(t)
        while len(tau) < K:
            if not at_work or at_work[0][0] > now:
                for device in list(waiting):
                    if len(at_work) < settings.per_round and device not in [a[1] for a in at_work]:
                        waiting.remove(device)
                        result = world.train(step, x, t, device)
                        ends = now + world.seconds(device, result.tokens)
                        heapq.heappush(at_work, (ends, device, t, result))
            now, device, started, result = heapq.heappop(at_work)
            if not settings.rule.takes(t - started):
                continue
            mask = result.training.mask
            n = result.examples if by_rows else 1
            sum_of_updates += n * result.difference / np.sqrt(1 + t - started)
            divisor += n * (np.ones(len(x)) if mask is None else mask)
            tau.append(t - started)
        x = x + sum_of_updates / np.maximum(divisor, 1)
        t += 1
        staleness.append(tau)
    return x, staleness


@pytest.mark.parametrize(
    "rule",
    [
        RoundRule(RoundMode.ASYNC, buffer=4),
        RoundRule(RoundMode.ASYNC, buffer=4, weighting=Weighting.EXAMPLES),
        RoundRule(RoundMode.ASYNC, buffer=2, max_staleness=2),
        RoundRule(RoundMode.ASYNC),
    ],
    ids=["uniform", "examples", "max staleness", "buffer of a cohort"],
)
def test_it_is_the_algorithm_of_the_paper(request_for: RequestFor, rule: RoundRule) -> None:
    uneven = {"devices": 50, "partition": "iid"} if rule.weighting is Weighting.EXAMPLES else {}
    request = request_for(
        **ASYNC | {"rule": rule} | uneven
    )  # of 4 and 5 rows, so seen differently often
    summary = simulate(request, workers=2)
    world = World(request, summary)
    with open_step(world.artifact, "whole", RuntimeSettings()) as step:
        expected, staleness = fedbuff(world, step)
    tensors = read_heads(request.out / "heads" / "last.safetensors", world.artifact)
    found = world.method.layout.pack(tensors)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    ended = metrics(request.out, "device")
    lines = [line for line in ended if line["status"] == "merged"]
    assert (len(lines) < len(ended)) == (rule.max_staleness is not None)
    for number, expected_staleness in enumerate(staleness, start=1):
        of_round = [line for line in lines if line["round"] == number]
        assert [line["staleness"] for line in of_round] == expected_staleness
        assert all(line["version"] + line["staleness"] + 1 == number for line in of_round)
    assert max(map(max, staleness)) >= 2, "a run without staleness would show little"


def test_devices_that_are_equally_quick_make_synchronous_rounds(request_for: RequestFor) -> None:
    """K devices that start together and arrive together are a cohort: the same bits."""
    quick: dict[str, Any] = {
        "device_spread": 1,
        "bandwidth_spread": 1,
        "device_gflops": 1e280,  # only the upload takes time, and is as long for all
        "download_mbps": 1e280,
    }
    sync = request_for("sync", **quick)
    simulate(sync, workers=1)
    buffered = request_for("async", rule=RoundRule(RoundMode.ASYNC), **quick)
    simulate(buffered, workers=1)
    for name in ("heads/last.safetensors", "heads/best.safetensors"):
        assert (sync.out / name).read_bytes() == (buffered.out / name).read_bytes()
    known = metrics(sync.out, "device")[0].keys()
    lines = metrics(buffered.out, "device")
    assert [{key: line[key] for key in known} for line in lines] == metrics(sync.out, "device")
    assert {line["staleness"] for line in lines} == {0}


FAILING = ASYNC | {
    "rule": RoundRule(RoundMode.ASYNC, buffer=3, max_staleness=1),
    "drop_out": 0.2,
    "deadline_seconds": 3.0,
}


def test_any_number_of_workers_makes_the_same_bits(request_for: RequestFor) -> None:
    runs = []
    for workers in (1, 3):
        request = request_for(f"{workers}", **FAILING)
        simulate(request, workers=workers)
        runs.append(comparable(request.out))
    assert runs[0] == runs[1]


@pytest.mark.usefixtures("in_process")
def test_a_run_interrupted_after_each_version_ends_the_same(request_for: RequestFor) -> None:
    whole = request_for("whole", **FAILING)
    simulate(whole)
    interrupted = request_for("interrupted", **FAILING)

    def interrupt(event: object) -> None:
        if isinstance(event, RoundDone) and event.round:
            raise KeyboardInterrupt

    for _ in range(FAILING["rounds"]):
        with pytest.raises(InterruptedRunError):
            simulate(interrupted, on_event=interrupt)
    simulate(interrupted)
    assert comparable(interrupted.out) == comparable(whole.out)


def test_what_a_run_says_of_its_devices(request_for: RequestFor) -> None:
    request = request_for(**FAILING | {"rounds": 12})
    summary = simulate(request, workers=2)
    devices, rounds = metrics(request.out, "device"), metrics(request.out, "round")
    found = Counter(line["status"] for line in devices)
    assert {"merged", "late", "dropped_out", "stale"} <= found.keys()
    assert {name: summary["devices"][name] for name in found} == dict(found)
    for number, line in enumerate(rounds, start=1):
        own = [device for device in devices if device["round"] == number]
        stale = [device["staleness"] for device in own if device["status"] == "merged"]
        assert line["merged"] == len(stale) == 3
        assert (line["staleness"], line["largest_staleness"]) == (sum(stale) / 3, max(stale))
        assert line["sampled"] == len(own)
        assert line["at_work"] in {4, 5}, "the last one to arrive left its place"
    assert [line["clock"] for line in rounds] == sorted(line["clock"] for line in rounds)
    assert summary["simulated_seconds"] == rounds[-1]["clock"]
    for line in devices:
        assert line["status"] != "stale" or line["staleness"] > 1
        assert line["status"] != "merged" or line["staleness"] <= 1
        seconds = sum(line[f"{what}_seconds"] for what in ("download", "compute", "upload"))
        if line["status"] != "dropped_out":
            assert (seconds > 3.0) == (line["status"] == "late")
    starts = [(line["device"], line["version"]) for line in devices]
    assert len(starts) == len(set(starts)), "nobody starts twice from a version"
    assert summary["total_upload_bytes"] == sum(line["upload_bytes"] for line in devices)
    first = {line["device"] for line in devices}
    once = sum(line["download_bytes"] > summary["download_bytes_once"] for line in devices)
    assert once == len(first), "the base travels to a device once"


def test_with_nobody_left_a_version_is_made_of_what_is_there(request_for: RequestFor) -> None:
    rule = RoundRule(RoundMode.ASYNC, buffer=8)
    request = request_for(rule=rule, devices=8, per_round=3, drop_out=0.6, rounds=8)
    summary = simulate(request, workers=1)
    merged = [line["merged"] for line in metrics(request.out, "round")]
    assert all(0 <= count < 8 for count in merged)
    assert summary["devices"]["merged"] == sum(merged)
    assert summary["devices"]["rounds_without_merge"] == merged.count(0)
    assert len(set(merged)) > 1


@pytest.mark.usefixtures("in_process")
def test_an_update_whose_numbers_are_bad_is_no_update(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.local_round

    def spoiled(*arguments: Any, device: int, **named: Any) -> Any:
        if device in {2, 5}:
            kind = NumericsError if device == 2 else WorkerError
            raise kind("the gradient holds NaN", hint="lower the learning rate")
        return real(*arguments, device=device, **named)

    monkeypatch.setattr(worker, "local_round", spoiled)
    request = request_for(**ASYNC)
    summary = simulate(request)
    assert {line["merged"] for line in metrics(request.out, "round")} == {4}
    bad = {
        (line["device"], line["status"])
        for line in metrics(request.out, "device")
        if line.get("error")
    }
    assert bad == {(2, "bad_numbers"), (5, "crashed")}
    assert summary["rounds"] == 6


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", [NumericsError, WorkerError])
def test_a_run_in_which_everybody_fails_ends(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise kind("no good", hint="none")

    monkeypatch.setattr(worker, "local_round", fail)
    request = request_for(**ASYNC)
    with pytest.raises(kind, match=r"round 1: .*(went bad|crashed).*no good"):
        simulate(request)
    ended = len(metrics(request.out, "device"))
    assert ended == (4 if kind is NumericsError else 0), "the first K say enough"


@pytest.mark.usefixtures("in_process")
def test_a_disk_that_fails_loses_nobody_at_work(request_for: RequestFor) -> None:
    settings = FAILING | {"rounds": 3}
    whole = request_for("whole", **settings)
    disk = FailingDisk(sys.maxsize, Killed)
    with disk.installed():
        simulate(whole)
    expected = comparable(whole.out)
    for number in range(0, len(disk.operations), 5):
        request = request_for(f"failing{number}", **settings)
        with FailingDisk(number, Killed).installed(), pytest.raises(Killed):
            simulate(request)
        simulate(request)
        assert comparable(request.out) == expected


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"buffer": 3}, "--buffer"),
        ({"max_staleness": 3}, "--max-staleness"),
        ({"mode": RoundMode.ASYNC, "buffer": 0}, "--buffer"),
        ({"mode": RoundMode.ASYNC, "max_staleness": -1}, "--max-staleness"),
    ],
)
def test_bad_rules_are_refused_by_name(values: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        RoundRule(**values)
    assert caught.value.where == option


def test_more_rows_than_a_merge_can_count_are_refused() -> None:
    with pytest.raises(UsageError, match="134217728 rows that a merge can count") as caught:
        SimulationSettings(
            local=LocalSettings(local_steps=100_000, batch_size=1024),
            rule=RoundRule(weighting=Weighting.EXAMPLES),
        )
    assert caught.value.where == "--weighting"


def test_a_buffer_for_which_there_are_too_few_devices_is_refused(request_for: RequestFor) -> None:
    request = request_for(rule=RoundRule(RoundMode.ASYNC, buffer=9), devices=8)
    with pytest.raises(UsageError, match="only 8 of 8 devices have data") as caught:
        simulate(request, workers=1)
    assert caught.value.where == "--buffer"


def test_synchronous_rounds_weigh_by_examples(request_for: RequestFor) -> None:
    """Against a float64 mean of what the devices of one round would upload."""
    rule = RoundRule(weighting=Weighting.EXAMPLES)
    request = request_for(rule=rule, devices=50, per_round=50, rounds=1)
    summary = simulate(request, workers=2)
    world = World(request, summary)
    x = world.method.layout.pack(world.artifact.initial_heads())
    with open_step(world.artifact, "whole", RuntimeSettings()) as step:
        results = [world.train(step, x, 0, device) for device in range(50)]
    rows = np.array([result.examples for result in results], np.float64)
    assert len(set(rows)) > 1
    differences = np.array([result.difference for result in results], np.float64)
    expected = x + (rows[:, None] * differences).sum(axis=0) / rows.sum()
    tensors = read_heads(request.out / "heads" / "last.safetensors", world.artifact)
    np.testing.assert_allclose(world.method.layout.pack(tensors), expected, rtol=2e-7, atol=1e-9)


def test_the_command_repeats_the_rule(request_for: RequestFor) -> None:
    command = request_for(**ASYNC).command()
    assert "--mode async --buffer 4" in command
    assert "--weighting" not in command
