from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ravan_edge.cli.common import PlanSettings, Reporter, print_json, takes_settings
from ravan_edge.plans.step import RuntimeSettings
from ravan_edge.training import LocalSettings, check_options, option


@dataclass(frozen=True)
class Outer:
    local: LocalSettings = field(default_factory=LocalSettings)
    rounds: int = option(30, "Rounds.", minimum=1)
    name: str | None = option(None, "A name.")
    loud: bool = option(False, "Say more.")
    fast: bool = option(True, "Be fast.")

    def __post_init__(self) -> None:
        check_options(self)


def call(*words: str) -> dict[str, object]:
    seen: dict[str, object] = {}
    app = typer.Typer()

    @app.command()
    @takes_settings(settings=Outer, running=PlanSettings)
    def command(
        place: Annotated[str, typer.Argument()],
        settings: Outer,
        running: PlanSettings,
        out: Annotated[str, typer.Option("--out")] = "here",
    ) -> None:
        seen.update(place=place, settings=settings, running=running, out=out)

    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    return seen | {"code": result.exit_code, "output": result.output}


def test_defaults_are_those_of_the_classes() -> None:
    seen = call("x")
    assert seen["settings"] == Outer()
    assert seen["running"] == PlanSettings()
    assert (seen["place"], seen["out"]) == ("x", "here")


def test_options_reach_their_class_nested_ones_too() -> None:
    words = (
        "x --rounds 3 --lr 0.1 --optimizer sgd --score gradient --micro-batch 4 --loud --no-fast"
    )
    seen = call(*words.split(), "--name", "n", "--threads", "2", "--out", "there")
    assert seen["settings"] == Outer(
        rounds=3, name="n", loud=True, fast=False,
        local=LocalSettings(lr=0.1, optimizer="sgd", score="gradient", micro_batch=4),  # type: ignore[arg-type]
    )  # fmt: skip
    assert seen["running"] == PlanSettings(threads=2)
    assert seen["out"] == "there"


def test_help_shows_defaults_and_texts() -> None:
    output = str(call("--help")["output"])
    assert "Mini-batches a device trains on in a round." in " ".join(
        output.replace("│", " ").split()
    )
    assert "[default: 30]" in output
    assert "--no-fast" in output
    assert "--no-loud" not in output
    assert "adam|sgd" in output


def test_plan_settings_are_the_runtime_settings_of_plans() -> None:
    assert PlanSettings().runtime == RuntimeSettings()
    assert PlanSettings(threads=3, arena=False).runtime == RuntimeSettings(threads=3, arena=False)


def test_a_number_that_is_none_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"loss": float("nan")})


def test_in_a_pipe_a_bar_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().bar("work") as bar:
        bar(1, 2, "note")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")  # on a dumb terminal, as in CI, a bar is rightly silent
    with Reporter().bar("training", "steps") as bar:
        bar(1, 2, "loss 3.1")
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
