"""Results of commands: one JSON form for all of them, and a table for people."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gs_semantic import __version__
from gs_semantic.files import atomic_write, make_folder

SCHEMA = 1


@dataclass
class Report:
    """What ``--json FILE`` holds: ``{schema, command, commit, machine, seeds, results}``.

    command: the command line that made it. seeds: every seed it used, by name. results: values by name; shares such
    as IoU are fractions 0..1, all other names end in their unit.
    """

    command: str
    seeds: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "commit": commit(),
            "machine": machine(),
            "seeds": dict(self.seeds),
            "results": plain(self.results),
        }

    def text(self) -> str:
        """The JSON file's text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Write the JSON file, whole or not at all; folders above it are made. StorageError names the path."""
        make_folder(Path(path).parent)
        with atomic_write(path) as file:
            file.write(self.text().encode())

    def print(self, title: str = "", console: Console | None = None) -> None:
        """Print the results as a table of one column."""
        print_table(title or self.command, {"value": self.results}, console)


def plain(value: Any) -> Any:
    """Values that JSON knows: numpy scalars and arrays become numbers and lists, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"a report cannot hold {value!r} ({type(value).__name__})")


def machine() -> str:
    """Processor, cores this process may use, instruction set, graphics card if any, and torch version."""
    parts = [f"{_cpu_model()}, {_cores()} cores, {torch.backends.cpu.get_cpu_capability()}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join([*parts, f"torch {torch.__version__}, Python {platform.python_version()}"])


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str:
    """Commit of the checkout that this code runs from, with ``-dirty`` when files differ; else the package version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return f"version {__version__}"
    return done.stdout.strip()


def print_table(title: str, columns: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Print named columns of values side by side; a value that a column lacks is left empty."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(name for values in columns.values() for name in values):
        table.add_row(name, *(_cell(values.get(name)) for values in columns.values()))
    (console or Console(file=sys.stdout)).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
