"""A page of the viewer in headless Chromium, without screen, GPU, network and user: for benches and tests."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gs_semantic.errors import GsSemanticError, MissingExtraError
from gs_semantic.gaussians import Camera
from gs_semantic.viewer.server import Viewer
from gs_semantic.viewer.session import Session, camera_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PATIENCE_S = 120.0
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--window-size=760,480", "--force-device-scale-factor=1"),
)


def missing() -> str:
    """What is not installed; empty when a browser can be opened."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "no chromium and chromedriver (apt install chromium chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install selenium)"
    return ""


@contextmanager
def headless_chromium() -> Iterator[Chrome]:
    """GsSemanticError or MissingExtraError when there is none."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        raise GsSemanticError(missing())
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError as error:
        raise MissingExtraError.for_module("selenium", "dev", "a page in a browser") from error
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            driver.set_page_load_timeout(PATIENCE_S)
            yield driver
        finally:
            driver.quit()


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of a condition; GsSemanticError says for what it waited in vain."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise GsSemanticError(f"waited in vain for {what} ({patience_s:g} s)")
        time.sleep(0.05)
    return found


class Page:
    """The open page, as a person sees it. session: the viewer's side of it."""

    def __init__(self, browser: Chrome, viewer: Viewer) -> None:
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

    def screenshot(self) -> Image.Image:
        """The whole window."""
        from selenium.common.exceptions import TimeoutException

        def shot() -> bytes:
            try:
                return self.browser.get_screenshot_as_png()
            except (
                TimeoutException
            ):  # the driver waits ten seconds, which is short for a software renderer on a busy machine
                return b""

        return Image.open(io.BytesIO(until(shot, "a screenshot"))).convert("RGB")

    def canvas(self) -> np.ndarray:
        """What the view shows, int (H, W, 3)."""
        image = np.asarray(self.screenshot())
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
        """On a pixel of the view."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.browser)
        actions.w3c_actions.pointer_action.move_to_location(self.left + u, self.top + v)
        actions.w3c_actions.pointer_action.click()
        actions.perform()

    @property
    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))
