"""What devices say in these tests: check-ins, and updates that are right or wrong in one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import (
    UPDATE_BOUNDS,
    Artifact,
    read_header,
    tensors_from_bytes,
    tensors_to_bytes,
)
from ravan_edge.codecs import CODECS, CodecName
from ravan_edge.methods import method_for
from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    TaskOffer,
    UpdateInfo,
    UpdateReader,
    code_difference,
    encode_coded_update,
    encode_update,
    rounding_stream,
)
from tests.server.asgi import Client
from tests.tiny_artifact import LAYER

__all__ = [
    "changed",
    "encoded",
    "message",
    "offered",
    "path_of",
    "reader_of",
    "tensor_file",
    "update_of",
]


def message(device: int = 0, /, **changes: object) -> dict[str, Any]:
    """A check-in."""
    said = {"protocol": PROTOCOL_VERSION, "device": f"device-{device:06d}", "plans": ["whole"]}
    return said | changes


def offered(client: Client, device: int = 0) -> TaskOffer:
    """The task that a device gets."""
    answer = client.post("/v1/check-in", message(device))
    return TaskOffer.model_validate_json(answer.body)


def path_of(task: TaskOffer | str) -> str:
    """Where the update of a task goes."""
    return f"/v1/tasks/{task if isinstance(task, str) else task.task}/update"


def reader_of(artifact: Artifact) -> UpdateReader:
    """What checks the updates of an artifact."""
    return UpdateReader(artifact.manifest, method_for(artifact.manifest), artifact.digest)


def encoded(
    artifact: Artifact,
    task: str,
    version: int = 0,
    heads: list[int] | None = None,
    seed: int = 0,
    codec: CodecName = CodecName.FP32,
) -> bytes:
    """An update of some heads, with random numbers."""
    method = method_for(artifact.manifest)
    start = method.layout.pack(artifact.initial_heads())
    noise = np.random.default_rng(seed).normal(size=start.size).astype(np.float32)
    trained = None if heads is None else {LAYER: np.array(heads, np.int32)}
    training = method.training(start, trained)
    difference = method.difference(start + noise, start, training)
    info = UpdateInfo(task, version, artifact.digest, examples=800, steps=50, codec=codec)
    coder = CODECS.get(codec)
    if coder is None:
        return encode_update(info, method, difference, training)
    stream = rounding_stream(seed, version, 0)
    coded = code_difference(coder, method, difference, training, None, stream, 64.0)
    return encode_coded_update(info, training, coded.tensors)


def update_of(artifact: Artifact, offer: TaskOffer, seed: int = 0) -> bytes:
    """An update that answers an offer."""
    return encoded(artifact, offer.task, offer.version, seed=seed)


def changed(
    content: bytes,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The same update with some of it replaced; a tensor of size 0 is left out."""
    parts = dict(tensors_from_bytes(content, UPDATE_BOUNDS)) | dict(tensors or {})
    header = dict(read_header(content, UPDATE_BOUNDS).metadata) | dict(metadata or {})
    return tensors_to_bytes({name: array for name, array in parts.items() if array.size}, header)


def tensor_file(header: Mapping[str, object] | bytes, data: bytes = b"") -> bytes:
    """A tensor file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
