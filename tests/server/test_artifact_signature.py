"""A server of a signed artifact: what it refuses to hand out, what it hands out, what it warns of."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.errors import ArtifactError
from ravan_edge.protocol import TaskOffer
from ravan_edge.signing import sign_artifact
from ravan_server.artifact_signature import ExpiryWatch, read_signature, require_signature
from tests.server.server_kit import Clock, ask, opened_server
from tests.tiny_artifact import make_tiny_artifact

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "artifact")


def sign(artifact: Artifact, *, days: int = 100, now: float = NOW) -> bytes:
    sign_artifact(artifact, KEY, name="tiny", sequence=None, days=days, now=now)
    return (artifact.folder / "signature.json").read_bytes()


def offer_of(artifact: Artifact, state: Path, clock: Clock) -> tuple[TaskOffer, bytes | None]:
    """A task of a server that is started for it, and the bytes of the signature that it names."""
    with opened_server(artifact, state, clock) as server:
        offer = ask(server, "device-1")
        assert isinstance(offer, TaskOffer)
        content = None if offer.signature is None else server.blob(offer.signature).read_bytes()
        return offer, content


def test_an_unsigned_artifact_has_none(artifact: Artifact, tmp_path: Path) -> None:
    offer, content = offer_of(artifact, tmp_path / "state", Clock(NOW))
    assert (offer.signature, content) == (None, None)
    with pytest.raises(ArtifactError, match="not signed") as refused:
        require_signature(artifact)
    assert "ravan sign ARTIFACT" in str(refused.value)


def test_a_task_names_the_signature_and_a_blob_has_it(artifact: Artifact, tmp_path: Path) -> None:
    signature = sign(artifact)
    offer, content = offer_of(artifact, tmp_path / "state", Clock(NOW))
    assert content == signature
    assert offer.signature == hashlib.sha256(signature).hexdigest()
    require_signature(artifact)


def test_a_renewed_signature_counts_from_the_next_start_on(
    artifact: Artifact, tmp_path: Path
) -> None:
    first, clock, state = sign(artifact), Clock(NOW), tmp_path / "state"
    with opened_server(artifact, state, clock) as server:
        second = sign(artifact)
        assert second != first
        offer = ask(server, "device-1")
        assert isinstance(offer, TaskOffer)
        assert offer.signature is not None
        assert server.blob(offer.signature).read_bytes() == first
    offer, content = offer_of(artifact, state, clock)
    assert content == second
    # Of the first nothing is left, and heads are all there.
    assert len(list((state / "blobs").iterdir())) == 2
    (artifact.folder / "signature.json").unlink()
    offer, _ = offer_of(artifact, state, clock)
    assert offer.signature is None
    assert len(list((state / "blobs").iterdir())) == 1


def test_what_devices_would_refuse_is_not_handed_out(artifact: Artifact, tmp_path: Path) -> None:
    other = make_tiny_artifact(tmp_path / "other", seed=1)
    sign(other)
    shutil.copy(other.folder / "signature.json", artifact.folder)
    state = tmp_path / "state"
    for content, clock, says in (
        (None, Clock(NOW), f"is of artifact {other.digest}"),
        (b"{}", Clock(NOW), "the signature is refused"),
        (b" " * 65_537, Clock(NOW), "more than 65536 bytes"),
        (sign(make_tiny_artifact(tmp_path / "same")), Clock(NOW + 100 * DAY), "counts no more"),
    ):
        if content is not None:
            (artifact.folder / "signature.json").write_bytes(content)
        with (
            pytest.raises(ArtifactError, match=says) as refused,
            opened_server(artifact, state, clock),
        ):
            pass
        assert refused.value.exit_code == 3
        assert "signature.json" in str(refused.value)


def test_it_warns_once_a_day_before_and_after_the_end(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    sign(artifact, days=100)
    watch = ExpiryWatch(read_signature(open_artifact(artifact.folder), NOW))

    def said(day: float) -> list[tuple[int, str]]:
        caplog.clear()
        watch.look(NOW + day * DAY)
        return [(record.levelno, record.getMessage()) for record in caplog.records]

    assert said(0) == said(69.9) == []
    ((level, text),) = said(70)
    assert level == logging.WARNING
    assert "counts until 2027-04-25 08:00:00 UTC" in text
    assert said(70.5) == []
    assert [level for level, _ in said(71)] == [logging.WARNING]
    assert [level for level, _ in said(99.9)] == [logging.WARNING]
    assert said(99.99) == []
    ((level, text),) = said(100)
    assert level == logging.ERROR
    assert "counts no more since 2027-04-25" in text
    assert said(100.9) == []
    assert [level for level, _ in said(101)] == [logging.ERROR]


def test_a_server_looks_at_its_clock(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sign(artifact, days=31)
    clock = Clock(NOW)
    with opened_server(artifact, tmp_path / "state", clock) as server:
        server.turn()
        assert not [record for record in caplog.records if "signature" in record.getMessage()]
        clock.now += 2 * DAY
        server.turn()
    assert len([record for record in caplog.records if "signature" in record.getMessage()]) == 1
