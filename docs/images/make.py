"""Makes the pictures of the README: `python docs/images/make.py`, from the top of the repository.

Only the last frames of the sample are shown: their rooms have no pictures of people on the walls.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gs_semantic.benchmarks.mapping import MapBench
from gs_semantic.cli import pictures
from gs_semantic.cli.demo import COLUMNS
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.share import share_path

HERE = Path(__file__).parent
FIRST_FRAME = 46  # from 1; earlier ones show wall pictures
SNAPSHOTS = 20
ROWS = 3


def main() -> None:
    house = share_path("sample", "house")
    with tempfile.TemporaryDirectory() as folder:
        bench = MapBench(house, Path(folder), share_path("sample", "house_eval"), "damaged")
        outcome = bench.quality("tour", snapshots=SNAPSHOTS)
        palette = pictures.Palette.of(outcome.shown.mapper.objects)
        shots = [dict(np.load(file)) for file in sorted(outcome.folder.glob("snapshot_*.npz"))]
        shots = [shot for shot in shots if shot["number"] >= FIRST_FRAME]
        rows = [
            [
                shot["colour"],
                pictures.mask_colours(shot["masks"]),
                shot["map_colour"],
                palette.semantic(shot["semantic"]),
                palette.instance(shot["instance"]),
                np.repeat(shot["confidence"][..., None], 3, axis=2),
            ]
            for shot in (shots[k] for k in np.linspace(0, len(shots) - 1, ROWS).round().astype(int))
        ]
        Image.fromarray(pictures.contact_sheet(rows, COLUMNS[:-1], width=260)).save(HERE / "demo.jpg", quality=88)
        mapper = outcome.shown.mapper
        objects = [(obj, mapper.objects.class_name(obj)) for obj in mapper.objects.present()]
        ground = pictures.Ground.of(RgbdSequence(house).poses)
        view = pictures.top_view(mapper.gaussians, objects, mapper.rasterizer, ground, longest_px=1000)
        Image.fromarray(view).save(HERE / "top_view.jpg", quality=85)


if __name__ == "__main__":
    main()
