"""The columns of the table of heads: their names, order, ranges and meanings. Imports nothing that takes long."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

HeadTable = Sequence[Mapping[str, Any]]
"""One row a head."""

ROLES = (
    *("previous_token", "next_token", "first_token", "self_token", "duplicate_token", "induction", "delimiter"),
    *("induction_before", "special_tokens", "punctuation"),
)
"""The roles of `roles.py`, in the order in which they are shown."""
MAIN = (
    *("entropy_normalised", "peak", "distance"),
    *("previous_token", "first_token", "self_token", "duplicate_token", "induction", "delimiter"),
)
"""The columns that say most about a head. They come first, and are printed unless others are named."""
COLUMNS = (
    *MAIN,
    *("entropy", "effective_context", "effective_context_stderr", "sink"),
    *(role for role in ROLES if role not in MAIN),
    *("max_score", "lse"),
    *(f"{role}_uniform" for role in ROLES),
    *("sampled", "queries"),
)
"""What a summary gives of a head, in the order in which it is given."""
NAMES = ("layer", "head", "kind", "name")
"""The columns that say which head a row is about."""
COUNTS = {"queries": "entropy", "sampled": "sampled"}
"""The columns that say how many queries others are the mean of, and where that number is counted."""
RANGES = {
    **dict.fromkeys(("entropy", "distance"), (0.0, inf)),
    "effective_context": (1.0, inf),
    **dict.fromkeys(("entropy_normalised", "peak", "sink"), (0.0, 1.0)),
    **dict.fromkeys((column for role in ROLES for column in (role, f"{role}_uniform")), (0.0, 1.0)),
}
"""Between which values the means of a column lie, where there is an end."""
STDERR = {"effective_context_stderr": "effective_context"}
"""The columns with the standard error of an estimate from `sampled` queries, and which estimate."""
MEANINGS = {
    "entropy": "spread of the weight, in nats",
    "entropy_normalised": "spread of the weight: 0 on one key, 1 even",
    "peak": "the heaviest weight of a query",
    "distance": "how many tokens away a query looks",
    "max_score": "the largest score before the softmax",
    "lse": "the log-sum-exp of a query's scores",
    "effective_context": "the fewest keys that hold 90 % of the weight",
    "sink": "queries with over 0.3 on the first token",
    "previous_token": "weight on the token just before",
    "next_token": "weight on the token just after",
    "first_token": "weight on the first token, the sink",
    "self_token": "weight on the token itself",
    "duplicate_token": "weight on earlier copies of the token",
    "induction": "weight on what came after earlier copies",
    "delimiter": "weight on the nearest full stop, comma ...",
    "induction_before": "weight on what came before earlier copies",
    "special_tokens": "weight on [CLS], [SEP], <s> ...",
    "punctuation": "weight on all punctuation",
}
"""The columns of the head table that can colour the picture, in a few words."""
BY = "entropy_normalised"
"""The one that colours it unless another is named."""
ORDERS = {
    "js_distance": ("rows differ", "distance of a head's rows: 0 the same, 1 no key in common"),
    "change": ("what changed most", "the role or share whose mean changed most for certain"),
}
"""What heads can be sorted by that is no statistic: what it is called, and what it says."""


def head_row(layer: int, head: int, kind: str, name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, with the main columns, and the ends of their intervals, first.

    What prints a table with many columns leaves out those in the middle, as pandas does, so that is where a module's
    long name is put.
    """
    main = {c: x for c, x in numbers.items() if c.removesuffix("_low").removesuffix("_high") in MAIN}
    return {"layer": layer, "head": head, **main, "kind": kind, "name": name, **numbers}
