"""Which lists of plans can be exported."""

from __future__ import annotations

import pytest

from ravan_edge.errors import UsageError
from ravan_edge.plans import PLANS
from ravan_export.plans import FURTHER_PLANS, check_plans


def test_what_can_be_exported_can_be_run() -> None:
    assert {"whole", *FURTHER_PLANS} == set(PLANS)


def test_whole_is_in_every_artifact() -> None:
    assert check_plans(("whole", "executorch")) == ("executorch",)
    assert check_plans(("executorch", "whole")) == ("executorch",)
    with pytest.raises(UsageError, match="whole is missing") as caught:
        check_plans(("executorch",))
    assert "--plans whole,executorch" in str(caught.value)


@pytest.mark.parametrize("plans", [("whole", "block"), ("whole", "whole"), ("",), ("whole", "")])
def test_other_lists_are_refused(plans: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="no list of plans") as caught:
        check_plans(plans)
    assert caught.value.exit_code == 2
    assert "executorch" in str(caught.value)
