"""Version, dependencies and interfaces are said in several files; they say the same."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import gs_semantic

BUILT_IN_TYPES = re.compile(r"^(bool|byte|char|float(32|64)|u?int(8|16|32|64)|w?string(<=\d+)?)$")
ROS_PACKAGE = re.compile(r"^(rclpy|launch|launch_ros|cv_bridge|tf2_ros|tf_transformations|ament_index_python|\w+_(msgs|srvs)|"
                         r"\w+_interfaces)$")  # fmt: skip
# Come along with rclpy itself.
WITH_RCLPY = {"rcl_interfaces", "rosgraph_msgs"}


@pytest.fixture(scope="module")
def manifest(root: Path) -> ElementTree.Element:
    return ElementTree.parse(root / "package.xml").getroot()


def _interface_files(root: Path) -> list[Path]:
    return [path for kind in ("msg", "srv", "action") for path in sorted(root.glob(f"{kind}/*.{kind}"))]


def _fields(interface: Path) -> list[tuple[str, str]]:
    """Return (type without array bounds, name) of every field and constant of an interface file."""
    lines = (line.split("#", 1)[0].strip() for line in interface.read_text(encoding="utf-8").splitlines())
    pairs = (re.match(r"([\w/<=]+)(?:\[[^\]]*\])?\s+(\w+)", line) for line in lines if line and line != "---")
    return [(pair.group(1), pair.group(2)) for pair in pairs if pair]


def test_one_version(root: Path, manifest: ElementTree.Element) -> None:
    changelog = re.search(r"^## (\d+\.\d+\.\d+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert manifest.findtext("version") == gs_semantic.__version__
    assert changelog and changelog.group(1) == gs_semantic.__version__


def test_manifest_is_an_interface_package_with_a_usable_maintainer(manifest: ElementTree.Element) -> None:
    assert [group.text for group in manifest.iter("member_of_group")] == ["rosidl_interface_packages"]
    assert manifest.findtext("export/build_type") == "ament_cmake"
    maintainer = manifest.find("maintainer")
    assert maintainer is not None and re.fullmatch(r"[\w.-]+@[\w-]+\.[a-z]{2,}", maintainer.get("email", ""))


def test_messages_inside_interfaces_are_found_by_cmake_and_declared(root: Path, manifest: ElementTree.Element) -> None:
    used = {
        field_type.split("/")[0]
        for path in _interface_files(root)
        for field_type, _ in _fields(path)
        if "/" in field_type
    } - {"gs_semantic"}
    cmake = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(r"set\(interface_dependencies ([^)]*)\)", cmake)
    assert listed
    found = set(listed.group(1).split())
    declared = {element.text for element in manifest.iter("depend")}
    assert used and used <= found, f"CMakeLists.txt lacks {used - found}"
    assert found <= declared, f"package.xml lacks <depend> of {found - declared}"


def test_ros_packages_that_modules_import_are_declared(root: Path, manifest: ElementTree.Element) -> None:
    imported: dict[str, Path] = {}
    for path in (*root.glob("gs_semantic/**/*.py"), *root.glob("launch/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.append(node.module)
            imported.update({name.split(".")[0]: path for name in names if ROS_PACKAGE.match(name.split(".")[0])})
    declared = {element.text for tag in ("depend", "exec_depend") for element in manifest.iter(tag)} | WITH_RCLPY
    missing = {name: str(path.relative_to(root)) for name, path in imported.items() if name not in declared}
    assert not missing, f"package.xml lacks <exec_depend> of {missing}"


def test_installed_interfaces_are_those_of_the_tree(root: Path) -> None:
    files = _interface_files(root)
    assert files
    for path in files:
        interface = getattr(importlib.import_module(f"gs_semantic.{path.parent.name}"), path.stem)
        names = {".msg": (), ".srv": ("Request", "Response"), ".action": ("Goal", "Result", "Feedback")}[path.suffix]
        parts = [getattr(interface, name) for name in names] or [interface]
        installed = {name for part in parts for name in part.get_fields_and_field_types()}
        constants = {line.split()[1].split("=")[0] for line in path.read_text(encoding="utf-8").splitlines()
                     if re.match(r"\w+ +[A-Z0-9_]+ *=", line)}  # fmt: skip
        assert installed == {name for _, name in _fields(path)} - constants, f"{path.name} changed: make build"


def test_every_field_type_is_known(root: Path) -> None:
    for path in _interface_files(root):
        for field_type, name in _fields(path):
            assert "/" in field_type or BUILT_IN_TYPES.match(field_type) or field_type[0].isupper(), (path, name)
