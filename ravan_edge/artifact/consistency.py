"""What must agree inside a manifest: layers, tensor table, bases, inputs and outputs of plans.

Sections 3, 4 and 6 of docs/artifact.md. Each function yields one sentence per contradiction; the
manifest refuses on the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ravan_edge.artifact.signature import PLAN_FORMS, SIGNATURES, PlanForm

if TYPE_CHECKING:
    from ravan_edge.artifact.manifest import Basis, GraphTensor, Manifest, Plan, TensorEntry

__all__ = ["MANIFEST_NAME", "SIGNATURE_NAME", "contradictions"]

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "signature.json"

Shape = tuple[int, ...]

_FIXED_NAMES = {(), ("batch",), ("batch", "length"), ("batch", "target_length")}
"""Dynamic dimensions of an input of a plan whose sizes are fixed: a host fills them up by name."""

_MOST_NUMBERS = 1 << 28
"""In one input of a plan whose sizes are fixed: a host pads every batch to them."""


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Everything that does not agree, as sentences."""
    yield from _files(manifest)
    yield from _names(manifest)
    yield from _settings(manifest)
    yield from _tables(manifest)
    for name, plan in manifest.plans.items():
        yield from _plan(manifest, name, plan)


def _files(manifest: Manifest) -> Iterator[str]:
    for path in manifest.files:
        if path.lower() == MANIFEST_NAME:
            yield "the manifest cannot list itself"
        if path.lower() == SIGNATURE_NAME:
            yield "the manifest cannot list its own signature"
    if len({path.lower() for path in manifest.files}) != len(manifest.files):
        yield "two files differ only in upper and lower case"  # one file on macOS and Windows
    used = ["base.safetensors", "heads.safetensors"]
    for plan in manifest.plans.values():
        used += [*plan.graphs.values(), *plan.blobs]
    if manifest.text is not None:
        used.append(manifest.text.tokenizer)
    if manifest.conformance is not None:
        used.append(manifest.conformance.file)
    for path in used:
        if path not in manifest.files:
            yield f"file {path!r} is used but not listed under files"


def _names(manifest: Manifest) -> Iterator[str]:
    for kind, names in (
        ("tensor", [entry.name for entry in manifest.tensors]),
        ("basis", [entry.name for entry in manifest.bases]),
        ("layer", [layer.name for layer in manifest.layers]),
    ):
        if len(set(names)) != len(names):
            yield f"a {kind} is listed twice"
    yield from _reading(manifest)
    signature = SIGNATURES[manifest.task]
    if signature.label_map and len(manifest.labels) < 2:
        yield f"task {manifest.task} needs at least two labels, found {len(manifest.labels)}"
    if not signature.label_map and manifest.labels:
        yield f"task {manifest.task} has no labels, found {len(manifest.labels)}"
    for label in manifest.labels:
        if len(label.encode()) > 1000:
            yield f"label {label[:40]!r} is longer than 1000 bytes"


_TEXT_NEEDS: Mapping[str, tuple[str, ...]] = {
    "masked-lm": ("mask_id", "vocabulary"),
    "causal-lm": ("end_id",),
    "seq2seq": ("end_id", "decoder_start_id"),
}


def _reading(manifest: Manifest) -> Iterator[str]:
    """How data become inputs, against the task."""
    signature = SIGNATURES[manifest.task]
    for kind, found in (("text", manifest.text), ("image", manifest.image)):
        if (found is not None) != (kind == signature.reads):
            needs = "needs" if found is None else "does not read"
            yield f"task {manifest.task} {needs} {kind}"
        elif found is not None:
            named = set(found.inputs)
            for name in sorted(named - signature.inputs):
                yield f"{kind}.inputs names {name!r}, which task {manifest.task} does not have"
            for name in sorted(signature.required - named):
                yield f"{kind}.inputs must name {name}"
    for key in _TEXT_NEEDS.get(manifest.task, ()):
        if manifest.text is not None and getattr(manifest.text, key) is None:
            yield f"task {manifest.task} needs text.{key}"
    image = manifest.image
    if image is not None and not len(image.mean) == len(image.std) == image.channels:
        yield f"image: mean and std need {image.channels} numbers each"


def _settings(manifest: Manifest) -> Iterator[str]:
    method = manifest.method
    if method.name == "ravan":
        if method.heads is None or method.rank is None or method.init is None:
            yield "method ravan needs heads, rank and init"
        for layer in manifest.layers:
            if layer.heads != method.heads:
                yield f"layer {layer.name!r} has {layer.heads} heads, the method {method.heads}"
    if method.name == "fedit":
        if method.rank is None or method.alpha is None:
            yield "method fedit needs rank and alpha"
        for layer in manifest.layers:
            if layer.rank != method.rank:
                yield f"layer {layer.name!r} has rank {layer.rank}, the method {method.rank}"
    if method.name != "head-only" and not manifest.layers:
        yield f"method {method.name} needs at least one layer"
    if method.name == "head-only" and manifest.layers:
        yield "method head-only has no layers"


