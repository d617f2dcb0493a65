"""~/splats over real topics: a late joiner's copy, changes, a loss, and the bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from gs_semantic.msg import SplatChunk
from rclpy.parameter import Parameter
from rig import Rig

from gs_semantic.client import SplatStream
from gs_semantic.nodes import conversions, qos
from gs_semantic.objects.splats import SPLAT


def same(stream: SplatStream, rig: Rig) -> bool:
    view = rig.mapper.view
    uids = np.sort(view.gaussians["uid"].numpy())
    splats = stream.splats
    return len(splats) == len(uids) and bool((splats["uid"] == uids).all())


def test_a_late_joiner_gets_the_map_and_its_changes(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(splats_hz=50.0)
    rig.map_scene()
    rig.settled()
    with SplatStream("/rig/mapper") as stream:
        stream.wait()
        assert stream.frame_id == "map" and same(stream, rig)
        objects = {int(i) for i in np.unique(stream.splats["object_id"]) if i}
        assert objects == set(rig.mapper.view.objects.records["id"].tolist())
        assert set(np.unique(stream.splats["class_id"])) == {0, 3, 7}

        def thin_out() -> None:
            mapper = rig.mapper.mapper
            mapper.gaussians.remove(torch.arange(0, len(mapper.gaussians), 3))

        before = len(stream.splats)
        rig.mapper.mapping.call(thin_out)
        rig.until(lambda: len(stream.splats) < before and same(stream, rig), "removal")
        rig.mapper.mapping.call(rig.mapper.reset)
        rig.until(lambda: len(stream.splats) == 0, "reset")
        rig.map_scene()
        rig.settled()
        rig.until(lambda: same(stream, rig), "the new map")


def test_a_lost_chunk_is_mended(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(splats_hz=50.0)
    rig.map_scene()
    rig.settled()
    with SplatStream("/rig/mapper") as stream:
        stream.wait()
        with stream._changed:
            stream._copy._remove(np.arange(10, len(stream._copy)))  # what a loss leaves behind ...
        stream._copy._sequence -= 1  # ... and how it is noticed, with the next chunk
        rig.mapper.mapping.call(lambda: rig.mapper.mapper.gaussians.remove(torch.arange(5)))
        rig.until(lambda: stream.complete and same(stream, rig), "the whole map again")


def test_bytes_that_cannot_be_read(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(splats_hz=50.0)
    rig.map_scene()
    rig.settled()
    with SplatStream("/rig/mapper") as stream:
        stream.wait()
        bad = rig.node.create_publisher(SplatChunk, "mapper/splats", qos.SPLATS)
        rig.until(lambda: bad.get_subscription_count() == 1, "subscriber")
        bad.publish(SplatChunk(map_id="x", data=conversions.to_bytes_field(b"no splats")))
        rig.node.destroy_publisher(bad)
        rig.until(lambda: stream.complete and same(stream, rig), "the whole map again")


def test_the_budget_holds_the_rate(make_rig: Callable[..., Rig]) -> None:
    """0.4 Mbit/s: the map takes its time, and what waits is told."""
    rig = make_rig(splats_hz=20.0)
    rig.map_scene()
    rig.settled()
    rig.mapper.set_parameters([Parameter("budget.mbps", value=0.4)])
    size = len(rig.mapper.view.gaussians) * SPLAT.itemsize
    start = time.monotonic()
    with SplatStream("/rig/mapper") as stream:
        rig.told("budget.mbps = 0.4 Mbit/s is reached", "splats wait")
        rig.until(lambda: "splats wait" in "".join(rig.received["status"][-1].given_up), "given_up")
        stream.wait()
        taken = time.monotonic() - start
        assert same(stream, rig)
        # what may be saved up for a burst comes on top
        assert stream.bytes_received >= size
        assert stream.bytes_received * 8e-6 <= 0.4 * (taken + 1.0)
