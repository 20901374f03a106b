"""ViT and DeiT: gradients of the original model, the image processor's settings, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.errors import ModelError, UsageError
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.image_settings import _ALWAYS, PROCESSORS, image_settings
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.conftest import LABELS
from tests.export.test_gradients import assert_close, random_heads, run, slow
from tests.export.vit_models import SIZE, save_vit

Arrays = dict[str, NDArray[Any]]
TASK = "image-classification"


@pytest.fixture(scope="session")
def vit(build_once: Any) -> Any:
    """``vit(kind)``: the folder of a tiny model."""

    def folder(kind: str) -> Path:
        return Path(build_once(f"tiny-{kind}", lambda path: save_vit(kind, path)))

    return folder


@pytest.fixture(scope="session")
def exported_vit(build_once: Any, vit: Any) -> Any:
    """``exported_vit(kind, method)``: the opened artifact."""

    def artifact(kind: str, method: str = "ravan") -> Artifact:
        def build(path: Path) -> None:
            export_artifact(vit(kind), TASK, LABELS, path, method=method, lora_budget=2)  # type: ignore[arg-type]

        return open_artifact(build_once(f"artifact-{kind}-{method}", build))

    return artifact


def batch(rows: int, seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((rows, 3, SIZE, SIZE)).astype(np.float32)
    return {"pixel_values": pixels, "labels": rng.integers(0, LABELS, rows)}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("vit", "ravan"),
        ("deit-distilled", "ravan"),
        pytest.param("deit", "ravan", marks=slow),
        pytest.param("vit", "fedit", marks=slow),
        ("vit", "head-only"),
    ],
)
def test_loss_and_gradients_are_those_of_the_original_model(
    kind: str, method: str, exported_vit: Any, vit: Any
) -> None:
    artifact = exported_vit(kind, method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS[TASK](settings)
    source = task.load(open_checkpoint(vit(kind), kind, TASK), artifact.manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows in (1, 2, 5, 7):
        inputs = batch(rows)
        if rows > 1:
            inputs["labels"][-1] = -100
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (rows - 1 or 1)
        assert_close(gradients, expected.gradients)


def test_micro_batches_add_up_and_a_row_without_a_label_counts_nothing(exported_vit: Any) -> None:
    artifact = exported_vit("vit")
    heads = random_heads(artifact)
    inputs = batch(5)
    whole, expected = run(artifact, inputs, heads)
    loss, total = 0.0, dict.fromkeys(expected, np.float32(0))
    for rows in (slice(0, 2), slice(2, 5)):
        part = {name: array[rows] for name, array in inputs.items()}
        # A row beside it whose label is -100, as a runtime with a fixed batch needs.
        padded = {name: np.concatenate([array, array[:1]]) for name, array in part.items()}
        padded["labels"][-1] = -100
        result, gradients = run(artifact, padded, heads)
        loss += result.loss_sum
        total = {name: total[name] + gradients[name] for name in total}
    assert loss == pytest.approx(whole.loss_sum, rel=1e-5)
    assert_close(total, expected)


def test_the_graph_has_no_mask_and_nothing_below_the_first_adapter_is_differentiated(
    exported_vit: Any,
) -> None:
    plan = exported_vit("vit").manifest.plans["whole"]
    assert "ai.onnx:Conv" in plan.operators
    assert not {"ai.onnx:ConvTranspose", "ai.onnx:Range"} & set(plan.operators)
    pixels = next(entry for entry in plan.inputs if entry.name == "pixel_values")
    assert pixels.shape == ("batch", 3, SIZE, SIZE)


def test_both_heads_of_a_distilled_model_train(exported_vit: Any) -> None:
    manifest = exported_vit("deit-distilled").manifest
    heads = {entry.name for entry in manifest.tensors if entry.role == "task_head"}
    assert heads == {
        f"task_head.{side}_classifier.{part}"
        for side in ("cls", "distillation")
        for part in ("weight", "bias")
    }
    assert manifest.image.tokens == 2 + (SIZE // 4) ** 2


def test_a_head_for_other_labels_gives_way_to_a_new_one(vit: Any, tmp_path: Path) -> None:
    for kind, words in (
        ("vit-of-7", "has 7 labels: a new one for 3"),
        ("vit-bare", "no classifier"),
    ):
        made = export_artifact(vit(kind), TASK, ["a", "b", "c"], tmp_path / kind, lora_budget=2)
        assert any(words in notice for notice in made.manifest.notices)
        weight = open_artifact(made.folder).initial_heads()["task_head.weight"]
        assert weight.shape == (3, 16)
        assert weight.std() == pytest.approx(0.02, rel=0.5)


def test_a_head_whose_labels_have_other_names_is_kept_with_a_notice(tmp_path: Path) -> None:
    save_vit("vit", tmp_path / "vit")
    config = tmp_path / "vit" / "config.json"
    names = {"0": "dog", "1": "cat", "2": "ant"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"id2label": names}))
    task = TASKS[TASK](ExportSettings())
    found = {}
    for labels in (("ant", "cat", "dog"), ("dog", "cat", "ant"), ("0", "1", "2")):
        found[labels] = task.load(open_checkpoint(tmp_path / "vit", "vit", TASK), labels).notices
    (notice,) = found.pop(("ant", "cat", "dog"))
    assert "calls its labels dog, cat, ant; it goes on as ant, cat, dog" in notice
    assert set(found.values()) == {()}


def settings_for(folder: Path, document: Any, *, name: str = "preprocessor_config.json") -> Any:
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return image_settings(open_checkpoint(folder, "tiny", TASK))


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editable") / "vit"
    save_vit("vit", folder)
    return folder


FULL = {"height": SIZE, "width": SIZE}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"size": SIZE}, {"resize": (16, 16), "resample": "bilinear", "mean": (0.5, 0.5, 0.5)}),
        ({"size": FULL, "feature_extractor_type": "ViTFeatureExtractor"}, {"resize": (16, 16)}),
        ({"size": [16, 16], "image_processor_type": "ViTImageProcessorFast"}, {"resize": (16, 16)}),
        ({"image_processor_type": "DeiTImageProcessor", "size": 20, "crop_size": SIZE},
         {"resize": (20, 20), "resample": "bicubic"}),
        ({"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": FULL, "resample": 1},
         {"resize": (18,), "resample": "lanczos"}),
        ({"size": 18, "default_to_square": False, "do_center_crop": True, "crop_size": SIZE},
         {"resize": (18,)}),
        ({"do_resize": False, "do_center_crop": True, "crop_size": SIZE}, {"resize": ()}),
        ({"size": SIZE, "do_rescale": False}, {"rescale": 1.0, "std": (0.5, 0.5, 0.5)}),
        ({"size": SIZE, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"size": SIZE, "image_mean": 0.25, "image_std": [1, 2, 3]},
         {"mean": (0.25,) * 3, "std": (1.0, 2.0, 3.0)}),
        ({"size": SIZE, "do_pad": None, "do_reduce_labels": False, "do_convert_rgb": True}, {}),
    ],
)  # fmt: skip
def test_the_image_processors_file_becomes_the_manifests_image(
    document: dict[str, Any], expected: dict[str, Any], editable: Path
) -> None:
    found = settings_for(editable, document)
    assert (found.height, found.width, found.channels) == (SIZE, SIZE, 3)
    assert {key: getattr(found, key) for key in expected} == expected


def test_a_combined_processors_file_is_read_too(editable: Path) -> None:
    document = {"image_processor": {"size": SIZE}}
    found = settings_for(editable, document, name="processor_config.json")
    (editable / "processor_config.json").unlink()
    assert found.resize == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ("{", "cannot be read"),
        ([], "expected an object"),
        ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type"),
        ({"size": SIZE, "crop_pct": 0.9}, "crop_pct"),
        ({"size": SIZE, "do_pad": True}, "do_pad"),
        ({"size": SIZE, "data_format": "channels_last"}, "data_format"),
        ({"size": 32}, "size"),
        ({"size": {"shortest_edge": SIZE}}, "size"),
        ({"size": {"shortest_edge": SIZE, "longest_edge": 99}, "do_center_crop": True}, "size"),
        ({"size": True}, "size"),
        ({"size": -1}, "size"),
        ({"size": 10**9}, "size"),
        ({"size": SIZE, "do_center_crop": True, "crop_size": 8}, "crop_size"),
        ({"size": SIZE, "do_center_crop": True}, "crop_size"),
        ({"size": SIZE, "do_resize": "yes"}, "do_resize"),
        ({"size": SIZE, "resample": 9}, "resample"),
        ({"size": SIZE, "rescale_factor": 0}, "rescale_factor"),
        ({"size": SIZE, "image_mean": [0.5]}, "image_mean"),
        ({"size": SIZE, "image_std": [0.5, 0, 0.5]}, "image_std"),
    ],
)
def test_what_the_manifest_cannot_say_is_refused_by_its_key(
    document: Any, key: str, editable: Path
) -> None:
    with pytest.raises(ModelError, match=key) as caught:
        settings_for(editable, document)
    assert caught.value.hint
    assert "preprocessor_config.json" in str(caught.value.where)


def test_without_the_image_processors_file_nothing_is_guessed(tmp_path: Path) -> None:
    save_vit("vit", tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json") as caught:
        export_artifact(tmp_path / "vit", TASK, LABELS, tmp_path / "out")
    assert "save_pretrained" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


@pytest.mark.parametrize("kind", [ViTImageProcessorPil, DeiTImageProcessorPil])
def test_keys_that_are_left_out_mean_what_transformers_means(kind: Any) -> None:
    usual = {**_ALWAYS, **PROCESSORS[kind.__name__.removesuffix("Pil")]}
    for key, value in usual.items():
        found = getattr(kind, key, None)
        assert (list(found) if key.startswith("image_") else found or False) == (value or False), (
            key
        )


@pytest.mark.parametrize(
    ("kind", "task", "labels", "error", "words"),
    [
        ("vit", "text-classification", 3, ModelError, "vit cannot be exported for text-class"),
        ("bert", TASK, 3, ModelError, "bert cannot be exported for image-classification"),
        ("vit", TASK, None, UsageError, "needs a label map"),
    ],
)
def test_a_task_that_does_not_fit(
    kind: str, task: str, labels: Any, error: Any, words: str, vit: Any, tiny_model: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = tiny_model(kind) if kind == "bert" else vit(kind)
    with pytest.raises(error, match=words) as caught:
        export_artifact(folder, task, labels, tmp_path / "out")
    assert caught.value.hint
