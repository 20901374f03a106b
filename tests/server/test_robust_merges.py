"""Robust rules, clipping and server-side optimisers on a server: the merge of what was stored, durable."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact import HEADS_BOUNDS, Artifact, load_heads, read_tensors
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.merge import (
    Gathering,
    MergeName,
    MergeScale,
    MergeSettings,
    Moments,
    ServerOptimizerName,
    merge,
)
from ravan_edge.methods import method_for
from ravan_edge.protocol import TaskOffer, UpdateInfo, encode_update
from ravan_edge.training import LocalSettings
from ravan_server import merging as server_merging
from ravan_server.coordinator import Coordinator
from ravan_server.moments_file import read_moments
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import VersionRow
from tests.server.server_kit import (
    Clock,
    ask,
    device_difference,
    device_update,
    opened_server,
    send,
    wait_for,
    wait_until,
)
from tests.tiny_artifact import LAYER, make_tiny_artifact

GOAL = 5
EVERY_MERGE = [
    MergeSettings(MergeName.MEDIAN, byzantine=2),
    MergeSettings(MergeName.TRIMMED_MEAN, byzantine=1),
    MergeSettings(MergeName.KRUM, byzantine=1, max_norm=0.5),
    MergeSettings(MergeName.MULTI_KRUM, byzantine=1, server_optimizer=ServerOptimizerName.YOGI),
    MergeSettings(MergeName.GEOMETRIC_MEDIAN, server_optimizer=ServerOptimizerName.ADAM),
    MergeSettings(max_norm=0.5, server_optimizer=ServerOptimizerName.MOMENTUM),
]
MOMENTUM = MergeSettings(server_optimizer=ServerOptimizerName.MOMENTUM)


def rounds_of(merging: MergeSettings, goal: int = GOAL) -> RoundSettings:
    return RoundSettings(
        local=LocalSettings(local_steps=1), goal=goal, over_selection=1, merging=merging
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("robust") / "artifact")


def one_round(server: Coordinator, goal: int = GOAL) -> int:
    """All devices train; the version they started from."""
    version = server.status().version
    for number in range(goal):
        offer = ask(server, f"device-{number:03}")
        assert isinstance(offer, TaskOffer)
        send(server, device_update(server.artifact, offer), offer.task)
    wait_for(server, version + 1)
    server.turn()  # what follows a merge is done
    return version


def rows_of(server: Coordinator) -> list[VersionRow]:
    with server._store.reading() as transaction:
        return list(transaction.versions())


@pytest.mark.parametrize("merging", EVERY_MERGE, ids=lambda s: f"{s.merge}-{s.server_optimizer}")
def test_versions_are_the_kits_merges_of_what_was_stored(
    artifact: Artifact, tmp_path: Path, merging: MergeSettings
) -> None:
    """Three rounds with a restart in between: heads and moments, bit for bit."""
    method, state = method_for(artifact.manifest), tmp_path / "state"
    heads = method.layout.pack(artifact.initial_heads())
    moments: Moments | None = None
    for expected_version in range(3):
        with opened_server(artifact, state, Clock(), rounds_of(merging)) as server:
            version = one_round(server)
            assert version == expected_version
            scale = MergeScale.for_cohort(GOAL)
            gathering = Gathering(merging, method, scale, tmp_path / "rows")
            for number in reversed(range(GOAL)):
                gathering.add(device_difference(artifact, number, version), None)
            found = merge(merging, method, heads, gathering.finished(), moments)
            heads, moments = found.heads, found.moments
            row = rows_of(server)[-1]
            path = server.blob(row.heads)
            stored = method.layout.pack(load_heads(path, artifact.manifest, artifact.digest))
            assert stored.tobytes() == heads.tobytes()
            assert (row.heads_kept, server.versions()[0].heads_kept) == (0, 0)
            assert (row.moments is None) == (moments is None)
            if row.moments is not None and moments is not None:
                kept = read_moments(server.blob(row.moments), method.layout.size)
                assert kept.optimizer is moments.optimizer
                for name, values in moments.tensors.items():
                    assert kept.tensors[name].tobytes() == values.tobytes()
            assert not list((state / "merging").glob("*"))


@pytest.mark.parametrize("merging", EVERY_MERGE, ids=lambda s: f"{s.merge}-{s.server_optimizer}")
def test_a_merge_that_a_kill_took_is_made_again_with_the_same_bytes(
    artifact: Artifact, tmp_path: Path, merging: MergeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after all its files are durable, and before the store knows of them."""
    lost: list[VersionRow] = []
    make = server_merging.Merger.merge

    def dying(*words: object) -> VersionRow:
        lost.append(make(*words))  # type: ignore[arg-type]
        raise StorageError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(server_merging.Merger, "merge", dying)
        with opened_server(artifact, tmp_path, Clock(), rounds_of(merging)) as server:
            for number in range(GOAL):
                offer = ask(server, f"device-{number:03}")
                assert isinstance(offer, TaskOffer)
                send(server, device_update(artifact, offer), offer.task)
            wait_until(lambda: len(lost) > 1)
    (tmp_path / "merging").mkdir(exist_ok=True)
    (tmp_path / "merging" / "differences").write_bytes(b"of a merge that a kill ended")
    with opened_server(artifact, tmp_path, Clock(), rounds_of(merging)) as server:
        wait_for(server, 1)
        row = rows_of(server)[1]
        assert {(each.heads, each.moments) for each in lost} == {(row.heads, row.moments)}


