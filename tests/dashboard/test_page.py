"""The dashboard in a real browser, on real servers to which devices send real updates."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from ravan_edge.device import ServerConnection
from tests.cli.servers import Server, serving
from tests.dashboard.conftest import OpenPage
from tests.dashboard.pages import DRAWN, one_round, opened, tile


def test_it_shows_what_the_server_does(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, server.url)
    expect(page.locator("#state")).to_have_text("running")
    expect(tile(page, "Round")).to_have_text("3 of 30")
    expect(tile(page, "Version")).to_have_text("2")
    expect(tile(page, "Updates stored")).to_have_text("1 of 2")
    expect(tile(page, "On their way")).to_have_text("1")
    expect(tile(page, "Devices ever")).to_have_text("4")
    expect(tile(page, "Accuracy")).to_contain_text("%")
    expect(page.locator("#cohort-words")).to_have_text("1 of 2 updates stored, 1 on their way")
    with ServerConnection(server.url) as connection:
        versions = connection.versions()
        artifact = connection.status().artifact
    expect(page.locator("#artifact")).to_have_text(f"artifact {artifact}")
    # The curves: drawn, and said for who cannot see them.
    scores = versions[0].scores
    assert scores is not None
    accuracy = page.locator("#accuracy .plot")
    expect(accuracy).to_have_attribute("role", "img")
    said = f"Accuracy by version: {100 * (scores['accuracy'] or 0):.2f} % at version 2"
    assert said in (accuracy.get_attribute("aria-label") or "")
    for name in ("accuracy", "loss", "cohorts", "bytes", "seconds"):
        assert page.locator(f"#{name} canvas").evaluate(DRAWN), name
    words = page.locator("#cohorts .plot").get_attribute("aria-label")
    assert words is not None
    assert "0 merged, 1 stored, 1 training, 0 late, 0 given back" in words
    expect(page.locator("#staleness")).to_be_hidden()
    expect(page.locator("#attempts tr")).to_have_count(3)
    expect(page.locator("#failures")).to_contain_text("given back: out of memory2")
    expect(page.locator("#failures")).to_contain_text("late: the round went on without them2")
    expect(page.locator("#versions tr")).to_have_count(3)
    # It asked this server and nobody else, and left nothing in the browser.
    assert {url.startswith(f"{server.url}/") for url in asked} == {True}
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0


@pytest.mark.slow
def test_it_is_live_and_quiet_while_nobody_looks(
    tiny_artifact: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    words = ("--goal", 2, "--over-selection", 2, "--rounds", 2)
    with serving(tiny_artifact, tmp_path / "state", *words) as running:
        page = opened(open_page(), running.url)
        expect(page.locator("#rounds-empty")).to_be_visible()
        expect(page.locator("#quality-empty")).to_be_visible()
        expect(page.locator("#cohort-empty")).to_be_visible()
        expect(page.locator("#failures-empty")).to_be_visible()
        expect(page.locator("#versions tr")).to_have_count(1)
        expect(tile(page, "Accuracy")).to_have_text("–")
        one_round(running.url, tiny_artifact)
        expect(tile(page, "Version")).to_have_text("1")
        expect(page.locator("#versions tr")).to_have_count(2)
        expect(page.locator("#rounds-empty")).to_be_hidden()

        asked: list[str] = []
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true, writable: true})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#live")).to_have_text("paused")
        page.wait_for_timeout(500)
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(3000)
        assert asked == []
        one_round(running.url, tiny_artifact)
        page.evaluate("document.hidden = false")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#state")).to_have_text("finished")


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(
    tiny_artifact: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    state = tmp_path / "state"
    with serving(tiny_artifact, state) as running:
        page = opened(
            open_page(strict=False), running.url
        )  # Chromium says in the console what it cannot reach
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        expect(page.locator("#state")).to_have_text("unreachable")
        expect(page.locator("#notice")).to_have_text("the server cannot be reached")
        port = running.url.rpartition(":")[2]
    with serving(tiny_artifact, state, "--port", port):
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#state")).to_have_text("waiting")
        expect(page.locator("#notice")).to_be_hidden()


def test_hundreds_of_versions_and_staleness(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    with ServerConnection(server.url) as connection:
        found = connection.versions()[0].model_dump(mode="json")
    many = [
        {
            **found,
            "version": number,
            "available": number > 600,
            "scores": {"accuracy": number / 800, "loss": 1 + 1 / (number + 1), "count": 10},
        }
        for number in range(700, -1, -1)
    ]
    page.route(
        "**/v1/versions",
        lambda route: route.fulfill(
            body=json.dumps({"versions": many}), content_type="application/json"
        ),
    )

    def stale(route: Route) -> None:
        attempts = route.fetch().json()
        for attempt in attempts["attempts"]:
            attempt["mean_staleness"] = 0.5 * attempt["entry"]
        route.fulfill(body=json.dumps(attempts), content_type="application/json")

    page.route("**/v1/attempts", stale)
    opened(page, server.url)
    expect(page.locator("#versions tr")).to_have_count(10)
    page.locator("#more-versions").click()
    page.locator("#more-versions").click()
    expect(page.locator("#versions tr")).to_have_count(110)
    expect(page.locator("#versions tr").last).to_contain_text("deleted")
    expect(page.locator("#versions tr").last.get_by_role("button")).to_have_count(0)
    assert page.locator("#accuracy canvas").evaluate(DRAWN)
    expect(page.locator("#staleness")).to_be_visible()
    assert page.locator("#staleness canvas").evaluate(DRAWN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, pytest.param(768, marks=pytest.mark.slow), 1440])
def test_it_fits_and_follows_the_system(
    server: Server, open_page: OpenPage, scheme: str, width: int
) -> None:
    page = opened(open_page(scheme, width), server.url)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (brightness > 600) == (scheme == "light")
    for table in ("attempts", "versions"):  # nothing hides at the side of a table
        box = page.locator(f".table:has(#{table})")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth"), table
    # Every figure and button is as wide as a finger, and has a name.
    for button in page.get_by_role("button").all():
        assert button.is_hidden() or button.evaluate("b => b.offsetHeight") >= 24
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert page.locator("#accuracy canvas").evaluate(DRAWN)


def test_it_can_be_walked_through_by_keyboard(server: Server, open_page: OpenPage) -> None:
    page = opened(open_page(), server.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            )
        )
    assert "Devices of attempt 3" in names
    assert "Download version 2" in names
    # Rows are shown anew every two seconds: the focus stays where it is.
    page.get_by_role("button", name="Devices of attempt 3").focus()
    page.wait_for_timeout(4500)
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Devices of attempt 3"
    headings = page.get_by_role("heading").all_text_contents()
    assert headings[:3] == ["Ravan Edge", "Now", "Quality"]
