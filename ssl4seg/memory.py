"""The memory of this machine, or of the share of it that this process may use."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The memory limit of a container, in versions 2 and 1 of cgroups."""


def free_memory() -> int | None:
    """Bytes that a process may still take: free ones, and those of files kept in memory. None if the system hides it.

    A container's limit counts whole: its use includes files kept in memory, which make room.
    """
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None  # not Linux
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *(limit for file in LIMITS if (limit := _number(file)))], default=None)


def _number(file: Path) -> int | None:
    """The number in a file; None without the file, or if it says "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
