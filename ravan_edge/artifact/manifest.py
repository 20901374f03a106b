"""The manifest: one frozen class for each object of the file (docs/artifact.md, section 2)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ravan_edge.artifact.consistency import contradictions
from ravan_edge.errors import ArtifactError
from ravan_edge.strict_json import parse_json

__all__ = [
    "MANIFEST_MAX_BYTES",
    "SCHEMA_VERSION",
    "Basis",
    "Conformance",
    "ConformanceCase",
    "FileEntry",
    "GraphTensor",
    "ImageSettings",
    "Layer",
    "Manifest",
    "MethodSettings",
    "ModelInfo",
    "Plan",
    "PromptFormat",
    "Role",
    "Task",
    "TensorEntry",
    "TextSettings",
    "check_path",
    "parse_manifest",
]

SCHEMA_VERSION = 1
MANIFEST_MAX_BYTES = 4 * 1024 * 1024
_MAX_NESTING = 16
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

Dimension = Annotated[int, Field(ge=1, le=1 << 40)]
TensorName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
ShortText = Annotated[str, Field(max_length=1000)]
PromptText = Annotated[str, Field(max_length=10_000)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Positive = Annotated[float, Field(gt=0, strict=False)]


def check_path(path: str) -> str:
    """A path that an artifact may hold, unchanged.

    Raises:
        ValueError: It is not a plain relative path.
    """
    parts = path.split("/")
    if len(path) > 200 or len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"path {path!r} is not a plain relative path inside the artifact")
    return path


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Role(StrEnum):
    """What a tensor of the tensor table or of the bases is."""

    CORE = "core"
    SCALE = "scale"
    LORA_A = "lora_a"
    LORA_B = "lora_b"
    TASK_HEAD = "task_head"
    BASIS_A = "basis_a"
    BASIS_B = "basis_b"


JsonRole = Annotated[Role, Field(strict=False)]
JsonShape = Annotated[tuple[Dimension, ...], Field(strict=False, max_length=8)]
Names = Annotated[tuple[TensorName, ...], Field(strict=False)]
Texts = Annotated[tuple[ShortText, ...], Field(strict=False)]


Task = Literal[
    "text-classification",
    "token-classification",
    "masked-lm",
    "causal-lm",
    "seq2seq",
    "image-classification",
]


class ModelInfo(_Frozen):
    """The pretrained model an artifact was made from."""

    name: ShortText
    architecture: ShortText
    family: ShortText
    license: ShortText | None
    parameters: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]


class MethodSettings(_Frozen):
    """The method's name and its settings; a setting a method does not have is null."""

    name: Literal["ravan", "head-only", "fedit"]
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    targets: Names = ()
    heads: Dimension | None = None
    rank: Dimension | None = None
    init: Literal["random-normal", "gram-schmidt", "constant", "shared-subspace"] | None = None
    alpha: Annotated[float, Field(gt=0, strict=False)] | None = None


class Layer(_Frozen):
    """One adapted linear layer, W [outputs, inputs]."""

    name: TensorName
    outputs: Dimension
    inputs: Dimension
    heads: Dimension
    rank: Dimension


class TensorEntry(_Frozen):
    """One row of the tensor table: a float32 tensor that trains."""

    name: TensorName
    role: JsonRole
    shape: JsonShape
    layer: TensorName | None = None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size


class Basis(_Frozen):
    """A frozen tensor that the host feeds to graphs: ``<layer>.A`` or ``<layer>.Bt``."""

    name: TensorName
    layer: TensorName
    role: JsonRole
    shape: JsonShape
    source: None = None  # reserved for {generator, seed}; a reader that cannot make it refuses


class PromptFormat(_Frozen):
    """What stands before a prompt, between prompt and answer, and behind the answer, as text."""

    before: PromptText
    between: PromptText
    after: PromptText


class TextSettings(_Frozen):
    """How texts become token ids; what a task does not need is null."""

    tokenizer: str
    max_length: Dimension
    pad_id: TokenId
    inputs: Names = ("input_ids", "attention_mask")
    mask_id: TokenId | None = None
    end_id: TokenId | None = None
    decoder_start_id: TokenId | None = None
    special_ids: Annotated[tuple[TokenId, ...], Field(strict=False, max_length=65_536)] = ()
    vocabulary: Dimension | None = None
    prompt: PromptFormat | None = None

    @field_validator("tokenizer")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        return check_path(path)


class ImageSettings(_Frozen):
    """How images become ``pixel_values`` [batch, channels, height, width].

    An image is made RGB, resized (``resize``: nothing; the shorter edge; or height and width), cut
    to height x width around its middle, and each value becomes (value * rescale - mean) / std.
    """

    height: Dimension
    width: Dimension
    channels: Annotated[int, Field(ge=1, le=4)]
    resize: Annotated[tuple[Dimension, ...], Field(strict=False, max_length=2)]
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    rescale: Annotated[float, Field(gt=0, strict=False)]
    mean: Annotated[tuple[float, ...], Field(strict=False, max_length=4)]
    std: Annotated[tuple[Positive, ...], Field(strict=False, max_length=4)]
    tokens: Dimension
    inputs: Names = ("pixel_values",)


