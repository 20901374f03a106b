"""Abuses of ``manifest.json``: each stands in for the manifest of ``files/valid``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.attacks.attack import Attack

__all__ = ["manifest_attacks"]

Document = dict[str, Any]


def _bytes(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"


def _attack(
    name: str, tries: str, says: str | None, content: bytes, *, large: bool = False
) -> Attack:
    return Attack(f"manifests/{name}.json", tries, says, content, large)


def manifest_attacks(valid: bytes) -> Iterator[Attack]:
    document: Document = json.loads(valid)

    def change(name: str, tries: str, says: str, edit: Callable[[Document], object]) -> Attack:
        changed = copy.deepcopy(document)
        edit(changed)
        return _attack(name, tries, says, _bytes(changed))

    yield from _texts(valid, document)
    yield change("newer", "schema version 2", "newer version", lambda d: d.update(schema_version=2))
    yield change("version-true", "schema version true", "schema_version",
                 lambda d: d.update(schema_version=True))  # fmt: skip
    yield change("version-float", "schema version 1.0", "schema_version",
                 lambda d: d.update(schema_version=1.0))  # fmt: skip
    yield change("unknown-key", "a key that the schema has not", "surprise",
                 lambda d: d.update(surprise=1))  # fmt: skip
    yield change("unknown-key-inside", "the same, in an object inside", "model.surprise",
                 lambda d: d["model"].update(surprise=1))  # fmt: skip
    yield change("key-control", "a key that clears the terminal", "\\x1b",
                 lambda d: d.update({"\x1b[2J": 1}))  # fmt: skip
    yield change("missing-key", "no tensors", "tensors", lambda d: d.pop("tensors"))
    yield change("labels-twice", "two labels of one name", "label",
                 lambda d: d.update(labels=["a", "a", "b"]))  # fmt: skip
    yield change("labels-one", "a single label", "labels", lambda d: d.update(labels=["a"]))
    yield change("labels-empty-name", "a label without a name", "labels",
                 lambda d: d.update(labels=["a", "", "b"]))  # fmt: skip
    yield change("labels-long", "a label of 1,002 bytes in 501 characters", "1000",
                 lambda d: d.update(labels=["a", "\u00e9" * 501, "b"]))  # fmt: skip
    yield change("source", "a basis with a source that a reader cannot make", "bases.0.source",
                 lambda d: d["bases"][0].update(source={"generator": "philox", "seed": 1}))  # fmt: skip
    yield from _paths(change)
    yield from _shapes(change)


def _texts(valid: bytes, document: Document) -> Iterator[Attack]:
    yield _attack("not-json", "no JSON", "JSON", b"nonsense")
    yield _attack("empty", "no bytes", "JSON", b"")
    yield _attack("array", "an array", "one JSON object", b"[]\n")
    yield _attack("latin1", "not UTF-8", "JSON", valid.replace(b"label0", b"label\xe9"))
    yield _attack("duplicate-key", "one key twice", "twice",
                  valid.replace(b'"task":', b'"task": "text-classification",\n  "task":'))  # fmt: skip
    yield _attack("depth-bomb", "nested 20,000 deep", "JSON",
                  b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}")  # fmt: skip
    yield _attack("depth-17", "nested 17 deep", "nested", b'{"a":' + b"[" * 16 + b"]" * 16 + b"}")
    yield _attack("nan", "a number that is NaN", "NaN",
                  _bytes(document | {"conformance": None}).replace(b": null", b": NaN", 1))  # fmt: skip
    infinite = copy.deepcopy(document)
    infinite["conformance"]["tolerance"] = "X"
    yield _attack("infinity", "a number too large for a double", "tolerance",
                  _bytes(infinite).replace(b'"X"', b"1e999"))  # fmt: skip
    yield _attack("surrogate", "half a surrogate pair", "labels",
                  valid.replace(b"label0", b"\\ud800"))  # fmt: skip
    yield _attack("too-large", "4 MiB + 1", "4194305", valid.ljust(2**22 + 1), large=True)


def _paths(
    change: Callable[[str, str, str, Callable[[Document], object]], Attack],
) -> Iterator[Attack]:
    entry = {"sha256": "0" * 64, "size": 1}
    for name, path, tries in (
        ("parent", "../outside", "a path to the folder above"),
        ("parent-inside", "plans/../../outside", "the same, further in"),
        ("absolute", "/etc/hostname", "an absolute path"),
        ("drive", "C:/outside", "a path with a drive"),
        ("backslash", "..\\outside", "a path with backslashes"),
        ("empty-part", "plans//step", "an empty part"),
        ("dot", "plans/./step", "a part that is a dot"),
        ("hidden", ".hidden", "a hidden file"),
        ("nul", "plans/a\0b", "a NUL in a path"),
        ("newline", "plans/a\n", "a line break at the end of a path"),
        ("unicode", "plans/\u0441tep", "a Cyrillic letter that looks like a Latin one"),
        ("deep", "a/b/c/d/e/f/g/h/i", "nine parts"),
        ("long", "a" * 201, "201 bytes"),
        ("empty", "", "no path at all"),
        ("itself", "manifest.json", "the manifest lists itself"),
        ("signature", "signature.json", "the manifest lists its signature"),
        ("signature-case", "Signature.JSON", "the same on macOS and Windows"),
    ):

        def add(d: Document, path: str = path) -> None:
            d["files"][path] = entry

        says = {"itself": "itself"}.get(name, "signature" if "signature" in name else "path")
        yield change(f"path-{name}", tries, says, add)
    yield change("path-case", "two files that are one on macOS and Windows", "case",
                 lambda d: d["files"].update({"Base.safetensors": entry}))  # fmt: skip
    yield change("file-not-there", "a listed file that is missing", "more.bin",
                 lambda d: d["files"].update({"more.bin": entry}))  # fmt: skip
    yield change("file-unlisted", "a file that is not listed", "heads.safetensors",
                 lambda d: d["files"].pop("heads.safetensors"))  # fmt: skip
    yield change("graph-outside", "a graph outside the folder", "outside",
                 lambda d: d["plans"]["whole"]["graphs"].update(step="../outside.onnx"))  # fmt: skip
    yield change("tokenizer-outside", "a tokenizer outside the folder", "text.tokenizer",
                 lambda d: d["text"].update(tokenizer="../tokenizer.json"))  # fmt: skip
    yield change("digest", "the base has another sha256", "base.safetensors",
                 lambda d: d["files"]["base.safetensors"].update(sha256="0" * 64))  # fmt: skip
    yield change("digest-upper", "a digest in upper case", "sha256",
                 lambda d: d["files"]["base.safetensors"].update(sha256="A" * 64))  # fmt: skip
    yield change("size", "the base has another size", "base.safetensors",
                 lambda d: d["files"]["base.safetensors"].update(size=1))  # fmt: skip


def _shapes(
    change: Callable[[str, str, str, Callable[[Document], object]], Attack],
) -> Iterator[Attack]:
    def tensor(d: Document, name: str) -> Document:
        found: Document = next(row for row in d["tensors"] if row["name"] == name)
        return found

    def plan_input(d: Document, name: str) -> Document:
        found: Document = next(row for row in d["plans"]["whole"]["inputs"] if row["name"] == name)
        return found

    core = "encoder.dense.H"
    yield change("core-shape", "H does not fit its layer", core,
                 lambda d: tensor(d, core).update(shape=[4, 3, 4]))  # fmt: skip
    yield change("core-role", "H is a task head", core,
                 lambda d: tensor(d, core).update(role="task_head"))  # fmt: skip
    yield change("scale-missing", "a layer without s", "encoder.dense.s",
                 lambda d: d["tensors"].remove(tensor(d, "encoder.dense.s")))  # fmt: skip
    yield change("tensor-twice", "a tensor is listed twice", "twice",
                 lambda d: d["tensors"].append(tensor(d, core)))  # fmt: skip
    yield change("tensor-huge", "a dimension above 2^40", "tensors",
                 lambda d: tensor(d, "task_head.bias").update(shape=[2**41]))  # fmt: skip
    yield change("task-head-shape", "the graph takes another shape", "task_head.weight",
                 lambda d: tensor(d, "task_head.weight").update(shape=[3, 17]))  # fmt: skip
    yield change("layer-unknown", "a tensor of a layer that is not there", core,
                 lambda d: tensor(d, core).update(layer="elsewhere"))  # fmt: skip
    yield change("layer-heads", "heads of layer and method differ", "heads",
                 lambda d: d["method"].update(heads=5))  # fmt: skip
    yield change("basis-shape", "A does not fit its layer", "encoder.dense.A",
                 lambda d: d["bases"][0].update(shape=[4, 3, 17]))  # fmt: skip
    yield change("basis-missing", "a layer without bases", "encoder.dense.A",
                 lambda d: d["bases"].pop(0))  # fmt: skip
    yield change("input-fixed", "K is fixed in a graph", "encoder.dense.G",
                 lambda d: plan_input(d, "encoder.dense.G").update(shape=[4, 3, 3]))  # fmt: skip
    yield change("input-other-k", "G and A name different numbers of heads", "different",
                 lambda d: plan_input(d, "encoder.dense.A").update(shape=["other", 3, 16]))  # fmt: skip
    yield change("input-more", "an input that nobody feeds", "elsewhere",
                 lambda d: d["plans"]["whole"]["inputs"].append(
                     {"name": "elsewhere", "dtype": "float32", "shape": [1]}))  # fmt: skip
    yield change("input-dtype", "input_ids of type int32", "input_ids",
                 lambda d: plan_input(d, "input_ids").update(dtype="int32"))  # fmt: skip
    yield change("output-missing", "a step without loss_sum", "loss_sum",
                 lambda d: d["plans"]["whole"]["outputs"]["step"].pop(0))  # fmt: skip
    yield change("logits-labels", "more logits than labels", "logits",
                 lambda d: d.update(labels=["a", "b"]))  # fmt: skip
    yield change("operators", "operators that the graphs do not have", "Zero",
                 lambda d: d["plans"]["whole"]["operators"].append("ai.onnx:Zero"))  # fmt: skip
