"""Both: an encoder–decoder computes in ours what it computes in Transformers, from the source to the last token.

As in parity.py, a family's test file names its configs in a fixture `pair`, of `Both`, and inherits `EncoderDecoder`.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from clearhead.models.generate import generate
from clearhead.models.names import to_theirs
from tests.models.families.parity import LENGTHS, B, Pair, T, as_weights, assert_near

TS = 11
"""Tokens of the source."""
SOURCE_LENGTHS = torch.tensor([7, 11, 4])


class Both(Pair):
    """A random encoder–decoder of Transformers, saved, and ours, loaded from there."""

    pads = True
    """Whether a source may be padded."""

    def __init__(
        self, config: Any, folder: Path, auto: Any = transformers.AutoModelForSeq2SeqLM, attention: str = "eager"
    ) -> None:
        super().__init__(config, folder, auto, attention)
        self.source = self.some_source()
        self.source_mask = (torch.arange(TS) < SOURCE_LENGTHS[:, None]).long()

    def some_source(self) -> Tensor:
        """Something to read: a text."""
        return torch.randint(3, self.config.vocab_size, (B, TS))

    def lengths(self, padded: bool) -> Tensor | None:
        """Of the source."""
        return SOURCE_LENGTHS if padded and self.pads else None

    def embedded(self) -> Tensor:
        """Ours: the source before the first layer."""
        made: Tensor = self.ours.encoder.embed(self.source, torch.arange(TS)[None])
        return made

    def given(self, padded: bool) -> dict[str, Tensor]:
        """Transformers' arguments that say what is read."""
        return {"input_ids": self.source} | ({"attention_mask": self.source_mask} if padded else {})

    def written(self, padded: bool) -> dict[str, Tensor]:
        """Those that say what is written."""
        tokens = {"decoder_input_ids": self.tokens}
        return tokens | {"decoder_attention_mask": self.mask} if padded else tokens

    def run(self, padded: bool, **options: Any) -> Any:
        """Transformers' model, reading and writing."""
        return self.theirs(**self.given(padded), **self.written(padded), **options)

    def mine(self, padded: bool) -> Tensor:
        """Our logits of the same."""
        model = self.ours
        made: Tensor = model(
            self.tokens,
            lengths=LENGTHS if padded else None,
            memory=model.encode(self.source, self.lengths(padded)),
        )
        return made


class EncoderDecoder:
    """What holds for each encoder–decoder of a family."""

    @torch.no_grad()
    def test_its_logits_are_theirs(self, pair: Both) -> None:
        assert_near(pair.mine(False), pair.run(False).logits)

    @torch.no_grad()
    def test_its_logits_are_theirs_where_texts_are_padded(self, pair: Both) -> None:
        assert_near(pair.mine(True)[pair.real], pair.run(True).logits[pair.real])

    @torch.no_grad()
    def test_each_layer_of_the_encoder_is_theirs(self, pair: Both) -> None:
        for padded in (False, pair.pads):
            theirs = pair.run(padded, output_hidden_states=True).encoder_hidden_states
            lengths = pair.lengths(padded)
            x, stack = pair.embedded(), pair.ours.encoder.stack
            *ours, last = x, *stack.states(x, lengths=lengths)
            real = pair.source_mask.bool() if lengths is not None else slice(None)
            for mine, there in zip((*ours, stack.norm(last)), theirs, strict=True):
                assert_near(mine[real], there[real])

    @torch.no_grad()
    def test_each_layer_of_the_decoder_is_theirs(self, pair: Both) -> None:
        for padded in (False, True):
            theirs = pair.run(padded, output_hidden_states=True).decoder_hidden_states
            memory = pair.ours.encode(pair.source, pair.lengths(padded))
            ours = pair.hidden(memory=memory, lengths=LENGTHS if padded else None)
            real = pair.real if padded else slice(None)
            for mine, there in zip(ours, theirs, strict=True):
                assert_near(mine[real], there[real])

    def test_its_gradients_are_theirs(self, pair: Both, tmp_path: Path) -> None:
        other = copy.copy(pair)
        other.ours, other.theirs = copy.deepcopy(pair.ours), copy.deepcopy(pair.theirs)
        out = other.run(True).logits[pair.real]
        weight = torch.randn_like(out) / pair.real.sum()
        (out * weight).sum().backward()
        (other.mine(True)[pair.real] * weight).sum().backward()
        as_weights(other.theirs).save_pretrained(tmp_path)
        expected, found = load_file(tmp_path / "model.safetensors"), to_theirs(pair.names, as_weights(other.ours))
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for name, gradient in expected.items():
            if name in dict(other.theirs.named_buffers()):
                continue  # theirs does not train it
            # One that is next to nothing, as a key's bias's is, is all rounding.
            assert_near(found[name], gradient, largest / 10, name)

    @torch.no_grad()
    def test_piece_by_piece_it_says_what_theirs_says(self, pair: Both) -> None:
        ours, begin, pieces = pair.ours, 0, []
        caches, memory = ours.caches(), ours.encode(pair.source, pair.lengths(True))
        theirs = pair.theirs
        read = theirs.get_encoder()(**pair.given(True))
        rest = {"attention_mask": pair.source_mask} if pair.pads else {}
        past = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
        for end in (5, 9, *range(10, T + 1)):
            piece = pair.tokens[:, begin:end]
            pieces.append(ours(piece, memory=memory, caches=caches))
            there = theirs(encoder_outputs=read, decoder_input_ids=piece, past_key_values=past, use_cache=True, **rest)
            assert_near(pieces[-1], there.logits)
            begin = end
        assert_near(torch.cat(pieces, 1), ours(pair.tokens, memory=memory))

    @torch.no_grad()
    def test_a_padded_batch_goes_on_as_each_text_alone(self, pair: Both) -> None:
        ours, lengths = pair.ours, pair.lengths(True)
        more = torch.tensor([[7], [11], [5]])
        caches, memory = ours.caches(), ours.encode(pair.source, lengths)
        ours(pair.tokens, lengths=LENGTHS, memory=memory, caches=caches)
        logits = ours(more, memory=memory, caches=caches)
        for b, length in enumerate(LENGTHS):
            one = ours.encode(pair.source[b : b + 1, : None if lengths is None else int(lengths[b])])
            alone = ours(torch.cat([pair.tokens[b, :length], more[b]])[None], memory=one)
            assert_near(logits[b, -1], alone[0, -1])

    def test_its_weights_go_there_and_back_bit_for_bit(self, pair: Both) -> None:
        saved = load_file(pair.folder / "model.safetensors")
        back = to_theirs(pair.names, pair.ours)
        assert back.keys() == saved.keys()
        for name, weight in saved.items():
            assert torch.equal(back[name], weight), name


class Translator(EncoderDecoder):
    """What holds besides where the source is a text."""

    def test_it_writes_what_theirs_writes(self, pair: Both) -> None:
        sources = [row[:length].tolist() for row, length in zip(pair.source, SOURCE_LENGTHS, strict=True)]
        ours = generate(pair.ours, sources, max_new_tokens=12)
        theirs = pair.theirs.generate(
            input_ids=pair.source,
            attention_mask=pair.source_mask,
            do_sample=False,
            num_beams=1,
            min_new_tokens=12,
            max_new_tokens=12,
            forced_eos_token_id=None,
        )
        assert [one.tokens for one in ours] == theirs[:, 1:].tolist()
        assert len({tuple(one.tokens) for one in ours}) == B
