"""What every page must be: well-formed, one file, without anything that runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page holds; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def checked(text: str) -> Page:
    """The page, after all checks that hold for every page."""
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert not set(page.tags) & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert len(page.ids) == len(set(page.ids)), "an id twice in one document"
    known = {f"#{name}" for name in page.ids}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"<{tag}> has {name}"
        if name in {"href", "xlink:href", "src", "action", "poster", "srcset", "data"}:
            assert value in known or value.startswith("data:image/png;base64,"), value[:80]
        if name == "for":
            assert f"#{value}" in known
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target in known, target
    assert "@import" not in text
    assert not re.search(r"https?:(?!//www\.w3\.org/)", text)
    assert "#010a0" not in text, "a stand-in colour was left"
    assert "default-src 'none'" in text
    for position in [found.start() for found in re.finditer("<svg", text)]:
        head = text[position : text.index(">", position)]
        assert "aria-label=" in head or "aria-hidden=" in head
    assert len(text.encode()) < 2_000_000
    return page