class GraphTensor(_Frozen):
    """An input or output of a graph. A dimension is a number, or a name where it is dynamic."""

    name: TensorName
    dtype: Literal["float32", "int64", "int32", "bool"]
    shape: Annotated[tuple[Dimension | TensorName, ...], Field(strict=False, max_length=8)]


class Plan(_Frozen):
    """One way to compute the step.

    ``limits``, ``planned_bytes`` and ``worst_error`` are for plans whose runtime fixes sizes when
    the model is exported: the most of each dynamic dimension, the memory its activations take, and
    the largest relative error that the exporter saw (that of ``whole`` is in the conformance).
    """

    graphs: dict[str, str]
    inputs: Annotated[tuple[GraphTensor, ...], Field(strict=False)]
    outputs: dict[str, Annotated[tuple[GraphTensor, ...], Field(strict=False)]]
    blobs: Annotated[tuple[str, ...], Field(strict=False)]
    operators: Texts
    opset: Dimension | None
    limits: Annotated[dict[TensorName, Dimension], Field(max_length=8)] = {}
    planned_bytes: Dimension | None = None
    worst_error: Annotated[float, Field(ge=0, strict=False)] | None = None


class FileEntry(_Frozen):
    """Digest and size of one file."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=1 << 48)]


class ConformanceCase(_Frozen):
    """What the exporter saw for one stored batch."""

    name: TensorName
    batch: JsonShape
    loss: float
    loss_move: float
    worst_error: float
    worst_tensor: TensorName


class Conformance(_Frozen):
    """Figures of the comparison with torch autograd on the original model."""

    file: str
    tolerance: Annotated[float, Field(gt=0, le=1e-2)]
    cases: Annotated[tuple[ConformanceCase, ...], Field(strict=False, min_length=1)]


class Manifest(_Frozen):
    """The whole manifest. Made by :func:`parse_manifest`; equal content is equal bytes."""

    # Not Literal[1], which True and 1.0 equal.
    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]
    model: ModelInfo
    task: Task
    labels: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...],
        Field(strict=False, max_length=100_000),
    ]
    method: MethodSettings
    layers: Annotated[tuple[Layer, ...], Field(strict=False, max_length=16_384)]
    tensors: Annotated[tuple[TensorEntry, ...], Field(strict=False, min_length=1, max_length=4096)]
    bases: Annotated[tuple[Basis, ...], Field(strict=False, max_length=32_768)]
    text: TextSettings | None
    image: ImageSettings | None = None
    plans: Annotated[dict[str, Plan], Field(min_length=1, max_length=16)]
    files: Annotated[dict[str, FileEntry], Field(max_length=1024)]
    conformance: Conformance | None
    exporter: dict[str, str]
    notices: Texts = ()

    @field_validator("labels")
    @classmethod
    def _different_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("two labels have the same name")
        return labels

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for path in self.files:
            check_path(path)
        for contradiction in contradictions(self):
            raise ValueError(contradiction)
        return self

    @property
    def batch_inputs(self) -> tuple[str, ...]:
        """Batch inputs that graphs take, without ``labels``."""
        reads = self.image if self.image is not None else self.text
        return () if reads is None else reads.inputs

    def to_bytes(self) -> bytes:
        """The file's bytes: sorted keys, indent 2, final newline."""
        document = self.model_dump(mode="json")
        text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @property
    def digest(self) -> str:
        """The artifact digest, if the file was written by :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _nesting(document: object) -> int:
    depth, level = 0, [document]
    while level and depth <= _MAX_NESTING:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def parse_manifest(data: bytes, *, where: str = "manifest.json") -> Manifest:
    """Check and read the bytes of a manifest.

    Raises:
        ArtifactError: Too large, not JSON, from a newer version, or not as docs/artifact.md says;
            names the key, what was expected and what was found.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise ArtifactError(
            f"{len(data)} bytes, expected at most {MANIFEST_MAX_BYTES}", where=where
        )
    try:
        document = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"not a JSON document: {error}", where=where, hint="export or download it again"
        ) from error
    if not isinstance(document, Mapping) or _nesting(document) > _MAX_NESTING:
        raise ArtifactError("expected one JSON object, not too deeply nested", where=where)
    version = document.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"made by a newer version (schema {version}, this is {SCHEMA_VERSION})",
            where=where,
            hint="upgrade ravan-edge: pip install --upgrade ravan-edge",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # A key may be anything, and is shown on a terminal: repr escapes what is not printable.
        key = repr(".".join(str(part) for part in first["loc"])[:200])[1:-1] or "the whole"
        raise ArtifactError(
            f"{key}: {first['msg']} (found {str(first.get('input'))[:80]!r})",
            where=where,
            hint="export it again; docs/artifact.md describes the manifest",
        ) from None
