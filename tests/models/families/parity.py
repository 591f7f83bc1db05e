"""Parity: a family's tiny random model computes in ours what it computes in Transformers, weights and all.

A family's test file names its configs in a fixture `pair` and inherits the tests:

    CONFIGS = {"plain": LlamaConfig(**SMALL), ...}

    @pytest.fixture(params=CONFIGS, scope="module")
    def pair(request, tmp_path_factory):
        return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("llama"))

    class TestLlama(Decoder): ...
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from clearhead.models.families import FAMILIES
from clearhead.models.loading import load
from clearhead.models.names import Names, to_theirs

B, T = 3, 14
LENGTHS = torch.tensor([14, 5, 9])
"""How many tokens of each sequence are real, where a batch is padded."""


def randomised(model: nn.Module) -> nn.Module:
    """With no weight left at 0 or 1: a bias or a norm that is dropped would not be missed otherwise."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue  # it is never trained, and may not even be saved
            if weight.dim() < 2:
                weight.add_(torch.randn_like(weight) * 0.3)
            elif "embed" in name or "wte" in name or "wpe" in name:
                weight.normal_(std=0.5)
            else:
                weight.normal_(std=1.2 * min(weight.shape[-2:]) ** -0.5)
    return model


def as_weights(model: Any) -> Any:
    """A model whose weights are its gradients, which thus have a checkpoint's names and shapes."""
    for weight in model.parameters():
        weight.data = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return model


def assert_near(ours: Tensor, theirs: Tensor, scale: float = 1.0, what: str = "it") -> None:
    """To 1e-5 of the largest, or of `scale` where that is more."""
    assert ours.shape == theirs.shape
    limit = 1e-5 * max(scale, float(theirs.abs().max()))
    off = float((ours - theirs).abs().max())
    assert off <= limit, f"{what} is off by {off:.2e}, expected at most {limit:.2e}"


class Pair:
    """A random model of Transformers, saved, and ours, loaded from there."""

    def __init__(
        self, config: Any, folder: Path, auto: Any = transformers.AutoModelForCausalLM, attention: str = "eager"
    ) -> None:
        torch.manual_seed(0)
        self.config = config
        self.folder = folder
        self.theirs = self.drawn(auto.from_config(config, attn_implementation=attention)).eval()
        self.theirs.save_pretrained(folder)
        self.ours: Any = load(folder)
        self.tokens = torch.randint(3, config.vocab_size, (B, T))
        self.mask = (torch.arange(T) < LENGTHS[:, None]).long()

    def drawn(self, model: nn.Module) -> nn.Module:
        """Its weights drawn at random."""
        return randomised(model)

    @property
    def names(self) -> Names:
        """How its checkpoint names the weights."""
        theirs = json.loads((self.folder / "config.json").read_text())
        return FAMILIES[theirs["model_type"]].names_of(theirs)

    @property
    def real(self) -> Tensor:
        """Which tokens of a padded batch are real, as a boolean mask."""
        return self.mask.bool()

    def hidden(self, **inputs: Any) -> list[Tensor]:
        """Ours: the embeddings, the tokens after each layer, the last of them normed."""
        model = self.ours
        at = torch.arange(T)[None]
        x = model.embed(self.tokens, at, inputs.pop("segments", None))
        states = [x, *model.stack.states(x, at, **inputs)]
        return [*states[:-1], model.stack.norm(states[-1])]

    def output(self, theirs: Any) -> Tensor:
        """What Transformers' model makes: logits, or the last tokens where it has no head."""
        made: Tensor = theirs.logits if "logits" in theirs else theirs.last_hidden_state
        return made

    def by_their_names(self, model: nn.Module) -> dict[str, Tensor]:
        """Our weights as the checkpoint has them, without the prefix if it has no head."""
        weights = to_theirs(self.names, model)
        if self.theirs.base_model_prefix in dict(self.theirs.named_children()):
            return weights
        return {name.removeprefix(self.names.prefix): weight for name, weight in weights.items()}

    def without(self, **changed: Any) -> Tensor:
        """What Transformers' model would make with something else in its config, and the same weights."""
        config = copy.deepcopy(self.config)
        for name, value in changed.items():
            setattr(config, name, value)
        other = type(self.theirs)._from_config(config, attn_implementation=self.theirs.config._attn_implementation)
        other.load_state_dict(self.theirs.state_dict(), strict=False)
        with torch.no_grad():
            return self.output(other.eval()(self.tokens))


