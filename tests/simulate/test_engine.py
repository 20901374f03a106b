"""Whole runs: what comes out, and that it never depends on how the work was spread."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import open_artifact, read_heads
from ravan_edge.data import TextRows, partition, read_rows, tokenise, validation_split
from ravan_edge.errors import NumericsError
from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.simulate import (
    Resumed,
    RoundDone,
    SimulationRequest,
    SimulationSettings,
    Stage,
    engine,
    simulate,
    worker,
)
from ravan_edge.training import evaluate, local_round
from tests.simulate.conftest import RequestFor
from tests.simulate.in_process import InProcessPool
from tests.simulate.same_run import comparable, metrics

UNEVEN: dict[str, Any] = {
    "partition": "dirichlet:0.3",
    "head_budgets": "1:0.25,3:0.5,4:0.25",
    "drop_out": 0.2,
    "deadline_seconds": 0.01,
}


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_any_number_of_workers_makes_the_same_bits(request_for: RequestFor, method: str) -> None:
    settings = UNEVEN if method == "ravan" else {}
    runs = []
    for workers in (1, 3):
        request = request_for(f"{workers}", method=method, per_round=6, **settings)
        simulate(request, workers=workers)
        runs.append(comparable(request.out))
    assert runs[0] == runs[1]


def slow_twin(request: SimulationRequest, method_name: str) -> np.ndarray[Any, Any]:
    """The rounds of a request, one device after the other, merged by a float64 mean per number."""
    settings = request.settings
    artifact = open_artifact(request.artifact)
    method = method_for(artifact.manifest)
    assert artifact.tokenizer_path is not None
    assert artifact.manifest.text is not None
    text = artifact.manifest.text
    dataset = tokenise(
        read_rows(request.train),
        artifact.tokenizer_path,
        max_length=settings.max_length,
        label_names=artifact.manifest.labels,
    )
    labels = dataset.labels.astype(np.int64)
    kept, _ = validation_split(len(labels), labels, settings.validation, settings.seed)
    parts = partition(
        labels[kept], None, settings.partition_spec, settings.device_count, settings.seed
    )
    h = method.heads_per_layer
    budgets = settings.budgets
    shares = budgets.deal(len(parts), settings.seed) if budgets else [h] * len(parts)
    heads = method.layout.pack(artifact.initial_heads())
    with open_step(artifact, "whole", RuntimeSettings()) as step:
        for round_ in range(settings.rounds):
            with_data = [device for device, part in enumerate(parts) if len(part)]
            stream = Stream(settings.seed, Purpose.COHORT, round=round_)
            cohort = stream.choose(settings.per_round, len(with_data))
            total = np.zeros(len(heads))
            trainers = np.zeros(len(heads))
            for device in (with_data[index] for index in cohort):
                result = local_round(
                    step,
                    method,
                    heads,
                    TextRows(dataset, text.pad_id, text.inputs),
                    kept[parts[device]],
                    settings.local,
                    layers={layer.name: layer.heads for layer in artifact.manifest.layers},
                    seed=settings.seed,
                    round=round_,
                    device=device,
                    heads_to_train=int(shares[device]) if method_name == "ravan" else None,
                )
                mask = result.training.mask
                total += result.difference
                trainers += 1 if mask is None else mask
            heads = (heads + total / np.maximum(trainers, 1)).astype(np.float32)
    return heads


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_equals_the_slow_twin(request_for: RequestFor, method: str) -> None:
    budgets = "1:0.5,4:0.5" if method == "ravan" else None
    request = request_for(method=method, partition="dirichlet:0.5", head_budgets=budgets)
    simulate(request, workers=2)
    artifact = open_artifact(request.artifact)
    layout = method_for(artifact.manifest).layout
    found = layout.pack(read_heads(request.out / "heads" / "last.safetensors", artifact))
    expected = slow_twin(request, method)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_scores_are_those_of_evaluating_the_saved_heads(request_for: RequestFor) -> None:
    request = request_for(evaluation_batch=7)
    summary = simulate(request, workers=2)
    artifact = open_artifact(request.artifact)
    assert artifact.tokenizer_path is not None
    assert request.test is not None
    method = method_for(artifact.manifest)
    dataset = tokenise(
        read_rows(request.test),
        artifact.tokenizer_path,
        max_length=32,
        label_names=artifact.manifest.labels,
    )
    with open_step(artifact, "whole", RuntimeSettings()) as step:
        scores = evaluate(
            step,
            method,
            method.layout.pack(read_heads(request.out / "heads" / "last.safetensors", artifact)),
            TextRows(dataset, 0),
            np.arange(len(dataset)),
            batch_size=7,
        )
    assert summary["final"]["accuracy"] == scores.accuracy
    assert summary["final"]["loss"] == pytest.approx(scores.loss, rel=1e-9)
    assert [row["rows"] for row in summary["per_class"]] == scores.class_total.tolist()


def test_what_a_run_leaves_behind(request_for: RequestFor) -> None:
    request = request_for(local={"local_steps": 20})
    events: list[object] = []
    summary = simulate(request, workers=2, on_event=events.append)
    assert summary == json.loads((request.out / "summary.json").read_text("utf-8"))
    assert summary["final"]["accuracy"] > summary["initial"]["accuracy"] + 0.2
    assert summary["rounds"] == 3
    assert summary["peak_memory_bytes"] > 1_000_000
    assert summary["seconds"] > 0
    assert summary["simulated_seconds"] > 0
    assert summary["upload_bytes_per_update"] > 0
    assert (
        summary["download_bytes_per_round"]
        == (request.out / "heads" / "last.safetensors").stat().st_size
    )
    devices = metrics(request.out, "device")
    rounds = metrics(request.out, "round")
    assert len(devices) == 9
    assert [line["round"] for line in rounds] == [1, 2, 3]
    assert summary["total_upload_bytes"] == sum(line["upload_bytes"] for line in devices)
    assert summary["total_download_bytes"] == sum(line["download_bytes"] for line in devices)
    assert summary["simulated_seconds"] == rounds[-1]["clock"]
    first_times = {line["device"] for line in devices}
    once = sum(line["download_bytes"] > summary["download_bytes_once"] for line in devices)
    assert once == len(first_times), "the base travels to a device once"
    kinds = [type(event) for event in events]
    assert kinds.index(Stage) < kinds.index(Resumed) < kinds.index(RoundDone)
    assert kinds.count(RoundDone) == 4


def test_best_is_chosen_by_validation_and_final_is_the_last(request_for: RequestFor) -> None:
    request = request_for(rounds=6, local={"lr": 0.05})
    summary = simulate(request, workers=2)
    lines = metrics(request.out, "evaluation")
    by_set = {
        name: [line["accuracy"] for line in lines if line["set"] == name]
        for name in ("validation", "test")
    }
    round_ = summary["best"]["round"]
    assert by_set["validation"][round_] == max(by_set["validation"][1:])
    assert summary["best"]["accuracy"] == by_set["test"][round_]
    assert summary["final"]["accuracy"] == by_set["test"][-1]
    assert summary["recent"]["accuracy"] == pytest.approx(np.mean(by_set["test"][-5:]))


def test_evaluations_can_be_rare_or_switched_off(request_for: RequestFor) -> None:
    rare = request_for("rare", rounds=3, evaluate_every=2)
    simulate(rare, workers=1)
    lines = metrics(rare.out, "evaluation")
    assert [line["round"] for line in lines if line["set"] == "test"] == [0, 2, 3]
    never = request_for("never", rounds=2, evaluate_every=0)
    summary = simulate(never, workers=1)
    assert metrics(never.out, "evaluation") == []
    assert summary["final"]["accuracy"] is None
    # How often one looks changes nothing.
    assert metrics(rare.out, "device")[:6] == metrics(never.out, "device")


def test_no_test_file_and_no_validation(request_for: RequestFor) -> None:
    summary = simulate(request_for(test=None, validation=0.0), workers=1)
    assert summary["best"] is None
    assert summary["final"]["accuracy"] is None


def test_natural_users_are_devices(request_for: RequestFor) -> None:
    request = request_for(partition="column:user", devices=None)
    summary = simulate(request, workers=1)
    users = {int(number * number % 7) for number in range(240)}
    assert summary["devices"]["count"] == len(users)


def test_devices_without_data_are_never_sampled(request_for: RequestFor) -> None:
    request = request_for(devices=230, per_round=200, rounds=2, validation=0.1)
    summary = simulate(request, workers=2)
    assert summary["partition"]["devices_without_data"] == 14
    assert summary["devices"]["with_data"] == 216
    rows = json.loads((request.out / "partition.json").read_text("utf-8"))["rows"]
    assert all(rows[line["device"]] for line in metrics(request.out, "device"))
    assert summary["partition"]["devices_below_one_batch"] == 216


def test_late_and_lost_devices_are_left_out(request_for: RequestFor) -> None:
    request = request_for(per_round=8, rounds=4, **UNEVEN)
    summary = simulate(request, workers=2)
    devices = metrics(request.out, "device")
    seconds = {
        line["status"]: line["download_seconds"] + line["compute_seconds"] + line["upload_seconds"]
        for line in devices
    }
    assert {"merged", "late", "dropped_out"} <= seconds.keys()
    assert seconds["late"] > 0.01 >= seconds["merged"]
    for line in metrics(request.out, "round"):
        assert (line["seconds"] == 0.01) == (line["merged"] < line["sampled"])
    for line in devices:
        assert (line["upload_bytes"] == 0) == (line["status"] == "dropped_out")
    assert summary["devices"]["late"] == sum(line["status"] == "late" for line in devices)
    budgets = json.loads((request.out / "partition.json").read_text("utf-8"))["heads"]
    assert sorted(budgets) == [1, 1, 3, 3, 3, 3, 4, 4]
    assert all(line["heads"] == budgets[line["device"]] for line in devices)


def test_a_device_whose_numbers_go_bad_is_left_out_and_the_round_goes_on(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    real = worker.local_round

    def spoiled(*arguments: Any, device: int, **named: Any) -> Any:
        result = real(*arguments, device=device, **named)
        if device == 2:  # the gradient of one device is NaN
            raise NumericsError("the gradient holds NaN", hint="lower the learning rate")
        if device == 5:  # what another one uploads is beyond what a merge takes
            return dataclasses.replace(result, difference=result.difference + np.float32(1e6))
        return result

    monkeypatch.setattr(worker, "local_round", spoiled)
    request = request_for(per_round=8, rounds=2)
    summary = simulate(request, workers=1)
    devices = metrics(request.out, "device")
    bad = {line["device"]: line for line in devices if line["status"] == "bad_numbers"}
    assert bad.keys() == {2, 5}
    assert "the gradient holds NaN" in bad[2]["error"]
    assert "expected numbers below 64" in bad[5]["error"]
    assert all(line["merged"] == 6 for line in metrics(request.out, "round"))
    assert summary["devices"]["bad_numbers"] == 4
    assert summary["rounds"] == 2


def test_a_diverging_rate_is_said_and_stays_said(request_for: RequestFor) -> None:
    request = request_for(local={"lr": 1000.0, "local_steps": 30})
    with pytest.raises(NumericsError, match=r"round 1: .*(went bad|diverged)") as first:
        simulate(request, workers=2)
    assert "--lr" in str(first.value)
    before = (request.out / "metrics.jsonl").read_bytes()
    with pytest.raises(NumericsError) as again:
        simulate(request, workers=1)
    assert str(again.value) == str(first.value)
    assert (request.out / "metrics.jsonl").read_bytes() == before


def test_the_command_repeats_the_run(request_for: RequestFor) -> None:
    request = request_for(partition="dirichlet:0.3", skip_empty=True)
    words = request.command().split()
    assert words[:2] == ["ravan", "simulate"]
    for expected in ("--partition dirichlet:0.3", "--skip-empty --", "--lr 0.01", "--rounds 3"):
        assert expected in request.command()
    assert "--validation" not in words, "defaults are left out"


def test_as_dict_holds_every_setting() -> None:
    settings = SimulationSettings()
    names = {item.name for item in dataclasses.fields(settings)} - {
        "local",
        "rule",
        "merging",
        "upload",
    }
    names |= {item.name for item in dataclasses.fields(settings.local)}
    names |= {item.name for item in dataclasses.fields(settings.rule)}
    names |= {item.name for item in dataclasses.fields(settings.merging)}
    names |= {item.name for item in dataclasses.fields(settings.upload)}
    assert settings.as_dict().keys() == names
