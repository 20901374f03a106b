"""What is simulated: files and settings, the configuration they make, the command that repeats it."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ravan_edge.artifact import Artifact
from ravan_edge.data.image_folder import FolderImages
from ravan_edge.errors import DataError
from ravan_edge.files import sha256_file
from ravan_edge.merge import RoundRule
from ravan_edge.protocol import UploadSettings
from ravan_edge.simulate.settings import SimulationSettings
from ravan_edge.training import LocalSettings, option_infos, option_name

__all__ = ["SimulationRequest"]

# What can change the bits of a result besides settings, data and artifact.
_LIBRARIES = ("ravan-edge", "numpy", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class SimulationRequest:
    """One run.

    Args:
        artifact: Its folder.
        train: The training data: a file, or a folder of images.
        test: The test data, or None.
        out: The run folder.
        settings: Everything else.
        server: Address of the server that merges; None: this process merges. It changes no bit.
        ca: PEM file of an authority that is trusted besides the system's.
        token_file: File with the operators' token of a server with a login: devices enrol there.
    """

    artifact: Path
    train: Path
    test: Path | None
    out: Path
    settings: SimulationSettings = field(default_factory=SimulationSettings)
    server: str | None = None
    ca: Path | None = None
    token_file: Path | None = None

    def configuration(self, artifact: Artifact) -> dict[str, Any]:
        """What decides every bit of the result. Files count by content, not by place.

        Raises:
            DataError: A data file is not there.
        """
        images = artifact.manifest.image is not None
        libraries = (*_LIBRARIES, "pillow") if images else _LIBRARIES
        return {
            "settings": self.settings.as_dict(),
            "artifact": {"digest": artifact.digest},
            "data": {
                "train": _digest(self.train, images=images),
                "test": None if self.test is None else _digest(self.test, images=images),
            },
            "versions": {name: _version(name) for name in libraries},
        }

    def provenance(self) -> dict[str, Any]:
        """Where things were, and on what machine: for a reader, never compared."""
        server = {} if self.server is None else {"server": self.server}
        return {
            **server,
            "files": {
                "artifact": str(self.artifact),
                "train": str(self.train),
                "test": None if self.test is None else str(self.test),
            },
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "command": self.command(),
        }

    def command(self) -> str:
        """The shortest command line that repeats the run."""
        words = ["ravan", "simulate", str(self.artifact), "--train", str(self.train)]
        if self.test is not None:
            words += ["--test", str(self.test)]
        words += ["--out", str(self.out)]
        if self.server is not None:
            words += ["--server", self.server]
            for option, path in (("--ca", self.ca), ("--token-file", self.token_file)):
                words += [] if path is None else [option, str(path)]
        values: Mapping[str, Any] = self.settings.as_dict()
        for kind in (SimulationSettings, RoundRule, UploadSettings, LocalSettings):
            for item, _ in option_infos(kind):
                value = values[item.name]
                if value == item.default:
                    continue
                words.append(option_name(item.name))
                if value is not True:
                    words.append(str(value))
        return shlex.join(words)


def _digest(path: Path, *, images: bool) -> str:
    if images and path.is_dir():
        return FolderImages.open(path).sha256
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="check the path")
    return sha256_file(path)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
