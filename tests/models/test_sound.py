"""A sound's log-mel spectrogram is Whisper's."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from clearhead.errors import ClearheadError
from clearhead.models.sound import RATE, filters, log_mel

NOISE = torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
SOUND = torch.linspace(0, 900, 5 * RATE).cos() * 0.5 + NOISE * 0.01


@pytest.mark.parametrize("bins", [80, 128])
def test_it_is_what_transformers_computes(bins: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=bins)(SOUND.numpy(), sampling_rate=RATE)["input_features"][0]
    torch.testing.assert_close(log_mel(SOUND, bins), torch.from_numpy(theirs), atol=1e-4, rtol=0)


def test_the_triangles_are_what_transformers_computes() -> None:
    np.testing.assert_allclose(filters(80).T, WhisperFeatureExtractor().mel_filters, atol=1e-12)


def test_each_sound_of_a_batch_is_heard_by_itself() -> None:
    quiet = SOUND.flip(0) * 0.01
    both = log_mel(torch.stack((SOUND, quiet)), seconds=None)
    torch.testing.assert_close(both[0], log_mel(SOUND, seconds=None))
    torch.testing.assert_close(both[1], log_mel(quiet, seconds=None))


def test_a_longer_sound_is_cut_off() -> None:
    torch.testing.assert_close(log_mel(SOUND, seconds=2), log_mel(SOUND[: 2 * RATE], seconds=None))


def test_a_pure_tone_is_loudest_where_its_pitch_is() -> None:
    """1,000 Hz is mel 15 on Slaney's scale, of 45.245 up to 8,000 Hz; 80 triangles have 81 steps: the 26th or 27th."""
    tone = (2 * torch.pi * 1000 * torch.arange(RATE) / RATE).sin()
    loudest = log_mel(tone, seconds=None)[:, 50].argmax()
    assert int(loudest) in (25, 26)


def test_half_precision_is_computed_in_float32() -> None:
    made = log_mel(SOUND.half(), seconds=None)
    assert made.dtype == torch.float32
    assert torch.equal(made, log_mel(SOUND.half().float(), seconds=None))


@pytest.mark.parametrize("shape", [(0,), (200,), (0, RATE)], ids=str)
def test_too_little_sound_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ClearheadError, match=r"^log_mel: got sound of torch\.float32 and shape .*; expected floats .* 200"
    ):
        log_mel(torch.zeros(shape), seconds=None)
