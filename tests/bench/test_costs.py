"""The README's table of real checkpoints is what `python -m bench.costs` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.costs import CHECKPOINTS, CONFIGS, Checkpoint, line_of, shown

# Numbers that each checkpoint was published with, in millions.
PUBLISHED = {
    "all-MiniLM-L6-v2": 22.7, "bert-base-uncased": 109.5, "roberta-base": 124.7,
    "ModernBERT-base": 149.6, "vit-base-patch16-224": 86.6, "t5-small": 60.5,
    "flan-t5-base": 247.6, "SmolLM2-135M": 134.5, "gemma-3-270m": 268.1, "Qwen2.5-0.5B": 494.0,
    "Qwen3-0.6B": 596.0, "Llama-3.2-1B": 1235.8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda item: item.name)
def test_the_readme_has_the_line_that_the_command_prints(
    checkpoint: Checkpoint, root: Path
) -> None:
    line = line_of(checkpoint)
    assert shown(line) in (root / "README.md").read_text("utf-8").splitlines()
    published = PUBLISHED[checkpoint.name.rpartition("/")[2]]
    # A classifier of two labels, or a head for masked words, makes a little more or less of it.
    assert line["parameters"] / 1e6 == pytest.approx(published, rel=0.01)


def test_every_configuration_is_used() -> None:
    used = {checkpoint.name.rpartition("/")[2] for checkpoint in CHECKPOINTS}
    assert {path.name for path in CONFIGS.iterdir()} == used == set(PUBLISHED)
