"""What the tests of the dashboard share: a page that shows a server, devices that send to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from ravan_edge.artifact import open_artifact
from ravan_edge.device import ServerConnection
from ravan_edge.protocol import CheckIn, DeviceFailure, FailureReason, TaskOffer
from tests.server.server_kit import device_update, wait_until

__all__ = ["DRAWN", "HOSTILE", "offer_to", "one_round", "opened", "tile"]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>"
DRAWN = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, at) => at % 4 === 3 && value > 0);
}"""


def offer_to(connection: ServerConnection, number: int) -> TaskOffer:
    check_in = CheckIn(protocol=1, device=f"device-{number:03}", plans=("whole",))
    offer = connection.check_in(check_in)
    assert isinstance(offer, TaskOffer)
    return offer


def one_round(url: str, artifact: Path) -> None:
    """Two devices send, one gives its task back, one says nothing."""
    opened = open_artifact(artifact)
    with ServerConnection(url) as connection:
        version = connection.status().version
        offers = [offer_to(connection, number) for number in range(4)]
        failure = DeviceFailure(reason=FailureReason.OUT_OF_MEMORY, detail=HOSTILE)
        connection.give_back(offers[3].task, failure)
        for offer in offers[:2]:
            connection.upload(offer.task, device_update(opened, offer))
        wait_until(lambda: connection.status().version > version)


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator("#live")).to_have_text("live")
    return page


def tile(page: Page, name: str) -> Any:
    return page.locator("#tiles div", has=page.get_by_text(name, exact=True)).locator("dd")
