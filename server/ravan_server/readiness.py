"""Whether the server can do its work: what ``/readyz`` says.

Anybody may ask that, so asking costs nothing: the disk is tried once in a while, however many ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from ravan_edge.protocol import Reason, Refusal

__all__ = ["Readiness"]

_PROBE_SECONDS = 10.0
_ANSWER_SECONDS = 5.0


class Readiness:
    """Used by the event loop's thread.

    Args:
        alive: Each part that has to run, by its name.
        probe: Writes something to the store; done when that is durable.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        alive: dict[str, Callable[[], bool]],
        probe: Callable[[], Future[None]],
        clock: Callable[[], float],
    ) -> None:
        self._alive = alive
        self._probe = probe
        self._clock = clock
        self._probed: Future[None] | None = None
        self._probed_at = 0.0
        self._ending = False

    def end(self) -> None:
        """The server is about to end: nobody should be sent here any more."""
        self._ending = True

    async def check(self) -> None:
        """Nothing, if the server is ready.

        Raises:
            Refusal: It is not; says no more than why.
        """
        if self._ending:
            raise Refusal(Reason.BUSY, "the server is ending")
        for name, alive in self._alive.items():
            if not alive():
                raise Refusal(Reason.BUSY, f"the {name} does not run")
        now = self._clock()
        if self._probed is None or (
            self._probed.done() and now >= self._probed_at + _PROBE_SECONDS
        ):
            self._probed, self._probed_at = self._probe(), now
        # Shielded: others wait for the same one.
        waiting = asyncio.shield(asyncio.wrap_future(self._probed))
        try:
            await asyncio.wait_for(waiting, _ANSWER_SECONDS)
        except TimeoutError:
            raise Refusal(Reason.BUSY, "the store does not answer") from None
        except Refusal:  # its detail names files of this machine
            raise Refusal(Reason.STORAGE, "the store cannot be written") from None
