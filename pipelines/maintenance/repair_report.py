"""What a repair did, and what is left to do about the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ...storage.verify import CODES_KIND, LENGTHS_KIND, TEXT_KIND, Damage

SHARD_KINDS: Final = (CODES_KIND, LENGTHS_KIND, TEXT_KIND)


@dataclass(kw_only=True)
class RepairResult:
    """What a repair did.

    Attributes:
        memory: which memory.
        version: the version repaired.
        new_version: the version committed because something could not be put back as it was; None if there was none.
        found: how many damaged places were found.
        repaired: path -> how it was repaired.
        recoded: passages encoded again.
        moved: passages whose rows are in a new segment now.
        dropped: ids of passages given up with `drop`.
        lost: ids of passages whose text is lost, and which are still in the memory.
        remaining: what is still damaged, with what can be done about it.
    """

    memory: Path | str
    version: int | None = None
    new_version: int | None = None
    found: int = 0
    repaired: dict[str, str] = field(default_factory=dict)
    recoded: int = 0
    moved: int = 0
    dropped: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    remaining: list[Damage] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged any more."""
        return not self.remaining

    def note(self, key: str, how: str) -> None:
        """Records that `key`, a file relative to the memory, is repaired, and how."""
        self.repaired[key] = how

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory), "sound": self.sound}


def explained(damage: Damage, result: RepairResult) -> Damage:
    """The damage with what is left to do, now that repair has been tried."""
    remedy = "restore it from a copy of the memory"
    if damage.kind == TEXT_KIND and result.lost:
        remedy = (
            f"the text is nowhere else in the memory: restore the file from a copy, or run `glimmer repair --drop "
            f"{result.memory}` and then `glimmer refresh SOURCE... --memory {result.memory}`"
        )
    elif damage.kind in SHARD_KINDS and result.version is not None:
        remedy = f"restore it from a copy of the memory, or run `glimmer repair {result.memory}` on the newest version"
    return Damage(**asdict(damage) | {"remedy": remedy, "passages": damage.passages})
