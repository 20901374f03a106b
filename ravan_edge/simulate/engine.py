"""A whole run: prepare, rounds, evaluation, commit, summary."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ravan_edge.artifact import Artifact, open_artifact, write_heads
from ravan_edge.device import ServerConnection
from ravan_edge.errors import InterruptedRunError, NumericsError, StorageError, UsageError
from ravan_edge.files import write_atomic
from ravan_edge.memory import PeakSampler
from ravan_edge.methods import Method, Vector, method_for
from ravan_edge.signing import read_token_file
from ravan_edge.simulate.buffered_rounds import BufferedRounds
from ravan_edge.simulate.evaluation import divergence, evaluate_sets, evaluation_lines
from ravan_edge.simulate.events import Notice, OnEvent, Resumed, RoundDone, Stage
from ravan_edge.simulate.messages import OpenArtifact
from ravan_edge.simulate.prepare import Prepared, check_settings, partition_document, prepare
from ravan_edge.simulate.request import SimulationRequest
from ravan_edge.simulate.residuals import RESIDUALS_FOLDER
from ravan_edge.simulate.rounds import RoundReport, synchronous_round
from ravan_edge.simulate.run_folder import RunFolder, check_folder, json_bytes, read_summary
from ravan_edge.simulate.server_rounds import (
    ServerRounds,
    check_server,
    check_server_settings,
)
from ravan_edge.simulate.state import RunState
from ravan_edge.simulate.summary import build_summary
from ravan_edge.simulate.workers import WorkerPool
from ravan_edge.tasks import fixed_length, length_notice, text_length

__all__ = ["default_workers", "simulate"]

# Runtimes keep their arenas, so a peak lasts; finer sampling would cost the simulation itself.
_SAMPLING_SECONDS = 0.005
_DIVERGED_HINT = "use a lower --lr (or --task-head-lr) in another --out, or --clip-norm 1"


def default_workers() -> int:
    """As many as there are processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _silent(_: object) -> None:
    """For runs nobody watches."""


def simulate(
    request: SimulationRequest,
    *,
    workers: int | None = None,
    on_event: OnEvent = _silent,
) -> dict[str, Any]:
    """Run a simulation to its end, or go on with one that was interrupted at any moment.

    Equal requests make bitwise equal heads and metrics, whatever the number of workers and however
    often the run was killed. Repeating a finished run returns its summary.

    Args:
        request: What to simulate.
        workers: Worker processes; None: as many as there are processors.
        on_event: Told what happens.

    Returns:
        The content of summary.json.

    Raises:
        UsageError: Settings out of range, a run folder that belongs to another configuration, or a server
            that does something else.
        ArtifactError: The artifact is refused.
        DataError: A data file is refused.
        NumericsError: The run diverged, or the numbers of a whole cohort went bad.
        StorageError: The disk failed or is full, or the server cannot be reached; nothing committed is
            lost.
        ServerRefusedError: The server does not take an update.
        InterruptedRunError: Ctrl-C; nothing committed is lost.
    """
    if workers is not None and not 1 <= workers <= 1024:
        raise UsageError(f"{workers}, expected 1 to 1024", where="--workers")
    count = default_workers() if workers is None else workers
    began = time.perf_counter()
    with ExitStack() as stack:
        # Their libraries load while this process reads the data.
        pool = (
            None
            if read_summary(request.out)
            else stack.enter_context(WorkerPool(count, request.settings.threads))
        )
        try:
            run = _open(request, pool, stack, on_event)
            if run is None:
                return _finished(request.out)
            return _run_rounds(run, began, on_event)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; every finished round is kept",
                where=str(request.out),
                hint="type the same command again to go on",
            ) from None


@dataclass(frozen=True)
class _Run:
    request: SimulationRequest
    artifact: Artifact
    method: Method
    prepared: Prepared
    pool: WorkerPool
    folder: RunFolder
    rule: Callable[[RunState], tuple[RunState, RoundReport]]
    sampler: PeakSampler
    configuration: Mapping[str, Any]
    provenance: Mapping[str, Any]


def _open(
    request: SimulationRequest, pool: WorkerPool | None, stack: ExitStack, on_event: OnEvent
) -> _Run | None:
    """Everything up to the first round; None for a run that is finished."""
    artifact = open_artifact(request.artifact)
    check_settings(request.settings, artifact.manifest)
    if request.server is not None:
        check_server_settings(request.settings)
    typed, text = request.settings.max_length, artifact.manifest.text
    fixed = fixed_length(artifact.manifest, request.settings.plan)
    notice = length_notice(text, typed, fixed)
    if notice is not None:
        on_event(Notice(notice))
    # What is recorded is the length itself: the default depends on the model.
    settings = replace(request.settings, max_length=text_length(text, typed, fixed))
    request = replace(request, settings=settings)
    configuration = request.configuration(artifact)
    provenance = request.provenance()
    # Before the work of reading data. Nothing is written yet: refused data leave no folder behind.
    check_folder(request.out, configuration)
    if pool is None:
        return None
    server = None
    if request.server is not None:
        token = None if request.token_file is None else read_token_file(request.token_file)
        server = stack.enter_context(ServerConnection(request.server, ca=request.ca, token=token))
        check_server(server, artifact, settings)
    residuals = request.out.resolve() / RESIDUALS_FOLDER
    pool.open(OpenArtifact(request.artifact.resolve(), settings.plan, settings.threads, residuals))
    prepared = prepare(
        artifact,
        request.train,
        request.test,
        settings,
        lambda name, done, total: on_event(Stage(name, done, total)),
    )
    folder = stack.enter_context(RunFolder(request.out, configuration, provenance))
    if read_summary(request.out) is not None:  # finished by another process just now
        return None
    pool.open(replace(prepared.data, scratch=folder.scratch))
    sampler = stack.enter_context(PeakSampler(pool.process_ids, interval_seconds=_SAMPLING_SECONDS))
    write_atomic(
        request.out / "partition.json",
        [json_bytes(partition_document(prepared, artifact.manifest))],
        durable=False,
    )
    rule: Callable[[RunState], tuple[RunState, RoundReport]]
    if server is not None:
        login = request.token_file is not None
        rule = ServerRounds(server, artifact, prepared, request.out, login=login)
    elif settings.rule.is_async:
        rule = BufferedRounds(pool, prepared)
    else:
        rule = partial(synchronous_round, pool, prepared)
    return _Run(
        request=request,
        artifact=artifact,
        method=method_for(artifact.manifest),
        prepared=prepared,
        pool=pool,
        folder=folder,
        rule=rule,
        sampler=sampler,
        configuration=configuration,
        provenance=provenance,
    )


