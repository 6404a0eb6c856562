"""The files that the workers of one gateway keep their metrics in, so that each of them can tell the sums of all.

prometheus_client writes them where PROMETHEUS_MULTIPROC_DIR was in the environment before it was loaded: a file for
each kind of metric and process. What a dead worker counted stays in the sums, since a counter that falls is taken for
one that began anew; what it had running does not.
"""

import os
from pathlib import Path


def pid_of(file: Path) -> int:
    """The process that writes a file: counter_12.db, gauge_livesum_12.db."""
    name = file.stem.rsplit("_", 1)[-1]
    return int(name) if name.isdigit() else 0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def dead(folder: Path) -> set[int]:
    """The processes that have files there and are no more."""
    return {pid for pid in map(pid_of, folder.glob("*.db")) if not is_alive(pid)}


def sweep(folder: Path) -> None:
    """Forget what dead workers had running. Several workers may be at it at the same time."""
    gone = dead(folder)
    for file in folder.glob("gauge_live*.db"):
        if pid_of(file) in gone:
            file.unlink(missing_ok=True)


def withdraw(folder: Path) -> None:
    """Forget this process, which only starts the workers: what it has at 0 would be the least of all."""
    for file in folder.glob(f"*_{os.getpid()}.db"):
        file.unlink()


def begin(folder: Path, workers: int) -> None:
    """Forget all that an earlier gateway left behind, once for each set of workers: the first that begins does it."""
    mark = folder / f"begun-by-{name_of(os.getppid() if workers > 1 else os.getpid())}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    gone = dead(folder)
    for file in folder.glob("*.db"):
        if pid_of(file) in gone:
            file.unlink(missing_ok=True)
    for other in folder.glob("begun-by-*"):
        if other != mark and not is_alive(int(other.name.split("-")[2])):
            other.unlink(missing_ok=True)


def name_of(pid: int) -> str:
    """A process by its id and when it began, since ids are used again."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        began = "0"
    return f"{pid}-{began}"
