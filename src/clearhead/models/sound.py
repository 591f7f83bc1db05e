"""Sound: a recording as Whisper hears it, the loudness of each pitch a hundred times a second."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clearhead.errors import ClearheadError

RATE = 16_000
"""Samples a second."""
STEP = 160
"""Samples from one frame to the next."""
FRAME = 400
"""Samples that a frame hears."""
QUIET = 8.0
"""How much quieter than the loudest pitch is silence, in powers of ten."""


def log_mel(
    sound: Float[Tensor, "*B samples"], bins: int = 80, seconds: float | None = 30
) -> Float[Tensor, "*B bins frames"]:
    """A recording's log-mel spectrogram: m = (log₁₀ max(F |STFT|², 10⁻¹⁰) + 4) / 4, `samples / 160` frames of it.

    F are `bins` triangles, evenly laid over the mel scale up to 8,000 Hz (Slaney 1998). What is more than 80 dB below
    the loudest is raised to there (Radford et al. 2022, § 2.2). `sound` has 16,000 samples a second, between −1 and 1.
    So that it lasts `seconds`, silence is put after it, or what is too much is cut off, unless that is None. Computed
    in float32 at least. Raises ClearheadError for fewer samples than half a frame.

    >>> log_mel(torch.zeros(16_000)).shape
    torch.Size([80, 3000])
    """
    if seconds is not None:
        sound = F.pad(sound, (0, round(seconds * RATE) - sound.shape[-1]))
    if not sound.is_floating_point() or not sound.numel() or sound.shape[-1] <= FRAME // 2:
        raise ClearheadError(
            f"log_mel: got sound of {sound.dtype} and shape {tuple(sound.shape)}; expected floats between −1 and 1, "
            f"more than {FRAME // 2} of them, half a frame. With seconds=, silence is put after them."
        )
    sound = sound.to(torch.promote_types(sound.dtype, torch.float32))
    window = torch.hann_window(FRAME, device=sound.device, dtype=sound.dtype)
    flat = sound.reshape(-1, sound.shape[-1])
    power = torch.stft(flat, FRAME, STEP, window=window, return_complex=True)[..., :-1].abs() ** 2
    loud = (filters(bins).to(power) @ power).clamp(min=1e-10).log10()
    loud = loud.maximum(loud.amax((-2, -1), keepdim=True) - QUIET)
    return ((loud + 4) / 4).reshape(*sound.shape[:-1], *loud.shape[-2:])


def filters(bins: int) -> Float[Tensor, "bins frequencies"]:
    """The triangles over the frequencies of a frame, each of area 1 in hertz."""
    corners = _hertz(torch.linspace(0, _mel(RATE / 2), bins + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, RATE / 2, 1 + FRAME // 2, dtype=torch.float64)
    low, middle, high = (corners[n : n + bins, None] for n in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return rising.minimum(falling).clamp(min=0) * 2 / (high - low)


# Slaney's scale: even up to 1,000 Hz, logarithmic above.
_EVEN, _FROM, _GROWTH = 200 / 3, 1000.0, math.log(6.4) / 27


def _mel(hertz: float) -> float:
    return hertz / _EVEN if hertz < _FROM else _FROM / _EVEN + math.log(hertz / _FROM) / _GROWTH


def _hertz(mel: Float[Tensor, " corners"]) -> Float[Tensor, " corners"]:
    return torch.where(mel < _FROM / _EVEN, mel * _EVEN, _FROM * ((mel - _FROM / _EVEN) * _GROWTH).exp())
