"""Findings: counts of what a ledger or a client got wrong."""

from dataclasses import dataclass, field

MAX_EXAMPLES = 20
KINDS = ("lost", "duplicated", "reordered", "gaps", "wrong")


@dataclass(slots=True)
class Findings:
    """Counts of violations, each zero in a correct run, with ``examples`` of the first few.

    ``lost``: accepted messages without a reply. ``duplicated``: messages or turns that were
    recorded, answered or closed twice. ``reordered``: replies in another order than their
    messages. ``gaps``: offsets or text positions that do not continue. ``wrong``: texts that
    differ from the expected ones.
    """

    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    gaps: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def record(self, kind: str, detail: str) -> None:
        """Count one violation of a kind in `KINDS`."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {detail}")

    def merge(self, other: "Findings") -> None:
        """Add the counts of ``other`` to these."""
        for kind in KINDS:
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]

    @property
    def is_clean(self) -> bool:
        return not any(getattr(self, kind) for kind in KINDS)
