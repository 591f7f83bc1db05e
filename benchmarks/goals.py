"""Goals: what a case shall reach, against whom, and how far a measured value is from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A value to reach at least, and one to aim at."""

    against: str
    """The peer or the yardstick that it is measured against."""
    at_least: float
    aim: float

    higher_is_better = True

    def says(self, value: float) -> str:
        """The value in its unit."""
        raise NotImplementedError

    def verdict(self, value: float) -> str:
        """Reached, or short by how much."""
        if self._reaches(value, self.aim):
            return "aim reached"
        if self._reaches(value, self.at_least):
            return "reached"
        return f"short by {self._short(value)}"

    def _reaches(self, value: float, wanted: float) -> bool:
        return value >= wanted if self.higher_is_better else value <= wanted

    def _short(self, value: float) -> str:
        return f"{1 - value / self.at_least:.0%}"


class Faster(Goal):
    """How many times as fast as the peer."""

    def says(self, value: float) -> str:
        """1.45×."""
        return f"{value:.2f}×"


class Share(Goal):
    """Which share of a yardstick's rate: of the peak of multiply–adds, or of the memory's bandwidth."""

    def says(self, value: float) -> str:
        """82 %."""
        return f"{value:.0%}"


class Costs(Goal):
    """How much more time than the peer, as a share of the peer's."""

    higher_is_better = False

    def says(self, value: float) -> str:
        """8.0 %."""
        return f"{value:.1%}"

    def _short(self, value: float) -> str:
        return f"{100 * (value - self.at_least):.0f} points"


class Takes(Goal):
    """How much of the peer's time ours takes."""

    higher_is_better = False

    def says(self, value: float) -> str:
        """0.80 of it."""
        return f"{value:.2f} of it"

    def _short(self, value: float) -> str:
        return f"{value - self.at_least:.2f}"


class Lasts(Goal):
    """How many seconds."""

    higher_is_better = False

    def says(self, value: float) -> str:
        """0.20 s, or 16 ms."""
        return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"

    def _short(self, value: float) -> str:
        return self.says(value - self.at_least)


class Holds(Goal):
    """How many bytes are held beyond inputs and outputs."""

    higher_is_better = False

    def says(self, value: float) -> str:
        """64 MB."""
        return f"{value / 1e6:.0f} MB"

    def _short(self, value: float) -> str:
        return f"{(value - self.at_least) / 1e6:.0f} MB"
