"""What the machine has, and what of it is free."""

from __future__ import annotations

from cloudray.protocol.demand import UNIT, Demand, fits


class Resources:
    """Counts resources in ten-thousandths of a unit."""

    def __init__(self, total: Demand) -> None:
        self.total = dict(total)
        self.free = dict(total)

    def take(self, demand: Demand) -> bool:
        """Take a demand out of what is free, if it fits."""
        if not fits(demand, self.free):
            return False
        self.take_anyway(demand)
        return True

    def take_anyway(self, demand: Demand) -> None:
        """Take it even if that oversubscribes: a task that was lent out comes back."""
        for name, units in demand.items():
            self.free[name] = self.free.get(name, 0) - units

    def give(self, demand: Demand) -> None:
        """Put back what was taken."""
        for name, units in demand.items():
            self.free[name] = self.free.get(name, 0) + units

    def room_for(self, demand: Demand) -> int:
        """How many more of this demand fit now; capped where the demand is nothing."""
        counts = [self.free.get(name, 0) // units for name, units in demand.items() if units > 0]
        return max(0, min(counts, default=self.slots))

    @property
    def slots(self) -> int:
        """How many one-CPU tasks the machine runs at once, at least 1."""
        return max(1, self.total.get("CPU", 0) // UNIT)
