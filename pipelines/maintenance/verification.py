"""Verification: everything that a version of a memory holds is read and compared with what was committed."""

from __future__ import annotations

from ...progress import Progress, Quiet
from ...storage.stores import Place
from ...storage.verify import VerifyReport
from ...storage.verify import verify as verify_memory


def verify(*, memory: Place, version: int | None = None, progress: Progress | None = None) -> VerifyReport:
    """Reads and checks all of a version of a memory, and the log up to the newest.

    Args:
        memory: the memory's directory.
        version: which version; None is the newest.
        progress: called with the shards that were read.

    Returns:
        A report whose `damages` is empty, and `sound` true, exactly when all is well. Damage never raises.

    Raises:
        UsageError: there is no memory or no such version, or it was vacuumed.
        StorageError: the file system refuses.

    Examples:
        >>> glimmer.verify(memory="wiki.memory").sound
        True
    """
    progress = progress or Quiet()
    progress.stage("verify", total=None, unit="shards")
    report = verify_memory(memory, version=version, progress=lambda done, total: progress.at(done, total=total))
    progress.done()
    return report
