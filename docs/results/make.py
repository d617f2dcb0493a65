"""Writes docs/results.md from the reports beside this file: `python docs/results/make.py`.

A report is what `--json docs/results/<name>.json` of a command wrote; its figures are never edited by hand. In the command
of some, a folder of the machine that they were measured on was taken out of the path.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "results.md"
SUMMARY = (
    "instance_miou",
    "instance_miou_large",
    "raw_mask_miou",
    "duplicate_ids_pct",
    "semantic_miou",
    "psnr_db",
    "gaussians",
    "answer_hz",
    "answered_pct",
    "latency_p95_ms",
    "keyframes_per_s",
    "iterations_per_keyframe",
    "peak_rss_mb",
)
INTRODUCTION = """# Results

Made by `python docs/results/make.py` from the reports in [results/](results/); each names the command that wrote it.
Shares are fractions from 0 to 1, all other names end in their unit. Labels of the house are rendered, those of the
lounge drawn by hand for this package (`sample/SOURCE.md`). Rates and latencies depend on the machine, and
reports name theirs: two Zen 4 cores, whose vector units are half as wide as those of Zen 5, but for some older ones.
Reports `cuda_*` are of an H200. The long run (`house_soak`) went on beside
builds and test suites.
"""


def main() -> int:
    """Write the page, or with --check only compare; returns the exit code."""
    page = render({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json"))})
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page
        if not same:
            print("docs/results.md is not what its reports say: run `python docs/results/make.py`", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


def render(reports: dict[str, dict[str, Any]]) -> str:
    """The page: one table over all mapping runs, then every report."""
    parts = [INTRODUCTION]
    runs = {name: report["results"] for name, report in reports.items() if "instance_miou" in report["results"]}
    if runs:
        rows = [key for key in SUMMARY if any(key in results for results in runs.values())]
        parts.append("## Mapping\n\n" + table(["", *runs], [[key, *(runs[n].get(key) for n in runs)] for key in rows]))
    for name, report in reports.items():
        head = f"## {name.replace('_', ' ')}\n\n    {report['command']}\n\n{report['machine']}; {report['commit']}\n\n"
        parts.append(head + table(["", "value"], [[key, value] for key, value in report["results"].items()]))
    return "\n".join(parts)


def table(heading: list[str], rows: list[list[Any]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
