"""From the files of a run to the facts of its report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from ravan_edge.simulate.report.facts import (
    ClassFacts,
    DeviceFacts,
    Evaluation,
    Pair,
    RoundFacts,
    RunFacts,
    Score,
)
from ravan_edge.simulate.report.files import DeviceLine, RoundLine, RunFiles, read_run_files
from ravan_edge.simulate.report.words import as_bytes, as_count

__all__ = ["read_run"]


def read_run(folder: Path) -> RunFacts:
    """The facts of a run, finished or not.

    Raises:
        UsageError: ``folder`` is not the folder of a run.
        StorageError: A file of it is damaged or cannot be read.
    """
    files = read_run_files(folder)
    settings, summary = files.run.configuration.settings, files.summary
    artifact = None if summary is None else summary.artifact
    by_round: dict[int, list[DeviceLine]] = defaultdict(list)
    for line in files.devices:
        by_round[line.round].append(line)
    waits = settings.get("mode", "sync") == "sync"
    rounds = tuple(_round(line, by_round[line.round], waits=waits) for line in files.rounds)
    evaluations = _evaluations(files, rounds)
    tested = [evaluation for evaluation in evaluations if evaluation.test]
    best = _best_round(files, evaluations)
    scores_of = {evaluation.round: evaluation.test for evaluation in evaluations}
    planned = settings.get("rounds")
    per_round = settings.get("per_round")
    labels = tuple(files.partition.labels) if files.partition else ()
    return RunFacts(
        name=folder.resolve().name,
        method=artifact.method if artifact else "",
        model=artifact.model if artifact else "The model",
        task=(artifact.task if artifact else None) or "text-classification",
        labels=labels,
        devices=_devices(files),
        rounds=rounds,
        planned_rounds=planned if isinstance(planned, int) else len(rounds),
        evaluations=evaluations,
        classes=_classes(files),
        initial=tested[0].test if tested and tested[0].round == 0 else None,
        final=tested[-1].test if tested else None,
        best_round=best,
        best_test=None if best is None else scores_of.get(best),
        upload_bytes_per_update=summary.upload_bytes_per_update
        if summary
        else max((line.upload_bytes for line in files.devices), default=None),
        download_bytes_per_round=summary.download_bytes_per_round if summary else None,
        download_bytes_once=summary.download_bytes_once if summary else None,
        model_bytes=summary.model_bytes if summary else None,
        seconds=summary.seconds if summary else None,
        peak_memory_bytes=summary.peak_memory_bytes if summary else None,
        per_round=per_round if isinstance(per_round, int) else 1,
        partition=str(settings.get("partition", "iid")),
        command=files.run.command,
        settings=_settings(files),
        artifact=_artifact(files),
        versions=_versions(files),
        warnings=_warnings(files, rounds),
    )


def _round(found: RoundLine, asked: Sequence[DeviceLine], *, waits: bool) -> RoundFacts:
    """A round; where nobody waits for the slowest device it is not told."""
    merged = [line for line in asked if line.status == "merged" and waits]
    slowest = max(merged, key=lambda line: line.seconds, default=None)
    return RoundFacts(
        round=found.round,
        download_bytes=found.download_bytes,
        upload_bytes=found.upload_bytes,
        seconds=found.seconds,
        slowest=None
        if slowest is None
        else (slowest.download_seconds, slowest.compute_seconds, slowest.upload_seconds),
        slowest_device=None if slowest is None else slowest.device,
        outcomes=Counter(line.status for line in asked),
        train_loss=found.loss,
        staleness=found.staleness,
    )


def _evaluations(files: RunFiles, rounds: Sequence[RoundFacts]) -> tuple[Evaluation, ...]:
    numbers = [0, *(facts.round for facts in rounds)]
    sent = accumulate((f.download_bytes + f.upload_bytes for f in rounds), initial=0)
    clock = accumulate((f.seconds for f in rounds), initial=0.0)
    so_far = dict(zip(numbers, zip(sent, clock, strict=True), strict=True))
    scores: dict[int, dict[str, Score]] = defaultdict(dict)
    for line in files.evaluations:
        scores[line.round][line.set] = Score(line.accuracy, line.loss)
    return tuple(
        Evaluation(number, *so_far[number], found.get("test"), found.get("validation"))
        for number, found in sorted(scores.items())
        if number in so_far
    )


def _best_round(files: RunFiles, evaluations: Sequence[Evaluation]) -> int | None:
    if files.summary:
        return files.summary.best.round if files.summary.best else None
    # The rule of the run itself: the highest accuracy, then the lowest loss, then the earliest.
    ranked = [
        ((score.accuracy or 0.0, -(score.loss or 0.0)), -evaluation.round)
        for evaluation in evaluations
        if evaluation.round and (score := evaluation.validation)
    ]
    return -max(ranked)[1] if ranked else None


def _devices(files: RunFiles) -> tuple[DeviceFacts, ...]:
    outcomes: dict[int, Counter[str]] = defaultdict(Counter)
    times: dict[int, list[float]] = defaultdict(list)
    for line in files.devices:
        outcomes[line.device][line.status] += 1
        if line.status in {"merged", "late"}:
            times[line.device].append(line.seconds)
    partition = files.partition
    if partition is None:
        return ()
    # Budgets are worth a column only where devices differ.
    budgets = partition.heads if len(set(partition.heads)) > 1 else []
    return tuple(
        DeviceFacts(
            device=number,
            name=str(number),
            rows=rows,
            class_count=partition.classes[number] if number < len(partition.classes) else 0,
            classes=tuple(partition.counts[number])
            if partition.counts and number < len(partition.counts)
            else (),
            outcomes=outcomes[number],
            seconds=sum(times[number]) / len(times[number]) if times[number] else None,
            heads=budgets[number] if number < len(budgets) else None,
        )
        for number, rows in enumerate(partition.rows)
    )


def _classes(files: RunFiles) -> tuple[ClassFacts, ...]:
    found = files.summary.per_class if files.summary else ()
    return tuple(ClassFacts(c.label, c.rows, c.initial_accuracy, c.accuracy) for c in found)


def _settings(files: RunFiles) -> tuple[Pair, ...]:
    def words(value: object) -> str:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    return tuple(
        (name.replace("_", " "), words(value))
        for name, value in files.run.configuration.settings.items()
        if value is not None
    )


def _artifact(files: RunFiles) -> tuple[Pair, ...]:
    summary = files.summary
    if summary is None:
        return ()
    artifact = summary.artifact
    pairs: list[tuple[str, str | None]] = [
        ("model", artifact.model),
        ("licence", artifact.license or "not stated"),
        ("architecture", artifact.architecture),
        ("task", artifact.task),
        ("numbers in the model", _count(artifact.parameters)),
        ("model as stored", as_bytes(summary.model_bytes)),
        ("method", artifact.method),
        ("adapted layers", _count(artifact.layers)),
        ("heads in each", _count(artifact.heads)),
        ("rank of a head", _count(artifact.rank)),
        ("numbers that train", _count(artifact.trainable_numbers)),
        ("download once", as_bytes(summary.download_bytes_once)),
        ("digest", artifact.digest[:16]),
    ]
    return tuple((what, value) for what, value in pairs if value is not None)


def _count(number: int | None) -> str | None:
    return None if number is None else as_count(number)


def _versions(files: RunFiles) -> tuple[Pair, ...]:
    pairs = [(name, text) for name, text in files.run.configuration.versions.items() if text]
    pairs += [(name, text) for name, text in (("python", files.run.python),) if text]
    return (*pairs, *((("machine", files.run.machine),) if files.run.machine else ()))


def _warnings(files: RunFiles, rounds: Sequence[RoundFacts]) -> tuple[str, ...]:
    said = []
    if files.summary is None:
        said.append("This run is not finished. The command at the end of the page goes on with it.")
    else:
        found = files.summary.partition
        for number, what in (
            (found.devices_without_data, "without data: never asked"),
            (found.devices_below_one_batch, "with less than one batch of rows"),
        ):
            if number:
                said.append(f"{as_count(number)} device{'s' if number > 1 else ''} {what}.")
        if found.skipped_rows:
            said.append(f"{as_count(found.skipped_rows)} rows with an empty text were left out.")
    bad = sum(facts.outcomes.get("bad_numbers", 0) for facts in rounds)
    if bad:
        said.append(
            f"{as_count(bad)} update{'s' if bad > 1 else ''} with bad numbers (NaN, infinity or "
            "too large) refused: a lower learning rate helps."
        )
    kept = [line.heads_kept for line in files.rounds if line.heads_kept]
    if kept:
        said.append(
            f"In {as_count(len(kept))} round{'s' if len(kept) > 1 else ''} some heads kept their value "
            f"({as_count(sum(kept))} in all), since fewer devices trained them than the merge needs."
        )
    idle = sum(not facts.outcomes.get("merged") for facts in rounds)
    if idle:
        said.append(f"In {as_count(idle)} round{'s' if idle > 1 else ''} nobody could be merged.")
    return tuple(said)
