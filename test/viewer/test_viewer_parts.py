"""The viewer without a browser: what is sent, in what colour, what a ray meets, the card, the time line, the gate."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blocks import BLOCKS, SIDE_M, Blocks

from gs_semantic.errors import ConflictError, GsSemanticError, InvalidRequestError, StorageError
from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.camera import looking_along
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import palette
from gs_semantic.objects.registry import ObjectState
from gs_semantic.objects.splats import SPLAT
from gs_semantic.viewer.appearance import (
    HIGHLIGHT,
    HIGHLIGHT_SHARE,
    MODES,
    UNKNOWN,
    colours,
    visible,
)
from gs_semantic.viewer.card import card, plain, when
from gs_semantic.viewer.gate import COOKIE, Gate
from gs_semantic.viewer.history import KEPT, History
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.server import is_loopback
from gs_semantic.viewer.source import FolderSource, Snapshot


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return FolderSource(Blocks(tmp_path_factory.mktemp("map") / "blocks").folder)


def facing(position: tuple[float, float, float], at: tuple[float, float, float]) -> Camera:
    forward = np.subtract(at, position) / np.linalg.norm(np.subtract(at, position))
    return Camera(160, 120, 140.0, 140.0, 79.5, 59.5, looking_along(np.array(position), forward))


def test_a_ray_meets_the_first_object_that_is_not_hidden(source: FolderSource) -> None:
    splats = source.newest().splats
    start, direction = np.array([-3.0, 0.0, 0.2]), np.array([2.0, 0.0, 0.0])
    for hidden, expected in ((), 1), ((1,), 2), ((1, 2), 3), ((1, 2, 3), 0):
        assert Picker(splats, hidden).along(start, direction) == expected
    assert Picker(splats).along(start, -direction) == 0
    assert Picker(splats[:0]).along(start, direction) == 0


def test_ids_of_a_view_are_those_of_the_map(source: FolderSource) -> None:
    """Drawn from splats of 52 bytes or from the map itself: the same objects at the same pixels."""
    camera = facing((0.0, -1.9, 1.0), (0.0, 0.0, 0.2))
    drawn = Picker(source.newest().splats).ids(camera)
    expected = source._map.render_labels(camera).instance  # slots, which are the ids here
    assert (drawn == expected).mean() > 0.995 and set(np.unique(drawn)) == {0, 1, 2, 3}


def test_colours_of_every_mode(source: FolderSource) -> None:
    snapshot = source.newest()
    splats, ids = snapshot.splats, snapshot.splats["object_id"]
    shown = {mode: colours(splats, snapshot.objects, mode) for mode in MODES}
    assert (shown["colour"] == splats["rgb"]).all()
    for mode in MODES[1:]:
        assert (shown[mode][ids == 0] == UNKNOWN).all()
    for object_id, obj in snapshot.objects.items():
        own = ids == object_id
        assert (shown["semantic"][own] == palette(8)[obj.class_id]).all()
        assert (shown["instance"][own] == palette(8)[obj.slot]).all()
        assert len(np.unique(shown["confidence"][own], axis=0)) == 1
    sure, doubtful = (
        colours(splats, {1: replace(snapshot.objects[1], confidence=value)}, "confidence")[ids == 1][0].astype(int).sum() for value in (1.0, 0.1)
    )
    assert sure > doubtful + 100
    lit = colours(splats, snapshot.objects, "colour", selected=2)
    changed = (lit != splats["rgb"]).any(axis=1)
    assert (changed == (ids == 2)).all()
    assert np.abs(lit[ids == 2].astype(int) - HIGHLIGHT).max() <= round((1 - HIGHLIGHT_SHARE) * 255) + 1
    assert len(visible(splats, {2})) == len(splats) - BLOCKS["green block"].gaussians
    own = colours(splats, snapshot.objects, "confidence", confidence=np.arange(len(splats)).astype(np.uint8))
    assert (own[ids == 0] == UNKNOWN).all() and len(np.unique(own[ids == 1], axis=0)) > 100
    assert (snapshot.confidence == np.where(ids > 0, round(255 * 3 / 4), 0)).all()  # three votes, and one of doubt


def test_the_card_tells_what_is_known(source: FolderSource) -> None:
    obj = source.newest().objects[2]
    text = card(obj, {2: "green block", 3: "blue block"})
    for part in ("**green block** (object 2)", "(100%)", "2023-11-14 22:13:20 UTC", "2023-11-14 22:13:21 UTC", "confirmed"):
        assert part in text
    assert np.allclose(obj.box.size, SIDE_M, atol=0.06)
    doubtful = replace(obj, alternatives=((2, 0.6), (3, 0.4), (9, 0.1)), confidence=0.6, box=None, centroid=None)
    assert "| or | blue block (40%), class 9 (10%) |" in card(doubtful, {3: "blue block"})
    assert when(12_300_000_000) == "12.3 s"


def test_names_cannot_become_markup() -> None:
    for text in ("<script>alert(1)</script>", "[x](javascript:alert(1))", "**b** | `c` &amp;\n# head", "![i](http://e/x)"):
        shown = plain(text)
        assert "<" not in shown and "\n" not in shown
        for sign in "[]()*|`!#":
            assert shown.count(sign) == shown.count("\\" + sign)


def test_the_time_line_covers_everything_in_bounded_memory() -> None:
    history = History(splats=1000)
    splats = np.zeros(3000, SPLAT)
    splats["scale"], splats["opacity"] = 0.01, 255
    splats["position"], splats["rotation"][:, 0] = np.arange(3000)[:, None] / 20, 32767
    for second in range(2000):
        history.note(Snapshot("", second // 2, "map", splats), float(second))
        history.note(Snapshot("", second // 2, "map", splats), second + 0.1)  # too early
    kept = history.before(10**9)
    revisions = np.array([snapshot.revision for snapshot in kept])
    assert KEPT // 2 <= len(kept) <= KEPT and revisions[0] == 0 and revisions[-1] > 900
    assert np.diff(revisions).max() <= 2 * np.diff(revisions).min()
    assert all(0 < len(snapshot.splats) <= 1000 for snapshot in kept)
    assert kept[-1].revision not in [snapshot.revision for snapshot in history.before(kept[-1].revision)]


def test_several_folders_are_a_time_line(tmp_path: Path) -> None:
    folders = [Blocks(tmp_path / name, floor).folder for name, floor in (("monday", 10), ("tuesday", 20))]
    source = FolderSource(*folders)
    assert source.title == "tuesday" and [len(s.splats) for s in source.earlier()] == [100 + 3 * 600]
    assert len(source.newest().splats) == 400 + 3 * 600
    with pytest.raises(InvalidRequestError, match="no map folder"):
        FolderSource()


def test_a_name_that_cannot_be_saved_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FolderSource(Blocks(tmp_path / "blocks").folder)

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("gs_semantic.viewer.source.save_map", full)
    with pytest.raises(StorageError):
        source.rename(1, "mug")
    assert source._map.mapper.objects.by_id(1).name == "" and source.newest().objects[1].name == ""


def test_a_name_does_not_undo_what_was_saved_meanwhile(tmp_path: Path) -> None:
    folder = Blocks(tmp_path / "blocks").folder
    source = FolderSource(folder)
    gaussians, objects = load_map(folder)  # the mapper, or another viewer, goes on with the same map
    objects.by_id(2).name = "theirs"
    save_map(folder, gaussians, objects)
    source.rename(1, "mine")  # the newer map is read, and both names are in it
    saved = load_map(folder)
    assert (saved[1].by_id(1).name, saved[1].by_id(2).name) == ("mine", "theirs") and saved[0].revision >= gaussians.revision
    assert {obj.name for obj in source.newest().objects.values()} == {"mine", "theirs", ""}
    # an object that is gone in the newer map is named
    objects = load_map(folder)[1]
    objects.by_id(3).state = ObjectState.REMOVED
    save_map(folder, gaussians, objects)
    with pytest.raises(GsSemanticError, match="3"):
        source.rename(3, "too late")
    # another map at this place is not written over
    other = Blocks(tmp_path / "other", floor=10).folder
    save_map(folder, *load_map(other))
    with pytest.raises(ConflictError, match=rf"{folder}.*another map"):
        source.rename(1, "lost")
    assert load_map(folder)[1].by_id(1).name == ""
    with pytest.raises(ConflictError, match="meanwhile"):  # saved between the look and the swap
        save_map(folder, gaussians, objects, replaces=(1, 2, 3))


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def inner() -> Iterator[int]:
    """A web server on loopback, as viser is one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = f"inside {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(port: int, path: str, cookie: str = "") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
    reply = connection.getresponse()
    text, headers = reply.read().decode(), {name: value for name, value in reply.getheaders()}
    connection.close()
    return reply.status, text, headers


