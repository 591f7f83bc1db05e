"""Flow: attention rollout, from chosen tokens of the output down to the tokens of the input."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.chosen import Layered, each, layers_of_one_text, only_step, part_of
from clearhead.scope.indexing import Indices, index, indices
from clearhead.scope.weights import Weights


@dataclass(frozen=True, eq=False)
class Flow:
    """Where chosen tokens of the output come from, by attention rollout."""

    shares: Float[Tensor, "layers tokens T"]
    """What each position holds of each chosen token at the input of each layer; the first is the model's input.
    Each row sums to 1."""
    tokens: list[int]
    """The chosen positions."""
    layers: list[int]
    """The layers' numbers, the lowest first."""

    @property
    def rollout(self) -> Float[Tensor, "tokens T"]:
        """What each token of the model's input holds of each chosen token."""
        return self.shares[0]

    def __repr__(self) -> str:
        layers, tokens, T = self.shares.shape
        return f"Flow({tokens} of {T} tokens through {layers} layers)"


@torch.no_grad()
def flow(
    record: Layered,
    tokens: Indices = -1,
    *,
    layers: Iterable[SupportsIndex | str] | None = None,
    heads: Iterable[tuple[SupportsIndex, SupportsIndex]] | None = None,
    sequence: SupportsIndex = -1,
    batch: SupportsIndex = 0,
) -> Flow:
    """Attention rollout (Abnar & Zuidema 2020) of chosen output tokens.

        Ã_l = ½ (mean of the heads' weights of layer l) + ½ I, each row divided by its sum
        shares = e_token · Ã_L · … · Ã_1

    The identity stands for the residual stream. The product is taken as one vector times a matrix, from the
    last layer down: r ← r Ã_l, in which each layer's weights are made again tile by tile and never held.
    O(layers · T) memory a token; a pass over each layer's scores a token, of the rows that r has reached.

    Rollout is a claim about weights alone, not about what the values or the MLPs do with them.

    Args:
        tokens: the output's positions, negative ones counted from the end.
        layers: the self-attentions to go through, by number or name; all unless said. Name one stack's in a
            model that has several, such as an encoder and a decoder.
        heads: pairs (layer, head): the mean is of these alone, and a layer without any is passed by. All heads
            unless said, as in the paper.
        sequence, batch: the text, if the model read several.

    Raises:
        ClearheadError: for cross-attention; for layers of different texts; where a layer has seen some of its
            tokens in an earlier call; for tokens that are padding.
    """
    chosen = layers_of_one_text(record, layers, sequence, "flow")
    averaged = _averaged({number: layer.heads for number, layer in chosen.items()}, heads, len(record.layers))
    for layer in chosen.values():
        if layer.kind == "cross":
            raise ClearheadError(
                f"flow: {layer.name} is cross-attention, whose keys are of another text; rollout goes through "
                "self-attention. Name one stack's layers: layers=[…]."
            )
    steps = {number: only_step(layer, "flow") for number, layer in chosen.items()}
    B, _, Tq, T = next(iter(steps.values())).shape
    if Tq != T:
        raise ClearheadError(
            f"flow: got the rows of Tq = {Tq} of Tk = {T} tokens, expected all; "
            "watch one forward pass over the whole text, without a cache."
        )
    b = index(batch, "batch", B)
    positions = indices(tokens, "token", T)
    if len(positions) == 0:
        raise ClearheadError("flow: got no tokens, expected the positions of one or more.")
    real = next(iter(steps.values())).real
    if real is not None and not bool(real[b, positions].all()):
        padding = positions[~real[b, positions].cpu()].tolist()
        raise ClearheadError(f"flow: token {padding[0]} is padding; choose among the text's own tokens.")
    shares = []
    r: Tensor | None = None
    for number in reversed(steps):
        weights = part_of(steps[number].weights, b)
        if r is None:
            r = torch.nn.functional.one_hot(positions, T).to(weights.lse)
        r = _through(weights, averaged[number].to(r), r)
        shares.append(r)
    return Flow(torch.stack(shares[::-1]), positions.tolist(), list(steps))


def _averaged(
    heads_of: dict[int, int], chosen: Iterable[tuple[SupportsIndex, SupportsIndex]] | None, layers: int
) -> dict[int, Float[Tensor, " H"]]:
    """For each layer what each head counts in the mean: 1 / H, or nothing where others were chosen.

    `layers` is the number of layers of the record.
    """
    if chosen is None:
        return {layer: torch.full((H,), 1 / H) for layer, H in heads_of.items()}
    count = {layer: torch.zeros(H) for layer, H in heads_of.items()}
    for layer, head in chosen:
        number = index(layer, "flow: layer in heads", layers)
        if number not in count:
            raise ClearheadError(f"flow: heads names layer {number}; the layers gone through are {list(count)}.")
        count[number][index(head, "flow: head in heads", heads_of[number])] = 1
    return {layer: one / one.sum().clamp(min=1) for layer, one in count.items()}


def _through(weights: Weights, mean: Float[Tensor, " H"], r: Float[Tensor, "n T"]) -> Float[Tensor, "n T"]:
    """r Ã of one layer: the column mass of its weights, with each row counted r times."""
    rows: Int[Tensor, " rows"] = (r > 0).any(0).nonzero()[:, 0]  # few at first; of a causal text never those after
    # Where Σ_j w < 1, as with a sink, Ã's rows are divided by their sum: Ã = (A + I) / (Σ_j A + 1).
    mass = r[:, rows] / (1 + mean @ _row_sums(weights)[:, rows])
    stays = torch.zeros_like(r).index_copy_(1, rows, mass)
    used = mean.nonzero()[:, 0]
    if len(used) == 0:
        return stays
    call, n = weights.call.take(rows), len(r)
    call = replace(call, q=call.q.expand(n, -1, -1, -1), k=call.k.expand(n, -1, -1, -1), v=call.v.expand(n, -1, -1, -1))
    seen = each(weights.statistics, lambda x: x[:, :, rows].expand(n, -1, -1))
    # Each weight is made again as exp(s − max_score) · peak, so a row whose peak is r times as high counts r times.
    counted = replace(seen, peak=seen.peak * mass[:, None] * mean[:, None])
    return stays + Weights.made(call, counted).received().sum(1)


def _row_sums(weights: Weights) -> Float[Tensor, "H T"]:
    """Σ_j w[i, j]: 1; less where a sink takes its part, 0 where nothing may be seen."""
    lse, sinks = weights.lse[0], weights.call.sinks
    sums = torch.ones_like(lse) if sinks is None else -torch.expm1(sinks[:, None].to(lse.dtype) - lse)
    return sums.masked_fill(weights.statistics.visible[0] == 0, 0)
