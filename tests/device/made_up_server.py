"""A server without a network or a disk, for tests that kill a device at each of its operations."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.codecs import CodecName
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    DeviceFailure,
    Reason,
    Receipt,
    Refusal,
    TaskOffer,
    UploadRules,
    WaitReason,
)
from tests.device.device_kit import LOCAL, Killed

__all__ = ["MadeUpServer"]


@dataclass
class MadeUpServer:
    """Gives out one task after the other, each from the artifact's own heads.

    Attributes:
        artifact: What is trained.
        codec: Of the updates.
        answers: To each task's update: None takes it.
        kill: Ends the device at its n-th upload, ``before`` or ``after`` the server has it.
    """

    artifact: Artifact
    codec: CodecName
    answers: tuple[Reason | None, ...]
    kill: tuple[int, str] | None = None
    url: str = "http://127.0.0.1:1"
    device: str | None = None
    stored: dict[str, bytes] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    uploads: int = 0

    def check_in(self, message: CheckIn) -> TaskOffer | ComeBack:
        for number in range(len(self.answers)):
            if f"task-{number}" not in self.ended:
                return self._offer(number, message.plans[0])
        return ComeBack(reason=WaitReason.FINISHED, earliest_seconds=0, latest_seconds=1)

    def _offer(self, number: int, plan: str) -> TaskOffer:
        manifest = self.artifact.folder / "manifest.json"
        heads = self.artifact.manifest.files["heads.safetensors"]
        return TaskOffer(
            task=f"task-{number}",
            device=0,
            round=number + 1,
            attempt=1,
            version=number,
            artifact=hashlib.sha256(manifest.read_bytes()).hexdigest(),
            heads=heads.sha256,
            heads_bytes=heads.size,
            plan=plan,
            settings=LOCAL.as_dict(),
            seed=5,
            deadline_seconds=1e6,
            upload=UploadRules(
                codec=self.codec,
                top_k_share=0.2 if self.codec is CodecName.TOP_K else None,
                most_bytes=10**6,
            ),
        )

    def download(self, digest: str, path: Path, most_bytes: int) -> None:
        for name, entry in self.artifact.manifest.files.items():
            if entry.sha256 == digest:
                shutil.copyfile(self.artifact.folder / name, path)
                return
        shutil.copyfile(self.artifact.folder / "manifest.json", path)

    def upload(self, task: str, content: bytes) -> Receipt:
        self.uploads += 1
        killed = self.kill if self.kill and self.kill[0] == self.uploads else None
        if killed and killed[1] == "before":
            raise Killed
        answer = self.answers[int(task.removeprefix("task-"))]
        again = task in self.ended
        self.ended.add(task)
        if answer is None:
            assert self.stored.setdefault(task, content) == content, "another body for one task"
        if killed:
            raise Killed
        if answer is not None:
            raise Refusal(answer, "made up")
        return Receipt(
            task=task,
            status="already_have_it" if again else "accepted",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
        )

    def give_back(self, task: str, failure: DeviceFailure) -> None:
        self.ended.add(task)

    def close(self) -> None:
        """Nothing is open."""
