"""Copying: whether what a head moves raises the logit of the very token that it looks at."""

from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.scope.indexing import index
from clearhead.scope.modules import named_modules
from clearhead.scope.sighting import Sighting
from clearhead.scope.watch import Watch

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin", "o")
"""What models call the projection that takes the heads' outputs back to the model's width."""
TOKENS = 256
"""The most random tokens that are looked at."""


@dataclass(frozen=True, eq=False)
class Copying:
    """The copying scores of a model's heads, and why others have none."""

    scores: dict[str, Float[Tensor, " H"]] = field(default_factory=dict)
    """Of every attention, by its module's name, one number a head in [−1, 1]."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Why the others' can't be said."""

    def of(self, name: str, head: SupportsIndex) -> float:
        """The score of one head, NaN where it is not known."""
        if name not in self.scores:
            return float("nan")
        return float(self.scores[name][index(head, f"head of {name}", len(self.scores[name]))])


@torch.no_grad()
def copying(model: nn.Module, *, tokens: int = 64, seed: int = 0) -> Copying:
    """How much each head of a language model copies, by its OV circuit alone: after Olsson et al. 2022.

    The model reads random tokens t_1 … t_n. At each, what the head would write if it looked at that token alone is
    W_O v_j, and what that adds to the token's own logit, against the mean of all logits, is

        c_j = (u[t_j] − ū) · γ ∘ W_O v_j            copying = Σ_j c_j / Σ_j |c_j|

    with u the rows of the unembedding, ū their mean and γ the weight of the final norm, which also centres W_O v_j
    where it is a LayerNorm (the scale that a norm divides by is the same for all logits, and left out). 1: every
    token's own logit is raised; −1: every one is lowered; a head that does neither comes near 0. The paper
    asks of random tokens too which logits a head raises, those of the tokens that are there or others, but of all that
    it writes; here it looks at one token at a time, so that what it moves is told apart from where it looks.

    Args:
        model: a causal language model of Transformers, or one with `get_output_embeddings()`.
        tokens: how many random tokens it reads, 256 at most.
        seed: of the generator that draws them.

    Raises:
        ClearheadError: if the unembedding does not follow a norm of what the layers write: the model is no language
            model, takes more than tokens, or goes another way to its logits. A single attention whose output can't
            be followed gets no score; `unknown` says why.
    """
    if not 0 < tokens <= TOKENS:
        raise ClearheadError(f"copying: got tokens = {tokens}, expected 1 to {TOKENS}.")
    unembedding = _unembedding(model)
    weight = unembedding.weight.float()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(weight), (1, tokens), generator=generator).to(weight.device)
    seen, norm = _read(model, unembedding, ids)
    gain, centres = _linear(norm, weight.shape[1])
    toward = (weight[ids[0]] - weight.mean(0)) * gain
    if centres:
        toward = toward - toward.mean(-1, keepdim=True)  # to centre W_O v is to centre what it is multiplied with
    found = Copying()
    modules = {name: module for module, name in named_modules(model).items()}
    for sighting in seen:
        projection, why = _projection(modules, sighting)
        if projection is None or sighting.v is None:
            found.unknown[sighting.name] = why
            continue
        B, K, T, Dv = sighting.v.shape
        H = projection.shape[1] // Dv
        v = sighting.v[0].float().repeat_interleave(H // K, 0)
        c = torch.einsum("td,dhv,htv->ht", toward, projection.unflatten(1, (H, Dv)), v)
        found.scores[sighting.name] = (c.sum(-1) / c.abs().sum(-1).clamp(min=1e-30)).cpu()
    return found


def _unembedding(model: nn.Module) -> nn.Linear:
    get = getattr(model, "get_output_embeddings", None)
    unembedding = get() if get is not None else None
    if not isinstance(unembedding, nn.Linear):
        raise ClearheadError(
            f"copying: {type(model).__name__} has no output embeddings, so what a head does to the logits is unknown; "
            "give a causal language model (AutoModelForCausalLM)."
        )
    return unembedding


class _Values(list[Sighting]):
    """A recorder of v and of whose it is."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()

    def expect(self, asked: Any, attentions: int, /) -> None:
        """Nothing: what is kept is small."""

    def add(self, sighting: Sighting, /) -> None:
        """Keeps v."""
        v = sighting.v
        self.append(Sighting(sighting.name, sighting.layer, sighting.kind, 0, v=None if v is None else v.clone()))

    def close(self, unseen: list[str], /) -> None:
        """The model has read."""


def _read(model: nn.Module, unembedding: nn.Linear, ids: Tensor) -> tuple[list[Sighting], nn.Module]:
    """The values of every attention, and the norm whose output the unembedding is given."""
    norms: list[tuple[nn.Module, Tensor, Tensor]] = []
    written: list[Tensor] = []
    read: list[Tensor] = []

    def after_norm(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        norms.append((module, args[0], output))

    def after_block(module: nn.Module, args: Any, output: Any) -> None:
        written.append(output[0] if isinstance(output, tuple) else output)

    hooks = [unembedding.register_forward_pre_hook(lambda module, args: read.append(args[0]))]
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            hooks.append(module.register_forward_hook(after_norm))
        elif isinstance(module, nn.ModuleList):
            hooks.extend(block.register_forward_hook(after_block) for block in module)
    try:
        with Watch(model, record=_Values, kernels="model") as seen:
            model(ids)
    except ClearheadError:
        raise
    except Exception as error:
        raise ClearheadError(f"copying: {type(model).__name__} cannot read tokens alone: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    for norm, given, output in reversed(norms):
        if read and _same(output, read[-1]) and any(_same(given, x) for x in written):
            return list(seen), norm
    raise ClearheadError(
        f"copying: in {type(model).__name__} the logits are no linear map of a normalised sum of what the layers "
        "write, so what a head adds to them is not known."
    )


def _same(x: Any, y: Any) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and torch.equal(x, y)


def _linear(norm: nn.Module, D: int) -> tuple[Float[Tensor, " D"], bool]:
    """What a norm multiplies by, and whether it centres, as it does to two vectors of norm √D and to a constant one."""
    like = next(norm.parameters(), torch.zeros(()))
    sign = torch.ones(D, device=like.device).index_fill(0, torch.arange(1, D, 2, device=like.device), -1)
    x = torch.stack([sign, -sign, torch.ones_like(sign), -torch.ones_like(sign)]).to(like.dtype)
    up, down, one, minus = norm(x[:, None]).float()[:, 0]
    return (up - down) / 2 * sign, bool(torch.allclose(one, minus))


def _projection(modules: dict[str, nn.Module], sighting: Sighting) -> tuple[Float[Tensor, "D E"] | None, str]:
    """W_O of an attention, (width of the model, H · Dv); or why it can't be told."""
    if sighting.v is None:
        return None, "its values were not shown"
    name = sighting.name.split("#")[0]
    attention = modules[name]
    if _normed_after(modules, name):
        return None, "what it writes is normalised before it is added"
    width = sighting.v.shape[1] * sighting.v.shape[3]
    for place in OUTPUTS:
        module = getattr(attention, place, None)
        if isinstance(module, nn.Linear):
            weight: Tensor = module.weight.float()
        elif isinstance(module, nn.Module) and type(module).__name__ == "Conv1D":  # GPT-2's, the other way round
            weight = module.get_parameter("weight").float().T
        else:
            continue
        if weight.shape[1] % width == 0:
            return weight, ""
    return None, f"{type(attention).__name__} has no output projection by a known name ({', '.join(OUTPUTS)})"


def _normed_after(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether a block normalises what its attention puts out, as Gemma 2's and OLMo 2's do."""
    block = modules.get(name.rpartition(".")[0])
    return hasattr(block, "post_attention_layernorm") and (
        hasattr(block, "pre_feedforward_layernorm") or not hasattr(block, "input_layernorm")
    )
