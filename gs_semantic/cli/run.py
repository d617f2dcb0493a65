"""Start the live nodes as processes: `segment` (mapper, and replay with a sequence), `replay` or `train`.

The arguments are those of the launch files, written `name:=value` or `--name value`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from gs_semantic.nodes.arguments import USES, Argument, Use

EXAMPLES = """examples:
  gs-semantic run segment sequence:=sample/house masks:=damaged rate_hz:=10
  gs-semantic run segment color_image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \\
      depth_image:=/camera/aligned_depth_to_color/image_raw instance_image:=/segmenter/masks
  gs-semantic run segment --load-map house_map --save-on-exit house_map
  gs-semantic run replay sequence:=sample/lounge loop:=true
  gs-semantic run train method:=gradiseg sequence:=sample/house output:=house_trained preset:=quick"""


class LaunchStyle(argparse.Action):
    """Positional words ``name:=value``, as `ros2 launch` takes them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        names = {argument.name for argument in USES[namespace.use_name].arguments}
        for word in values or ():
            name, assigned, value = str(word).partition(":=")
            if not assigned:
                parser.error(f"'{word}': expected name:=value")
            if name not in names:
                parser.error(f"'{name}': no such argument; there are {', '.join(sorted(names))}")
            setattr(namespace, name, value)


def configure(parser: argparse.ArgumentParser) -> None:
    uses = parser.add_subparsers(dest="use", required=True, metavar="USE")
    for use in USES.values():
        sub = uses.add_parser(
            use.name,
            help=use.description,
            description=use.description,
            epilog=EXAMPLES,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        sub.set_defaults(use_name=use.name)
        add_arguments(sub, use)


def add_arguments(parser: argparse.ArgumentParser, use: Use) -> None:
    """The start arguments of a use, as options and as words."""
    for argument in use.arguments:
        parser.add_argument(
            f"--{argument.name.replace('_', '-')}",
            dest=argument.name,
            metavar=argument.name.upper() if not argument.choices else None,
            choices=argument.choices or None,
            help=describe(argument),
        )
    parser.add_argument("words", nargs="*", action=LaunchStyle, metavar="name:=value", help="the same, as for launch")


def given_arguments(arguments: argparse.Namespace, use: Use) -> dict[str, str]:
    """Those that were given."""
    return {a.name: getattr(arguments, a.name) for a in use.arguments if getattr(arguments, a.name) is not None}


def describe(argument: Argument) -> str:
    text = argument.description.replace("%", "%%")
    return f"{text} [{argument.default}]" if argument.default else text


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.nodes import launcher

    use = USES[arguments.use]
    return launcher.run(use.plan(given_arguments(arguments, use)))
