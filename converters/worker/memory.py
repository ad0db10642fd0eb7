"""How much memory the deploy worker uses, and how much it may."""

import os
import subprocess
from pathlib import Path

VARIABLE = "BNNKERAS_DEPLOY_MEMORY_GB"
_SHARE_OF_MACHINE = 0.75
# A container's limit (version 2 and 1 of control groups), which the machine's memory exceeds.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def limit_bytes() -> int:
    """The limit that `BNNKERAS_DEPLOY_MEMORY_GB` sets, or 75 % of this machine's memory.

    Raises:
        ValueError: If the variable is not a positive number.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return int(_SHARE_OF_MACHINE * _machine_bytes())
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ValueError(f"{VARIABLE} must be a positive number of gigabytes. Received: {text!r}")
    return int(min(gigabytes, 1e9) * 1e9)


def resident_bytes(process_id: int) -> int:
    """The resident memory of a process, 0 if it has ended."""
    try:
        if os.path.exists("/proc/self/statm"):
            pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        # macOS has no /proc.
        command = ["ps", "-o", "rss=", "-p", str(process_id)]
        return 1024 * int(subprocess.run(command, capture_output=True, text=True).stdout)
    except (OSError, ValueError, IndexError):
        return 0


def _machine_bytes() -> int:
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER_LIMITS:
        try:
            amounts.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # No control groups, or "max".
    return min(amounts)
