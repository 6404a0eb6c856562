"""A worker's part of every limit, for when workers cannot count together. Pure."""

from typing import NamedTuple

from . import Claim, Meter, Reading


class Share(NamedTuple):
    """The `rank`th of `workers`."""

    workers: int
    rank: int

    def of(self, limit: int) -> int:
        """As much as all others; the remainder goes to the first ones, one each."""
        return limit // self.workers + (self.rank < limit % self.workers)

    def of_meter(self, meter: Meter, known: int) -> Meter:
        """A meter with this share of its limit or, of a day or month, of what is left beside what is `known` used."""
        if meter.limit is None:
            return meter
        used = min(known, meter.limit)
        return meter._replace(limit=used + self.of(meter.limit - used))


def fits(claim: Claim, meter: Meter) -> bool:
    """Whether a call could ever be admitted by a meter."""
    return meter.limit is None or (claim.least if meter.counts_tokens else 1) <= meter.limit


def whole(reading: Reading, meter: Meter) -> Reading:
    """A reading of a share, told of the meter that it is a share of: what remains is what this worker may give."""
    if meter.limit is None or reading.remaining is None:
        return reading
    return Reading(meter, meter.limit - reading.remaining, reading.resets_in)
