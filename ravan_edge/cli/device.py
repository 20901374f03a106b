"""``ravan device``: this machine as one device of a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ravan_edge.artifact import UPDATE_BOUNDS, Artifact, read_header, read_tensors
from ravan_edge.cli.common import (
    DataSettings,
    JsonOption,
    Reporter,
    print_json,
    say,
    takes_settings,
)
from ravan_edge.cli.operator import CaOption
from ravan_edge.data import Dataset, SomeRows, part_of
from ravan_edge.device import (
    ArtifactTrust,
    Device,
    DeviceSettings,
    DeviceState,
    ServerConnection,
    enrolled_key,
    key_for_enrolment,
    refusals_as_errors,
    remember_enrolment,
    server_address,
)
from ravan_edge.errors import DataError, InterruptedRunError, UsageError
from ravan_edge.files import storage_errors
from ravan_edge.folder_lock import FolderLock, refuse_folder_of
from ravan_edge.signing import (
    MOST_TOKEN_BYTES,
    key_id,
    load_public_key,
    read_token,
    read_token_file,
)
from ravan_edge.tasks import DataSource, fixed_length, task_for, text_length

__all__ = ["device"]

device = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)

StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="The device's folder; the same command goes on with it."),
]


_OF_SERVERS = ("state.sqlite", "operator.token")


@device.callback()
@takes_settings(settings=DeviceSettings, reading=DataSettings)
def run(
    context: typer.Context,
    settings: DeviceSettings,
    reading: DataSettings,
    server: Annotated[
        str | None, typer.Option("--server", help="Its address, as `ravan serve` prints it.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="csv, tsv, jsonl or parquet with labels; for images also a folder."
        ),
    ] = None,
    state: StateOption = None,
    ca: CaOption = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust",
            help="Public key, PEM: only artifacts that it signed are trained. Default: the key that "
            "signed the first artifact is kept.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train for a server on rows that never leave this machine.

    What leaves it is one update a round: `ravan device show-last-update`. After a kill the same
    command goes on where it was.

    Examples:
      ravan device --server http://127.0.0.1:8750 --data mine.csv --state runs/device
      ravan device --server http://127.0.0.1:8750 --data all.csv --part 1/3 --state runs/first
      ravan device --server http://127.0.0.1:8750 --data mine.csv --state runs/device
        --memory-limit 300MB --mains-power --hours 22:00-06:00
    """
    if context.invoked_subcommand is not None:
        return
    given = {"--server": server, "--data": data, "--state": state}
    for option, value in given.items():
        if value is None:
            raise UsageError("is needed", where=option, hint="ravan device --help has examples")
    if server is None or data is None or state is None:
        return
    if not data.exists():
        raise DataError("no such file", where=str(data), hint="check the path")
    refuse_folder_of("server", state, _OF_SERVERS, option="--state")
    trusted = None if trust is None else key_id(load_public_key(trust))
    reporter = Reporter()
    with storage_errors(state, "make the folder"):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        FolderLock(state, what="device's", option="--state"),
        ServerConnection(
            server, key=enrolled_key(state, server_address(server)), ca=ca
        ) as connection,
        refusals_as_errors(),
    ):
        folder = DeviceState(state)  # behind the lock: two would draw two ids
        worker = Device(
            folder,
            connection,
            _Loader(data, reading, settings, reporter),
            settings,
            say=say,
            trust=ArtifactTrust(state, trusted),
        )
        try:
            report = worker.run()
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; nothing is lost", hint="type the same command again to go on"
            ) from None
    document = {
        "device": connection.device or folder.device,
        "sent": report.sent,
        "refused": report.refused,
        "given_back": report.given_back,
        "finished": report.finished,
    }
    if as_json:
        print_json(document)
        return
    why = "the server has finished its rounds" if report.finished else "done"
    typer.echo(
        f"{why}: {report.sent} updates sent, {report.refused} came too late, "
        f"{report.given_back} tasks given back"
    )


