"""MultiHeadLatentAttention: as DeepSeek-V3's in Transformers, and with its small cache the same as without."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend import library
from clearhead.errors import ClearheadError
from clearhead.nn.caches import Cache, Growing, Latent, Paged, Pool, Quantised, Sliding, Static
from clearhead.nn.latent import MultiHeadLatentAttention
from clearhead.nn.positions.rotary import Rotary

B, T, E, H, LATENT, D, R, DV = 2, 13, 48, 4, 24, 16, 8, 12
NAMES = {
    "q_a_proj": "q_down",
    "q_a_layernorm": "q_norm",
    "q_b_proj": "q_up",
    "q_proj": "q_up",
    "kv_a_proj_with_mqa": "kv_down",
    "kv_a_layernorm": "kv_norm",
    "kv_b_proj": "kv_up",
    "o_proj": "out",
}


def ours(q_latent: int | None = 20, bias: bool = False) -> MultiHeadLatentAttention:
    rotary = Rotary(R, layout="pairs")
    widths = {"latent": LATENT, "head_width": D, "value_width": DV, "q_latent": q_latent}
    return MultiHeadLatentAttention(E, H, **widths, position=rotary, bias=bias)


def pair(q_latent: int | None, bias: bool) -> tuple[MultiHeadLatentAttention, Callable[..., Tensor], torch.nn.Module]:
    """Ours and Transformers', with the same random weights; theirs as a function of the tokens and a cache."""
    from transformers.models.deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    config = DeepseekV3Config(
        hidden_size=E, num_attention_heads=H, num_key_value_heads=H, q_lora_rank=q_latent, kv_lora_rank=LATENT,
        qk_nope_head_dim=D, qk_rope_head_dim=R, v_head_dim=DV, attention_bias=bias, num_hidden_layers=1,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = DeepseekV3Attention(config, 0).eval()
    rotary = DeepseekV3RotaryEmbedding(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer = ours(q_latent, bias)
    layer.load_state_dict({f"{NAMES[n.split('.')[0]]}.{n.split('.')[1]}": x for n, x in theirs.state_dict().items()})

    def their(x: Tensor, start: int = 0, past: object = None) -> Tensor:
        new, keys = x.shape[1], start + x.shape[1]
        mask = torch.full((new, keys), -torch.inf).triu(start + 1)[None, None]
        at = torch.arange(start, keys)[None]
        return theirs(x, rotary(x, at), mask, past_key_values=past)[0]

    return layer, their, theirs


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("q_latent", [20, None], ids=["queries from a latent", "queries directly"])
def test_it_is_deepseeks_with_gradients(q_latent: int | None, bias: bool) -> None:
    layer, their, module = pair(q_latent, bias)
    x, weight = torch.randn(B, T, E), torch.randn(B, T, E)
    mine, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(layer(mine), their(expected), atol=1e-5, rtol=1e-5)
    (layer(mine) * weight).sum().backward()
    (their(expected) * weight).sum().backward()
    torch.testing.assert_close(mine.grad, expected.grad, atol=1e-4, rtol=1e-4)
    for name, parameter in module.named_parameters():
        part, kind = name.split(".")
        torch.testing.assert_close(
            getattr(getattr(layer, NAMES[part]), kind).grad, parameter.grad, atol=1e-4, rtol=1e-4
        )


def test_with_a_cache_it_is_deepseeks_with_a_cache() -> None:
    from transformers import DynamicCache

    layer, their, _ = pair(20, False)
    x, cache, past = torch.randn(B, T, E), Latent(LATENT), DynamicCache()
    with torch.no_grad():
        for start, stop in ((0, 7), (7, 12), (12, 13)):
            out = layer(x[:, start:stop], cache=cache)
            torch.testing.assert_close(out, their(x[:, start:stop], start, past), atol=1e-5, rtol=1e-5)


CACHES: dict[str, Callable[[], Cache]] = {
    "latent": lambda: Latent(LATENT),
    "growing": Growing,
    "static": lambda: Static(B, 1, LATENT + R, T, Dv=LATENT),
    "paged": lambda: Paged(Pool(8, block=4)),
    "quantised": Quantised,
}


@pytest.mark.parametrize("pieces", [[T], [6, 7], [1] * T, [8, 1, 2, 2]], ids=str)
@pytest.mark.parametrize("made", CACHES.values(), ids=CACHES)
def test_in_any_pieces_and_any_cache_it_is_the_same(made: Callable[[], Cache], pieces: list[int]) -> None:
    layer, x, cache = ours(), torch.randn(B, T, E), made()
    with torch.no_grad():
        out = torch.cat([layer(part, cache=cache) for part in x.split(pieces, 1)], 1)
        near = 0.02 if isinstance(cache, Quantised) else 2e-6
        torch.testing.assert_close(out, layer(x), atol=near, rtol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_flow_through_the_latent_cache(dtype: torch.dtype) -> None:
    layer, x, weight = ours().to(dtype), torch.randn(B, T, E, dtype=dtype), torch.randn(B, T, E, dtype=dtype)
    gradients = []
    for pieces in ([T], [5, 1, 6, 1]):
        cache = Latent(LATENT) if len(pieces) > 1 else None
        out = torch.cat([layer(part, cache=cache) for part in x.split(pieces, 1)], 1)
        gradients.append(torch.autograd.grad((out * weight).sum(), list(layer.parameters())))
    for whole, in_pieces in zip(*gradients, strict=True):
        near = 1e-5 if dtype == torch.float32 else 1e-6  # the angles are float32
        torch.testing.assert_close(in_pieces, whole, atol=near, rtol=near)


def test_padding_is_not_seen_and_written_over() -> None:
    layer, x = ours(), torch.randn(B, T, E)
    lengths = torch.tensor([5, 9])
    with torch.no_grad():
        cache = Latent(LATENT)
        padded = x[:, :9].clone()
        padded[0, 5:] = 1e3
        first = layer(padded, lengths=lengths, cache=cache)
        then = layer(torch.stack((x[0, 5:6], x[1, 9:10])), cache=cache)
        whole = layer(x)
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(first[b, :n], whole[b, :n], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(then[b, 0], whole[b, n], atol=2e-6, rtol=1e-5)


def test_the_cache_holds_a_latent_and_a_rotary_key_a_token() -> None:
    layer, cache = ours(), Latent(LATENT)
    with torch.no_grad():
        layer(torch.randn(B, 31, E), cache=cache)
    room = 32
    assert cache.nbytes == B * room * (LATENT + R) * 4
    assert cache.nbytes < B * room * H * (D + R + DV) * 4 / 4


@pytest.mark.parametrize("latent", [448, 512], ids=["as wide as the kernels take", "DeepSeek's 512 + 64"])
def test_wide_latents_decode_too(latent: int) -> None:
    if library.missing():
        pytest.skip(str(library.missing()))
    layer = MultiHeadLatentAttention(
        E, H, latent=latent, head_width=128, value_width=128, position=Rotary(64, layout="pairs")
    )
    x, cache = torch.randn(1, 7, E), Latent(latent)
    with torch.no_grad():
        out = torch.cat([layer(part, cache=cache) for part in x.split([5, 1, 1], 1)], 1)
        torch.testing.assert_close(out, layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[T], [9, 1, 3], [1, 2, 10]], ids=str)
def test_a_sliding_cache_sees_its_window_however_a_text_is_cut(pieces: list[int]) -> None:
    layer, x, cache = ours(), torch.randn(B, T, E), Sliding(5)
    with torch.no_grad():
        out = torch.cat([layer(part, cache=cache) for part in x.split(pieces, 1)], 1)
        torch.testing.assert_close(out, layer(x, pattern=ch.window(5)), atol=1e-5, rtol=1e-5)


def test_a_mistake_is_named() -> None:
    with pytest.raises(ClearheadError, match=r"got width 48, heads 0, latent 24, .*; expected at least 1 of each"):
        MultiHeadLatentAttention(E, 0, latent=LATENT, head_width=D, value_width=DV, position=Rotary(R))
    with pytest.raises(ClearheadError, match=r"the first 8 numbers of their keys, but got k \(1, 1, 3, 16\)"):
        Latent(8).write(torch.randn(1, 1, 3, 16), torch.randn(1, 1, 3, 16))
    with pytest.raises(ClearheadError, match="nothing has been written"):
        ch.nn.caches.Latent(8).read()
