"""Scalings: RoPE's frequencies bent, so that a model reads texts longer than those it was trained on."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError


def _check_factor(name: str, factor: float) -> None:
    if not factor >= 1:
        raise ClearheadError(f"{name}: got factor {factor}; expected at least 1, how many times longer texts may be.")


def _check_trained(name: str, trained: int) -> None:
    if trained < 1:
        raise ClearheadError(f"{name}: got trained {trained}; expected the length in tokens that the model learned on.")


def _powers(base: float | Tensor, width: int, device: torch.device) -> Float[Tensor, " R"]:
    """base^(−2n / width), in float32 step by step as the models were trained with: other roundings turn far tokens."""
    return 1.0 / base ** (torch.arange(0, width, 2, device=device).float() / width)


def _stretch(width: int) -> float:
    """The power of a factor in the base that divides the slowest frequency by that factor."""
    if width < 4:
        raise ClearheadError("NTK: got 2 dimensions that turn; expected at least 4, as the fastest frequency stays.")
    return width / (width - 2)


@dataclass(frozen=True)
class Scaling:
    """Which frequencies turn a head, and by how much the turned are stretched. This one leaves RoPE plain.

    >>> Scaling().frequencies(10_000.0, 4, torch.tensor(8))
    tensor([1.0000, 0.0100])
    """

    grows: ClassVar[bool] = False
    """Whether the frequencies change with the text's length."""

    @property
    def temperature(self) -> float:
        """What cosines and sines are multiplied by; its square multiplies the scores."""
        return 1.0

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """θ_n = base^(−2n / width) for n < R = width / 2, where the text is `length` tokens long."""
        return _powers(base, width, length.device)


@dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation: θ'_n = θ_n / factor, as if all stood nearer together (Chen et al. 2023).

    The model must be trained on with it for a short while: near tokens are harder to tell apart.

    >>> Linear(2.0).frequencies(10_000.0, 4, torch.tensor(8))
    tensor([0.5000, 0.0050])
    """

    factor: float

    def __post_init__(self) -> None:
        _check_factor("Linear", self.factor)

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """θ_n / factor."""
        return super().frequencies(base, width, length) / self.factor


@dataclass(frozen=True)
class NTK(Scaling):
    """NTK-aware: base' = base · factor^(width / (width − 2)) (bloc97 2023; Peng et al. 2024, § 3.1).

    The fastest frequency stays, so that neighbours stay apart; the slowest is divided by `factor`.

    >>> NTK(2.0).frequencies(10_000.0, 4, torch.tensor(8))
    tensor([1.0000, 0.0050])
    """

    factor: float

    def __post_init__(self) -> None:
        _check_factor("NTK", self.factor)

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """The plain ones of another base."""
        return _powers(base * self.factor ** _stretch(width), width, length.device)


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """NTK-aware by as much as the text needs: s = factor · length / trained − (factor − 1) (emozilla 2023).

    Up to `trained` tokens it is plain RoPE; beyond, each length has its own base' = base · s^(width / (width − 2)). It
    is the longest text of a batch that counts. Keys in a cache stay as they were turned.

    >>> DynamicNTK(2.0, trained=8).frequencies(10_000.0, 4, torch.tensor([8, 12])[1])
    tensor([1.0000, 0.0050])
    """

    factor: float
    trained: int
    grows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_factor("DynamicNTK", self.factor)
        _check_trained("DynamicNTK", self.trained)

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """The plain ones of a base for this length."""
        s = self.factor * length.clamp(min=self.trained).double() / self.trained - (self.factor - 1)
        return _powers((base * s ** _stretch(width)).float(), width, length.device)


@dataclass(frozen=True)
class YaRN(Scaling):
    """YaRN: fast frequencies as they are, slow ones divided by `factor`, a ramp between (Peng et al. 2024).

    θ'_n = (1 − r_n) · θ_n + r_n · θ_n / factor; r_n rises from 0, where a pair turns `beta_fast` times within the
    `trained` tokens, to 1, where it turns `beta_slow` times; `truncate` rounds these two places outwards.

    The temperature is m(1), m(x) = 0.1 · x · ln(factor) + 1, so that weights stay as sharp among more keys. It is
    m(mscale) / m(mscale_all_dim) where both are given (DeepSeek), or `attention_factor`.

    >>> round(YaRN(16, trained=4096).temperature, 3)
    1.277
    """

    factor: float
    trained: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _check_factor("YaRN", self.factor)
        _check_trained("YaRN", self.trained)
        if not 0 < self.beta_slow <= self.beta_fast:
            raise ClearheadError(
                f"YaRN: got beta_fast {self.beta_fast} and beta_slow {self.beta_slow}; "
                "expected turns within the trained length, the fast ones more."
            )

    @property
    def temperature(self) -> float:
        """0.1 · ln(factor) + 1, or what was said instead."""
        if self.attention_factor is not None:
            return self.attention_factor
        grown = 0.1 * math.log(self.factor)
        if self.mscale and self.mscale_all_dim:
            return (grown * self.mscale + 1) / (grown * self.mscale_all_dim + 1)
        return grown + 1

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """Plain ones, divided ones, and a ramp between."""
        plain = super().frequencies(base, width, length)
        low, high = (self._pair(turns, base, width) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        n = torch.arange(width // 2, dtype=torch.float32, device=length.device)
        ramp = ((n - low) / (high - low or 0.001)).clamp(0, 1)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def _pair(self, turns: float, base: float, width: int) -> float:
        """The n, not a whole number, of which trained · θ_n is so many turns."""
        return width * math.log(self.trained / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1's: waves longer than trained / low are slowed by `factor`, those under trained / high not.

    θ'_n = (1 − r_n) · θ_n / factor + r_n · θ_n, with λ_n = 2π / θ_n and r_n = (trained / λ_n − low) / (high − low),
    clipped to 0 … 1 (Grattafiori et al. 2024, in Meta's code). Like YaRN by wavelengths, with no temperature.

    >>> Llama3(8.0).frequencies(500_000.0, 128, torch.tensor(1))[[0, -1]]
    tensor([1.0000e+00, 3.0689e-07])
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    trained: int = 8192

    def __post_init__(self) -> None:
        _check_factor("Llama3", self.factor)
        _check_trained("Llama3", self.trained)
        if not 0 < self.low < self.high:
            raise ClearheadError(f"Llama3: got low {self.low} and high {self.high}; expected 0 < low < high.")

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """Plain ones, divided ones, and a ramp between."""
        plain = super().frequencies(base, width, length)
        turns = self.trained * plain / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """LongRoPE: θ'_n = θ_n / short_n up to `trained` tokens, θ_n / long_n in longer texts (Ding et al. 2024).

    The two lists were searched for, one number a frequency. The temperature is √(1 + ln(factor) / ln(trained)), or
    `attention_factor`. It is the longest text of a batch that counts. Keys in a cache stay as they were turned.

    >>> LongRoPE((1.0, 1.0), (1.0, 4.0), trained=8, attention_factor=1.0).frequencies(10_000.0, 4, torch.tensor(9))
    tensor([1.0000, 0.0025])
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    factor: float | None = None
    attention_factor: float | None = None
    grows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_trained("LongRoPE", self.trained)
        if self.factor is None and self.attention_factor is None:
            raise ClearheadError(
                "LongRoPE: got neither factor nor attention_factor; expected one, for its temperature."
            )
        if self.factor is not None:
            _check_factor("LongRoPE", self.factor)

    @property
    def temperature(self) -> float:
        """√(1 + ln(factor) / ln(trained)), or what was said instead."""
        if self.attention_factor is not None:
            return self.attention_factor
        assert self.factor is not None
        return math.sqrt(1 + math.log(self.factor) / math.log(self.trained))

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """The plain ones over the list for this length."""
        if not len(self.short) == len(self.long) == width // 2:
            raise ClearheadError(
                f"LongRoPE: got {len(self.short)} short and {len(self.long)} long factors for {width} dimensions "
                f"that turn; expected {width // 2} of each, one a frequency."
            )
        short, long = (torch.tensor(factors, device=length.device) for factors in (self.short, self.long))
        return super().frequencies(base, width, length) / torch.where(length > self.trained, long, short)


@dataclass(frozen=True)
class Proportional(Scaling):
    """Gemma 4's: the first `share` of the whole head's frequencies, and 0 for the rest, which then never turn.

    θ'_n = base^(−2n / width) / factor for n < share · R: unlike `turned`, which gives fewer dimensions a whole range of
    frequencies of their own.

    >>> Proportional(0.5).frequencies(10_000.0, 4, torch.tensor(8))
    tensor([1., 0.])
    """

    share: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_factor("Proportional", self.factor)
        if not 0 <= self.share <= 1:
            raise ClearheadError(
                f"Proportional: got share {self.share}; expected 0 to 1, the part of the head that turns."
            )

    def frequencies(self, base: float, width: int, length: Int[Tensor, ""]) -> Float[Tensor, " R"]:
        """The fast ones."""
        n = torch.arange(width // 2, device=length.device)
        plain = super().frequencies(base, width, length) / self.factor
        return torch.where(n < int(self.share * width // 2), plain, 0.0)
