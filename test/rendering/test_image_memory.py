"""Large images come back in memory that was used before, but never in memory that somebody still looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gs_semantic.rendering.image_memory import KEPT, LARGE_BYTES, ImageMemory

COUNT = LARGE_BYTES // 4
SHAPE = (COUNT // 64, 8, 8)


def test_a_dropped_image_gives_its_memory_to_the_next() -> None:
    memory = ImageMemory()
    first = memory.empty(*SHAPE)
    assert first.shape == SHAPE
    assert first.dtype == torch.float32
    address = first.data_ptr()
    del first
    assert memory.empty(*SHAPE).data_ptr() == address


@pytest.mark.parametrize(
    "share",
    [lambda image: image[3], lambda image: image.numpy()[1:], torch.detach, lambda image: torch.empty(0).set_(image)],
    ids=["row", "numpy", "detach", "set"],
)
def test_what_shares_an_image_keeps_it(share: Callable[[torch.Tensor], Any]) -> None:
    memory = ImageMemory()
    image = memory.empty(*SHAPE)
    image.fill_(7.0)
    address, shared = image.data_ptr(), share(image)
    del image
    assert memory.empty(*SHAPE).data_ptr() != address
    assert float(shared.flatten()[0]) == 7.0


def test_images_kept_by_a_caller_are_all_their_own() -> None:
    memory = ImageMemory()
    images = [memory.empty(*SHAPE) for _ in range(KEPT + 2)]
    assert len({image.data_ptr() for image in images}) == KEPT + 2


def test_memory_of_another_size_is_given_back() -> None:
    memory = ImageMemory()
    for extra in range(4):
        memory.empty(COUNT + extra)
    assert len(memory._blocks) <= KEPT


def test_small_images_are_not_kept() -> None:
    memory = ImageMemory()
    memory.empty(480, 640, 16)
    assert not memory._blocks
