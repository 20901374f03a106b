"""Asynchronous rounds: devices train without waiting for each other, K updates make a version.

FedBuff (Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022,
Algorithm 1), on the virtual clock. A "round" is the making of one version: it ends in the moment in which
the K-th update arrives, and what is still at work then stays so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from ravan_edge.merge import Gathered, HeadVectors, Merged, combined, merge
from ravan_edge.methods import Vector
from ravan_edge.simulate.at_work import (
    AtWork,
    Floor,
    RunningTask,
    Starts,
    device_time,
    starting_order,
)
from ravan_edge.simulate.clock import DeviceTime
from ravan_edge.simulate.messages import DeviceOutcome, UseHeads
from ravan_edge.simulate.metrics import device_outcome
from ravan_edge.simulate.prepare import Prepared
from ravan_edge.simulate.rounds import (
    STATUSES,
    RoundReport,
    all_bad,
    check_crashes,
    kept_heads,
    next_state,
    round_report,
)
from ravan_edge.simulate.state import RunState
from ravan_edge.simulate.workers import WorkerPool

__all__ = ["ASYNCHRONOUS_STATUSES", "BufferedRounds"]

ASYNCHRONOUS_STATUSES = (*STATUSES, "stale")


@dataclass
class _Buffer:
    """What has arrived for the next version."""

    ended: list[RunningTask]
    outcomes: dict[RunningTask, DeviceOutcome]
    gathered: Gathered | None = None

    @property
    def trained(self) -> list[DeviceOutcome]:
        """Of the devices whose training was computed."""
        found = [self.outcomes[task] for task in self.ended]
        return [each for each in found if each.status in {"merged", "bad_numbers", "crashed"}]

    def of(self, status: str) -> list[RunningTask]:
        return [task for task in self.ended if self.outcomes[task].status == status]


class BufferedRounds:
    """The rule: ``state -> (state, report)``.

    Args:
        pool: The workers.
        prepared: The run.
    """

    def __init__(self, pool: WorkerPool, prepared: Prepared) -> None:
        self._pool = pool
        self._prepared = prepared
        self._data = prepared.data
        self._rule = prepared.data.settings.rule
        self._starts = Starts(prepared.data, prepared.data.train.lengths)

    def __call__(self, state: RunState) -> tuple[RunState, RoundReport]:
        """Make the next version, from version ``state.round``.

        It is made of fewer than K updates, or of none, where nobody is left who could start.

        Raises:
            WorkerError: The runtime crashed with the first K devices; the round is not counted.
            RavanError: A worker failed.
        """
        settings, before = self._data.settings, state.at_work or AtWork()
        heads = {**before.heads, state.round: state.heads}
        seen = state.seen.copy()
        floor = Floor(
            self._starts,
            settings.per_round,
            state.round,
            starting_order(self._prepared.eligible, seed=settings.seed, version=state.round),
            before.tasks,
            seen,
            state.simulated_seconds,
        )
        buffer = self._fill_buffer(state, floor, heads)
        check_crashes(state, buffer.trained)
        merged = self._merged(state, buffer)
        following, report = next_state(
            state,
            [buffer.outcomes[task] for task in buffer.ended],
            merged,
            seen,
            self._report(state, buffer, floor, merged),
        )
        following = replace(
            following,
            simulated_seconds=floor.now,
            at_work=self._at_work(floor.tasks, heads, following.round),
        )
        return following, report

    def _fill_buffer(self, state: RunState, floor: Floor, heads: Mapping[int, Vector]) -> _Buffer:
        """Until K updates can be merged, or nobody's can."""
        buffer, goal = _Buffer([], {}), self._data.settings.goal
        endings = floor.endings()
        while True:
            missing = goal - len(buffer.of("merged"))
            # As many as are missing, were all their numbers good: no version is made in between.
            arrived = list(islice(self._usable(endings, state, buffer), missing)) if missing else []
            if not arrived:
                return buffer
            self._train(arrived, state, heads, buffer)
            failed = len(buffer.of("bad_numbers")) + len(buffer.of("crashed"))
            if not buffer.of("merged") and failed >= goal:
                return buffer

    def _usable(
        self, endings: Iterator[RunningTask], state: RunState, buffer: _Buffer
    ) -> Iterator[RunningTask]:
        """Tasks that end with an update to merge; what becomes of the others is known without training."""
        for task in endings:
            buffer.ended.append(task)
            if task.ending == "arrives" and self._rule.takes(state.round - task.version):
                yield task
            else:
                buffer.outcomes[task] = self._untrained(task, state.round)

    def _train(
        self,
        tasks: list[RunningTask],
        state: RunState,
        heads: Mapping[int, Vector],
        buffer: _Buffer,
    ) -> None:
        """Compute what devices did, all of one version at once; they are gathered in any order."""
        by_version: dict[int, list[RunningTask]] = defaultdict(list)
        for task in tasks:
            by_version[task.version].append(task)
        for version, group in sorted(by_version.items()):
            group.sort(key=lambda task: task.device)
            self._pool.open(UseHeads(version, heads[version], state.round - version))
            outcomes, gathered = self._pool.train(
                [task.device for task in group], [task.first for task in group]
            )
            buffer.outcomes |= dict(zip(group, outcomes, strict=True))
            buffer.gathered = (
                gathered if buffer.gathered is None else combined([buffer.gathered, gathered])
            )

    def _merged(self, state: RunState, buffer: _Buffer) -> Merged:
        method, settings = self._prepared.method, self._data.settings.merging
        if buffer.gathered is None:  # nobody was left who could start
            return Merged(state.heads, state.moments, len(HeadVectors(method.layout).sizes))
        return merge(settings, method, state.heads, buffer.gathered, state.moments)

    def _untrained(self, task: RunningTask, version: int) -> DeviceOutcome:
        """What became of a device whose update is not merged, and so not computed."""
        data, device = self._data, task.device
        arrives, dropped = task.ending == "arrives", task.ending == "dropped_out"
        heads = int(data.heads[device])
        time = device_time(data, device, tokens=task.tokens, first=task.first)
        return device_outcome(
            round=version + 1,
            device=device,
            status="stale" if arrives else task.ending,
            heads=heads,
            examples=int(self._prepared.statistics.rows[device]),
            steps=0 if dropped else data.settings.local.local_steps,
            tokens=0 if dropped else task.tokens,
            download_bytes=data.transfer.download(first=task.first),
            upload_bytes=0 if dropped else data.transfer.upload[heads],
            time=DeviceTime(time.download, 0.0, 0.0) if dropped else time,
            asynchronous={"version": task.version, "staleness": version - task.version},
        )

    def _report(
        self, state: RunState, buffer: _Buffer, floor: Floor, merged: Merged
    ) -> RoundReport:
        staleness = [state.round - task.version for task in buffer.of("merged")]
        mean = sum(staleness) / len(staleness) if staleness else None
        report = round_report(
            state,
            [buffer.outcomes[task] for task in buffer.ended],
            floor.now - state.simulated_seconds,
            floor.now,
            ASYNCHRONOUS_STATUSES,
            {
                "staleness": mean,
                "largest_staleness": max(staleness, default=None),
                "at_work": len(floor.tasks),
                **kept_heads(self._data.settings.merging, merged),
            },
        )
        bad = buffer.of("bad_numbers")
        hopeless = bad and not staleness and not buffer.of("crashed")
        failure = all_bad(state, [buffer.outcomes[task] for task in bad]) if hopeless else None
        return replace(report, staleness=mean, failure=failure)

    def _at_work(
        self, tasks: tuple[RunningTask, ...], heads: Mapping[int, Vector], version: int
    ) -> AtWork:
        """With the heads of the versions whose updates may still be merged."""
        needed = {task.version for task in tasks if self._rule.takes(version - task.version)}
        return AtWork(tasks, {number: heads[number] for number in sorted(needed)})
