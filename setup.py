"""`pip install --no-build-isolation .` in an environment that has the ROS 2 wheels and torch.

Besides the Python modules it installs what CMake makes: the interfaces, the native library, executables, launch files,
configuration and sample, each where ROS looks for it. Every other form stops with a message.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import wheel_route

COMMAND = "pip install --no-build-isolation ."
BUILD = ROOT / "build" / "pip"


def refuse(reason: str) -> None:
    sys.exit(
        f"gs_semantic: {reason}\nInside an environment that has torch and the ROS 2 wheels "
        f"(pip install -r requirements/ros.txt -r requirements/build.txt), run\n\n    {COMMAND}\n\n"
        "`make build` sets all of this up for working in the source tree; on a robot with ROS 2 use `colcon build`."
    )


def check_environment() -> None:
    """Stop unless this runs where the package is to live: build isolation hides torch and the ROS wheels."""
    if not wheel_route.ros_prefixes() or importlib.util.find_spec("rclpy") is None:
        refuse("the ROS 2 wheels are not visible to the build (none installed, or pip's build isolation hides them).")
    if importlib.util.find_spec("torch") is None:
        refuse("torch is not visible to the build (not installed, or pip's build isolation hides it).")


class BuildWithCMake(build_py):
    """Builds with CMake, too: files below site-packages join the package, the others become data files."""

    def run(self) -> None:
        super().run()
        try:
            wheel_route.check_toolchain()
            stage = BUILD / "stage"
            wheel_route.cmake_build(ROOT, BUILD / "cmake", *wheel_route.ros_options(stage))
            installed = wheel_route.cmake_install(BUILD / "cmake", stage)
        except wheel_route.BuildError as error:
            sys.exit(f"gs_semantic: {error}")
        packages = wheel_route.site_packages(Path())
        data_files = self.distribution.data_files = []
        for path in installed:
            if path.is_relative_to(packages):
                target = Path(self.build_lib) / path.relative_to(packages)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(stage / path, target)
            else:
                data_files.append((str(path.parent), [str((stage / path).relative_to(ROOT))]))


class RefuseEditable(editable_wheel):
    def run(self) -> None:
        refuse("editable installs cannot hold the generated interfaces.")


class BinaryDistribution(Distribution):
    """A wheel of this platform and this Python, though no extension module is declared."""

    def has_ext_modules(self) -> bool:
        return True


if __name__ == "__main__":
    if "setuptools.build_meta" not in sys.modules:
        refuse("setup.py is not run directly.")
    check_environment()
    shutil.rmtree(BUILD, ignore_errors=True)  # or modules that were removed since would come along
    BUILD.mkdir(parents=True)
    setup(
        distclass=BinaryDistribution,
        cmdclass={"build_py": BuildWithCMake, "editable_wheel": RefuseEditable},
        options={"build": {"build_base": str(BUILD)}, "egg_info": {"egg_base": str(BUILD)}},
    )
