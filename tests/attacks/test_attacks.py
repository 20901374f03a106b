"""Every abuse of the collection ends in an ordinary refusal that names what it is about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from ravan_edge.artifact.heads import read_heads
from ravan_edge.artifact.opening import open_artifact
from ravan_edge.artifact.tensor_file import (
    HEADS_BOUNDS,
    map_tensors,
    read_header,
    read_tensors,
    tensors_from_bytes,
)
from ravan_edge.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    NumericsError,
    TensorFileError,
)
from ravan_edge.merge import ExactSum, MergeScale, add_update
from ravan_edge.methods import method_for
from ravan_edge.protocol import UpdateReader
from ravan_edge.signing import signature_of
from tests.attacks.attack import Attack
from tests.attacks.make_attacks import FILES, README, all_attacks, readme
from tests.attacks.update_attacks import COUNT

ATTACKS = list(all_attacks())
VALID = FILES / "valid"


def of(kind: str, *, accepted: bool = False) -> list[Attack]:
    return [
        attack
        for attack in ATTACKS
        if attack.path.startswith(f"{kind}/") and (attack.says is None) == accepted
    ]


def name(attack: Attack) -> str:
    return attack.path


def check(error: ArtifactError, attack: Attack, file: str) -> None:
    text = str(error)
    assert error.exit_code == 3
    assert attack.says is not None
    assert attack.says in text
    assert file in text
    assert "\x1b" not in text, "a name must not reach the terminal raw"
    assert len(text) < 1500


def copy_of_valid(folder: Path) -> Path:
    return Path(shutil.copytree(VALID, folder / "artifact"))


def update_entry(artifact: Path, relative: str) -> None:
    """Bring a file's size and digest in the manifest up to date."""
    content = (artifact / relative).read_bytes()
    document = json.loads((artifact / "manifest.json").read_bytes())
    document["files"][relative] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    (artifact / "manifest.json").write_text(json.dumps(document))


def test_files_and_page_are_what_the_script_makes() -> None:
    assert README.read_text("utf-8") == readme(ATTACKS)
    committed = {
        path.relative_to(FILES).as_posix()
        for folder in ("tensors", "manifests", "graphs", "signatures", "updates")
        for path in (FILES / folder).iterdir()
    }
    assert {attack.path for attack in ATTACKS if not attack.large} <= committed
    assert committed <= {attack.path for attack in ATTACKS}
    assert len({attack.path.lower() for attack in ATTACKS}) == len(ATTACKS)
    for attack in ATTACKS:
        if not attack.large:
            assert (FILES / attack.path).read_bytes() == attack.content, attack.path


def test_the_artifact_they_start_from_is_valid() -> None:
    assert open_artifact(VALID).initial_heads()


@pytest.mark.parametrize("attack", of("tensors"), ids=name)
def test_tensor_file_is_refused(attack: Attack, tmp_path: Path) -> None:
    path = tmp_path / "attack.safetensors"
    path.write_bytes(attack.content)
    for read in (read_tensors, map_tensors):
        with pytest.raises(TensorFileError) as refused:
            read(path, HEADS_BOUNDS)
        check(refused.value, attack, "attack.safetensors")
    with pytest.raises(TensorFileError) as refused:
        tensors_from_bytes(attack.content, HEADS_BOUNDS, where="update of task 7")
    check(refused.value, attack, "update of task 7")


@pytest.mark.parametrize("attack", of("tensors", accepted=True), ids=name)
def test_unusual_tensor_file_is_accepted(attack: Attack, tmp_path: Path) -> None:
    path = tmp_path / "attack.safetensors"
    path.write_bytes(attack.content)
    read = read_tensors(path, HEADS_BOUNDS)
    mapped = map_tensors(path, HEADS_BOUNDS)
    assert read.keys() == mapped.keys() == read_header(path, HEADS_BOUNDS).specs.keys()
    for key, array in read.items():
        assert array.tobytes() == mapped[key].tobytes()
        assert mapped[key].flags.aligned
        assert not mapped[key].flags.writeable or not mapped[key].size


@pytest.mark.parametrize("attack", of("manifests"), ids=name)
def test_manifest_is_refused(attack: Attack, tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / "manifest.json").write_bytes(attack.content)
    with pytest.raises(ArtifactError) as refused:
        open_artifact(artifact)
    check(refused.value, attack, str(artifact))


@pytest.mark.parametrize("attack", of("graphs"), ids=name)
def test_graph_is_refused(attack: Attack, tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / "plans/whole/step.onnx").write_bytes(attack.content)
    update_entry(artifact, "plans/whole/step.onnx")
    with pytest.raises(ArtifactError) as refused:
        open_artifact(artifact)
    check(refused.value, attack, "step.onnx")


@pytest.mark.parametrize("attack", of("signatures"), ids=name)
def test_signature_is_refused(attack: Attack, tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / "signature.json").write_bytes(attack.content)
    opened = open_artifact(artifact)  # what it says is for those to read who ask for a signature
    with pytest.raises(ArtifactError) as refused:
        signature_of(opened)
    check(refused.value, attack, "signature.json")