def assert_matters(pair: Pair, **changed: Any) -> None:
    """The tiny model shows a feature of its config: without it, the output is another, far beyond the tolerance."""
    with torch.no_grad():
        there = pair.output(pair.theirs(pair.tokens))
    off = float((pair.without(**changed) - there).abs().max())
    assert off > 1e-2 * float(there.abs().max()), f"{changed} hardly matters: off by {off:.2e}"


class Encoder:
    """What holds for each model of a family."""

    @torch.no_grad()
    def test_its_output_is_theirs(self, pair: Pair) -> None:
        assert_near(pair.ours(pair.tokens), pair.output(pair.theirs(pair.tokens)))

    @torch.no_grad()
    def test_each_layer_is_theirs(self, pair: Pair) -> None:
        theirs = pair.theirs(pair.tokens, output_hidden_states=True).hidden_states
        for ours, there in zip(pair.hidden(), theirs, strict=True):
            assert_near(ours, there)

    @torch.no_grad()
    def test_each_layer_is_theirs_where_texts_are_padded(self, pair: Pair) -> None:
        theirs = pair.theirs(pair.tokens, attention_mask=pair.mask, output_hidden_states=True)
        for ours, there in zip(pair.hidden(lengths=LENGTHS), theirs.hidden_states, strict=True):
            assert_near(ours[pair.real], there[pair.real])
        ours = pair.ours(pair.tokens, lengths=LENGTHS)
        assert_near(ours[pair.real], pair.output(theirs)[pair.real])

    def test_its_gradients_are_theirs(self, pair: Pair, tmp_path: Path) -> None:
        ours, theirs = copy.deepcopy(pair.ours), copy.deepcopy(pair.theirs)
        out = pair.output(theirs(pair.tokens, attention_mask=pair.mask))
        weight = torch.randn_like(out)[pair.real] / pair.real.sum()
        (out[pair.real] * weight).sum().backward()
        (ours(pair.tokens, lengths=LENGTHS)[pair.real] * weight).sum().backward()
        as_weights(theirs).save_pretrained(tmp_path)
        expected, found = load_file(tmp_path / "model.safetensors"), pair.by_their_names(as_weights(ours))
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for name, gradient in expected.items():
            # Small ones beside the largest, as those of queries and keys, are off by more of themselves: in theirs,
            # which have weights rounded once more, by 1.2e-5 from float64. A key's bias has none, all is rounding.
            assert_near(found[name], gradient, largest / 25, name)

    def test_its_weights_go_there_and_back_bit_for_bit(self, pair: Pair) -> None:
        saved = load_file(pair.folder / "model.safetensors")
        back = pair.by_their_names(pair.ours)
        assert back.keys() == saved.keys()
        for name, weight in saved.items():
            assert torch.equal(back[name], weight), name


class Decoder(Encoder):
    """What holds for each model that writes, besides."""

    @torch.no_grad()
    def test_piece_by_piece_it_says_what_theirs_says(self, pair: Pair) -> None:
        ours, theirs = pair.ours, pair.theirs
        caches, past, begin = ours.caches(), transformers.DynamicCache(config=pair.config), 0
        pieces = []
        for end in (5, 9, *range(10, T + 1)):
            piece = pair.tokens[:, begin:end]
            pieces.append(ours(piece, caches=caches))
            assert_near(pieces[-1], pair.output(theirs(piece, past_key_values=past, use_cache=True)))
            begin = end
        assert_near(torch.cat(pieces, 1), ours(pair.tokens))

    @torch.no_grad()
    def test_a_padded_batch_goes_on_as_each_text_alone(self, pair: Pair) -> None:
        more = torch.tensor([[7], [11], [5]])
        caches = pair.ours.caches()
        pair.ours(pair.tokens, lengths=LENGTHS, caches=caches)
        logits = pair.ours(more, caches=caches)
        for b, length in enumerate(LENGTHS):
            alone = torch.cat([pair.tokens[b, :length], more[b]])[None]
            assert_near(logits[b, -1], pair.output(pair.theirs(alone))[0, -1])

    @torch.no_grad()
    def test_the_last_logits_alone_are_those_of_all(self, pair: Pair) -> None:
        whole = pair.ours(pair.tokens, lengths=LENGTHS)
        last = pair.ours(pair.tokens, lengths=LENGTHS, last=True)
        assert_near(last, whole[torch.arange(B), LENGTHS - 1])
