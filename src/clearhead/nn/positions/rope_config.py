"""RoPE as a checkpoint's config.json describes it, in the spellings of Transformers 4 and 5."""

from collections.abc import Callable, Mapping
from typing import Any

from clearhead.errors import ClearheadError
from clearhead.nn.positions.rotary import Layout, Rotary
from clearhead.nn.positions.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN

BESIDE = (
    ("rope_theta", "rotary_emb_base", 10_000.0),
    ("partial_rotary_factor", "rotary_pct", 1.0),
)
"""What stands beside the parameters in older files, as GPT-NeoX spelt it, and its value where nothing is said."""


def rotary_of(
    config: Mapping[str, Any], head_width: int, *, layout: Layout = "halves", layers: str | None = None
) -> Rotary:
    """The `Rotary` that a config.json describes: in `rope_parameters`, or in `rope_theta` and `rope_scaling` as of old.

    Where kinds of layers differ, as in Gemma 3, `layers` names the kind, such as "sliding_attention".

    >>> rotary_of({"rope_theta": 500_000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, 64)
    Rotary(64, base=500000, layout='halves', scaling=Linear(factor=2.0))
    """
    rope = _parameters(config, layers)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in SCALINGS:
        raise ClearheadError(f"rotary_of: got RoPE of type {kind!r}; expected one of {', '.join(SCALINGS)}.")
    try:
        scaling = SCALINGS[kind](rope)
    except KeyError as missing:
        raise ClearheadError(
            f"rotary_of: got RoPE of type {kind!r} without {missing}; expected it in the config."
        ) from None
    turned = head_width if kind == "proportional" else int(head_width * rope["partial_rotary_factor"])
    return Rotary(head_width, float(rope["rope_theta"]), turned=turned, layout=layout, scaling=scaling)


def _parameters(config: Mapping[str, Any], layers: str | None) -> dict[str, Any]:
    """What is said of RoPE, of one kind of layers where they differ, and beside it of the whole model."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if kinds := [kind for kind, inner in rope.items() if isinstance(inner, Mapping)]:
        if layers not in kinds:
            raise ClearheadError(f"rotary_of: got layers={layers!r}; expected one of {', '.join(kinds)}, which differ.")
        rope = rope[layers]
    said = {name: value for name, value in rope.items() if value is not None}
    for name, *older, otherwise in BESIDE:
        values = (config.get(spelling) for spelling in (name, *older))
        said.setdefault(name, next((value for value in values if value is not None), otherwise))
    longest = said["max_position_embeddings"] = config.get("max_position_embeddings")
    # Phi-3 says beside its parameters how long it was trained, which then counts.
    trained = config.get("original_max_position_embeddings") or said.get("original_max_position_embeddings")
    said["original_max_position_embeddings"] = trained or longest
    return {name: value for name, value in said.items() if value is not None}


def _grown(rope: dict[str, Any]) -> float:
    """By how much texts are longer than in training, said or by the two lengths."""
    if "factor" in rope:
        return float(rope["factor"])
    return float(rope["max_position_embeddings"] / rope["original_max_position_embeddings"])


def _yarn(rope: dict[str, Any]) -> YaRN:
    names = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")
    said = {name: rope[name] for name in names if name in rope}
    return YaRN(_grown(rope), rope["original_max_position_embeddings"], **said)


def _llama3(rope: dict[str, Any]) -> Llama3:
    trained = rope["original_max_position_embeddings"]
    return Llama3(rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], trained)


def _longrope(rope: dict[str, Any]) -> LongRoPE:
    short, long = tuple(rope["short_factor"]), tuple(rope["long_factor"])
    return LongRoPE(short, long, rope["original_max_position_embeddings"], _grown(rope), rope.get("attention_factor"))


SCALINGS: dict[str, Callable[[dict[str, Any]], Scaling]] = {
    "default": lambda rope: Scaling(),
    "linear": lambda rope: Linear(rope["factor"]),
    "dynamic": lambda rope: DynamicNTK(rope["factor"], rope["max_position_embeddings"]),
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,
    "proportional": lambda rope: Proportional(rope["partial_rotary_factor"], rope.get("factor", 1.0)),
}
"""Each type's scaling; "su" is what Phi-3 called LongRoPE."""
