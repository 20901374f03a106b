"""The page of a run: facts in, one HTML document out."""

from __future__ import annotations

from functools import cache

import jinja2

from ravan_edge.simulate.report.facts import RunFacts
from ravan_edge.simulate.report.rounds import RoundSection
from ravan_edge.simulate.report.sections import ClassSection, DataSection, Learning
from ravan_edge.simulate.report.words import (
    as_bytes,
    as_count,
    as_percent,
    as_ratio,
    as_seconds,
    glued,
    shown,
)

__all__ = ["render_run", "templates"]


@cache
def templates() -> jinja2.Environment:
    """The templates. Every value is escaped, and one that is not there is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ravan_edge.simulate.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        bytes=as_bytes,
        count=as_count,
        percent=as_percent,
        seconds=as_seconds,
        glued=glued,
        shown=shown,
    )
    return environment


def render_run(run: RunFacts) -> str:
    """The whole document. Equal facts give equal text."""
    update, whole = run.upload_bytes_per_update, run.model_bytes
    return (
        templates()
        .get_template("report.html")
        .render(
            run=run,
            sentence=_sentence(run),
            accuracy_note=_accuracy_note(run),
            update_share=f"{min(100.0, 100 * (update or 0) / (whole or update or 1)):.3f}",
            times_less=as_ratio(whole / update) if update and whole and whole > update else "",
            tiles=_tiles(run),
            learning=Learning.of(run),
            classes=ClassSection.of(run),
            data=DataSection.of(run),
            rounds=RoundSection.of(run),
        )
    )


def _sentence(run: RunFacts) -> str:
    done = len(run.rounds)
    rounds = f"{as_count(done)} round" + ("" if done == 1 else "s")
    so_far = ""
    if done < run.planned_rounds:
        rounds, so_far = f"{as_count(done)} of {as_count(run.planned_rounds)} rounds", " so far"
    trained = {
        "ravan": "small heads inside a frozen model (ravan)",
        "fedit": "low-rank adapters inside a frozen model (fedit)",
        "head-only": "the task head of a frozen model (head-only)",
        "": "a small part of a frozen model",
    }.get(run.method, shown(run.method))
    classes = f"{as_count(len(run.labels))} classes, " if run.labels else ""
    return (
        f"{classes}{rounds} of {as_count(run.per_round)} "
        f"device{'' if run.per_round == 1 else 's'}{so_far}, each training {trained} "
        f"on rows that never leave it."
    )


def _accuracy_note(run: RunFacts) -> str:
    guess = ""
    if run.labels:
        classes = len(run.labels)
        guess = (
            f"Guessing among {as_count(classes)} classes is right {as_percent(1 / classes)} of the "
            "time."
        )
    if run.best_round is None or run.best_test is None or run.best_test.accuracy is None:
        return guess
    return (
        f"After the last round. Round {run.best_round}, the best on validation, has "
        f"{as_percent(run.best_test.accuracy)}. {guess}"
    )


def _tiles(run: RunFacts) -> tuple[tuple[str, str], ...]:
    done = as_count(len(run.rounds))
    if len(run.rounds) < run.planned_rounds:
        done += f" of {as_count(run.planned_rounds)}"
    return (
        (
            done,
            (
                f"round{'' if len(run.rounds) == 1 else 's'} of {as_count(run.per_round)} "
                f"device{'' if run.per_round == 1 else 's'}"
            ),
        ),
        (as_seconds(run.simulated_seconds), "simulated time, all rounds"),
        (as_bytes(run.peak_memory_bytes), "peak memory of a process"),
        (as_seconds(run.seconds), "to compute on this machine"),
    )
