"""Whisper computes here what it computes in Transformers, from sound to words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSpeechSeq2Seq, GenerationMixin, WhisperConfig

from clearhead import ClearheadError
from clearhead.models.families.whisper import waves, whisper
from clearhead.models.generate import generate
from tests.models.families.both import TS, Both, EncoderDecoder
from tests.models.families.parity import B

BINS = 6
CONFIG = WhisperConfig(
    vocab_size=61,
    num_mel_bins=BINS,
    d_model=32,
    encoder_layers=3,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=8,
    encoder_ffn_dim=48,
    decoder_ffn_dim=40,
    max_source_positions=TS,
    max_target_positions=32,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
    begin_suppress_tokens=None,
)


class Heard(Both):
    """With sound for a source: it is always as long, so that none is padded."""

    pads = False

    def __init__(self, config: Any, folder: Path) -> None:
        super().__init__(config, folder, AutoModelForSpeechSeq2Seq)

    def drawn(self, model: nn.Module) -> nn.Module:
        """So that what is heard says what is written."""
        model = super().drawn(model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("encoder_attn.out_proj.weight"):
                    weight.mul_(4)
        return model

    def some_source(self) -> Tensor:
        return torch.randn(B, BINS, 2 * TS)

    def given(self, padded: bool) -> dict[str, Tensor]:
        return {"input_features": self.source}

    def embedded(self) -> Tensor:
        made: Tensor = self.ours.encoder.embed(self.source)
        return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Heard(CONFIG, tmp_path_factory.mktemp("whisper"))


class TestWhisper(EncoderDecoder):
    """From log-mel to logits."""


def test_its_places_are_transformers_to_begin_with(pair: Both) -> None:
    torch.testing.assert_close(waves(TS, 32).table, pair.theirs.model.encoder.embed_positions.weight)


def test_too_long_a_sound_is_refused(pair: Both) -> None:
    with pytest.raises(ClearheadError, match=r"got a token at position 11, counted from 0; expected none beyond 10"):
        pair.ours.encode(torch.randn(1, BINS, 2 * TS + 2))


def test_it_writes_down_what_theirs_writes(pair: Both) -> None:
    begin = [3, 20, 21]
    ours = generate(pair.ours, [begin] * B, memory=pair.ours.encode(pair.source), max_new_tokens=12)
    theirs = GenerationMixin.generate(
        pair.theirs,
        encoder_outputs=pair.theirs.get_encoder()(pair.source),
        decoder_input_ids=torch.tensor([begin] * B),
        do_sample=False,
        num_beams=1,
        min_new_tokens=12,
        max_new_tokens=12,
    )
    assert [one.tokens for one in ours] == theirs[:, len(begin) :].tolist()
    assert len({tuple(one.tokens) for one in ours}) == B


def test_a_memory_of_fewer_sources_is_refused(pair: Both) -> None:
    memory = pair.ours.encode(pair.source[:2])
    with pytest.raises(ClearheadError, match=r"memory: got one of 2 sources for 3 prompts; expected as many"):
        generate(pair.ours, [[3]] * 3, memory=memory)


def test_without_sound_it_writes_nothing() -> None:
    with pytest.raises(
        ClearheadError, match=r"the model's encoder reads no text, but sound; give memory=model\.encode\("
    ):
        whisper(CONFIG.to_dict()).eval().generate([3, 4])


def test_sound_of_another_number_of_pitches_is_refused() -> None:
    with pytest.raises(ClearheadError, match=r"got sound \(1, 8, 22\) of 8 pitches; .*, log_mel\(sound, bins=6\)\."):
        whisper(CONFIG.to_dict()).encode(torch.randn(1, BINS + 2, 2 * TS))
