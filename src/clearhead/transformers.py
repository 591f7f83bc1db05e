"""`attn_implementation="clearhead"` for the models of Transformers: importing this module registers it."""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from clearhead.attend.api import attention
from clearhead.errors import WatchWarning
from clearhead.scope import interface, taking

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_utils import PreTrainedModel
except ImportError as error:
    raise ImportError(
        "clearhead.transformers needs Transformers, which is not here, or too old: pip install 'clearhead[hf]'."
    ) from error

NAME = "clearhead"
BACKEND = "native"


def clearhead_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(softcap(scaling · q kᵀ) + mask + position_bias) v, with sinks joined to the denominator.

    To use it: `import clearhead`, then `AutoModel.from_pretrained(name, attn_implementation="clearhead")`, or
    `model.set_attn_implementation("clearhead")`. A model whose class does not dispatch its attention through
    Transformers' AttentionInterface keeps Transformers' own attention, and a WatchWarning says so, once for each class.

    Args:
        module: the attention of the model; says whether it `is_causal`, if the keyword doesn't.
        query: `(B, H, Tq, D)`.
        key: `(B, K, Tk, D)`; heads that share keys are not repeated.
        value: `(B, K, Tk, Dv)`.
        attention_mask: `(B or 1, H or 1, Tq, Tk)`, True = may attend, or floats that are added; None leaves it
            to `is_causal`. A sliding window is in it already.
        kwargs: `scaling`, `dropout`, `is_causal`, `softcap` (Gemma 2), `s_aux` (GPT-OSS's sinks), `position_bias`
            (T5).

    Returns:
        `(B, Tq, H, Dv)`, and None for the weights, which are never made.

    What the native kernels can't take is computed by Transformers' own sdpa kernel, or with a softcap or sinks,
    which that doesn't know, by `attention`'s other backends. A WatchWarning says so, once for each reason. What
    `torch.compile` traces goes that way too, unsaid.
    """
    asked = interface.read(NAME, module, query, key, value, attention_mask, **kwargs)
    if not torch.compiler.is_compiling():
        taken = interface.wants_more(NAME, module, kwargs) or taking.take(asked, BACKEND)
        if isinstance(taken, taking.Taken):
            return taken.out.transpose(1, 2).contiguous(), None
        warnings.warn(f"attn_implementation='clearhead' has passed on an attention: {taken}.", WatchWarning, 2)
    if asked.softcap is None and asked.sinks is None:
        own: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return own
    return attention(asked.q, asked.k, asked.v, **taking.options(asked)).transpose(1, 2).contiguous(), None


_warned: set[type] = set()
_models: Any = PreTrainedModel
_own_choice = _models._check_and_adjust_attn_implementation


@functools.wraps(_own_choice)
def _choice(model: PreTrainedModel, *args: Any, **kwargs: Any) -> str:
    """What a model's attention runs on; where its class does not dispatch, the implementation that it has itself."""
    chosen: str = _own_choice(model, *args, **kwargs)
    if chosen != NAME or model._can_set_attn_implementation():
        return chosen
    kind = type(model)
    # With any other name, the mask would be made for a kernel that the class does not call.
    own = "sdpa" if kind._supports_sdpa else "eager"
    if kind not in _warned:
        _warned.add(kind)
        reached = (
            "clearhead.accelerate(model) runs its scaled_dot_product_attention on Clearhead's kernels, and "
            "clearhead.watch(model) shows it."
            if own == "sdpa"
            else "clearhead.accelerate(model) cannot take its attention either, as it calls no function that can be "
            "taken; clearhead.watch(model) shows it where it takes a softmax of (B, H, Tq, Tk) scores."
        )
        warnings.warn(
            f"attn_implementation='clearhead' does not reach {kind.__name__}, which does not use Transformers' "
            f"AttentionInterface: it runs on its own {own} attention. {reached}",
            WatchWarning,
            2,
        )
    return own


_models._check_and_adjust_attn_implementation = _choice
AttentionInterface.register(NAME, clearhead_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
