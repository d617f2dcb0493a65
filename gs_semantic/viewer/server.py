"""The web server of the viewer: one session per open page, all served by one thread."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.viewer.gate import Gate
from gs_semantic.viewer.history import History
from gs_semantic.viewer.session import Session
from gs_semantic.viewer.settings import HOST, PORT, SPLATS
from gs_semantic.viewer.source import MapSource

if TYPE_CHECKING:
    import viser
    from typing_extensions import Self

PERIOD_S = 0.05


class Viewer:
    """Serves a map to browsers until it is closed.

    host: other than loopback only with a token, which is made when none is given; port 0: a free one; splats: at most
    so many are sent to a page. ``address`` is what to open.
    """

    def __init__(
        self, source: MapSource, host: str = HOST, port: int = PORT, token: str = "", splats: int = SPLATS
    ) -> None:
        if splats < 1:
            raise InvalidRequestError(f"splats is {splats}, expected 1 or more")
        wide = not is_loopback(host)
        self.token = token or (secrets.token_urlsafe(24) if wide else "")
        self._source, self._splats = source, splats
        self._gate: Gate | None = None
        self._history = History(source.earlier())
        self._wake, self._ending = threading.Event(), False
        self._edits = ThreadPoolExecutor(
            1, "edits"
        )  # of all pages: a mapper or a disk that is slow must not stop the views
        self._arrived: list[viser.ClientHandle] = []
        self._left: list[int] = []
        self._failed: BaseException | None = None
        self.sessions: dict[int, Session] = {}
        # behind the gate nobody outside reaches viser itself
        self._server = _start_viser("127.0.0.1" if self.token else host, 0 if self.token else port, source.title)
        try:
            if self.token:
                self._gate = Gate(host, port, self._server.get_port(), self.token)
        except BaseException:
            self._server.stop()
            raise
        self.port = self._gate.port if self._gate else self._server.get_port()
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")
        self._server.on_client_connect(self._connected)
        self._server.on_client_disconnect(self._disconnected)
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every page's connection; the source stays open."""
        self._ending = True
        self._wake.set()
        self._thread.join(timeout=10)
        self._edits.shutdown(wait=True)
        if self._gate is not None:
            self._gate.close()
        self._server.stop()

    def _session(self, client: viser.ClientHandle) -> Session:
        return Session(client, self._source, self._history, self._splats, self._wake, self._edits)

    def _connected(self, client: viser.ClientHandle) -> None:
        self._arrived.append(client)
        self._wake.set()

    def _disconnected(self, client: viser.ClientHandle) -> None:
        self._left.append(client.client_id)
        self._wake.set()

    def wait(self, stop: Callable[[], bool]) -> None:
        """Until ``stop`` says so; what ended the viewer's thread is raised here."""
        while not stop() and self._thread.is_alive():
            self._thread.join(PERIOD_S)
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        try:
            while not self._ending:
                self._wake.wait(PERIOD_S)
                self._wake.clear()
                self._turn()
        except Exception as error:  # noqa: BLE001 - told to whom waits for the viewer
            self._failed = error

    def _turn(self) -> None:
        newest = self._source.newest()
        self._history.note(newest, time.monotonic())
        while self._arrived:
            client = self._arrived.pop(0)
            self.sessions[client.client_id] = self._session(client)
        while self._left:
            self.sessions.pop(self._left.pop(0), None)
        for key, session in list(self.sessions.items()):
            try:
                session.update(newest)
            except Exception:  # one page must not end the others
                logging.getLogger(__name__).exception("a page of the viewer failed")
                del self.sessions[key]


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine reaches? Names other than localhost are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _start_viser(host: str, port: int, title: str) -> viser.ViserServer:
    try:
        import viser
    except ImportError as error:
        raise MissingExtraError.for_module("viser", "viewer", "the viewer") from error
    server = viser.ViserServer(host, port, label=title, verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    server.scene.set_up_direction("+z")
    return server