@pytest.mark.parametrize("attack", of("signatures", accepted=True), ids=name)
def test_unusual_signature_is_accepted(attack: Attack, tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / "signature.json").write_bytes(attack.content)
    signed = signature_of(open_artifact(artifact))
    assert signed is not None
    assert signed.statement.sequence == 3


@pytest.mark.parametrize("attack", of("updates"), ids=name)
def test_update_is_refused(attack: Attack) -> None:
    reader = update_reader()
    with pytest.raises(ArtifactError) as refused:
        reader.view(attack.content, where="update of task 7")
    check(refused.value, attack, "update of task 7")
    # Nor is a trace of it left in a sum, where numbers that are none are found by the bound.
    total = ExactSum.empty(reader.method.layout.size, MergeScale.for_cohort(1))
    with pytest.raises((ArtifactError, NumericsError)):
        add_update(total, attack.content, reader)
    assert not total.total.any()


@pytest.mark.parametrize("attack", of("updates", accepted=True), ids=name)
def test_unusual_update_is_accepted(attack: Attack) -> None:
    assert len(update_reader().view(attack.content).data) == COUNT


def update_reader() -> UpdateReader:
    artifact = open_artifact(VALID, check_digests=False)
    return UpdateReader(artifact.manifest, method_for(artifact.manifest), artifact.digest)


@pytest.mark.parametrize(
    "relative", ["base.safetensors", "tokenizer/tokenizer.json", "manifest.json", "signature.json"]
)
def test_link_in_place_of_a_file(tmp_path: Path, relative: str) -> None:
    artifact = copy_of_valid(tmp_path)
    (tmp_path / "moved").write_bytes(b"")
    if (artifact / relative).exists():
        shutil.move(artifact / relative, tmp_path / "moved")
    (artifact / relative).symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="regular file") as refused:
        open_artifact(artifact)
    assert relative in str(refused.value)


def test_link_in_place_of_a_folder(tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    shutil.move(artifact / "plans", tmp_path / "plans")
    (artifact / "plans").symlink_to(tmp_path / "plans", target_is_directory=True)
    with pytest.raises(ArtifactError, match="'plans' is a symbolic link"):
        open_artifact(artifact)


def test_link_that_leads_nowhere(tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match="'loop' is a symbolic link"):
        open_artifact(artifact)


def test_link_to_the_artifact_itself_is_fine(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(copy_of_valid(tmp_path), target_is_directory=True)
    assert open_artifact(tmp_path / "here").base


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are files on Unix only")
@pytest.mark.parametrize("relative", ["manifest.json", "base.safetensors"])
def test_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, relative: str) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / relative).unlink()
    os.mkfifo(artifact / relative)
    with pytest.raises(ArtifactError, match="regular file"):
        open_artifact(artifact)
    if relative == "base.safetensors":
        with pytest.raises(ArtifactError, match="regular file"):
            read_tensors(artifact / relative, HEADS_BOUNDS)


@pytest.mark.parametrize("relative", ["more.txt", "plans/whole/more.onnx", "a/b/c/d/e/f/g/h/i"])
def test_file_that_is_not_listed(tmp_path: Path, relative: str) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / relative).parent.mkdir(parents=True, exist_ok=True)
    (artifact / relative).write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"does not list|too deeply"):
        open_artifact(artifact)


def test_hidden_names_are_ignored(tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / ".DS_Store").write_bytes(b"x")
    assert open_artifact(artifact).base


@pytest.mark.parametrize("relative", ["base.safetensors", "plans/whole/eval.onnx"])
def test_missing_file(tmp_path: Path, relative: str) -> None:
    artifact = copy_of_valid(tmp_path)
    (artifact / relative).unlink()
    with pytest.raises(ArtifactNotFoundError, match="missing") as refused:
        open_artifact(artifact)
    assert relative in str(refused.value)


@pytest.mark.parametrize("check_digests", [True, False])
@pytest.mark.parametrize("cut", [1, 4096])
def test_cut_base(tmp_path: Path, cut: int, check_digests: bool) -> None:
    artifact = copy_of_valid(tmp_path)
    base = (artifact / "base.safetensors").read_bytes()
    (artifact / "base.safetensors").write_bytes(base[:-cut])
    with pytest.raises(ArtifactError, match=f"{len(base) - cut} bytes, expected {len(base)}"):
        open_artifact(artifact, check_digests=check_digests)
    update_entry(artifact, "base.safetensors")
    with pytest.raises(TensorFileError, match="cut off"):
        open_artifact(artifact, check_digests=check_digests)


def test_one_changed_bit(tmp_path: Path) -> None:
    artifact = copy_of_valid(tmp_path)
    base = bytearray((artifact / "base.safetensors").read_bytes())
    base[-1] ^= 1
    (artifact / "base.safetensors").write_bytes(base)
    with pytest.raises(ArtifactError, match=r"base\.safetensors: sha256"):
        open_artifact(artifact)


@pytest.mark.parametrize("attack", of("tensors"), ids=name)
def test_tensor_file_in_place_of_heads(attack: Attack, tmp_path: Path) -> None:
    path = tmp_path / "heads.safetensors"
    path.write_bytes(attack.content)
    with pytest.raises(ArtifactError):
        read_heads(path, open_artifact(VALID, check_digests=False))