def test_only_who_has_the_token_gets_in(inner: int) -> None:
    gate = Gate("127.0.0.1", 0, inner, "right key")
    try:
        for path, cookie in ("/", ""), ("/?token=wrong", ""), ("/", f"{COOKIE}_{gate.port}=wrong"), ("/", f"{COOKIE}=right%20key"), ("/?token=", ""), ("/", "\x7f=;;"):
            status, text, _ = get(gate.port, path, cookie)
            assert status == 401 and "token" in text and "inside" not in text
        for path in "/x", "//elsewhere/x", "/\\/x", "///x":
            status, _, headers = get(gate.port, f"{path}?a=1&token=right%20key")
            assert (status, headers["Location"]) == (303, "/x?a=1")
        given = headers["Set-Cookie"]
        assert "HttpOnly" in given and "SameSite=Strict" in given
        assert get(gate.port, "/x?a=1", given.split(";")[0])[:2] == (200, "inside /x?a=1")
        # a second request on the same connection is not let through
        with socket.create_connection(("127.0.0.1", gate.port), timeout=60) as raw:
            first = f"GET /1 HTTP/1.1\r\nHost: h\r\nCookie: {given.split(';')[0]}\r\n\r\n"
            raw.sendall((first + "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n").encode())
            found = b""
            while block := raw.recv(4096):
                found += block
        assert b"inside /1" in found and b"inside /2" not in found
        # what is no HTTP, or has no end, is hung up on
        for garbage in b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000:
            with socket.create_connection(("127.0.0.1", gate.port), timeout=60) as raw:
                try:
                    raw.sendall(garbage)
                    assert raw.recv(100) == b""
                except ConnectionError:
                    continue
        assert get(gate.port, "/", given.split(";")[0])[0] == 200
    finally:
        gate.close()


def test_two_viewers_on_one_host_keep_their_cookies_apart(inner: int) -> None:
    gates = [Gate("127.0.0.1", 0, inner, key) for key in ("first", "second")]
    try:
        jar = "; ".join(
            get(gate.port, f"/?token={key}")[2]["Set-Cookie"].split(";")[0] for gate, key in zip(gates, ("first", "second"), strict=True)
        )
        assert [get(gate.port, "/", jar)[0] for gate in gates] == [200, 200]
    finally:
        for gate in gates:
            gate.close()


def test_an_address_in_use_is_named(inner: int) -> None:
    with pytest.raises(GsSemanticError, match=rf"cannot listen on 127.0.0.1:{inner}"):
        Gate("127.0.0.1", inner, inner, "key")


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("robot", False), ("", False)])
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
