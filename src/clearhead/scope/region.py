"""A region of one head's weights, pooled to a picture of any size: a street map of attention."""

from dataclasses import dataclass
from typing import SupportsIndex

from jaxtyping import Float
from torch import Tensor

from clearhead.scope.chosen import Layered, numbered, only_step, part_of
from clearhead.scope.indexing import index


@dataclass(frozen=True, eq=False)
class Region:
    """The weights of some queries on some keys of one head, each cell the mean over its pairs.

    With n queries from `rows.start`, query i lies in row (i − rows.start) · height // n of the cells, and keys
    in their columns likewise. A pair that the query may not see weighs 0.
    """

    weights: Float[Tensor, "height width"]
    layer: int
    head: int
    name: str
    """The layer's module."""
    rows: range
    """The queries, counted from the first that was seen."""
    columns: range
    """The keys, counted from the text's first."""

    def __repr__(self) -> str:
        height, width = self.weights.shape
        region = f"{self.rows.start}:{self.rows.stop}, {self.columns.start}:{self.columns.stop}"
        return f"Region(layer {self.layer}, head {self.head}, [{region}] in {height} × {width} cells)"


def region(
    record: Layered,
    layer: SupportsIndex | str,
    head: SupportsIndex,
    rows: slice | None = None,
    columns: slice | None = None,
    size: tuple[int, int] = (1024, 1024),
    *,
    sequence: SupportsIndex = -1,
    batch: SupportsIndex = 0,
) -> Region:
    """The weights of one head of a layer, pooled to `size` = (height, width), from q, k and each row's peak.

    `rows` are queries, as a slice that counts from the first that was seen (a text read whole is seen from its first
    token), and `columns` keys, as a slice of token positions; all of them unless said. A region that is smaller than
    the picture has one cell a pair. One pass over the region's scores of this head alone, by the native kernel
    where it takes the call; O(T · D) memory and the picture.

    If the model read several texts, `sequence` and `batch` choose one.
    """
    number, whole = numbered(record, layer, "map")
    h = index(head, "head", whole.heads)
    weights = part_of(only_step(whole.sequence(sequence), "map").weights, batch, h)
    _, _, Tq, Tk = weights.shape
    picture = weights.map(rows, columns, size)[0, 0]
    return Region(
        picture,
        number,
        h,
        whole.name,
        range(*(rows or slice(None)).indices(Tq)),
        range(*(columns or slice(None)).indices(Tk)),
    )
