"""Log lines that may come in floods: the first few of a kind in full, then how many more there were. Pure."""

from collections.abc import Iterator

FIRST = 5  # lines of a kind that are written in full, in each window
WINDOW = 60.0  # seconds

Kind = tuple[str, ...]


class Floods:
    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._began: dict[Kind, float] = {}

    def lets_through(self, kind: Kind, now: float) -> bool:
        """Count a line of a kind. True where it is to be written."""
        self._began.setdefault(kind, now)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] <= FIRST

    def over(self, now: float) -> Iterator[tuple[Kind, int]]:
        """The kinds whose window is over, and how many of their lines were not written. Each begins anew."""
        for kind in [kind for kind, began in self._began.items() if now - began >= WINDOW]:
            del self._began[kind]
            if (held_back := self._counts.pop(kind) - FIRST) > 0:
                yield kind, held_back