def _tables(manifest: Manifest) -> Iterator[str]:
    """The tensor table and the bases against what the method wants for each layer."""
    tensors: dict[str, tuple[str, Shape, str]] = {}
    bases: dict[str, tuple[str, Shape, str]] = {}
    for layer in manifest.layers:
        name, m, n, h, r = layer.name, layer.outputs, layer.inputs, layer.heads, layer.rank
        if manifest.method.name == "ravan":
            tensors[f"{name}.H"] = ("core", (h, r, r), name)
            tensors[f"{name}.s"] = ("scale", (h,), name)
            bases[f"{name}.A"] = ("basis_a", (h, r, n), name)
            bases[f"{name}.Bt"] = ("basis_b", (h, r, m), name)
        else:
            tensors[f"{name}.lora_A"] = ("lora_a", (r, n), name)
            tensors[f"{name}.lora_B"] = ("lora_b", (m, r), name)
    for entry in manifest.tensors:
        if entry.role == "task_head":
            if not entry.name.startswith("task_head.") or entry.layer is not None:
                yield f"tensor {entry.name!r} has role task_head: its name and layer do not fit"
            continue
        yield from _compare("tensor", entry.name, tensors.pop(entry.name, None), entry)
    for basis in manifest.bases:
        yield from _compare("basis", basis.name, bases.pop(basis.name, None), basis)
    for name in (*tensors, *bases):
        yield f"tensor {name!r} of an adapted layer is not listed"


def _compare(
    kind: str, name: str, expected: tuple[str, Shape, str] | None, row: TensorEntry | Basis
) -> Iterator[str]:
    role, shape, layer = row.role, row.shape, row.layer
    if expected is None:
        yield f"{kind} {name!r} belongs to no layer of this method"
    elif (role, shape, layer) != expected:
        yield (
            f"{kind} {name!r} is {role} {list(shape)} of {layer!r}, "
            f"expected {expected[0]} {list(expected[1])} of {expected[2]!r}"
        )


def _plan(manifest: Manifest, name: str, plan: Plan) -> Iterator[str]:
    if set(plan.outputs) != set(plan.graphs):
        yield f"plan {name!r}: graphs and outputs do not name the same roles"
    for kind, tensors in (("inputs", plan.inputs), *plan.outputs.items()):
        if len({tensor.name for tensor in tensors}) != len(tensors):
            yield f"plan {name!r}: {kind} lists a tensor twice"
    form = PLAN_FORMS.get(name)
    if form is None:
        return  # a reader that does not know a plan does not run it
    for sentence in _known_plan(manifest, form, plan):
        yield f"plan {name!r}: {sentence}"


def _known_plan(manifest: Manifest, form: PlanForm, plan: Plan) -> Iterator[str]:
    if set(plan.graphs) != form.roles:
        yield f"graphs {', '.join(sorted(plan.graphs))}, expected {', '.join(sorted(form.roles))}"
        return
    for role, path in form.paths.items():
        if plan.graphs[role] != path:
            yield f"graph {role!r} is {plan.graphs[role]!r}, expected {path!r}"
    for path in sorted(form.blobs - set(plan.blobs)):
        yield f"blob {path!r} is not listed"
    if plan.opset != form.opset:
        yield f"opset {plan.opset}, expected {form.opset}"
    if list(plan.operators) != sorted(set(plan.operators)):
        yield "operators is not sorted, or lists one twice"
    dims = {dim for tensor in plan.inputs for dim in tensor.shape if isinstance(dim, str)}
    expected = dims if form.fixed_sizes else set()
    if set(plan.limits) != expected:
        yield f"limits of {sorted(plan.limits)}, expected {sorted(expected)}"
    elif form.fixed_sizes:
        yield from _fixed_sizes(plan)
    yield from _inputs(manifest, form, plan)
    yield from _outputs(manifest, form, plan)


def _fixed_sizes(plan: Plan) -> Iterator[str]:
    if len(plan.blobs) != 1:
        yield f"{len(plan.blobs)} blobs, expected its data file alone"
    for tensor in plan.inputs:
        names = tuple(dim for dim in tensor.shape if isinstance(dim, str))
        if names not in _FIXED_NAMES or names != tensor.shape[: len(names)]:
            yield f"input {tensor.name!r} has dimensions {list(tensor.shape)}, expected batch first"
        sizes = [plan.limits[dim] if isinstance(dim, str) else dim for dim in tensor.shape]
        if math.prod(sizes) > _MOST_NUMBERS:
            yield f"input {tensor.name!r} of {sizes}: more than {_MOST_NUMBERS} numbers"


