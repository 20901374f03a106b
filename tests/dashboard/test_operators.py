"""What operators do on the dashboard, and what strangers cannot: in a real browser, on real servers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Route, expect

from ravan_edge.device import ServerConnection
from tests.cli.servers import Server, serving
from tests.dashboard.conftest import OpenPage
from tests.dashboard.pages import HOSTILE, one_round, opened, tile


def test_a_version_is_downloaded(server: Server, open_page: OpenPage, tmp_path: Path) -> None:
    page = opened(open_page(), server.url)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download version 1").click()
    assert caught.value.suggested_filename == "heads-version-1.safetensors"
    caught.value.save_as(tmp_path / "heads")
    with ServerConnection(server.url) as connection:
        heads = connection.versions()[1].heads
    assert hashlib.sha256((tmp_path / "heads").read_bytes()).hexdigest() == heads


def test_an_operator_goes_back_by_keyboard(
    tiny_artifact: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    words = ("--goal", 2, "--over-selection", 2)
    with serving(tiny_artifact, tmp_path / "state", *words) as running:
        one_round(running.url, tiny_artifact)
        page = opened(open_page(), running.url)
        button = page.get_by_role("button", name="Roll back to version 0")
        button.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Roll back?")
        expect(dialog).to_contain_text("with the heads of version 0")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")  # Cancel has the focus
        expect(dialog).to_be_hidden()
        page.wait_for_timeout(300)
        with ServerConnection(running.url) as connection:
            assert connection.status().version == 1
        button.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(tile(page, "Version")).to_have_text("2")
        expect(page.locator("#versions tr").first).to_contain_text("version 0")
        expect(page.locator("#failures")).to_contain_text("an operator rolled back")
        with ServerConnection(running.url) as connection:
            assert connection.versions()[0].copy_of == 0


@contextmanager
def another_site() -> Iterator[str]:
    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another</title>")

        def log_message(self, *_: object) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=site.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{site.server_port}"
    finally:
        site.shutdown()
        site.server_close()


def test_a_page_of_another_site_can_neither_go_back_nor_frame_it(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(strict=False)
    with another_site() as other, ServerConnection(server.url) as connection:
        before = connection.status().version
        page.goto(other)
        page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors'}).catch(() => null)",
            f"{server.url}/v1/versions/0/rollback",
        )
        assert connection.status().version == before
        page.evaluate(
            """url => new Promise(resolve => {
                 const frame = document.createElement('iframe');
                 frame.onload = resolve; frame.src = url; document.body.append(frame);
               })""",
            f"{server.url}/",
        )
        assert not any(frame.locator("#tiles").count() for frame in page.frames[1:])


def test_what_strangers_write_is_only_text(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    hostile = {"tasks": [], "after": None}
    task = {"number": 0, "plan": "whole", "state": "late", "seconds": 1, "bytes": None}
    task |= {"examples": None, "steps": None}
    failure = {"reason": HOSTILE, "detail": HOSTILE}
    hostile["tasks"] = [{**task, "device": HOSTILE, "state": HOSTILE, "failure": failure}]

    def answer(route: Route) -> None:
        route.fulfill(body=json.dumps(hostile), content_type="application/json")

    opened(page, server.url)
    page.get_by_role("button", name="Devices of attempt 1").click()
    expect(page.locator("#cohort-title")).to_contain_text("Cohort of round 1")
    expect(page.locator("#cohort")).to_contain_text(f"out of memory: {HOSTILE}")
    assert page.locator("#cohort img, #cohort script").count() == 0
    # A server refuses such an id; should one come nevertheless, it is text, too.
    page.route("**/v1/attempts/2/tasks", answer)
    page.get_by_role("button", name="Devices of attempt 2").click()
    expect(page.locator("#cohort td.device")).to_have_text([HOSTILE])
    assert page.locator("main img, main script").count() == 0
    assert "owned" not in page.title()


def test_the_token_is_asked_for_and_kept_in_the_tab(
    tiny_artifact: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    state = tmp_path / "state"
    with serving(tiny_artifact, state, "--enrolment") as running:
        token = (state / "operator.token").read_text().strip()
        page = open_page(strict=False)  # the console shows what is refused
        page.goto(running.url)
        dialog = page.get_by_role("dialog", name="Operators only")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        page.get_by_label("Token").fill("wrong-wrong-wrong-wrong-wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#login-error")).to_contain_text("not the token")
        page.get_by_label("Token").fill("with spaces")
        page.keyboard.press("Enter")
        expect(page.locator("#login-error")).to_contain_text("letters, digits")
        page.get_by_label("Token").fill(f" {token}\n")
        page.keyboard.press("Enter")
        expect(page.locator("#live")).to_have_text("live")
        expect(dialog).to_be_hidden()
        expect(tile(page, "Version")).to_have_text("0")
        with page.expect_download() as caught:
            page.get_by_role("button", name="Download version 0").click()
        assert caught.value.path().stat().st_size > 100
        assert page.evaluate("Object.values(sessionStorage)") == [token]
        assert page.context.cookies() == []
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        expect(page.locator("#live")).to_have_text("live")
        page.get_by_role("button", name="Forget token").click()
        expect(dialog).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
        assert token not in running.log.read_text()
