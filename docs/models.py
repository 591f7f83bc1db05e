"""Draws the pictures of those pages of docs/models whose models write, and BERT's, from the real layers.

All of them, or some: python docs/models.py gemma2 bloom
"""

from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from reading import BLUE, INK, PAPER, VERMILION, Pictures, draw, dress, visible
from torch import Tensor

import clearhead as ch
from clearhead.models.config import Config
from clearhead.models.families import bert as bert_family
from clearhead.models.families import bloom as bloom_family
from clearhead.models.families import gemma2 as gemma2_family
from clearhead.models.families import gpt2 as gpt2_family
from clearhead.models.families import gpt_oss as gpt_oss_family
from clearhead.models.families import llama as llama_family
from clearhead.models.families import mistral as mistral_family
from clearhead.models.families import mpt as mpt_family
from clearhead.models.families import neox as neox_family
from clearhead.models.stack import Stack
from clearhead.nn import Experts, MultiHeadAttention, RMSNorm, Rotary
from clearhead.nn.experts import routings

SMALL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
}
"""What the config.json of a small model of any family says."""
GREYS = "Greys"


def llama(figure: Figure) -> None:
    """Which key/value head each of SmolLM2's query heads reads; how Llama 3.1 slows its turns."""
    heads, turns = figure.subplots(1, 2, width_ratios=(1, 1.2))
    v = torch.eye(3)[None, :, None]  # each value head says its own number
    said = ch.attention(torch.zeros(1, 9, 1, 3), torch.zeros(1, 3, 1, 3), v)[0, :, 0]
    heads.imshow(said.T, cmap=GREYS, vmax=2)
    heads.set(title="who reads which keys", xlabel="query head, of 9", ylabel="key/value head, of 3", yticks=range(3))
    heads.set_xticks(range(9))
    longer = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    longer["original_max_position_embeddings"] = 8192
    large = {"hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 500_000.0, "rope_scaling": longer}
    position: Any = llama_family.config({**SMALL, **large, "max_position_embeddings": 131_072}).position
    plain = Rotary(128, 500_000.0).fixed
    turns.plot(2 * torch.pi / plain, plain / position.fixed, "o", color=BLUE, markersize=3)
    turns.set(title="Llama 3.1's turns", xlabel="tokens a turn, as trained", ylabel="slowed by", xscale="log")
    dress(turns)


def mistral(figure: Figure) -> None:
    """Who sees whom in one layer; of what the last token has heard after each."""
    tokens, size = 24, 5
    config = mistral_family.config({**SMALL, "sliding_window": size})
    sees, hears = figure.subplots(1, 2, width_ratios=(1, 2))
    visible(sees, one(config), 12, 12, f"a window of {size}", "token", "token")
    x = torch.randn(1, tokens, config.width, requires_grad=True)
    heard = torch.zeros(config.layers, tokens)
    for n, state in enumerate(Stack(config).states(x)):
        (gradient,) = torch.autograd.grad(state[0, -1].square().sum(), x, retain_graph=True)
        heard[n] = gradient[0].norm(dim=-1) > 0
    hears.pcolormesh(heard, cmap=GREYS, vmax=2, edgecolors="white")
    hears.set(title="what the last token has heard of", xlabel="token", ylabel="after layer")
    hears.set_yticks(torch.arange(config.layers) + 0.5, range(1, config.layers + 1))
    print(f"mistral: {heard.sum(1).int().tolist()} tokens heard of, layer by layer")


def qwen(figure: Figure) -> None:
    """The largest score as W_q and W_k grow, with a norm on each head's q and k, and without."""
    panel = figure.subplots()
    x = torch.randn(1, 64, 128)
    growth = torch.logspace(-1, 2, 25)
    for norm, colour, said in ((None, VERMILION, "Qwen 2: none"), (RMSNorm, BLUE, "Qwen 3: a norm")):
        layer = MultiHeadAttention(128, 4, pattern=ch.causal(), qk_norm=norm, bias=False)
        weight = layer.qkv.weight.detach().clone()
        largest = []
        for factor in growth:
            with torch.no_grad(), ch.watch(layer) as seen:
                layer.qkv.weight.copy_(weight * factor)
                layer(x)
            largest.append(float(seen.layers[0].statistics.max_score.max()))
        panel.plot(growth, largest, color=colour, label=said)
    panel.set(xscale="log", yscale="log", xlabel="W_q and W_k, times", ylabel="largest score")
    panel.legend(frameon=False)
    dress(panel)


def gpt2(figure: Figure) -> None:
    """How long the tokens' vectors are after each layer, with norms before or after."""
    panel = figure.subplots()
    theirs = {"vocab_size": 100, "n_embd": 128, "n_layer": 24, "n_head": 4, "n_positions": 64}
    config = gpt2_family.config({**theirs, "layer_norm_epsilon": 1e-5})
    x = torch.randn(1, 64, 128)
    for described, colour, said in (
        (config, BLUE, "GPT-2: before each layer"),
        (replace(config, norm_at="after"), VERMILION, "BERT: after each residual"),
    ):
        with torch.no_grad():
            lengths = [x.norm(dim=-1).mean()] + [s.norm(dim=-1).mean() for s in Stack(described).eval().states(x)]
        panel.plot(lengths, color=colour, label=said)
    panel.set(xlabel="layer", ylabel="length of a token's vector", ylim=(0, None))
    panel.legend(frameon=False)
    dress(panel)


def bert(figure: Figure) -> None:
    """Who sees whom where three places are padding; how alike the real MiniLM's places are."""
    sees, alike = figure.subplots(1, 2)
    config = bert_family.config({**SMALL, "type_vocab_size": 2})
    visible(sees, one(config) & ch.padding(torch.tensor([9])), 12, 12, "9 tokens and 3 of padding", "token", "token")
    model: Any = ch.models.load("minilm")
    table = torch.nn.functional.normalize(model.stack.position.table.detach(), dim=-1)
    table = table[:128]
    drawn = alike.imshow(table @ table.T, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    alike.set(title="MiniLM's places: their likeness", xlabel="place, the first 128 of 512", ylabel="place")
    figure.colorbar(drawn, ax=alike, label="cosine")


def neox(figure: Figure) -> None:
    """The score of a key just like the query, by how far back it is: a quarter turned, and all."""
    panel = figure.subplots()
    large = {**SMALL, "hidden_size": 6144, "num_attention_heads": 64, "hidden_act": "gelu"}
    for share, colour, said in ((0.25, BLUE, "GPT-NeoX: 24 of 96 turn"), (1.0, VERMILION, "Llama: all turn")):
        position = neox_family.config({**large, "rotary_pct": share}).position
        q = torch.ones(1, 1, 513, 96)
        turned, _ = position.turn(q, q, position.angles(torch.arange(513)[None]))
        panel.plot(turned[0, 0] @ turned[0, 0, 0] / 96, color=colour, label=said)
    panel.set(xlabel="tokens apart", ylabel="score, over that of the same place", ylim=(0, 1.02), xlim=(0, 512))
    panel.legend(frameon=False)
    dress(panel)


def bloom(figure: Figure) -> None:
    """What each head's scores lose by distance; where that alone lets 512 keys be seen."""
    loses, sees = figure.subplots(1, 2)
    config = bloom_family.config({**SMALL, "hidden_size": 1024, "n_head": 16, "n_layer": 1})
    bias = of_last(config, 512)
    for h, row in enumerate(bias):
        loses.plot(row.flip(-1), color=shade(h, 16), linewidth=1)
    loses.set(title="what a score loses", xlabel="tokens back", ylim=(-20, 0.5), xlim=(0, 511))
    weights = bias.softmax(-1)
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
    sees.bar(range(1, 17), entropy.exp(), color=[shade(h, 16) for h in range(16)])
    sees.set(title="keys that a head sees, all else alike", xlabel="head, of 16", ylabel="e^entropy, of 512 keys")
    dress(loses)
    dress(sees)
    print(f"bloom: e^entropy {entropy.exp()[0]:.1f} … {entropy.exp()[-1]:.0f} of 512 keys")


def mpt(figure: Figure) -> None:
    """How far back a key must be to lose 1, with m = 8 and 16; queries before and after the clip."""
    panel, clipped = figure.subplots(1, 2)
    told = {"model_type": "mpt", "vocab_size": 100, "d_model": 256, "n_heads": 32, "n_layers": 1}
    for most, colour in ((8, BLUE), (16, VERMILION)):
        position: Any = mpt_family.config({**told, "attn_config": {"alibi_bias_max": most}}).position
        panel.plot(range(1, 33), 1 / position.slopes, ".", color=colour, label=f"m = {most}")
    panel.set(title="tokens back that cost 1", yscale="log", xlabel="head, of 32", yticks=(1, 16, 256, 4096, 65536))
    panel.set_yticks((1, 16, 256, 4096, 65536), ("1", "16", "256", "4,096", "65,536"))
    panel.legend(frameon=False)
    layer = mpt_family.config({**told, "attn_config": {"clip_qkv": 6.0}}).attention(256, pattern=ch.causal())
    x = 8 * torch.randn(1, 512, 256)
    with torch.no_grad():
        before = (x @ layer.qkv.weight.T)[0, :, 256:512].flatten()
        after = layer._project(x)[1].flatten()
    edges = torch.linspace(-16, 16, 65)
    clipped.hist(before, edges.tolist(), color=PAPER, edgecolor=INK, linewidth=0.3, label="as they are")
    clipped.hist(after, edges.tolist(), color=BLUE, alpha=0.6, label="clipped to ± 6")
    clipped.set(title="keys", yticks=[])
    clipped.legend(frameon=False, loc="center right")
    dress(panel)
    dress(clipped)


def mixtral(figure: Figure) -> None:
    """Which experts 48 tokens visit, and with what weight; how many visit each."""
    where, load = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    layer = Experts(64, 128, experts=8, top_k=2)
    with torch.no_grad(), routings(layer) as seen:
        layer(torch.randn(1, 48, 64) * 2)
    weights = torch.zeros(48, 8).scatter(1, seen[0].chosen, seen[0].weights)
    where.imshow(weights.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    where.set(title="the weight of each visit", xlabel="token", ylabel="expert", yticks=range(8))
    load.barh(range(8), seen[0].load, color=BLUE)
    load.axvline(12, color=VERMILION)
    load.set(title="visits", xlabel="an even share is 12")
    dress(load)


def gemma2(figure: Figure) -> None:
    """A score under the cap, as the kernel has it; who sees whom in two layers."""
    cap, near, far = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    score = torch.linspace(-200, 200, 401)
    # Of a query that sees one key, the log-sum-exp is the score.
    k = v = torch.ones(401, 1, 1, 1)
    _, lse = ch.attention(score.view(-1, 1, 1, 1), k, v, scale=1.0, softcap=50.0, return_lse=True)
    cap.plot(score, score, color=VERMILION, linewidth=1, label="s")
    cap.plot(score, lse.flatten(), color=BLUE, label="50 · tanh(s / 50)")
    cap.set(title="a score", xlabel="q · k · scale", ylim=(-110, 110))
    cap.legend(frameon=False)
    dress(cap)
    turns = gemma2_family.config({**SMALL, "sliding_window": 4}).pattern
    for panel, pattern, said in zip((near, far), turns, ("layers 0, 2, …", "layers 1, 3, …"), strict=True):
        visible(panel, pattern, 12, 12, said, "token", "token")


def gpt_oss(figure: Figure) -> None:
    """What a sink takes of a head's weight; who sees whom in two layers."""
    takes, near, far = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    sinks = torch.linspace(-8, 8, 61)
    for keys, colour in ((8, BLUE), (128, VERMILION)):
        v = torch.ones(1, 61, keys, 1)
        left = ch.attention(torch.zeros(1, 61, 1, 1), torch.zeros_like(v), v, sinks=sinks).flatten()
        takes.plot(sinks, 1 - left, color=colour, label=f"of {keys} keys that score 0")
    takes.set(title="the weight that a sink takes", xlabel="its logit", ylim=(0, 1))
    takes.legend(frameon=False, loc="upper left")
    dress(takes)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    turns = gpt_oss_family.config({**SMALL, **experts, "sliding_window": 4}).pattern
    for panel, pattern, said in zip((near, far), turns, ("layers 0, 2, …", "layers 1, 3, …"), strict=True):
        visible(panel, pattern, 12, 12, said, "token", "token")


def one(config: Config) -> ch.Pattern:
    """The pattern of a model whose layers all have the same."""
    assert isinstance(config.pattern, ch.Pattern)
    return config.pattern


def of_last(config: Config, keys: int) -> Tensor:
    """What is added to the last query's scores, a row a head."""
    bias = config.position.bias()
    assert bias is not None
    return bias.at(torch.tensor([keys - 1]), torch.arange(keys), 0, *bias.weights)[0]


def shade(n: int, count: int) -> tuple[float, float, float]:
    """From blue for the first to vermilion for the last."""
    ends = [[int(colour[x : x + 2], 16) / 255 for x in (1, 3, 5)] for colour in (BLUE, VERMILION)]
    red, green, blue = (a + (b - a) * n / (count - 1) for a, b in zip(*ends, strict=True))
    return red, green, blue


PICTURES: Pictures = {
    "llama": (llama, (9, 2.8)),
    "mistral": (mistral, (9, 2.8)),
    "qwen": (qwen, (5, 3)),
    "gpt2": (gpt2, (5, 3)),
    "bert": (bert, (8, 3.4)),
    "neox": (neox, (6, 3)),
    "bloom": (bloom, (9, 3)),
    "mpt": (mpt, (9, 3)),
    "mixtral": (mixtral, (9, 2.6)),
    "gemma2": (gemma2, (9, 3)),
    "gpt_oss": (gpt_oss, (9, 3)),
}
"""What draws each, and its size in inches."""


if __name__ == "__main__":
    torch.manual_seed(0)
    draw(PICTURES)
