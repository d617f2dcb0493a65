"""Measure what the list below says: the live system, the rasteriser, training, planners' questions, memory, faults."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gs_semantic.cli import options

EXAMPLES = """examples:
  gs-semantic bench map --sequence sample/house --eval sample/house_eval --masks damaged --json result.json
  gs-semantic bench map --sequence sample/lounge --phase quality
  gs-semantic bench render --gaussians 200000 --mode ids --json ids.json
  gs-semantic bench render --device cuda --mode frame --gaussians 1000000 --frames 100 --json frame.json
  gs-semantic bench render --map maps/house --mode rgb --size 1280x720 --threads 1
  gs-semantic bench train --gaussians 100000 --size 320x240 --what full
  gs-semantic bench lifting grouping --sequence sample/house --json grouping_speed.json
  gs-semantic bench unproject --gaussians 200000 --views 100 --channels 256
  gs-semantic bench soak --sequence sample/house --minutes 30 --json soak.json
  gs-semantic bench budget --sequence sample/house --minutes 10 --budget-mb 700 --budget-mbps 20 --json budget.json
  gs-semantic bench faults --json faults.json
  gs-semantic bench query --gaussians 1000000 --objects 200 --json query.json
  gs-semantic bench distance --sequence house/living --mesh house/scene.npz --gaussians 1000000 --json distance.json
  gs-semantic bench text --json text.json
  gs-semantic bench save --gaussians 1000000 --json save.json
  gs-semantic bench identity --objects 25 --json identity.json
  gs-semantic bench segmenter --sequence sample/lounge --json segmenter.json
  gs-semantic bench rt_gs2 --size small --gaussians 100000 --json rt_gs2.json
  gs-semantic bench gnesf --checkpoint gnesf --json gnesf_speed.json
  gs-semantic bench association --sequence sample/house --eval sample/house_eval --json association.json
  gs-semantic bench viewer --gaussians 1000000 --browser view.png --json viewer.json"""

RENDER_MODES = ("ids", "rgb", "features", "frame", "accumulate", "labels", "backward")  # those of benchmarks.render
TRAIN_KINDS = ("full", "features")  # those of benchmarks.train


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return kinds.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EXAMPLES,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    _configure_map(add("map", "live mapping over real topics: quality, rate, services"))
    _configure_render(add("render", "frames per second of the rasteriser in a furnished room"))
    _configure_train(add("train", "training steps per second in a furnished room"))
    _configure_lifting(add("lifting", "training steps per second of a lifting method on a recording"))
    _configure_unproject(add("unproject", "seconds to lift 2D feature maps onto the Gaussians of a furnished room"))
    _configure_soak(add("soak", "memory of the mapper over a long run"))
    _configure_budget(add("budget", "do budget.mb and budget.mbps hold over a long run, and what do they cost"))
    _configure_query(add("query", "questions of planners on a large map while mapping: times in another process"))
    _configure_distance(add("distance", "distances to the map: how exact against a mesh, how fast on a large map"))
    saving = add("save", "seconds to save a map folder, flushed to the disk, and to load it")
    saving.add_argument("--gaussians", type=int, default=1_000_000, help="Gaussians of the map [1000000]")
    saving.add_argument("--objects", type=int, default=200, help="objects of the map [200]")
    saving.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where the map is written [where temporary files are]"
    )
    options.add_json(saving)
    options.add_json(
        add("text", "names of things that are in a map, and of things that are not, against the offline matcher")
    )
    _configure_identity(add("identity", "do objects keep their ids in a room where things are moved and taken away"))
    _configure_segmenter(add("segmenter", "rate of a segmenter, quality of its masks and of the map made of them"))
    _configure_gnesf(add("gnesf", "times of GNeSF's votes: a new frame on a growing map, and all views again"))
    _configure_rt_gs2(add("rt_gs2", "frames per second of RT-GS2 on an unseen map, by stage"))
    _configure_faults(add("faults", "ten faults in a running graph: named rightly, how soon, and got over"))
    _configure_association(
        add("association", "masks to objects by overlap and by a codebook: switches, duplicates, mIoU")
    )
    _configure_viewer(add("viewer", "choice of the Gaussians that a browser gets, and clicks, on a large map"))


def _configure_viewer(sub: argparse.ArgumentParser) -> None:
    from gs_semantic.viewer.settings import NUMBERS

    sub.add_argument("--gaussians", type=int, default=1_000_000, help="Gaussians of the room [1000000]")
    sub.add_argument("--map", type=Path, help="map folder to look at instead")
    sub.add_argument(
        "--splats", type=int, nargs="+", default=NUMBERS, metavar="N", help=f"splats sent at most {list(NUMBERS)}"
    )
    sub.add_argument(
        "--live", type=float, metavar="SECONDS", help="instead: follow a mapper at work on so many Gaussians"
    )
    sub.add_argument("--sequence", type=Path, help="with --live: sequence that is mapped meanwhile [sample/house]")
    options.add_params(sub)
    sub.add_argument(
        "--browser", type=Path, metavar="PNG", help="also open it in headless Chromium, and write what that shows"
    )
    options.add_json(sub)


def _configure_map(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, required=True, help="sequence to map")
    sub.add_argument("--eval", type=Path, help="labelled sequence to score at; without, every K-th frame is withheld")
    sub.add_argument("--skip-every", type=int, default=8, metavar="K", help="withhold each K-th frame if no --eval [8]")
    options.add_masks(sub)
    options.add_noise(sub)
    options.add_no_depth(sub)
    sub.add_argument("--phase", choices=("quality", "rate", "both"), default="both", help="what is measured [both]")
    sub.add_argument("--services", action="store_true", help="also time list_objects and get_object while mapping")
    sub.add_argument("--seconds", type=float, default=60.0, help="length of the rate runs [60]")
    sub.add_argument("--map", type=Path, help="with --phase rate: map folder to start from, instead of mapping first")
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep maps and logs of the run there")
    options.add_params(sub)
    options.add_json(sub)


def _configure_render(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gaussians", type=int, default=200_000, help="Gaussians in the room [200000]")
    sub.add_argument("--map", type=Path, metavar="PATH", help="draw this map folder or PLY file instead of the room")
    sub.add_argument("--mode", choices=RENDER_MODES, default="ids", help="what is rendered [ids]")
    sub.add_argument("--size", default="640x480", metavar="WxH", help="image size [640x480]")
    sub.add_argument("--frames", type=int, default=60, help="frames timed [60]")
    sub.add_argument("--threads", type=int, help="threads [all cores]")
    sub.add_argument("--isa", help="instruction set of the native library [best]")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where [cpu]")
    options.add_json(sub)


def _configure_budget(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, required=True, help="sequence to loop")
    sub.add_argument("--minutes", type=float, default=10.0, help="length of the run [10]")
    sub.add_argument("--rate-hz", type=float, default=10.0, help="rate of the replay [10]")
    sub.add_argument("--budget-mb", type=float, default=700.0, help="budget.mb of the mapper, MB; 0: none [700]")
    sub.add_argument("--budget-mbps", type=float, default=20.0, help="budget.mbps of the mapper, Mbit/s; 0: none [20]")
    options.add_masks(sub)
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs of the run there")
    options.add_params(sub)
    options.add_json(sub)


def _configure_train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gaussians", type=int, default=100_000, help="Gaussians in the room [100000]")
    sub.add_argument("--what", choices=TRAIN_KINDS, default="full", help="what is trained [full]")
    sub.add_argument("--size", default="640x480", metavar="WxH", help="image size [640x480]")
    sub.add_argument("--steps", type=int, default=300, help="steps timed [300]")
    sub.add_argument("--threads", type=int, help="threads [all cores]")
    options.add_json(sub)


def _configure_lifting(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("method", help="lifting method, as of `gs-semantic train`")
    sub.add_argument("--sequence", type=Path, required=True, help="recording to train on")
    sub.add_argument("--preset", default="standard", help="options that it is trained with [standard]")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one option")
    sub.add_argument("--gaussians", type=int, default=100_000, help="Gaussians, all the time [100000]")
    sub.add_argument("--steps", type=int, default=200, help="steps timed [200]")
    options.add_json(sub)


def _configure_unproject(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gaussians", type=int, default=200_000, help="Gaussians in the room [200000]")
    sub.add_argument("--views", type=int, default=100, help="maps to lift [100]")
    sub.add_argument("--channels", type=int, default=256, help="of a map [256]")
    sub.add_argument("--size", default="160x120", metavar="WxH", help="of a map [160x120]")
    sub.add_argument("--threads", type=int, help="threads [all cores]")
    options.add_json(sub)


def _configure_soak(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, required=True, help="sequence to loop")
    sub.add_argument("--minutes", type=float, default=30.0, help="length of the run [30]")
    sub.add_argument("--rate-hz", type=float, default=20.0, help="rate of the replay [20]")
    options.add_masks(sub)
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs of the run there")
    options.add_params(sub)
    options.add_json(sub)


def _configure_query(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, help="sequence that is mapped meanwhile [sample/house]")
    sub.add_argument("--gaussians", type=int, default=1_000_000, help="Gaussians in the map [1000000]")
    sub.add_argument("--objects", type=int, default=200, help="objects in the short list [200]")
    sub.add_argument("--seconds", type=float, default=30.0, help="length of the measurement [30]")
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep map and logs of the run there")
    options.add_params(sub)
    options.add_json(sub)


def _configure_distance(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, help="sequence to map [the house of the sample]")
    sub.add_argument(
        "--mesh", type=Path, help="its triangles, .npz with 'tri' (T, 3, 3) or a mesh file; without: times only"
    )
    sub.add_argument("--gaussians", type=int, default=1_000_000, help="Gaussians of the map that is timed [1000000]")
    sub.add_argument("--width", type=int, help="shrink images to this width [as recorded]")
    options.add_params(sub)
    options.add_json(sub)


def _configure_identity(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--objects", type=int, default=25, help="objects in the room [25]")
    sub.add_argument(
        "--frames", type=int, default=40, help="frames of the walk before, and of that after the change [40]"
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of room, changes and mask ids [0]")
    options.add_params(sub)
    options.add_json(sub)


def _configure_faults(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, help="recording that the camera plays [sample/house]")
    sub.add_argument("--rate-hz", type=float, default=5.0, help="rate of the camera [5]")
    sub.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="these faults, instead of all ten")
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs of the run there")
    options.add_json(sub)


def _configure_association(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--sequence", type=Path, required=True, help="labelled sequence to map")
    sub.add_argument("--eval", type=Path, required=True, help="labelled sequence to score at")
    sub.add_argument("--kinds", nargs="+", choices=("shuffled", "damaged"), default=["shuffled", "damaged"],
                     help="masks [shuffled damaged]")  # fmt: skip
    sub.add_argument("--width", type=int, default=320, help="images are scaled down to this width, px; 0: not [320]")
    sub.add_argument("--every", type=int, default=1, metavar="K", help="map only each K-th frame [1]")
    sub.add_argument("--seed", type=int, default=0, help="seed of the masks' damage [0]")
    options.add_params(sub)
    options.add_json(sub)


def _configure_segmenter(sub: argparse.ArgumentParser) -> None:
    from gs_semantic.segmenters.registry import KINDS

    sub.add_argument("--sequence", type=Path, required=True, help="labelled sequence with depth")
    sub.add_argument("--segmenter", choices=tuple(KINDS), default="geometric", help="which one [geometric]")
    sub.add_argument("--model", default="", help="folder of the weights, or their name in the cache")
    sub.add_argument("--words", default="", help="things that 'grounded' looks for, separated by commas")
    sub.add_argument("--skip-every", type=int, default=8, metavar="K", help="withhold each K-th frame from the map [8]")
    sub.add_argument("--no-map", action="store_true", help="score the masks alone")
    sub.add_argument("--live", type=float, default=0.0, metavar="SECONDS",
                     help="then run the node beside a mapper for so long; 0: not [0]")  # fmt: skip
    sub.add_argument("--rate-hz", type=float, default=15.0, help="--live: rate of the replay [15]")
    sub.add_argument("--seed", type=int, default=0, help="seed of the noise [0]")
    options.add_noise(sub)
    options.add_json(sub)


def _configure_gnesf(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--checkpoint", default="", metavar="FILE", help="or a method's name [untrained: as fast]")
    sub.add_argument("--gaussians", type=int, default=60_000, help="Gaussians of the growing map [60000]")
    sub.add_argument("--whole", type=int, default=200_000, help="Gaussians that all views vote on again [200000]")
    sub.add_argument("--views", type=int, default=8, help="views of that [8]")
    sub.add_argument("--image", default="320x240", metavar="WxH", help="image size [320x240]")
    sub.add_argument("--frames", type=int, default=40, help="frames that are timed [40]")
    sub.add_argument("--threads", type=int, help="of torch [as set]")
    options.add_json(sub)


def _configure_rt_gs2(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--size", choices=("small", "paper"), default="small", help="of its networks [small]")
    sub.add_argument("--gaussians", type=int, default=100_000, help="Gaussians in the room [100000]")
    sub.add_argument("--image", default="320x240", metavar="WxH", help="image size [320x240]")
    sub.add_argument("--frames", type=int, default=40, help="frames that are timed [40]")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where [cpu]")
    sub.add_argument("--threads", type=int, help="of torch; the rasteriser has its own [as set]")
    sub.add_argument("--max-points", type=int, default=0, help="Gaussians in one pass of the point transformer")
    options.add_json(sub)


def run(arguments: argparse.Namespace) -> int:
    runs = {
        "map": run_map,
        "render": run_render,
        "train": run_train,
        "lifting": run_lifting,
        "unproject": run_unproject,
        "soak": run_soak,
        "budget": run_budget,
        "query": run_query,
        "distance": run_distance,
        "text": run_text,
        "save": run_save,
        "identity": run_identity,
        "faults": run_faults,
        "segmenter": run_segmenter,
        "gnesf": run_gnesf,
        "rt_gs2": run_rt_gs2,
        "association": run_association,
        "viewer": run_viewer,
    }
    return runs[arguments.kind](arguments)


def run_viewer(arguments: argparse.Namespace) -> int:
    if arguments.live is not None:
        return run_live_viewer(arguments)
    from gs_semantic.benchmarks.viewer import run_viewer_bench

    results = run_viewer_bench(
        arguments.gaussians, tuple(arguments.splats), path=arguments.map, screenshot=arguments.browser
    )
    options.report(arguments, "what a browser gets", results)
    return 0


def run_live_viewer(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.live_viewer import run_live_viewer as measure
    from gs_semantic.share import share_path

    sequence = arguments.sequence or share_path("sample", "house")
    with _folder(None) as folder, options.progress_bar("following", int(arguments.live)) as advance:
        results = measure(
            sequence, folder, arguments.gaussians, arguments.live, options.live_params(arguments), advance
        )
    options.report(arguments, "what a live map sends", results)
    return 0


def run_map(arguments: argparse.Namespace) -> int:
    import shutil

    from gs_semantic.benchmarks.mapping import RESULT_KEYS, MapBench
    from gs_semantic.errors import InvalidRequestError

    if arguments.phase == "rate" and arguments.map is None:
        raise InvalidRequestError("--phase rate needs --map FOLDER: the map to start from; or use --phase both")
    results: dict[str, Any] = {}
    with _folder(arguments.keep) as folder, options.progress_bars() as progress:
        bench = MapBench(
            sequence=arguments.sequence,
            folder=folder,
            evaluation=arguments.eval,
            masks=arguments.masks,
            seed=arguments.seed,
            depth_noise=arguments.depth_noise,
            pose_noise=arguments.pose_noise,
            skip_every=arguments.skip_every,
            use_depth=not arguments.no_depth,
            parameters=options.live_params(arguments),
            progress=progress,
        )
        if arguments.phase == "rate":
            shutil.copytree(arguments.map, bench.quality_map, dirs_exist_ok=True)
        else:
            results |= bench.quality().results
        if arguments.phase != "quality":
            results |= bench.rate(arguments.seconds)
            results["peak_rss_mb"] = max(results.get("peak_rss_mb", 0.0), results["rate_peak_rss_mb"])
        if arguments.services:
            results |= bench.services(min(arguments.seconds, 30.0))
    ordered = {key: results.pop(key) for key in RESULT_KEYS if key in results} | results
    options.report(arguments, f"{arguments.sequence}, {arguments.masks} masks, seed {arguments.seed}", ordered)
    return 0


def run_render(arguments: argparse.Namespace) -> int:
    width, height = options.size(arguments.size)
    common = {"width": width, "height": height, "frames": arguments.frames, "path": arguments.map}
    if arguments.device == "cuda":
        from gs_semantic.benchmarks.render_cuda import run_cuda_render_bench

        results = run_cuda_render_bench(arguments.gaussians, arguments.mode, **common)
    else:
        from gs_semantic.benchmarks.render import run_render_bench

        own = {"threads": arguments.threads, "isa": arguments.isa}
        results = run_render_bench(arguments.gaussians, arguments.mode, **common, **own)
    options.report(arguments, f"{arguments.mode}, {results['gaussians']:,.0f} Gaussians, {arguments.size}", results)
    return 0


def run_budget(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.budget import run_budget as measure

    seconds = int(arguments.minutes * 60)
    with _folder(arguments.keep) as folder, options.progress_bar("measuring", seconds) as advance:
        results = measure(
            arguments.sequence,
            folder,
            arguments.minutes,
            arguments.rate_hz,
            arguments.masks,
            arguments.seed,
            arguments.budget_mb,
            arguments.budget_mbps,
            options.live_params(arguments),
            advance,
        )
    options.report(arguments, f"{arguments.minutes:g} minutes of {arguments.sequence} within budgets", results)
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.train import run_train_bench

    width, height = options.size(arguments.size)
    results = run_train_bench(
        arguments.gaussians,
        arguments.what,
        width=width,
        height=height,
        steps=arguments.steps,
        threads=arguments.threads,
    )
    options.report(arguments, f"{arguments.what}, {arguments.gaussians:,} Gaussians, {arguments.size}", results)
    return 0


def run_lifting(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.lifting import run_lifting_bench
    from gs_semantic.segmentation.config import parse_overrides

    results = run_lifting_bench(
        arguments.method,
        arguments.sequence,
        arguments.gaussians,
        arguments.steps,
        arguments.preset,
        parse_overrides(arguments.set),
    )
    options.report(arguments, f"{arguments.method}, {results['gaussians']:,.0f} Gaussians", results)
    return 0


def run_unproject(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.unproject import run_unproject_bench

    width, height = options.size(arguments.size)
    results = run_unproject_bench(
        arguments.gaussians, arguments.views, arguments.channels, width, height, arguments.threads
    )
    what = f"{arguments.views} maps of {arguments.channels} channels, {arguments.gaussians:,} Gaussians"
    options.report(arguments, what, results)
    return 0


def run_soak(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.soak import run_soak as soak

    seconds = int(arguments.minutes * 60)
    with _folder(arguments.keep) as folder, options.progress_bar("soaking", seconds) as advance:
        results = soak(
            arguments.sequence,
            folder,
            arguments.minutes,
            arguments.rate_hz,
            arguments.masks,
            arguments.seed,
            options.live_params(arguments),
            advance,
        )
    options.report(arguments, f"{arguments.minutes:g} minutes of {arguments.sequence}", results)
    return 0


def run_query(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.query import run_query as measure
    from gs_semantic.share import share_path

    sequence = arguments.sequence or share_path("sample", "house")
    with _folder(arguments.keep) as folder, options.progress_bar("asking", int(arguments.seconds)) as advance:
        results = measure(
            sequence,
            folder,
            arguments.gaussians,
            arguments.objects,
            arguments.seconds,
            options.live_params(arguments),
            advance,
        )
    options.report(arguments, f"Queries on {results['gaussians']:,.0f} Gaussians", results)
    return 0


def run_distance(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.distance import run_distance as measure
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.share import share_path

    sequence = arguments.sequence or share_path("sample", "house")
    with options.progress_bar("mapping", len(open_sequence(sequence))) as advance:
        results = measure(
            sequence, arguments.mesh, arguments.gaussians, tuple(arguments.param or ()), arguments.width, advance
        )
    options.report(arguments, f"Distances to {results['gaussians']:,} Gaussians", results)
    return 0


def run_save(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.saving import REPEATS, run_saving

    with _folder(arguments.keep) as folder, options.progress_bar("saving and loading", REPEATS) as advance:
        results = run_saving(folder, arguments.gaussians, arguments.objects, advance)
    options.report(arguments, f"Map folder of {arguments.gaussians:,} Gaussians", results)
    return 0


def run_text(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.words import run_words

    options.report(arguments, "Words of the offline matcher", run_words())
    return 0


def run_identity(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.identity import run_identity as measure

    with options.progress_bar("mapping", 2 * arguments.frames) as advance:
        results = measure(arguments.objects, arguments.frames, arguments.seed, tuple(arguments.param or ()), advance)
    options.report(arguments, f"{arguments.objects} objects, of which some move", results)
    return 0


def run_faults(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks import faults
    from gs_semantic.share import share_path

    cases = faults.cases_of(arguments.only)
    sequence = arguments.sequence or share_path("sample", "house")
    with (
        _folder(arguments.keep) as folder,
        options.progress_bar("drilling", len(cases)) as advance,
        faults.FaultDrill(sequence, folder, arguments.rate_hz) as drill,
    ):
        outcomes = drill.run(cases, advance)
    if arguments.json != options.STDOUT:
        for outcome in outcomes:
            said = outcome.text or "not named"
            also = f"; also named: {', '.join(outcome.others)}" if outcome.others else ""
            print(f"{outcome.fault}: {said}{also}")
    options.report(arguments, "Fault drill", faults.results(outcomes))
    return 0


def run_association(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.association import compare_associations
    from gs_semantic.data.formats import open_sequence

    with options.progress_bars() as bars:
        results = compare_associations(
            open_sequence(arguments.sequence, max_width=arguments.width),
            open_sequence(arguments.eval, max_width=arguments.width),
            arguments.kinds,
            arguments.seed,
            every=arguments.every,
            params=arguments.param,
            progress=bars,
        )
    options.report(arguments, f"association on {arguments.sequence}", results)
    return 0


def run_segmenter(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.segmenter import run_live
    from gs_semantic.benchmarks.segmenter import run_segmenter as measure
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.segmenters.registry import create

    sequence = open_sequence(arguments.sequence, noise=options.noise_of(arguments))
    segmenter = create(arguments.segmenter, model=arguments.model, words=arguments.words.split(","))
    with options.progress_bar("segmenting", len(sequence)) as advance:
        results = measure(segmenter, sequence, not arguments.no_map, arguments.skip_every, advance)
    if arguments.live:
        start = {"sequence": arguments.sequence, "segmenter": arguments.segmenter}
        start |= {name: value for name in ("model", "words") if (value := getattr(arguments, name))}
        with _folder(None) as folder, options.progress_bar("live", int(arguments.live)) as advance:
            results |= run_live(start, folder, arguments.live, arguments.rate_hz, advance)
    options.report(arguments, f"{arguments.segmenter} on {arguments.sequence}", results)
    return 0


def run_gnesf(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.gnesf import REVOTES, WARM_UP
    from gs_semantic.benchmarks.gnesf import run_gnesf as measure

    width, height = options.size(arguments.image)
    with options.progress_bar("GNeSF", WARM_UP + arguments.frames + REVOTES) as advance:
        results = measure(
            *(arguments.checkpoint, arguments.gaussians, arguments.whole, arguments.views, width, height),
            *(arguments.frames, arguments.threads, advance),
        )
    options.report(arguments, f"votes, {width}x{height}", results)
    return 0


def run_rt_gs2(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.rt_gs2 import run_rt_gs2 as measure

    width, height = options.size(arguments.image)
    with options.progress_bar("RT-GS2", arguments.frames) as advance:
        results = measure(
            *(arguments.size, arguments.gaussians, width, height, arguments.frames, arguments.device),
            arguments.threads,
            arguments.max_points,
            advance,
        )
    options.report(arguments, f"RT-GS2 {arguments.size}, {width}x{height}, {arguments.device}", results)
    return 0


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of a run: kept where asked, else removed in the end."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="gs_semantic_bench_") as folder:
        yield Path(folder)
