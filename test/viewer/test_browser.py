"""The viewer in a real browser: headless Chromium opens the page, clicks an object, and what lights up is that object.

Chromium with chromedriver (Debian's packages) and selenium (PyPI) are needed; without them the tests are skipped.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import BLOCKS, Blocks
from PIL import Image

viser = pytest.importorskip("viser", reason="the extra 'viewer' is not installed (pip install viser)")
pytest.importorskip("selenium", reason="selenium is not installed (pip install selenium)")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no chromium and chromedriver (apt install chromium chromium-driver)", allow_module_level=True)

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.server import Viewer
from gs_semantic.viewer.session import Session, camera_of
from gs_semantic.viewer.source import FolderSource

PATIENCE_S = 120.0
FLAGS = (  # a browser without screen, GPU, network and user
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--window-size=760,480", "--force-device-scale-factor=1"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(PATIENCE_S)
    yield driver
    driver.quit()


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks(tmp_path / "blocks")


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


class Page:
    """The open page, as a person sees it."""

    def __init__(self, browser: webdriver.Chrome, viewer: Viewer) -> None:
        self.browser = browser
        browser.get(viewer.address)
        self.session: Session = until(lambda: next(iter(viewer.sessions.values()), None), "the page")
        until(lambda: self.session.shown, "splats")
        close = "document.querySelectorAll('.mantine-Notification-closeButton').forEach(button => button.click())"
        left = "return document.querySelectorAll('.mantine-Notification-root').length"
        browser.execute_script(close)  # a notice that there is no GPU lies over the view
        until(lambda: not browser.execute_script(left), "a free view")
        largest = "[...document.querySelectorAll('canvas')].sort((a, b) => b.width - a.width)[0]"
        place = browser.execute_script(f"return {largest}.getBoundingClientRect()")
        self.left, self.top = round(place["x"]), round(place["y"])
        self.width, self.height = round(place["width"]), round(place["height"])

    def look(self, position: tuple[float, ...], at: tuple[float, ...]) -> Camera:
        """Put the camera somewhere, and wait until the view stands still."""
        camera = self.session.client.camera
        camera.position, camera.look_at = np.array(position), np.array(at)
        until(lambda: np.allclose(camera_of(camera).T_world_camera[:3, 3], position, atol=1e-3), "the camera")
        self.still()
        return camera_of(camera)

    def canvas(self) -> np.ndarray:
        def shot() -> bytes:
            try:
                return self.browser.get_screenshot_as_png()
            except TimeoutException:  # the driver waits ten seconds, which is short for a software renderer on a busy machine
                return b""

        image = np.asarray(Image.open(io.BytesIO(until(shot, "a screenshot"))).convert("RGB"))
        return image[self.top : self.top + self.height, self.left : self.left + self.width].astype(int)

    def still(self, differs_from: np.ndarray | None = None) -> np.ndarray:
        """The view when it has not changed for a while."""
        last, since, same = self.canvas(), time.monotonic(), 0

        def settled() -> bool:
            nonlocal last, since, same
            now = self.canvas()
            same += 1
            if (now != last).any() or (differs_from is not None and (now == differs_from).all()):
                last, since, same = now, time.monotonic(), 0
            return same >= 4 and time.monotonic() - since > 1.0  # one picture may take longer than that

        until(settled, "a view that stands still")
        return last

    def click(self, u: int, v: int) -> None:
        actions = ActionChains(self.browser)
        actions.w3c_actions.pointer_action.move_to_location(self.left + u, self.top + v)
        actions.w3c_actions.pointer_action.click()
        actions.perform()

    def press(self, text: str) -> None:
        """Push the button with this text."""
        xpath = f"//button[not(@data-disabled)][contains(., '{text}')]"
        until(lambda: self.browser.find_elements("xpath", xpath), f"the button '{text}'")[0].click()

    @property
    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))


def test_a_click_lights_up_what_the_id_image_shows(browser: webdriver.Chrome, blocks: Blocks) -> None:
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


def test_the_time_line_shows_earlier_revisions(browser: webdriver.Chrome, tmp_path: Path) -> None:
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


def test_with_a_token_the_page_opens_through_the_gate(browser: webdriver.Chrome, blocks: Blocks) -> None:
    with Viewer(FolderSource(blocks.folder), port=0, token="a key") as viewer:
        browser.get(viewer.address.partition("?")[0])
        assert "needs a token" in browser.page_source and not viewer.sessions
        page = Page(browser, viewer)
        assert "token" not in browser.current_url and "3 objects" in until(lambda: page.text, "a text")


def test_an_object_is_named_and_hidden_from_the_page(browser: webdriver.Chrome, blocks: Blocks) -> None:
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
        page.press("Rename")
        until(lambda: source.newest().objects[1].name == "<b>my</b> *mug*", "the new name")
        until(lambda: "<b>my</b> *mug* (object 1)" in page.text, "the name as text, not as markup")
        assert load_map(blocks.folder)[1].by_id(1).name == "<b>my</b> *mug*"
        shown = page.session.shown
        page.press("Hide")
        until(lambda: page.session.shown < shown, "fewer splats")
        assert page.session.shown == shown - BLOCKS["red block"].gaussians
        page.click(u, v)
        until(lambda: page.session.selected != 1, "another selection")  # what is hidden cannot be clicked
        page.press("Show hidden objects")
        until(lambda: page.session.shown == shown, "all splats")
