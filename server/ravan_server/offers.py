"""From a row of the store to what a device is told, and whether it may be told anything."""

from __future__ import annotations

from functools import lru_cache

from ravan_edge.artifact import Artifact
from ravan_edge.codecs import CodecName
from ravan_edge.protocol import CheckIn, Reason, Refusal, TaskOffer, UploadRules, UploadSettings
from ravan_edge.protocol.messages import PROTOCOL_VERSION
from ravan_edge.training.settings import LocalSettings
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
    row: TaskRow,
    attempt: Attempt,
    heads: VersionRow,
    artifact: Artifact,
    signature: str | None,
    most_bytes: int,
    now: float,
) -> TaskOffer:
    """What the device of a task is told. The same row gives the same offer, less the time gone by.

    Args:
        row: The task.
        attempt: That gave it out.
        heads: The version it starts from.
        artifact: What is trained.
        signature: Digest of the artifact's signature.
        most_bytes: Of an update.
        now: Seconds since 1970.
    """
    common = _common_offer(
        attempt.round,
        attempt.number,
        attempt.version,
        attempt.settings.local,
        attempt.seed,
        artifact.digest,
        signature,
        heads.heads,
        heads.bytes,
        attempt.settings.upload,
        most_bytes,
    )
    own: dict[str, object] = {
        "task": row.task,
        "device": row.number,
        "plan": row.plan,
        "heads_to_train": row.heads_to_train,
        "deadline_seconds": _remaining_seconds(row, attempt, now),
    }
    return common.model_copy(update=own)  # not checked again: these are our own


def _remaining_seconds(row: TaskRow, attempt: Attempt, now: float) -> float:
    if row.deadline_at is None:
        return attempt.remaining_seconds(now)
    return max(0.0, row.deadline_at - now)


@lru_cache(maxsize=8)
def _common_offer(
    round: int,
    number: int,
    version: int,
    local: LocalSettings,
    seed: int,
    artifact: str,
    signature: str | None,
    heads: str,
    heads_bytes: int,
    upload: UploadSettings,
    most_bytes: int,
) -> TaskOffer:
    """What all devices of an attempt are told; what each is told apart stands for nothing."""
    return TaskOffer(
        task="0",
        device=0,
        round=round,
        attempt=number,
        version=version,
        artifact=artifact,
        signature=signature,
        heads=heads,
        heads_bytes=heads_bytes,
        plan="0",
        settings=local.as_dict(),
        seed=seed,
        deadline_seconds=0,
        upload=UploadRules(
            codec=upload.codec,
            top_k_share=upload.top_k_share if upload.codec is CodecName.TOP_K else None,
            most_bytes=most_bytes,
        ),
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