def _trainable_inputs(manifest: Manifest) -> dict[str, Shape]:
    """Trainable graph inputs with their shapes; a core becomes G, whose first axis is K."""
    return {
        (f"{entry.layer}.G" if entry.role == "core" else entry.name): entry.shape
        for entry in manifest.tensors
        if entry.role != "scale"
    }


def _inputs(manifest: Manifest, form: PlanForm, plan: Plan) -> Iterator[str]:
    found = {tensor.name: tensor for tensor in plan.inputs}
    for name in ("labels", *manifest.batch_inputs):
        dtype, fixed = _batch_input(manifest, name)
        tensor = found.pop(name, None)
        if (
            tensor is None
            or tensor.dtype != dtype
            or len(tensor.shape) != len(fixed)
            or not all(map(_fits, tensor.shape, fixed))
        ):
            sizes = ", ".join("a name" if size is None else str(size) for size in fixed)
            yield f"input {name!r} is not {dtype} [{sizes}]"
    named = {entry.name for entry in manifest.tensors}
    fed = _trainable_inputs(manifest)
    if form.host_bases:
        fed |= {basis.name: basis.shape for basis in manifest.bases}
    rows: dict[str, set[object]] = {}
    for name, shape in fed.items():
        tensor = found.pop(name, None)
        per_head = form.host_bases and name not in named
        yield from _fed("input", name, tensor, shape, per_head=per_head)
        if per_head and tensor is not None:
            rows.setdefault(name.rpartition(".")[0], set()).add(tensor.shape[:1])
    for layer, numbers in rows.items():
        if len(numbers) > 1:
            yield f"G, A and Bt of layer {layer!r} name different numbers of heads"
    for name in found:
        yield f"input {name!r} is neither of the batch nor trainable nor a basis"


def _batch_input(manifest: Manifest, name: str) -> tuple[str, tuple[int | None, ...]]:
    """Element type and shape of a batch input; None: a dimension that is dynamic."""
    if name == "labels":
        return "int64", (None,) * SIGNATURES[manifest.task].label_axes
    if name == "pixel_values" and manifest.image is not None:
        image = manifest.image
        return "float32", (None, image.channels, image.height, image.width)
    return "int64", (None, None)


def _fits(found: int | str, expected: int | None) -> bool:
    return isinstance(found, str) if expected is None else found == expected


def _outputs(manifest: Manifest, form: PlanForm, plan: Plan) -> Iterator[str]:
    trainable = _trainable_inputs(manifest)
    named = {entry.name for entry in manifest.tensors}
    for role, tensors in plan.outputs.items():
        found = {tensor.name: tensor for tensor in tensors}
        for name, dtype in (("loss_sum", "float32"), ("count", "int64")):
            tensor = found.pop(name, None)
            if tensor is None or tensor.dtype != dtype or tensor.shape != ():
                yield f"{role} output {name!r} is not one {dtype}"
        if role == "step":
            for name, shape in trainable.items():
                output = found.pop(f"grad.{name}", None)
                per_head = form.host_bases and name not in named
                yield from _fed("output", f"grad.{name}", output, shape, per_head=per_head)
        elif (axes := SIGNATURES[manifest.task].logits_axes) is not None:
            logits = found.pop("logits", None)
            if (
                logits is None
                or logits.dtype != "float32"
                or len(logits.shape) != axes
                or logits.shape[-1] != len(manifest.labels)
                or not all(isinstance(size, str) for size in logits.shape[:-1])
            ):
                names = ", ".join(["batch", "length"][: axes - 1])
                yield f"logits is not float32 [{names}, {len(manifest.labels)}]"
        yield from _metrics(role, found.values())


def _metrics(role: str, tensors: Iterable[GraphTensor]) -> Iterator[str]:
    for tensor in tensors:
        if tensor.shape != () or tensor.dtype not in ("int64", "float32"):
            yield f"{role} output {tensor.name!r} is unknown and no sum"


def _fed(
    kind: str, name: str, tensor: GraphTensor | None, shape: Shape, *, per_head: bool
) -> Iterator[str]:
    """A trainable or basis as a graph takes it: its first axis is dynamic if it is per head."""
    if tensor is None:
        yield f"{kind} {name!r} is missing"
    elif (
        tensor.dtype != "float32"
        or len(tensor.shape) != len(shape)
        or tensor.shape[per_head:] != shape[per_head:]
        or (per_head and not isinstance(tensor.shape[0], str))
    ):
        expected = ["K", *shape[1:]] if per_head else list(shape)
        yield (
            f"{kind} {name!r} is {tensor.dtype} {list(tensor.shape)}, expected float32 {expected}"
        )
