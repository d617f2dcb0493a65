"""What must hold for the files of the tree, whoever wrote them."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gs_semantic

# Bridges to ROS; everything else works where there is none.
WITH_ROS = ("nodes", "client", "benchmarks", "msg", "srv", "action")
WITHOUT_ROS = ("nodes.arguments", "benchmarks.render")
# Who may know whom: a folder imports from its own row and those above it, also inside functions.
LAYERS = (
    ("errors", "labels", "files", "share", "report"),
    ("gaussians", "rendering", "data", "space", "mapping", "objects", "segmenters", "evaluation"),
    ("segmentation",),
    ("nodes", "client", "viewer", "msg", "srv", "action"),
    ("benchmarks",),
    ("cli",),
)
# Recorded messages are read by the functions that read live ones; these modules know no ROS.
SHARED_READERS = ("nodes.images", "nodes.calibration", "nodes.transforms")
PLACES = ("work", "home", "root", "tmp")
FORBIDDEN = re.compile(rf"(?<![\w.$}}])/(?:{'|'.join(PLACES)})/[\w.]|file:/{{3}}|pypi\.org|BEGIN \w+ PRIVATE KEY")


def _text_files(root: Path) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode != 0:
        pytest.skip("not a git checkout: no list of what belongs to the project")
    files = [root / name for name in listing.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def test_no_path_or_host_of_one_machine(root: Path) -> None:
    files = _text_files(root)
    assert root / "package.xml" in files
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()[:100]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("place", PLACES)
def test_the_search_finds_paths(place: str) -> None:
    assert FORBIDDEN.search(f"folder = '/{place}/somewhere'")
    assert not FORBIDDEN.search(f"maps/{place}/somewhere")


def _core_modules() -> list[str]:
    prefix = "gs_semantic."
    names = [module.name for module in pkgutil.walk_packages(gs_semantic.__path__, prefix)]
    core = [name for name in names if name.split(".")[1] not in WITH_ROS and not name.endswith("__main__")]
    return [name for name in core if not name.rpartition(".")[2].startswith("gs_semantic_s__")] + [
        prefix + name for name in WITHOUT_ROS if prefix + name in names
    ]


def test_core_imports_without_ros() -> None:
    modules = _core_modules()
    assert {"gs_semantic.errors", "gs_semantic.labels", "gs_semantic.gaussians.camera"} <= set(modules)
    program = """
import importlib, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        package = name.split(".")[0]
        if package == "rclpy" or package.endswith("_msgs") or name in ("gs_semantic.msg", "gs_semantic.srv"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoRos())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if error.name == "triton":  # of the extra 'cuda'; imported where it is used
            continue
        failed.append(f"{name}: {error}")
sys.exit("\\n".join(failed) or 0)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def _imports(path: Path) -> list[str]:
    """What a file imports of gs_semantic, without that prefix: "nodes.images" for ``from gs_semantic.nodes import images``."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("gs_semantic.") for name in names if name.startswith("gs_semantic.")]


def test_no_folder_imports_from_one_above_it(root: Path) -> None:
    layer_of = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    wrong, seen = [], set()
    for path in sorted((root / "gs_semantic").rglob("*.py")):
        parts = path.relative_to(root / "gs_semantic").with_suffix("").parts
        if parts[0].startswith("__"):
            continue
        for name in _imports(path):
            part = name.partition(".")[0]
            seen.add((parts[0], part))
            shared = parts[0] == "data" and name.startswith(SHARED_READERS)
            if layer_of.get(part, 0) > layer_of[parts[0]] and not shared:
                wrong.append(f"{path.relative_to(root)} imports gs_semantic.{name}")
    assert {folder for folder, _ in seen} <= set(layer_of)
    assert {("benchmarks", "mapping"), ("cli", "benchmarks"), ("data", "nodes")} <= seen  # the search finds imports
    assert not wrong, "\n".join(wrong)
