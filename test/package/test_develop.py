"""The environment that `make build` sets up, and when it builds anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def develop(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """tools/develop.py working on an empty prefix, its CMake replaced by a copy of the interface files."""
    monkeypatch.syspath_prepend(str(root / "tools"))
    import develop

    prefix = tmp_path / "prefix"
    monkeypatch.setattr(develop, "PREFIX", prefix)
    monkeypatch.setattr(develop, "PACKAGES", prefix / "packages")
    monkeypatch.setattr(develop, "STAMPS", prefix / "stamps")
    monkeypatch.setattr(develop, "BUILD", tmp_path / "build")
    (prefix / "stamps").mkdir(parents=True)
    builds: list[Path] = []
    monkeypatch.setattr(develop, "cmake_build", lambda source, build, *options: builds.append(source))

    def install(build: Path, stage: Path) -> list[Path]:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.copytree(builds[-1] / "msg", stage / "share" / "msg")
        return [path.relative_to(stage) for path in stage.rglob("*.msg")]

    monkeypatch.setattr(develop, "cmake_install", install)
    develop.builds = builds
    return develop


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "msg").mkdir(parents=True)
    (source / "msg" / "A.msg").write_text("int8 a\n", encoding="utf-8")
    (source / "msg" / "B.msg").write_text("int8 b\n", encoding="utf-8")
    return source


def test_builds_again_only_when_a_file_changed(develop, messages: Path) -> None:
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    assert len(develop.builds) == 1
    (messages / "msg" / "A.msg").write_text("int16 a\n", encoding="utf-8")
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    assert len(develop.builds) == 2
    assert (develop.PREFIX / "share" / "msg" / "A.msg").read_text(encoding="utf-8") == "int16 a\n"


def test_builds_again_when_an_installed_file_is_gone(develop, messages: Path) -> None:
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    (develop.PREFIX / "share" / "msg" / "B.msg").unlink()
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    assert (develop.PREFIX / "share" / "msg" / "B.msg").exists()


def test_a_removed_interface_leaves_the_environment(develop, messages: Path) -> None:
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    (messages / "msg" / "B.msg").unlink()
    develop.build_interfaces("some_msgs", messages, ["msg/*"])
    assert sorted(path.name for path in (develop.PREFIX / "share" / "msg").iterdir()) == ["A.msg"]


def test_an_installed_package_that_would_hide_the_tree_is_refused(develop) -> None:
    package = develop.PACKAGES / "gs_semantic"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with pytest.raises(develop.BuildError, match="pip uninstall gs_semantic"):
        develop.link_source_tree()


@pytest.fixture
def pip_commands(develop, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What install_requirements asks pip for, in an environment without torch."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(develop, "_pip", lambda what, *arguments: commands.append(arguments))
    monkeypatch.setattr(develop, "_torch_is_suitable", lambda: bool(commands))
    return commands


def test_torch_comes_first_and_from_the_index_that_was_named(develop, pip_commands: list[tuple[str, ...]]) -> None:
    develop.install_requirements("2.13.0", "https://torch.example.org/cpu")
    assert pip_commands[0] == ("torch==2.13.0", "--index-url", "https://torch.example.org/cpu")
    assert any(argument.endswith("ros.txt") for argument in pip_commands[1])
    assert "--index-url" not in pip_commands[1]


def test_requirements_are_installed_once(develop, pip_commands: list[tuple[str, ...]]) -> None:
    develop.install_requirements("2.13.0", "")
    develop.install_requirements("2.13.0", "")
    assert len(pip_commands) == 2


@pytest.mark.parametrize(("version", "suitable"), [("2.13.0+cpu", True), ("2.4.0", True), ("2.3.1", False), ("1.13", False)])
def test_a_torch_that_is_there_is_used_when_new_enough(
    develop, monkeypatch: pytest.MonkeyPatch, version: str, suitable: bool
) -> None:
    monkeypatch.setattr(develop.importlib.metadata, "version", lambda name: version)
    assert develop._torch_is_suitable() is suitable


def test_every_ros_wheel_is_pinned(root: Path) -> None:
    lines = (root / "requirements" / "ros.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_no_python_is_named(root: Path, tmp_path: Path, run: Run) -> None:
    shell = shutil.which("sh")
    result = run(shell, root / "tools" / "find_python.sh", cwd=tmp_path, PATH=str(tmp_path), PYTHON="")
    assert result.returncode != 0
    assert "3.10, 3.11 or 3.12" in result.stdout and "apt install" in result.stdout


def test_make_alone_lists_the_targets(root: Path, run: Run) -> None:
    result = run("make", "--no-print-directory", cwd=root)
    assert result.returncode == 0
    for target in ("make demo", "make test", "make build", "make lint", "make clean"):
        assert target in result.stdout


in_develop_environment = pytest.mark.skipif(
    not Path(sys.prefix, "share", "gs_semantic-develop").is_dir(), reason="not the environment of `make build`"
)


@in_develop_environment
def test_modules_come_from_the_tree_and_interfaces_from_the_environment(root: Path, tmp_path: Path, run: Run) -> None:
    program = "import gs_semantic, gs_semantic.msg as msg; print(gs_semantic.__file__, msg.__file__, sep='\\n')"
    result = run(sys.executable, "-c", program, cwd=tmp_path)
    module, interfaces = result.stdout.split()
    assert Path(module) == root / "gs_semantic" / "__init__.py"
    assert Path(interfaces).is_relative_to(Path(sys.prefix).resolve())


@in_develop_environment
@pytest.mark.parametrize("name", ["gs-semantic", "mapper", "replay"])
def test_executables(name: str) -> None:
    assert os.access(Path(sys.prefix, "lib", "gs_semantic", name), os.X_OK)


@in_develop_environment
def test_command_line_starts_from_anywhere(tmp_path: Path, run: Run) -> None:
    result = run(Path(sys.prefix, "bin", "gs-semantic"), "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "demo" in result.stdout