def test_a_full_disk_during_a_merge_is_waited_out(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder for the rows should be."""
    with opened_server(artifact, tmp_path, Clock(), rounds_of(EVERY_MERGE[0])) as server:
        (tmp_path / "merging").write_bytes(b"")
        for number in range(GOAL):
            offer = ask(server, f"device-{number:03}")
            assert isinstance(offer, TaskOffer)
            send(server, device_update(artifact, offer), offer.task)
        wait_until(lambda: "cannot make the folder" in caplog.text)
        (tmp_path / "merging").unlink()
        wait_for(server, 1)


def test_heads_that_too_few_trained_are_kept_and_reported(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All five devices train head 0, two of them head 1, none the others."""
    caplog.set_level(logging.INFO)
    method, rounds = method_for(artifact.manifest), rounds_of(EVERY_MERGE[1])
    with opened_server(artifact, tmp_path, Clock(), rounds) as server:
        for number in range(GOAL):
            offer = ask(server, f"device-{number:03}")
            assert isinstance(offer, TaskOffer)
            info = UpdateInfo(offer.task, 0, offer.artifact, examples=8, steps=1)
            start = np.zeros(method.layout.size, np.float32)
            chosen = np.arange(2 if number < 2 else 1, dtype=np.int32)
            training = method.training(start, {LAYER: chosen})
            difference = device_difference(artifact, number, 0)
            send(server, encode_update(info, method, difference, training), offer.task)
        wait_for(server, 1)
        server.turn()
        heads = artifact.manifest.layers[0].heads
        assert server.versions()[0].heads_kept == heads - 1
        assert f"heads that kept their value: {heads - 1}" in caplog.text
        before = artifact.initial_heads()[f"{LAYER}.H"]
        after = load_heads(
            server.blob(server.versions()[0].heads), artifact.manifest, artifact.digest
        )[f"{LAYER}.H"]
        same = [a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True)]
        assert same == [False] + [True] * (heads - 1)


def test_going_back_takes_the_moments_of_then(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), rounds_of(MOMENTUM, 1)) as server:
        for _ in range(2):
            one_round(server, 1)
        server.go_back(1)
        server.go_back(0)
        rows = rows_of(server)
        assert velocity(server, rows[3]) == velocity(server, rows[1]) != velocity(server, rows[2])
        assert rows[4].moments is None
        one_round(server, 1)  # from no velocity on
        one_round(server, 1)


def velocity(server: Coordinator, row: VersionRow) -> bytes:
    assert row.moments is not None
    size = method_for(server.artifact.manifest).layout.size
    return read_moments(server.blob(row.moments), size).tensors["velocity"].tobytes()


def test_the_retention_rule_forgets_moments_with_their_version(
    artifact: Artifact, tmp_path: Path
) -> None:
    settings = ServerSettings(keep_versions=2)
    blobs = tmp_path / "blobs"
    with opened_server(artifact, tmp_path, Clock(), rounds_of(MOMENTUM, 1), settings) as server:
        for _ in range(3):
            one_round(server, 1)
        server.go_back(2)
        expected = velocity(server, rows_of(server)[2])
        one_round(server, 1)  # forgets version 2, of which version 4 is a copy
        rows = rows_of(server)
        assert [row.version for row in rows if not row.deleted] == [0, 4, 5]
        assert velocity(server, rows[4]) == expected
        wanted = {digest for row in rows if not row.deleted for digest in (row.heads, row.moments)}
        assert {path.name for path in blobs.iterdir()} == wanted - {None}
    with opened_server(artifact, tmp_path, Clock(), rounds_of(MOMENTUM, 1), settings):
        assert {path.name for path in blobs.iterdir()} == wanted - {None}


def test_another_optimizer_after_a_restart_starts_anew(artifact: Artifact, tmp_path: Path) -> None:
    adam = MergeSettings(server_optimizer=ServerOptimizerName.ADAM)
    with opened_server(artifact, tmp_path, Clock(), rounds_of(MOMENTUM, 1)) as server:
        one_round(server, 1)
    with opened_server(artifact, tmp_path, Clock(), rounds_of(adam, 1)) as server:
        one_round(server, 1)  # an attempt keeps the settings it was opened with
        one_round(server, 1)
        (first, second, third) = rows_of(server)[1:]
        for row, name in ((first, "velocity"), (second, "velocity"), (third, "steps")):
            assert row.moments is not None
            assert name in read_tensors(server.blob(row.moments), HEADS_BOUNDS)


def test_a_file_that_holds_no_moments_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    size = method_for(artifact.manifest).layout.size
    with opened_server(artifact, tmp_path, Clock(), rounds_of(MOMENTUM, 1)) as server:
        one_round(server, 1)
        row = rows_of(server)[1]
        with pytest.raises(StorageError, match="no moments of"):
            read_moments(server.blob(row.heads), size)
        assert row.moments is not None
        with pytest.raises(StorageError, match="no moments of 7 numbers"):
            read_moments(server.blob(row.moments), 7)


def test_settings_of_the_merge_are_stored_with_the_attempt() -> None:
    for merging in EVERY_MERGE:
        settings = rounds_of(merging)
        assert RoundSettings.from_json(settings.to_json()) == settings
        assert json.loads(settings.to_json())["merging"]["merge"] == str(merging.merge)


def test_too_many_attackers_for_the_goal_are_refused() -> None:
    krum = MergeSettings(MergeName.KRUM, byzantine=1)
    with pytest.raises(UsageError, match="needs 5 updates") as found:
        rounds_of(krum, 4)
    assert found.value.where == "--byzantine"
    with pytest.raises(UsageError, match="a --minimum of at least 5"):
        RoundSettings(goal=6, minimum=4, merging=krum)
