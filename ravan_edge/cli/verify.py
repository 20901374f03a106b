"""``ravan verify``: the exporter's check, repeated by this device's own runtime."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.artifact.opening import open_artifact
from ravan_edge.cli.common import JsonOption, PlanSettings, print_json, say, takes_settings
from ravan_edge.cli.inspect import signature_text
from ravan_edge.errors import ArtifactError
from ravan_edge.plans import open_step
from ravan_edge.plans.conformance import check_conformance
from ravan_edge.signing import check_key, check_time, key_id, load_public_key, signature_of

__all__ = ["verify"]


@takes_settings(running=PlanSettings)
def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    running: PlanSettings,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="Public key, PEM, that must have signed the artifact."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the stored batches here and compare loss and every gradient with torch's.

    Ends with 3 when an error is larger than the artifact allows, when it has a signature that is
    wrong, and with --trust also when it has none, one of another key, or one that has expired.

    Examples:
      ravan verify runs/demo/artifact
      ravan verify runs/demo/artifact --trust release.pub
      ravan verify runs/demo/artifact --json | jq .worst_error
    """
    trusted = None if trust is None else _key_id(trust)
    checked = open_artifact(artifact)
    signed = signature_of(checked)
    if trusted is not None:
        check_time(check_key(signed, trusted, str(artifact)), time.time(), str(artifact))
    with open_step(checked, running.plan, running.runtime) as step:
        stored, results = check_conformance(checked, step)
    # The evaluation graph must say what the step says, just as closely.
    worst_error = max(max(result.worst[1], result.eval_gap) for result in results)
    passed = worst_error <= stored.tolerance
    if as_json:
        # JSON has no infinity: a gradient that is not finite has an error of null.
        print_json(
            {
                "passed": passed,
                "tolerance": stored.tolerance,
                "worst_error": _number(worst_error),
                "signature": None if signed is None else signed.document(),
                "cases": [
                    {
                        "name": result.name,
                        "loss": _number(result.loss),
                        "worst_tensor": result.worst[0],
                        "worst_error": _number(result.worst[1]),
                        "eval_gap": _number(result.eval_gap),
                        "errors": {name: _number(error) for name, error in result.errors.items()},
                    }
                    for result in results
                ],
            }
        )
    else:
        typer.echo(f"signature: {signature_text(signed, time.time())}")
        for case, result in zip(stored.cases, results, strict=True):
            shape = " x ".join(map(str, case.batch))
            typer.echo(f"case {result.name} ({shape}), loss {result.loss:.6g}")
            for name, error in sorted(result.errors.items(), key=lambda item: -item[1]):
                typer.echo(f"  {error:9.2e}  {name}")
            typer.echo(f"  {result.eval_gap:9.2e}  evaluation against step")
            typer.echo(f"  when exported: {case.worst_error:.2e} in {case.worst_tensor}")
    if passed:
        if not as_json:
            typer.echo(f"passed: the largest error is {worst_error:.2e} of {stored.tolerance:.2e}")
        return
    failure = ArtifactError(
        f"the largest error is {worst_error:.2e}, the artifact allows {stored.tolerance:.2e}",
        where=str(artifact),
        hint="do not train with it here: report runtime and machine, or export it again",
    )
    if not as_json:
        raise failure
    say(f"ravan: {failure}")  # stdout has its one document already
    raise typer.Exit(failure.exit_code)


def _key_id(path: Path) -> str:
    return key_id(load_public_key(path))


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
