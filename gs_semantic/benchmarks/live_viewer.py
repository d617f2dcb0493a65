"""``bench viewer --live``: a mapper at work on a large map, and what its changes cost on the way to the viewer and its page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context

from gs_semantic.benchmarks.browser import Page, headless_chromium, missing, until
from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.benchmarks.query import RATE_HZ, SPARE, make_map
from gs_semantic.nodes.arguments import MAPPER, REPLAY
from gs_semantic.nodes.viewer_node import LiveSource
from gs_semantic.objects.splats import SPLAT
from gs_semantic.viewer.server import Viewer

OBJECTS = 200
PATIENCE_S = 180.0


def run_live_viewer(
    sequence: Path,
    folder: Path,
    gaussians: int,
    seconds: float,
    parameters: dict[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """A map of so many Gaussians is loaded and mapping goes on; a viewer follows it. ``progress`` is called every second.

    live_whole_mb, live_whole_s: until the viewer has the whole map; then, for ``seconds``: live_revisions that reached it,
    live_mb_s and live_most_mb_s (in one second) from the mapper to it, live_resent_mb: what sending each of these revisions whole
    would have taken. With a browser: live_page_mb_s, to a page that is open, of live_page_splats.
    """
    path = folder / "map"
    count, _ = make_map(sequence, path, gaussians, OBJECTS)
    arguments = {"sequence": sequence, "rate_hz": RATE_HZ, "loop": "true", "masks": "shuffled", "load_map": path}
    with ExitStack() as stack:
        live = stack.enter_context(LiveSystem(folder, arguments, {"max_gaussians": count + SPARE, **parameters}))
        environment = {name: value for name, value in live.processes.environment.items() if name.startswith("ROS_")}
        os.environ.update(environment)
        live.start((MAPPER, REPLAY))
        context = Context()
        rclpy.init(context=context, domain_id=int(environment["ROS_DOMAIN_ID"]))
        stack.callback(rclpy.try_shutdown, context=context)
        node = rclpy.create_node("viewer_bench", context=context, use_global_arguments=False)
        start = time.monotonic()
        source = LiveSource(node, f"/{live.namespace}/mapper", int(environment["ROS_DOMAIN_ID"]))
        stack.callback(source.close)
        stream = source.stream
        until(lambda: stream.complete and len(stream) >= count // 2, "the whole map", PATIENCE_S)
        results: dict[str, Any] = {
            "live_gaussians": len(stream),
            "live_whole_s": time.monotonic() - start,
            "live_whole_mb": stream.bytes_received / 1e6,
        }
        page = None
        if not missing():
            viewer = stack.enter_context(Viewer(source, port=0))
            page = Page(stack.enter_context(headless_chromium()), viewer)
        sent = page.session.bytes_sent if page else 0
        begin, first, most, revisions, resent = time.monotonic(), stream.bytes_received, 0.0, {stream.revision}, 0
        for second in range(1, round(seconds) + 1):
            before, then = stream.bytes_received, time.monotonic()
            while time.monotonic() < begin + second:
                if stream.revision not in revisions:
                    revisions.add(stream.revision)
                    resent += len(stream) * SPLAT.itemsize
                time.sleep(0.01)
            most = max(most, (stream.bytes_received - before) / max(time.monotonic() - then, 1e-3))
            progress()
        passed = time.monotonic() - begin
        results |= {
            "live_revisions": len(revisions) - 1,
            "live_mb_s": (stream.bytes_received - first) / 1e6 / passed,
            "live_most_mb_s": most / 1e6,
            "live_resent_mb": resent / 1e6,
        }
        if page is not None:
            results |= {
                "live_page_mb_s": (page.session.bytes_sent - sent) / 1e6 / passed,
                "live_page_splats": page.session.shown,
            }
        node.destroy_node()
    return results
