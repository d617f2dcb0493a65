"""The viewer in a real browser: headless Chromium opens the page, clicks an object, and what lights up is that object.

Chromium with chromedriver (Debian's packages) and selenium (PyPI) are needed; without them the tests are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from blocks import BLOCKS, Blocks

pytest.importorskip("viser", reason="the extra 'viewer' is not installed (pip install viser)")

from gs_semantic.benchmarks.browser import Page, headless_chromium, missing, until
from gs_semantic.data.opaque_room import opaque_room
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.registry import ObjectRegistry
from gs_semantic.objects.splats import map_of_splats
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.viewer import pace
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.server import Viewer
from gs_semantic.viewer.source import FolderSource

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

if missing():
    pytest.skip(missing(), allow_module_level=True)

@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with headless_chromium() as driver:
        yield driver


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks(tmp_path / "blocks")


def test_a_click_lights_up_what_the_id_image_shows(browser: Chrome, blocks: Blocks) -> None:
    source = FolderSource(blocks.folder)
    with Viewer(source, port=0) as viewer:
        page = Page(browser, viewer)
        page.session._box.value = False
        camera = page.look((0.0, -1.9, 1.0), (0.0, 0.0, 0.2))
        assert (camera.width, camera.height) == (page.width, page.height)
        ids = Picker(source.newest().splats).ids(camera)
        before = page.canvas()
        for number, colour in ((2, "green"), (3, "blue")):
            v, u = np.argwhere(ids == number).mean(0).round().astype(int)
            page.click(u, v)
            until(lambda number=number: page.session.selected == number, "the selection")
            lit = page.still(differs_from=before)
            mask = np.abs(lit - before).max(axis=2) > 60
            expected = ids == number
            overlap = (mask & expected).sum() / (mask | expected).sum()
            assert expected.sum() > 2000 and overlap > 0.9, (expected.sum(), mask.sum(), overlap)
            until(lambda colour=colour: f"{colour} block" in page.text, "the card")
        assert "0.40 x 0.40 x 0.40 m" in page.text
        # beside all objects: nothing is selected any more
        v, u = np.argwhere(ids == 0)[0]
        page.click(u, v)
        until(lambda: page.session.selected == 0, "the end of the selection")
        assert (np.abs(page.still(differs_from=lit) - before).max(axis=2) > 20).mean() < 0.01


def test_the_time_line_shows_earlier_revisions(browser: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    folders = [Blocks(tmp_path / name, floor).folder for name, floor in (("monday", 10), ("tuesday", 20))]
    with Viewer(FolderSource(*folders), port=0) as viewer:
        page = Page(browser, viewer)
        newest = page.session.shown
        until(lambda: "tuesday revision" in page.text and "all 2,200 Gaussians; 3 objects" in page.text, "the newest")
        knob = until(lambda: browser.find_elements("css selector", "[role='slider']"), "the time line")[0]
        knob.send_keys(Keys.ARROW_LEFT)
        until(lambda: page.session.shown < newest, "the earlier revision")
        until(lambda: "monday revision" in page.text and "all 1,900 Gaussians; 3 objects" in page.text, "what is told of it")
        knob.send_keys(Keys.ARROW_RIGHT)
        until(lambda: page.session.shown == newest, "the newest again")


def test_with_a_token_the_page_opens_through_the_gate(browser: Chrome, blocks: Blocks) -> None:
    with Viewer(FolderSource(blocks.folder), port=0, token="a key") as viewer:
        browser.get(viewer.address.partition("?")[0])
        assert "needs a token" in browser.page_source and not viewer.sessions
        page = Page(browser, viewer)
        assert "token" not in browser.current_url and "3 objects" in until(lambda: page.text, "a text")


def press(page: Page, text: str) -> None:
    """Push the button with this text."""
    xpath = f"//button[not(@data-disabled)][contains(., '{text}')]"
    until(lambda: page.browser.find_elements("xpath", xpath), f"the button '{text}'")[0].click()


def test_an_object_is_named_and_hidden_from_the_page(
    browser: Chrome, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(blocks.folder)
    with Viewer(source, port=0) as viewer:
        page = Page(browser, viewer)
        camera = page.look((0.0, -1.9, 1.0), (0.0, 0.0, 0.2))
        ids = Picker(source.newest().splats).ids(camera)
        v, u = np.argwhere(ids == 1).mean(0).round().astype(int)
        page.click(u, v)
        until(lambda: page.session.selected == 1, "the selection")
        below = "//*[normalize-space(text())='Name']/following::*[self::input or self::textarea][1][not(@disabled)]"
        field = until(lambda: browser.find_elements("xpath", below), "the field for the name")[0]
        field.send_keys("<b>my</b> *mug*")
        until(lambda: page.session._name.value == "<b>my</b> *mug*", "the name on the server")
        waits, rename = threading.Event(), source.rename
        monkeypatch.setattr(source, "rename", lambda *given: (waits.wait(), rename(*given)))
        press(page, "Rename")
        shown = page.session.shown
        press(page, "Hide")  # a disk or a mapper that takes its time does not stop the view
        until(lambda: page.session.shown < shown, "fewer splats")
        assert source.newest().objects[1].name == ""
        press(page, "Show")
        until(lambda: page.session.shown == shown, "all splats")
        waits.set()
        until(lambda: source.newest().objects[1].name == "<b>my</b> *mug*", "the new name")
        until(lambda: "<b>my</b> *mug* (object 1)" in page.text, "the name as text, not as markup")
        assert load_map(blocks.folder)[1].by_id(1).name == "<b>my</b> *mug*"
        press(page, "Hide")
        until(lambda: page.session.shown < shown, "fewer splats")
        assert page.session.shown == shown - BLOCKS["red block"].gaussians
        page.click(u, v)
        until(lambda: page.session.selected != 1, "another selection")  # what is hidden cannot be clicked
        press(page, "Show hidden objects")
        until(lambda: page.session.shown == shown, "all splats")
        # what goes wrong is told on the page
        other = Blocks(tmp_path / "other", floor=10).folder
        save_map(blocks.folder, *load_map(other))
        page.session.select(1)
        press(page, "Rename")
        until(lambda: "another map" in page.text, "the error")


def test_a_large_map_is_seen(browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the page is sent: what it gets is as much as its browser draws, and looks like the whole map."""
    count, first = 30_000, 6_000
    monkeypatch.setattr(pace, "FIRST", first)
    monkeypatch.setattr(pace, "FEWEST", first // 2)
    room, objects = opaque_room(count), ObjectRegistry()
    room["object"].zero_()
    register_votes(room)
    save_map(tmp_path / "room", room, objects)
    source = FolderSource(tmp_path / "room")
    with Viewer(source, port=0) as viewer:
        page = Page(browser, viewer)
        until(lambda: page.session.settled, "a number of splats that suits the browser")
        camera = page.look((0.4, 0.4, 1.6), (3.0, 2.5, 1.2))
        seen, shown = page.still(), page.session.shown
        assert first / 4 < shown <= count
        assert shown == count or f"{shown:,} for {count:,} Gaussians" in page.text
    whole = create_rasterizer("auto", RasterSettings(eps2d=0.3)).render(map_of_splats(source.newest().splats)[0], camera)
    middle = (slice(30, -30), slice(30, -30))  # signs of the page lie in the corners
    expected = np.round(whole.rgb.clamp(0, 1).numpy() * 255).astype(np.uint8)[middle]
    assert psnr(seen[middle].astype(np.float32) / 255, expected) > 18