def _run_rounds(run: _Run, began: float, on_event: OnEvent) -> dict[str, Any]:
    rounds = run.request.settings.rounds
    state = run.folder.resume()
    earlier = (0.0, 0) if state is None else (state.wall_seconds, state.peak_bytes or 0)
    on_event(Resumed(0 if state is None else state.round, rounds))
    if isinstance(run.rule, ServerRounds):
        run.rule.check_version(0 if state is None else state.round)
    lap = time.perf_counter()
    while state is None or (state.round < rounds and state.failure is None):
        report: RoundReport | None = None
        if state is None:
            state = _initial_state(run)
            lines: list[bytes] = []
        else:
            state, report = run.rule(state)
            lines = report.lines
        evaluated = _is_evaluated(run, state)
        if evaluated:
            state, more = _evaluate(run, state)
            lines = [*lines, *more]
        now = time.perf_counter()
        state = replace(state, wall_seconds=earlier[0] + now - began)
        if evaluated or state.round == rounds:
            state = replace(state, peak_bytes=max(earlier[1], _peak_bytes(run)))
        if report is not None or evaluated:
            # First, so that every committed round has its line; a resume cuts off what is ahead.
            run.folder.add_timing({"round": state.round, "seconds": now - lap})
        run.folder.commit(state, lines)
        if report is not None or evaluated:
            on_event(_round_done(state, report, evaluated, rounds, now - lap))
        if evaluated:
            _publish_heads(run, state, durable=False)
        lap = now
    if state.failure is not None:
        _publish_heads(run, state, durable=False)
        raise NumericsError(state.failure, where=str(run.request.out), hint=_DIVERGED_HINT)
    _publish_heads(run, state, durable=True)
    summary = build_summary(run.artifact, run.prepared, state, run.configuration, run.provenance)
    run.folder.finish(summary)
    shutil.rmtree(run.request.out / RESIDUALS_FOLDER, ignore_errors=True)  # nobody asks again
    return _finished(run.request.out)


def _initial_state(run: _Run) -> RunState:
    return RunState(
        round=0,
        heads=run.method.layout.pack(run.artifact.initial_heads()),
        seen=np.zeros(run.prepared.devices, dtype=np.bool_),
    )


def _is_evaluated(run: _Run, state: RunState) -> bool:
    settings = run.request.settings
    if not settings.evaluate_every or not run.prepared.data.sets:
        return False
    return state.round % settings.evaluate_every == 0 or state.round == settings.rounds


def _evaluate(run: _Run, state: RunState) -> tuple[RunState, list[bytes]]:
    scores = evaluate_sets(run.pool, run.prepared.data.sets, state)
    lines = evaluation_lines(state, scores)
    state = state.evaluated(scores)
    if state.round and state.failure is None:
        labels = len(run.artifact.manifest.labels)
        state = replace(state, failure=divergence(state, scores, labels))
    return state, lines


def _round_done(
    state: RunState, report: RoundReport | None, evaluated: bool, rounds: int, seconds: float
) -> RoundDone:
    counts = {} if report is None else report.counts
    return RoundDone(
        round=state.round,
        rounds=rounds,
        merged=counts.get("merged", 0),
        sampled=sum(counts.values()),
        loss=None if report is None else report.loss,
        scores=state.last if evaluated else {},
        simulated_seconds=state.simulated_seconds,
        seconds=seconds,
        staleness=None if report is None else report.staleness,
    )


def _peak_bytes(run: _Run) -> int:
    try:
        return max(run.sampler.family_peak_bytes(pid) for pid in run.pool.process_ids)
    except StorageError:  # the sampling process was killed: a figure less, not a lost run
        return 0


def _publish_heads(run: _Run, state: RunState, *, durable: bool) -> None:
    """heads/last.safetensors and heads/best.safetensors, as ``ravan eval --heads`` takes them."""

    def write(name: str, heads: Vector, version: int) -> None:
        views = run.method.layout.views(heads)
        write_heads(
            run.folder.heads_path / f"{name}.safetensors",
            run.artifact,
            views,
            version,
            durable=durable,
        )

    write("last", state.heads, state.round)
    if state.best is not None and (durable or state.best.round == state.round):
        write("best", state.best.heads, state.best.round)


def _finished(out: Path) -> dict[str, Any]:
    summary = read_summary(out)
    if summary is None:
        raise StorageError("the summary vanished", where=str(out), hint="run it again")
    return summary