@device.command("enrol")
def enrol(
    server: Annotated[
        str | None, typer.Option("--server", help="Its address, as `ravan serve` prints it.")
    ] = None,
    state: StateOption = None,
    ca: CaOption = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="File with the token of an invitation; - reads it from stdin."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Join a server that takes only enrolled devices: once, with a token from its operator.

    The device makes a key, which stays in its folder and signs all that it says to this server.

    Examples:
      ravan device enrol --server https://ravan.example --token-file token --state runs/device
    """
    for option, value in {"--server": server, "--state": state}.items():
        if value is None:
            raise UsageError("is needed", where=option, hint="ravan device enrol --help")
    if server is None or state is None:
        return
    token = _enrolment_token(token_file)
    with storage_errors(state, "make the folder"):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FolderLock(state, what="device's", option="--state"):
        key = key_for_enrolment(state, server_address(server))
        with ServerConnection(server, key=key, ca=ca) as connection, refusals_as_errors():
            found = connection.enrol(token)
            remember_enrolment(state, connection.url, key)
    if as_json:
        print_json({"device": key.device, "server": connection.url, "artifact": found.artifact})
        return
    typer.echo(f"enrolled at {connection.url} as device {key.device}")


def _enrolment_token(path: Path | None) -> str:
    if path is None:
        if not sys.stdin.isatty():
            raise UsageError(
                "is needed", where="--token-file", hint="name the file, or - for stdin"
            )
        return read_token(typer.prompt("token", hide_input=True, err=True).encode(), "the token")
    if str(path) == "-":
        return read_token(sys.stdin.buffer.read(MOST_TOKEN_BYTES), "stdin")
    return read_token_file(path)


class _Loader:
    """Reads the device's rows, once for each artifact."""

    def __init__(
        self, path: Path, reading: DataSettings, settings: DeviceSettings, reporter: Reporter
    ) -> None:
        self._path = path
        self._reading = reading
        self._plan = settings.plan
        self._part = settings.part
        self._reporter = reporter
        self._known: tuple[str, Dataset] | None = None

    def __call__(self, artifact: Artifact) -> Dataset:
        """All rows, or the device's part of them.

        Raises:
            DataError: The file is refused, or holds nothing.
        """
        if self._known is None or self._known[0] != artifact.digest:
            self._known = artifact.digest, self._read(artifact)
        return self._known[1]

    def _read(self, artifact: Artifact) -> Dataset:
        manifest, reading = artifact.manifest, self._reading
        source = DataSource(
            self._path,
            text_column=reading.text_column,
            label_column=reading.label_column,
            skip_empty=reading.skip_empty,
            max_length=text_length(
                manifest.text, reading.max_length, fixed_length(manifest, self._plan)
            ),
        )
        with self._reporter.bar("reading") as bar:
            loaded = task_for(manifest).load(
                artifact, source, on_rows=lambda done, total: bar(done, total, "")
            )
        if self._part is None:
            return loaded.dataset
        return SomeRows(loaded.dataset, part_of(self._part, len(loaded.dataset)))


@device.command("show-last-update")
def show_last_update(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show what left this device last: every tensor, and to whom it went.

    Examples:
      ravan device show-last-update --state runs/device
    """
    if state is None:
        raise UsageError("is needed", where="--state", hint="name the device's folder")
    if not state.is_dir():
        raise UsageError("there is no such folder", where=str(state), hint="check the path")
    # A look at a folder that is none of a device's makes none of it.
    folder = DeviceState(state) if (state / "device.json").exists() else None
    sent = None if folder is None else folder.last_update()
    if folder is None or sent is None:
        typer.echo(json.dumps({"sent": None}) if as_json else "nothing has left this device yet")
        return
    header = read_header(folder.last_update_path, UPDATE_BOUNDS)
    tensors = read_tensors(folder.last_update_path, UPDATE_BOUNDS)
    rows = [_row(name, array) for name, array in tensors.items()]
    document = {"sent": dict(sent), "bytes": header.file_bytes, "metadata": dict(header.metadata)}
    if as_json:
        print_json({**document, "file": str(folder.last_update_path), "tensors": rows})
        return
    unknown = "" if sent.get("acknowledged", True) else ", which never said that it has it"
    typer.echo(f"sent      {sent['at']} to {sent['server']}{unknown}")
    typer.echo(f"file      {folder.last_update_path} ({header.file_bytes:,} bytes)")
    typer.echo(f"sha256    {sent['sha256']}")
    for name, text in header.metadata.items():
        typer.echo(f"{name:<9} {text}")
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        norm = "" if row["norm"] is None else f"  norm {row['norm']:.4g}"
        typer.echo(f"  {row['name']}  {row['dtype']} {shape}{norm}")


def _row(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """A tensor of an update; a codec's codes and the indices of heads have no size by themselves."""
    dtype = str(array.dtype)
    if array.dtype == np.uint16:  # the bits of a bfloat16 are the upper half of a float32
        dtype, array = "bfloat16", (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    numbers = array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else None
    return {
        "name": name,
        "dtype": dtype,
        "shape": list(array.shape),
        "norm": None if numbers is None else float(np.linalg.norm(numbers)),
        "largest": None if numbers is None else float(np.abs(numbers).max(initial=0)),
    }
