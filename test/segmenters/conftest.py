from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gs_semantic.gaussians import Camera, Frame

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model with random weights, by the segmenter's name."""
    pytest.importorskip("transformers")
    import tiny_models

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_models.MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture
def picture() -> Frame:
    """A colour image without depth."""
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    rgb.flags.writeable = False  # as images of messages are
    return Frame(0, Camera(64, 48, 60.0, 60.0, 31.5, 23.5), rgb)
