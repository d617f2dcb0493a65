"""ROS domain ids that nobody else on this machine uses: of live measurements and of tests, which may run side by side."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Above 101 the ports of a domain overlap with those that Linux hands out to clients; 0 is everybody's default.
DOMAIN_IDS = range(1, 102)


@contextmanager
def own_domain() -> Iterator[int]:
    """Hold a domain id that no other process holds by this function; freed even when the process is killed.

    All processes of a user take turns through all ids: a context may be seen by others until Python's collector takes
    it, and a node that has just ended must not be taken for one of whoever comes next.
    """
    folder = Path(tempfile.gettempdir(), f"gs_semantic-domains-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    with open(folder / "last", "a+", encoding="utf-8") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        before = int(last.read() or 0)
        for step in range(len(DOMAIN_IDS)):
            domain_id = DOMAIN_IDS[(before + step) % len(DOMAIN_IDS)]
            lock = open(folder / str(domain_id), "w", encoding="utf-8")  # noqa: SIM115 - held until the end of the block
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            last.truncate(0)
            last.write(str(domain_id))
            break
        else:
            raise RuntimeError(f"all ROS domain ids are taken by other processes (locks in {folder})")
    with lock:
        yield domain_id
