"""The planner's client for asyncio: the same questions as coroutines.

    async with AsyncSemanticMap() as semantic_map:
        mug, chairs = await asyncio.gather(semantic_map.find("mug"), semantic_map.list_objects(classes=["chair"]))
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from rclpy.node import Node

from gs_semantic.client.semantic_map import MAPPER, SemanticMap

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec, Self

    P = ParamSpec("P")

T = TypeVar("T")


def _awaited(
    method: Callable[Concatenate[SemanticMap, P], T],
) -> Callable[Concatenate[AsyncSemanticMap, P], Awaitable[T]]:
    """The coroutine form of a blocking method: a thread waits for the reply, the event loop goes on."""

    @functools.wraps(method)
    async def call(self: AsyncSemanticMap, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self.blocking, *args, **kwargs)

    return call


class AsyncSemanticMap:
    """``SemanticMap`` for asyncio; arguments, results and errors are the same. ``blocking`` is the client underneath."""

    def __init__(self, node: str | Node = MAPPER, timeout_s: float = 20.0, mapper: str = MAPPER) -> None:
        self.blocking = SemanticMap(node, timeout_s, mapper)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.blocking.close)

    wait = _awaited(SemanticMap.wait)
    find = _awaited(SemanticMap.find)
    list_objects = _awaited(SemanticMap.list_objects)
    get_object = _awaited(SemanticMap.get_object)
    query_pixel = _awaited(SemanticMap.query_pixel)
    query_ray = _awaited(SemanticMap.query_ray)
    query_nearest = _awaited(SemanticMap.query_nearest)
    query_region = _awaited(SemanticMap.query_region)
    query_box = _awaited(SemanticMap.query_box)
    query_sphere = _awaited(SemanticMap.query_sphere)
    render_view = _awaited(SemanticMap.render_view)
    query_text = _awaited(SemanticMap.query_text)
    query_distance = _awaited(SemanticMap.query_distance)
    get_grid = _awaited(SemanticMap.get_grid)
    check_path = _awaited(SemanticMap.check_path)
    correct_poses = _awaited(SemanticMap.correct_poses)
    rename = _awaited(SemanticMap.rename)
    merge = _awaited(SemanticMap.merge)
    split = _awaited(SemanticMap.split)
    delete = _awaited(SemanticMap.delete)
    lock = _awaited(SemanticMap.lock)
    move = _awaited(SemanticMap.move)
    undo = _awaited(SemanticMap.undo)
    select = _awaited(SemanticMap.select)
    extract = _awaited(SemanticMap.extract)
    pause = _awaited(SemanticMap.pause)
    resume = _awaited(SemanticMap.resume)
    reset = _awaited(SemanticMap.reset)
    save = _awaited(SemanticMap.save)
    load = _awaited(SemanticMap.load)
