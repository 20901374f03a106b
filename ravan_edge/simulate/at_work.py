"""Devices at work in an asynchronous run: who trains from which version, and when each is done.

A device's time is known when it starts, from the tokens of its batches (``clock.py``). So tasks end in an
order that no training decides, and a device's training is computed when its update is needed, beside
others of its version. Until then only the heads that it started from are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods import Vector
from ravan_edge.simulate.clock import DeviceTime
from ravan_edge.simulate.cohort import drop_outs
from ravan_edge.simulate.messages import OpenData

__all__ = ["AtWork", "RunningTask", "starting_order", "tokens_of_round"]


class RunningTask(NamedTuple):
    """A device at work; ordered as tasks end.

    Args:
        ends_at: Simulated seconds from the start of the run to the moment its place is free again.
        device: Its number.
        version: Of the heads it trains from.
        ending: ``arrives``, ``late`` or ``dropped_out``.
        tokens: That it trains on.
        first: Whether it never took part before.
    """

    ends_at: float
    device: int
    version: int
    ending: str
    tokens: int
    first: bool


@dataclass(frozen=True)
class AtWork:
    """Who is at work.

    Attributes:
        tasks: In any order.
        heads: Of the versions that they train from and whose updates may still be merged.
    """

    tasks: tuple[RunningTask, ...] = ()
    heads: Mapping[int, Vector] = field(default_factory=dict, repr=False)


def starting_order(eligible: NDArray[np.int64], *, seed: int, version: int) -> list[int]:
    """The order in which devices start from a version, each at most once.

    A device that did so twice would draw the same numbers, and make the same update, twice.

    Args:
        eligible: Devices that have data, ascending, int64 [eligible].
        seed: The run's.
        version: Addresses the stream (purpose 3), with the seed.
    """
    stream = Stream(seed, Purpose.COHORT, round=version)
    found: list[int] = eligible[stream.permutation(len(eligible))].tolist()
    return found


def tokens_of_round(data: OpenData, lengths: NDArray[np.int64], version: int, device: int) -> int:
    """Tokens of the batches of a local round (docs/generator.md), without making them.

    Args:
        data: The run's.
        lengths: Tokens of each training row, int64 [rows].
        version: The version that it starts from.
        device: The device.
    """
    local = data.settings.local
    own = lengths[data.examples[data.offsets[device] : data.offsets[device + 1]]]
    passes, rest = divmod(local.local_steps, -(-len(own) // local.batch_size))
    tokens = passes * int(own.sum())
    if rest:
        stream = Stream(
            data.settings.seed, Purpose.SHUFFLE, round=version, device=device, index=passes
        )
        tokens += int(own[stream.permutation(len(own))][: rest * local.batch_size].sum())
    return tokens


@dataclass(frozen=True)
class Starts:
    """Sends devices to work.

    Args:
        data: The run's.
        lengths: Tokens of each training row, int64 [rows].
    """

    data: OpenData
    lengths: NDArray[np.int64]

    def task(self, now: float, version: int, device: int, *, first: bool) -> RunningTask:
        """A device that starts now."""
        settings = self.data.settings
        tokens = tokens_of_round(self.data, self.lengths, version, device)
        time = device_time(self.data, device, tokens=tokens, first=first)
        patience = settings.deadline_seconds
        lost = drop_outs(np.array([device]), settings.drop_out, seed=settings.seed, round=version)
        if lost[0]:
            # The server notices at the deadline; where there is none, at once.
            ending, seconds = "dropped_out", time.download if patience is None else patience
        elif patience is not None and time.total > patience:
            ending, seconds = "late", patience
        else:
            ending, seconds = "arrives", time.total
        return RunningTask(now + seconds, device, version, ending, tokens, first)


def device_time(data: OpenData, device: int, *, tokens: int, first: bool) -> DeviceTime:
    """Seconds of a device's whole round."""
    heads = int(data.heads[device])
    return data.clock.device_time(
        device,
        heads=heads,
        tokens=tokens,
        download_bytes=data.transfer.download(first=first),
        upload_bytes=data.transfer.upload[heads],
    )


class Floor:
    """The places of a run while a version is being made: tasks end one after the other, others start.

    Args:
        starts: Sends devices to work.
        places: How many devices are at work at the same time.
        version: The latest version: what starts, starts from it.
        order: In which devices start from it, as :func:`starting_order` says.
        tasks: Who is at work already.
        seen: Who took part before, bool [devices]; kept up to date.
        now: Simulated seconds.
    """

    def __init__(
        self,
        starts: Starts,
        places: int,
        version: int,
        order: list[int],
        tasks: tuple[RunningTask, ...],
        seen: NDArray[np.bool_],
        now: float,
    ) -> None:
        self._starts = starts
        self._places = places
        self._version = version
        self._waiting = order[::-1]  # the next one is last, where taking it away costs nothing
        self._tasks = sorted(tasks)
        self._busy = {task.device for task in tasks}
        self._seen = seen
        self.now = now

    @property
    def tasks(self) -> tuple[RunningTask, ...]:
        """Who is at work, in the order in which they will end."""
        return tuple(sorted(self._tasks))

    def endings(self) -> Iterator[RunningTask]:
        """Tasks as they end; after the last one nobody is at work, and nobody is left who could start.

        What ends in the same moment ends before anybody takes a place that it freed: whoever stops
        listening in between finds the clock there, and free places.
        """
        while True:
            if not self._tasks or self._tasks[0].ends_at > self.now:
                self._fill()
            if not self._tasks:
                return
            ended = heapq.heappop(self._tasks)
            self._busy.remove(ended.device)
            self.now = ended.ends_at
            yield ended

    def _fill(self) -> None:
        number = len(self._waiting) - 1
        while len(self._tasks) < self._places and number >= 0:
            device = self._waiting[number]
            if device not in self._busy:  # who is at work starts again once it is done
                del self._waiting[number]
                self._busy.add(device)
                first = not self._seen[device]
                self._seen[device] = True
                task = self._starts.task(self.now, self._version, device, first=first)
                heapq.heappush(self._tasks, task)
            number -= 1
