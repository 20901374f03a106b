"""Write ``files/`` and ``README.md``: ``python -m tests.attacks.make_attacks [--large]``.

``files/valid`` is kept where it is, since all others are made from it: its numbers may differ in
the last bit from one machine to another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.attack import Attack
from tests.attacks.graph_attacks import graph_attacks
from tests.attacks.manifest_attacks import manifest_attacks
from tests.attacks.signature_attacks import signature_attacks
from tests.attacks.tensor_attacks import tensor_attacks
from tests.attacks.update_attacks import update_attacks

__all__ = ["FILES", "README", "all_attacks", "readme"]

FILES = Path(__file__).resolve().parent / "files"
README = FILES.parent / "README.md"

_INTRODUCTION = """\
# Abuses that a reader must refuse

Each file tries one thing that [the specification](../../docs/artifact.md) does not allow. Every
implementation, in whatever language, runs them all; a file that is accepted, or that ends in
anything but an ordinary refusal (a crash, a hang, memory out of proportion), is a bug.
`accept-...` files are unusual but allowed: a reader must take them.

* `files/tensors/*.safetensors`: read each with the bounds of heads and updates (section 5).
* `files/manifests/*.json`: take a copy of the artifact `files/valid`, put the file in place of
  `manifest.json`, open the folder.
* `files/graphs/*.onnx`: the same with `plans/whole/step.onnx`; its size and sha256 in the manifest
  are brought up to date first, so that the graph itself is what is refused.
* `files/signatures/*.json`: take the artifact `files/valid`, and read the file as its `signature.json`
  (section 11), whatever key signed it and whatever time it is.
* `files/updates/*.safetensors`: read each as an update for the artifact `files/valid` (section 8).

Symbolic links, files that are not listed, pipes and cut bases cannot lie in a repository:
`test_attacks.py` makes them. The files marked "made" are too large to lie here;
`python -m tests.attacks.make_attacks --large` writes them, and without `--large` all others and this
page.
"""


def all_attacks() -> Iterator[Attack]:
    """Every abuse, from the valid artifact on disk."""
    yield from tensor_attacks()
    manifest = (FILES / "valid" / "manifest.json").read_bytes()
    yield from manifest_attacks(manifest)
    yield from signature_attacks(manifest)
    yield from update_attacks(manifest)
    yield from graph_attacks((FILES / "valid" / "plans" / "whole" / "step.onnx").read_bytes())


def readme(attacks: list[Attack]) -> str:
    """The page with one table per kind of file."""
    text = _INTRODUCTION
    for kind, title in (
        ("tensors", "Tensor files"),
        ("manifests", "Manifests"),
        ("graphs", "Graphs"),
        ("signatures", "Signatures"),
        ("updates", "Updates"),
    ):
        text += f"\n## {title}\n\n| file | what it tries | a reader must |\n|---|---|---|\n"
        for attack in attacks:
            folder, name = attack.path.split("/")
            if folder == kind:
                must = "accept it" if attack.says is None else f"refuse, with `{attack.says}`"
                note = " (made)" if attack.large else ""
                text += f"| `{name}`{note} | {attack.tries} | {must} |\n"
    return text + (
        '\nThe words after "refuse, with" are in the message of the Python reader; others say as'
        " much in their own way.\n"
    )


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="write the large ones too")
    large = parser.parse_args().large
    if not (FILES / "valid").exists():
        from tests.tiny_artifact import make_tiny_artifact

        FILES.mkdir(exist_ok=True)
        make_tiny_artifact(FILES / "valid")
    attacks = list(all_attacks())
    for attack in attacks:
        if large or not attack.large:
            path = FILES / attack.path
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(attack.content)
    README.write_text(readme(attacks), encoding="utf-8")


if __name__ == "__main__":
    main()
