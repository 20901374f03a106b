"""The page's files: nothing from elsewhere, nothing read as HTML, nothing that is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.protocol import Reason
from ravan_server import dashboard
from ravan_server.app import create_app
from tests.server.asgi import Answer, Client

PAGE = Path(dashboard.__file__).parent / "page"
FILES = {path.name: path.read_text("utf-8") for path in PAGE.iterdir()}
OURS = {name: text for name, text in FILES.items() if not name.startswith("uplot")}
SCRIPTS = {name: text for name, text in OURS.items() if name.endswith(".js")}
IDS = set(re.findall(r'\bid="([a-z-]+)"', FILES["index.html"]))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(create_app(None)) as client:
        yield client


def directives(answer: Answer) -> dict[str, str]:
    parts = answer.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (part.partition(" ") for part in parts)}


@pytest.mark.parametrize("path", ["/", *(f"/dashboard/{name}" for name in sorted(FILES))])
def test_a_file_is_served_and_may_do_nothing_but_its_work(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 200
    assert answer.body.decode() == FILES[path.rpartition("/")[2] or "index.html"]
    assert directives(answer) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    again = client.get(path, if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["paths.py", "none.js", "..%2fpaths.py", "%2e%2e", "index.html.bak", "INDEX.HTML"]
)
def test_nothing_else_is_served(client: Client, name: str) -> None:
    reason = client.get(f"/dashboard/{name}").problem.reason
    assert reason in {Reason.NO_SUCH_PATH, Reason.BAD_MESSAGE}


@pytest.mark.parametrize("name", sorted(OURS))
def test_no_file_names_another_place(name: str) -> None:
    addresses = re.findall(r"[a-z]*://[^\s\"'`]+", OURS[name])
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_no_text_is_ever_read_as_html_or_code(name: str) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc"
    )
    assert not re.search(forbidden, SCRIPTS[name])
    assert not re.search(r"document\.cookie|localStorage", SCRIPTS[name])


def test_the_page_has_no_code_and_no_style_in_it() -> None:
    page = FILES["index.html"]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
    assert not re.findall(r"<script[^>]*>[^<]", page)


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r'(?:href|src)="dashboard/([^"]+)"', FILES["index.html"]))
    for text in SCRIPTS.values():
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named == set(FILES) - {"index.html"}


def test_every_element_that_is_asked_for_is_there() -> None:
    for name, text in SCRIPTS.items():
        asked = set(re.findall(r'\b(?:byId|setText|setHidden)\(\s*"([a-z-]+)"', text))
        assert asked <= IDS, name


def test_every_name_that_is_imported_is_exported() -> None:
    for text in SCRIPTS.values():
        for names, file in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', text):
            for name in re.findall(r"\w+", names):
                assert re.search(
                    rf"export (?:async )?(?:function|const|class) {name}\b", FILES[file]
                )


def test_the_licence_of_the_plots_comes_along(root: Path) -> None:
    version = re.search(r"uPlot \(v([\d.]+)\)", FILES["uplot.js"])
    assert version
    notice = (root / "NOTICE").read_text("utf-8")
    assert f"uPlot {version[1]}" in notice
    assert "Permission is hereby granted, free of charge" in notice


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_everything_can_be_told_from_its_ground(scheme: int) -> None:
    blocks = re.findall(r":root \{([^}]+)\}", FILES["page.css"])
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", blocks[scheme]))
    assert len(colours) == 18
    for name in ("ink", "quiet", "accent", "wrong"):  # texts
        assert contrast(colours[name], colours["card"]) >= 4.5, name
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["wrong"], colours["wrong-paper"]) >= 4.5
    assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
    for name in (
        "merged",
        "stored",
        "training",
        "late",
        "given-back",
        "unused",
        "plot-1",
        "plot-2",
    ):
        assert contrast(colours[name], colours["card"]) >= 3, name
