"""The original encoder–decoder is PyTorch's; Marian computes here what it computes in Transformers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig

from clearhead import ClearheadError
from clearhead.models.families.original import base, big, marian, original
from clearhead.models.names import Names, to_ours
from clearhead.models.transformer import Transformer
from tests.models.families.both import SOURCE_LENGTHS, TS, Both, Translator
from tests.models.families.parity import B, T, assert_near, randomised

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 60,
    "eos_token_id": 0,
    "decoder_start_token_id": 60,
}
CONFIGS = {
    "swish": MarianConfig(**SMALL, activation_function="swish", scale_embedding=True),
    "relu": MarianConfig(**SMALL, activation_function="relu"),
}


class Biased(Both):
    """With a bias of the logits, which is no parameter."""

    def drawn(self, model: nn.Module) -> nn.Module:
        model = super().drawn(model)
        bias: Any = model.final_logits_bias
        bias.normal_()
        return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Biased(CONFIGS[request.param], tmp_path_factory.mktemp("marian"))


class TestMarian(Translator):
    """With both activations."""


def test_two_vocabularies_are_refused() -> None:
    config = MarianConfig(**SMALL, share_encoder_decoder_embeddings=False)
    with pytest.raises(ClearheadError, match=r"got share_encoder_decoder_embeddings = False; expected True"):
        marian(config.to_dict())


@pytest.mark.parametrize(("config", "millions"), [(base(), 65), (big(), 213)])
def test_it_has_as_many_weights_as_in_the_paper(config: Any, millions: int) -> None:
    """Table 3. It does not say which vocabulary was counted; § 5.1 has about 37,000 tokens."""
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


def pytorch(side: str, attentions: dict[str, str], norms: tuple[str, ...]) -> dict[str, str]:
    """Names of PyTorch's layers: norms are numbered as they come."""
    ours, theirs = f"{'encoder.' if side == 'encoder' else ''}stack.blocks.{{n}}.", f"{side}.layers.{{n}}."
    names = {}
    for kind in ("weight", "bias"):
        for attention, name in attentions.items():
            names[f"{ours}{attention}.qkv.{kind}"] = f"{theirs}{name}.in_proj_{kind}"
            names[f"{ours}{attention}.out.{kind}"] = f"{theirs}{name}.out_proj.{kind}"
        for n, norm in enumerate(norms, 1):
            names[f"{ours}{norm}_norm.{kind}"] = f"{theirs}norm{n}.{kind}"
        names[f"{ours}feed_forward.up.{kind}"] = f"{theirs}linear1.{kind}"
        names[f"{ours}feed_forward.down.{kind}"] = f"{theirs}linear2.{kind}"
    return names


PYTORCH = Names(
    {"tokens.weight": "tokens.weight"}
    | pytorch("encoder", {"attention": "self_attn"}, ("attention", "feed_forward"))
    | pytorch("decoder", {"attention": "self_attn", "cross": "multihead_attn"}, ("attention", "cross", "feed_forward"))
)


@torch.no_grad()
def test_it_is_made_of_pytorchs_layers() -> None:
    sizes: dict[str, Any] = {"d_model": 32, "nhead": 4, "dim_feedforward": 48, "dropout": 0.0, "batch_first": True}
    theirs = nn.Transformer(
        32,
        4,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), 2),
        batch_first=True,
    )
    randomised(theirs).eval()
    ours = Transformer(original(61, 32, heads=4, hidden=48, layers=2)).eval()
    to_ours(PYTORCH, theirs.state_dict() | {"tokens.weight": torch.randn(61, 32)}, ours)
    source, target = torch.randint(61, (B, TS)), torch.randint(61, (B, T))

    padding = torch.arange(TS) >= SOURCE_LENGTHS[:, None]
    expected = theirs(
        embedded(ours, source),
        embedded(ours, target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(T),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    made = ours.hidden(target, memory=ours.encode(source, SOURCE_LENGTHS))
    assert_near(made, expected)
    assert_near(ours(target, memory=ours.encode(source, SOURCE_LENGTHS)), expected @ ours.tokens.weight.T)


def embedded(model: Transformer, tokens: Tensor) -> Tensor:
    """§ 3.4 and § 3.5, written out."""
    E, T = model.config.width, tokens.shape[1]
    place, n = torch.arange(T, dtype=torch.float64)[:, None], torch.arange(0, E, 2)
    angle = place / 10_000 ** (n / E)
    positions = torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
    return model.tokens.weight[tokens] * E**0.5 + positions.float()
