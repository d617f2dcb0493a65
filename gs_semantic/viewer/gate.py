"""A door with a key: only who knows the token gets through to a web server that listens on loopback.

viser has no access control of its own. The first address has ``?token=...``; the answer is a cookie and the address
without it. Every connection is examined once, by its first request; then its bytes are passed on.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import http.cookies
import threading
import urllib.parse

from gs_semantic.errors import GsSemanticError
from gs_semantic.files import reason

COOKIE = "gs_semantic_viewer"  # and the port
HEAD_BYTES = 16_384
HEAD_PATIENCE_S = 10.0
BLOCK = 65_536


class Gate:
    """Listens on ``host``:``port`` (0: any free one; ``port`` tells) for a server on 127.0.0.1:``inner_port``."""

    def __init__(self, host: str, port: int, inner_port: int, token: str) -> None:
        self.port = port
        self._inner_port, self._token = inner_port, token.encode()
        self._ready, self._failed = threading.Event(), ""
        self._open: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(host, port)), name="gate", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed:
            self._thread.join()
            raise GsSemanticError(self._failed)

    def close(self) -> None:
        """Close the door and every connection."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(timeout=5)

    async def _run(self, host: str, port: int) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)
        except (OSError, OverflowError, ValueError) as error:
            self._failed = f"the viewer cannot listen on {host}:{port}: {reason(error)}"
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            return  # who was there has gone, or speaks no HTTP
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_PATIENCE_S)
        target, headers = parse_head(head)
        address = urllib.parse.urlsplit(target)
        query = urllib.parse.parse_qsl(address.query)
        given = dict(query).get("token")
        if given is not None and self._is_token(given):
            rest = urllib.parse.urlencode([(name, value) for name, value in query if name != "token"])
            # a path here, never another host's ("//elsewhere")
            place = "/" + urllib.parse.quote(address.path.lstrip("/\\"), safe="/%") + (f"?{rest}" if rest else "")
            cookie = f"{COOKIE}_{self.port}={urllib.parse.quote(given)}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(writer, http.HTTPStatus.SEE_OTHER, {"Location": place, "Set-Cookie": cookie})
            return
        if not self._is_token(cookie_of(headers, self.port)):
            text = "This viewer needs a token: open the address that it printed when it was started, with ?token=..."
            await _answer(writer, http.HTTPStatus.UNAUTHORIZED, {}, text)
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port)
        try:
            inner_writer.write(head)
            back = asyncio.ensure_future(_pass_on(inner_reader, writer))
            if "upgrade" in headers:  # after any other request nothing more is taken: it might be somebody else's
                there = asyncio.ensure_future(_pass_on(reader, inner_writer))
                _, left = await asyncio.wait((back, there), return_when=asyncio.FIRST_COMPLETED)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
            else:
                await back
        finally:
            inner_writer.close()

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token)


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Target and headers (lower-case names) of an HTTP request; OSError when it is none."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise OSError("not an HTTP request")
    pairs = (line.partition(":") for line in lines if line)
    return words[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


def cookie_of(headers: dict[str, str], port: int) -> str:
    """The token that a browser sends with its cookie; empty without one. Browsers know cookies by host, not by port: each
    viewer of a host has its own."""
    jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return ""
    name = f"{COOKIE}_{port}"
    return urllib.parse.unquote(jar[name].value) if name in jar else ""


async def _answer(
    writer: asyncio.StreamWriter, status: http.HTTPStatus, headers: dict[str, str], text: str = ""
) -> None:
    body = text.encode()
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}", "Cache-Control: no-store"]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
    await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        writer.write(block)
        await writer.drain()
