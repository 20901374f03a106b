"""A headless Chromium of the system, and pages that nobody may disturb."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from ravan_edge.artifact import open_artifact
from ravan_edge.device import ServerConnection
from tests.cli.servers import Server, serving
from tests.dashboard.pages import offer_to, one_round
from tests.server.server_kit import device_update, wait_until
from tests.tiny_artifact import make_tiny_artifact, tiny_rows

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no Chromium here: install one (Debian: apt-get install chromium), or name it in CHROMIUM"


@pytest.fixture(scope="module")  # its event loop would be in the way of other tests
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Of the system: nothing is downloaded. Without one these tests are skipped, but never in CI."""
    paths = [os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES)]
    found = next((path for path in paths if path), None)
    if found is None:
        assert not os.environ.get("CI"), MISSING
        pytest.skip(MISSING)
    # The sandbox needs rights that containers and root do not have; the pages are our own.
    running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
    yield running
    running.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """``open_page(scheme="dark", width=360)``: an empty page, in which nothing may go wrong."""
    complaints: list[str] = []
    contexts = []

    def open_(scheme: str = "light", width: int = 1200, *, strict: bool = True) -> Page:
        context = browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": width, "height": 800},
            accept_downloads=True,
            locale="en-GB",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        if strict:
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda said: complaints.append(said.text) if said.type != "log" else None,
            )
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("dashboard") / "artifact").folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv on which versions can be scored."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(60)])
    return path


@pytest.fixture(scope="session")
def server(
    tiny_artifact: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two rounds are over and scored; in the third one update is stored, and one task is out."""
    state = tmp_path_factory.mktemp("seen") / "state"
    words = ("--goal", 2, "--over-selection", 2, "--rounds", 30, "--test", rows)
    with serving(tiny_artifact, state, *words) as running:
        for _ in range(2):
            one_round(running.url, tiny_artifact)
        with ServerConnection(running.url) as connection:
            offers = [offer_to(connection, number) for number in range(2)]
            connection.upload(
                offers[0].task, device_update(open_artifact(tiny_artifact), offers[0])
            )
            wait_until(lambda: connection.versions()[0].scores is not None)
        yield running
