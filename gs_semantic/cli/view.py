"""Look at a saved map in the browser: orbit it, click objects, name them. Several folders are revisions of one map.

A live map is shown by `gs-semantic run segment viewer:=true`. Needs the extra "viewer".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gs_semantic.viewer.settings import HOST, PORT, SPLATS

EXAMPLES = """examples:
  gs-semantic view house_map
  gs-semantic view monday_map tuesday_map          # a time line; the last one is shown first
  gs-semantic view house_map --host 0.0.0.0        # for other machines, who need the token that is printed"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", type=Path, nargs="+", metavar="MAP", help="map folder; earlier revisions first")
    parser.add_argument("--host", default=HOST, help=f"address to listen on; other than loopback needs a token [{HOST}]")
    parser.add_argument("--port", type=int, default=PORT, help=f"port; 0: any free one [{PORT}]")
    parser.add_argument("--token", default="", help="key that browsers need [none on loopback, else made and printed]")
    parser.add_argument(
        "--splats", type=int, default=SPLATS, metavar="N", help=f"Gaussians sent to a page at most [{SPLATS}]"
    )


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.nodes.launcher import caught_signals
    from gs_semantic.viewer.server import Viewer
    from gs_semantic.viewer.source import FolderSource

    with caught_signals() as signals:
        source = FolderSource(*arguments.maps)
        with Viewer(source, arguments.host, arguments.port, arguments.token, arguments.splats) as viewer:
            print(f"{source.title}: open {viewer.address} (end with Ctrl-C)", flush=True)
            viewer.wait(lambda: bool(signals))
    return 0
