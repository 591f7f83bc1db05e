"""Sampling: from logits to each sequence's next token, the likeliest or one drawn by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Its parts are applied in this order, and computed in float32:

    1. repetition penalty: logits of tokens that are in the sequence are divided by it if positive, else multiplied
       by it (CTRL, Keskar et al. 2019);
    2. temperature: logits / temperature. 0 takes the likeliest token, and none of the rest matters;
    3. top-k: the k likeliest tokens, and those as likely as the k-th (Fan et al. 2018);
    4. top-p: the fewest tokens whose probabilities sum to p, of what is left (Holtzman et al. 2020);
    5. min-p: tokens at least p times as likely as the likeliest (Nguyen et al. 2024).

    The likeliest token always stays. Raises ClearheadError for a number out of range.

    >>> logits = torch.tensor([[1.0, 3.0, 2.0]])
    >>> Sampling(temperature=0.5, top_k=2).filtered(logits)
    tensor([[-inf, 6., 4.]])
    >>> Sampling().choose(logits, [])
    tensor([1])
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, right, expected in (
            (
                "temperature",
                self.greedy or 1e-6 <= self.temperature < float("inf"),
                "0, for the likeliest token, or 1e-6 on",
            ),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "more than 0; 1 is no penalty"),
        ):
            if not right:
                raise ClearheadError(f"{name}: got {getattr(self, name)}, expected {expected}.")

    @property
    def greedy(self) -> bool:
        """Whether it takes the likeliest token."""
        return self.temperature == 0

    def filtered(self, logits: Float[Tensor, "B V"], seen: Bool[Tensor, "B V"] | None = None) -> Float[Tensor, "B V"]:
        """The logits to draw from, −inf for tokens that are out. `seen` are the tokens that each sequence holds."""
        logits = logits.float()
        if seen is not None and self.repetition_penalty != 1:
            penalty = self.repetition_penalty
            logits = torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
        if self.greedy:
            return logits
        logits = logits / self.temperature
        if self.top_k is not None:
            logits = _without(logits, logits < logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:])
        if self.top_p is not None and self.top_p < 1:
            ascending, order = logits.sort()
            out = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
            out[:, -1] = False
            logits = _without(logits, out.scatter(1, order, out))
        if self.min_p is not None:
            probabilities = logits.softmax(-1)
            logits = _without(logits, probabilities < self.min_p * probabilities.amax(-1, keepdim=True))
        return logits

    def choose(
        self,
        logits: Float[Tensor, "B V"],
        generators: Sequence[torch.Generator],
        seen: Bool[Tensor, "B V"] | None = None,
    ) -> Int[Tensor, " B"]:
        """The next token of each sequence. Each is drawn by a generator of its own, so that none depends on another."""
        logits = self.filtered(logits, seen)
        if self.greedy:
            return logits.argmax(-1)
        probabilities = logits.softmax(-1).cpu()
        drawn = [torch.multinomial(p, 1, generator=by) for p, by in zip(probabilities, generators, strict=True)]
        return torch.cat(drawn).to(logits.device)


def generators(count: int, seed: int | None) -> list[torch.Generator]:
    """One for each sequence, seeded with seed, seed + 1, ...; without a seed, `torch.manual_seed` decides."""
    first = int(torch.randint(2**62, ())) if seed is None else seed
    return [torch.Generator().manual_seed(first + n) for n in range(count)]


def _without(logits: Tensor, out: Tensor) -> Tensor:
    return logits.masked_fill(out, -torch.inf)
