"""One option has one default, whichever command has it: read from the files that declare options."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.test_structure import EDGE, EXPORT, SERVER, modules_of


def option_calls() -> list[tuple[str, str, str]]:
    """(class, field, default as written) of every field made by ``option(default, help, ...)``."""
    found = []
    for path in [*modules_of(EDGE), *modules_of(EXPORT), *modules_of(SERVER)]:
        for kind in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(kind, ast.ClassDef):
                continue
            for item in kind.body:
                if (
                    isinstance(item, ast.AnnAssign)
                    and isinstance(item.target, ast.Name)
                    and isinstance(item.value, ast.Call)
                    and ast.unparse(item.value.func) == "option"
                ):
                    default = ast.unparse(item.value.args[0])
                    found.append((kind.name, item.target.id, default))
    return found


def hand_made_options() -> list[tuple[str, str]]:
    """(option, default as written) of parameters ``name: Annotated[..., typer.Option(...)] = default``."""
    found = []
    for path in [*(EDGE / "cli").glob("*.py"), *EXPORT.glob("cli*.py"), SERVER / "cli.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            given = node.args
            plain = [*given.posonlyargs, *given.args]
            pairs: list[tuple[ast.arg, ast.expr | None]] = []
            pairs += zip(plain[len(plain) - len(given.defaults) :], given.defaults, strict=True)
            pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
            for parameter, default in pairs:
                if parameter.annotation is None or default is None:
                    continue
                annotation = ast.unparse(parameter.annotation)
                if match := re.search(r"typer\.Option\('--([a-z-]+)", annotation):
                    found.append((match[1].replace("-", "_"), ast.unparse(default)))
    return found


# Options of one name that mean different things in different commands.
OWN_DEFAULTS = {
    "heads": "`export`: how many heads a layer gets; elsewhere: the file of trained heads",
    "batch_size": "`train` and `simulate`: rows of a step; `eval`: rows at once, which changes nothing",
    "days": "`sign`: how long a signature counts; `devices invite`: how long a token does",
    "deadline_seconds": "`simulate`: none, on its virtual clock; a server must not wait for ever",
    "out": "`demo`: its own folder; `devices invite`: stdout",
    "seed": "`merge`: the old artifact's plus 1; elsewhere: 0",
    "task": "`inspect`: whether it was typed tells a model from an artifact; then `export`'s",
    "validation": "`simulate` chooses the best round on it, `train` only shows it",
}


def test_an_option_has_one_default_whatever_the_command() -> None:
    defaults: dict[str, set[str]] = defaultdict(set)
    for _, name, default in option_calls():
        # `RuntimeSettings.threads` and the like refer to the one place
        defaults[name].add(name if default.endswith(f".{name}") else default)
    for name, default in hand_made_options():
        defaults[name].add(default)
    for name, written in defaults.items():
        literals = {"None" if default == "''" else default for default in written - {name}}
        assert len(literals) <= 1 or name in OWN_DEFAULTS, f"--{name}: {sorted(literals)}"


def test_options_are_found() -> None:
    assert ("LocalSettings", "lr", "0.0005") in option_calls()
    assert "batch_size" in dict(hand_made_options())
