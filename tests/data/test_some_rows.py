"""Some rows of a dataset, and parts written as I/N."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.data import SomeRows, part_of
from ravan_edge.errors import UsageError
from ravan_edge.tasks import DataSource, task_for, text_length
from tests.device.device_kit import write_rows
from tests.tiny_artifact import make_tiny_artifact


@given(count=st.integers(1, 200), parts=st.integers(1, 200))
def test_the_parts_of_a_file_are_all_its_rows_once(count: int, parts: int) -> None:
    rows = [part_of(f"{first}/{parts}", count) for first in range(1, min(parts, count) + 1)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(count))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1/0", "1", "1/", "a/b", "1/3/5", "-1/3", "01/3", ""]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no part"):
        part_of(text, 100)


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="has none"):
        part_of("5/9", 4)


def test_batches_are_those_of_the_rows(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "artifact")
    source = DataSource(
        write_rows(tmp_path / "rows.csv", seed=1),
        max_length=text_length(artifact.manifest.text, None, None),
    )
    everything = task_for(artifact.manifest).load(artifact, source).dataset
    rows = part_of("2/7", len(everything))
    some = SomeRows(everything, rows)
    assert len(some) == len(rows)
    assert np.array_equal(some.labels, everything.labels[rows])
    assert np.array_equal(some.lengths, everything.lengths[rows])
    chosen = np.array([3, 0], np.int64)
    found, expected = some.batch(chosen), everything.batch(rows[chosen])
    assert np.array_equal(found.labels, expected.labels)
    for name, array in expected.graph_inputs.items():
        assert np.array_equal(found.graph_inputs[name], array)
