"""Memory and processor time of another process, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

from gs_semantic.errors import GsSemanticError


def _status_mb(pid: int, field: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise GsSemanticError(f"process {pid} cannot be measured (Linux only): {error.strerror}") from error
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise GsSemanticError(f"process {pid} has ended; its memory cannot be measured")


def rss_mb(pid: int) -> float:
    """Resident memory, MB."""
    return _status_mb(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    """The most resident memory so far, MB."""
    return _status_mb(pid, "VmHWM")


def cpu_s(pid: int) -> float:
    """Processor time of all threads so far, s."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
