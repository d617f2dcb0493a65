"""Say what is wrong, and how to mend it: the installation, and the live topics as the mapper would see them.

Works with a mapper running or without. The topics are named by the arguments of `run segment`. The exit code is 0
without errors, else 1; warnings are no errors.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gs_semantic.cli import options
from gs_semantic.cli.run import add_arguments, given_arguments
from gs_semantic.nodes.arguments import USES

if TYPE_CHECKING:
    from rich.console import Console

    from gs_semantic.nodes.faults import Finding

EXAMPLES = """examples:
  gs-semantic doctor
  gs-semantic doctor --installation
  gs-semantic doctor color_image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \\
      depth_image:=/camera/aligned_depth_to_color/image_raw global_frame:=odom
  gs-semantic doctor --json report.json"""

EXIT_FAULTS = 1
MARKS = {0: ("ok", "green"), 1: ("warning", "yellow"), 2: ("error", "red")}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--installation", action="store_true", help="only what is installed, not the live topics")
    parser.add_argument("--seconds", type=float, default=8.0, help="listen to the topics for so long at most [8]")
    options.add_json(parser)
    parser.set_defaults(use_name="segment")
    add_arguments(parser, USES["segment"])


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.nodes import installation
    from gs_semantic.nodes.faults import Severity
    from gs_semantic.report import Report

    use = USES["segment"]
    start = use.plan(given_arguments(arguments, use))[0]  # before anything takes time: wrong arguments
    sections = {"installation": installation.examine()}
    if not arguments.installation and installation.worst(sections["installation"]) < Severity.ERROR:
        from gs_semantic.nodes import doctor

        sections["graph"] = doctor.examine(start, arguments.seconds)
    results = as_results(sections)
    report = Report(arguments.command, results=results)
    if arguments.json == options.STDOUT:
        print(report.text(), end="")
    else:
        show(sections)
        if arguments.json:
            report.write(arguments.json)
    return EXIT_FAULTS if results["errors"] else 0


def as_results(sections: dict[str, list[Finding]]) -> dict[str, Any]:
    """Counts, and the findings of each section as dictionaries."""
    from gs_semantic.nodes.faults import Severity

    every = [finding for findings in sections.values() for finding in findings]
    return {
        "errors": sum(finding.severity == Severity.ERROR for finding in every),
        "warnings": sum(finding.severity == Severity.WARNING for finding in every),
        **{name: [finding.as_dict() for finding in findings] for name, findings in sections.items()},
    }


def show(sections: dict[str, list[Finding]], console: Console | None = None) -> None:
    """Print the findings, each fault with the sentence that mends it."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for name, findings in sections.items():
        console.print(Text(name.capitalize(), "bold"))
        for finding in findings:
            word, colour = ("absent", "dim") if finding.name == "part_optional" else MARKS[finding.severity]
            line = Text("  ")
            line.append(f"{word:<8}", colour)
            subject = "" if finding.message.startswith(finding.subject) else f"{finding.subject}: "
            line.append(f"{subject}{finding.message}")
            console.print(line)
            if finding.mend:
                console.print(Text(f"          -> {finding.mend} [{finding.name}]"))
    every = [finding for findings in sections.values() for finding in findings]
    counts = {word: sum(finding.severity == number for finding in every) for number, (word, _) in MARKS.items()}
    console.print(f"{counts['error']} errors, {counts['warning']} warnings")
