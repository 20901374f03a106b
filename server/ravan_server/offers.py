"""From a row of the store to what a device is told, and whether it may be told anything."""

from __future__ import annotations

from ravan_edge.artifact import Artifact, update_bytes
from ravan_edge.protocol import CheckIn, Reason, Refusal, TaskOffer, UploadRules
from ravan_edge.protocol.messages import PROTOCOL_VERSION
from ravan_server.rounds import Attempt
from ravan_server.settings import ServerSettings
from ravan_server.store import TaskRow, VersionRow

__all__ = ["choose_plan", "meets_conditions", "task_offer"]


def choose_plan(check_in: CheckIn, artifact: Artifact) -> str:
    """The first plan of a device that the artifact has.

    Raises:
        Refusal: There is none.
    """
    plans = artifact.manifest.plans
    for name in check_in.plans:
        if name in plans:
            return name
    raise Refusal(
        Reason.NO_COMMON_PLAN,
        f"the device runs {', '.join(check_in.plans)}, the artifact has {', '.join(sorted(plans))}: "
        "export it with a plan of the device (--plans)",
    )


def meets_conditions(check_in: CheckIn, settings: ServerSettings) -> bool:
    """Whether a device is in the state that the server asks for; unknown is no."""
    found = check_in.conditions
    return (not settings.mains_power or found.mains_power is True) and (
        not settings.unmetered or found.unmetered is True
    )


def task_offer(
    row: TaskRow, attempt: Attempt, heads: VersionRow, artifact: Artifact, now: float
) -> TaskOffer:
    """What the device of a task is told. The same row gives the same offer, less the time gone by."""
    return TaskOffer(
        task=row.task,
        device=row.number,
        round=attempt.round,
        attempt=attempt.number,
        version=attempt.version,
        artifact=artifact.digest,
        heads=heads.heads,
        heads_bytes=heads.bytes,
        plan=row.plan,
        settings=attempt.settings.local.as_dict(),
        heads_to_train=row.heads_to_train,
        seed=attempt.seed,
        deadline_seconds=attempt.remaining_seconds(now),
        upload=UploadRules(most_bytes=update_bytes(artifact.manifest)),
    )


def check_protocol(version: object) -> None:
    """Refuse another version of the protocol before anything else is looked at.

    Raises:
        Refusal: Says which side is old.
    """
    if type(version) is not int or version == PROTOCOL_VERSION:
        return  # what is no number is refused as a bad message
    side = "device" if version < PROTOCOL_VERSION else "server"
    raise Refusal(
        Reason.PROTOCOL,
        f"the device speaks version {version} of the protocol, this server version "
        f"{PROTOCOL_VERSION}: upgrade ravan-edge on the {side}",
    )
