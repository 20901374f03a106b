"""What a model's folder holds beside its configuration: weights, and code; and what of it is let in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravan_edge.errors import ModelError
from ravan_edge.files import sha256_file
from ravan_export.settings import Trust

__all__ = ["Weights", "code_files", "code_notice", "find_weights"]

_LOADED_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Pickled weights that transformers knows how to find."""
_PICKLES = (*_LOADED_PICKLES, "pytorch_model.pt", "model.pt")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
"""What transformers loads: other files of that kind (adapters, other formats) are no weights."""
_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Weights:
    """The files that hold a model's weights.

    Args:
        bytes: All of them together.
        pickled: The names of pickled ones; empty: they are safetensors.
    """

    bytes: int
    pickled: tuple[str, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should know."""
        if not self.pickled:
            return ()
        more = f" and {len(self.pickled) - 1} more" if len(self.pickled) > 1 else ""
        return (
            f"the weights come from pickled files ({self.pickled[0]}{more}), as --allow-pickle lets them",
        )


def find_weights(folder: Path, trust: Trust) -> Weights:
    """The weights of a folder; safetensors wherever there are any.

    Raises:
        ModelError: There are none, or only pickled ones that are not let in.
    """
    files = sorted(
        path for path in folder.glob("model*.safetensors") if _WEIGHTS.fullmatch(path.name)
    )
    if files:
        return Weights(sum(path.stat().st_size for path in files))
    pickled = [name for name in _PICKLES if (folder / name).exists()]
    if not pickled:
        raise ModelError(
            "no model.safetensors",
            where=str(folder),
            hint="download the model again; if its repository has only pickled weights, "
            "--allow-pickle fetches and takes those",
        )
    if not trust.allow_pickle:
        raise ModelError(
            f"only {pickled[0]}: a pickled checkpoint can run any code when opened and is never loaded "
            "unasked",
            where=str(folder),
            hint="convert it: load it where you trust it, then "
            "save_pretrained(safe_serialization=True); or type --allow-pickle, which takes nothing but "
            "tensors from it",
        )
    if pickled[0] not in _LOADED_PICKLES:
        raise ModelError(
            f"only {pickled[0]}, which transformers does not look for",
            where=str(folder),
            hint="if it holds a state dict, call it pytorch_model.bin",
        )
    found = sorted(folder.glob("pytorch_model*.bin"))
    return Weights(sum(path.stat().st_size for path in found), tuple(path.name for path in found))


def code_files(folder: Path, config: Mapping[str, Any], trust: Trust) -> tuple[Path, ...]:
    """The files of code that a configuration wants to have run; empty: none.

    Args:
        folder: Of the model.
        config: The document in config.json.
        trust: What is let in.

    Raises:
        ModelError: It wants code that is not let in, or that is not in the folder.
    """
    where = str(folder / "config.json")
    if trust.trust_remote_code and (folder / "custom_generate").exists():
        raise ModelError(
            "transformers would run this too, and nothing here needs it",
            where=str(folder / "custom_generate"),
            hint="take it out of the folder, or leave --trust-remote-code out",
        )
    if "auto_map" not in config:
        return ()
    named = _named_code(config["auto_map"], where)
    if not trust.trust_remote_code:
        shown = f" ({', '.join(named)})" if named else ""
        raise ModelError(
            f"the model needs code of its own from its repository{shown}, which is never run unasked",
            where=where,
            hint="convert it to an architecture that transformers has; or read that code, and type "
            "--trust-remote-code to run it",
        )
    paths = tuple(folder / name for name in named)
    for path in paths:
        if not path.is_file():
            raise ModelError(
                "the model needs this file of code, and it is not there",
                where=str(path),
                hint="download the model again",
            )
    # What those files import lies beside them.
    beside = sorted(path for path in folder.glob("*.py") if path not in paths)
    return (*paths, *beside)


def _named_code(auto_map: object, where: str) -> tuple[str, ...]:
    """Names of the files that ``auto_map`` names, each once."""
    if not isinstance(auto_map, dict):
        raise ModelError("auto_map is no object", where=where, hint="download the model again")
    names: dict[str, None] = {}
    for value in auto_map.values():
        for reference in value if isinstance(value, list) else [value]:
            if reference is None:
                continue
            module, _, name = str(reference).rpartition(".")
            if "--" in module or not module.isidentifier() or not name.isidentifier():
                raise ModelError(
                    f"auto_map names code that is not in the folder: {reference!r}",
                    where=where,
                    hint="put that code beside config.json, after reading it, and name it as "
                    "module.Class",
                )
            names[f"{module}.py"] = None
    return tuple(names)


def code_notice(files: tuple[Path, ...]) -> tuple[str, ...]:
    """What a person should know of code that was let in: its files, with their digests."""
    if not files:
        return ()
    listed = ", ".join(
        f"{path.name} (sha256 {sha256_file(path)[:_DIGEST_DIGITS]})" for path in files
    )
    return (f"code that came with the model was run, as --trust-remote-code lets it: {listed}",)
