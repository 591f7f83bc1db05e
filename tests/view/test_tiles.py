"""Tiles are a head's weights, pooled exactly over the tokens that they say; outlines are who may see whom."""

import math
import zlib
from itertools import product

import numpy as np
import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting
from clearhead.view.outline import MOST, outline, outlines
from clearhead.view.scene import Scene
from clearhead.view.tiles import SIDE, deepest, tile, worth_saving

H, K, D = 4, 2, 8


def seen_through(mask, *, kind="self", Tq=None, Tk=None, B=1, H=H, **more):
    """A record of one attention, and its full weights in float64."""
    Tq, Tk = Tq or mask.shape[-2], Tk or mask.shape[-1]
    q, k = 2 * torch.randn(B, H, Tq, D), 2 * torch.randn(B, min(K, H), Tk, D)
    record = Record()
    sees = None if mask is None else mask.expand(B, -1, Tq, Tk)
    record.add(Sighting("attn", 0, kind, 0, q=q, k=k, v=k, mask=sees, scale=D**-0.5, **more))
    s = q.double() @ k.double().repeat_interleave(H // min(K, H), 1).mT * D**-0.5
    s = s if mask is None else s.masked_fill(~mask, -math.inf)
    return record[0], s.softmax(-1).nan_to_num(0)


def pooled(weights, side):
    """The mean of each `side` × `side` pairs, of what there is of them at the ends."""
    rows = torch.stack([part.sum(0) / len(part) for part in weights.split(side, 0)])
    return torch.stack([part.sum(1) / part.shape[1] for part in rows.split(side, 1)], 1)


def causal(T, past=0):
    return (torch.arange(T) <= torch.arange(past, T)[:, None])[None, None]


def windowed(T, w):
    return causal(T) & (torch.arange(T) > torch.arange(T)[:, None] - w)


def of(layer, batch, head, zoom, y, x):
    raw = np.frombuffer(tile(layer, batch, head, zoom, y, x), "<f2")
    side = 2 ** (deepest(layer.steps[-1].shape[2], layer.steps[-1].shape[3]) - zoom)
    rows = min(SIDE, -(-layer.steps[0].shape[2] // side) - y * SIDE)
    return torch.from_numpy(raw.reshape(rows, -1).astype(float))


PADDED = causal(300) & (torch.arange(300) >= torch.tensor([0, 37])[:, None, None, None])
CASES = {
    "short": (causal(7), {}),
    "one tile exactly": (causal(256), {}),
    "one token more": (causal(257), {}),
    "no power of two": (causal(611), {}),
    "windowed": (windowed(600, 90), {}),
    "padded": (PADDED, {"B": 2}),
    "a past": (causal(520, past=480), {}),
    "cross": (None, {"kind": "cross", "Tq": 300, "Tk": 530}),
    "another mask a head": (torch.rand(1, H, 270, 270, generator=torch.Generator().manual_seed(1)) < 0.6, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_cell_of_every_zoom_is_the_mean_weight_of_its_pairs(case):
    mask, how = CASES[case]
    layer, weights = seen_through(mask, **how)
    B, _, Tq, Tk = weights.shape
    last = deepest(Tq, Tk)
    assert SIDE * 2**last >= max(Tq, Tk) > (SIDE * 2**last // 2 if last else 0)
    for zoom, (batch, head) in product(range(last + 1), [(0, 1), (B - 1, 3)]):
        side = 2 ** (last - zoom)
        expected = pooled(weights[batch, head], side)
        tall, wide = (-(-n // SIDE) for n in expected.shape)
        rows = [torch.cat([of(layer, batch, head, zoom, y, x) for x in range(wide)], 1) for y in range(tall)]
        torch.testing.assert_close(torch.cat(rows), expected, rtol=2**-10, atol=1e-6)


def test_a_generation_is_one_map():
    T = 300
    q, k = torch.randn(1, H, T, D), torch.randn(1, K, T, D)
    record, past = Record(), 0
    for step, stop in enumerate((257, 258, 259, T)):
        of_step = {"q": q[:, :, past:stop], "k": k[:, :, :stop], "v": k[:, :, :stop]}
        record.add(Sighting("attn", 0, "self", step, **of_step, mask=causal(T)[:, :, past:stop, :stop], scale=0.4))
        past = stop
    s = (q.double() @ k.double().repeat_interleave(2, 1).mT * 0.4).masked_fill(~causal(T), -math.inf)
    got = np.frombuffer(tile(record[0], 0, 2, 0, 0, 0), "<f2").reshape(150, 150).astype(float)
    torch.testing.assert_close(torch.from_numpy(got), pooled(s.softmax(-1)[0, 2], 2), rtol=2**-10, atol=1e-6)
    runs, heads = read_runs(outline(record[0], 0), T)
    assert heads == 1
    assert runs == [[(0, i + 1)] for i in range(T)]


def test_a_tile_that_is_not_there_is_refused_in_a_sentence():
    layer, _ = seen_through(causal(300))
    scene = Scene(record_of(layer))
    assert len(zlib.decompress(scene.block("tile-0-3-1-1-1"))) == 44 * 44 * 2
    for name in ("0-0-2-0-0", "0-0-0-1-0", "0-0-1-0-2"):
        with pytest.raises(ClearheadError, match=r"there is no tile \(\d, \d\) at zoom \d of 300 queries and 300 keys"):
            scene.block(f"tile-{name}")
    with pytest.raises(ClearheadError, match="head: got 4, but there are 4"):
        scene.block("tile-0-4-0-0-0")


def record_of(layer):
    record = Record()
    record._layers[layer.name] = layer
    return record


def read_runs(block, queries):
    """The runs of each query of the first head, as the docstring has them."""
    numbers = np.frombuffer(block, "<i4")
    heads, R = numbers[:2]
    starts, stops = numbers[2:].reshape(2, heads, R, queries).cumsum(-1)
    runs = [[(a, b) for a, b in zip(starts[0, :, i], stops[0, :, i], strict=True) if a < b] for i in range(queries)]
    return runs, heads


@pytest.mark.parametrize("case", CASES)
def test_an_outline_is_who_may_see_whom(case):
    mask, how = CASES[case]
    layer, _ = seen_through(mask, **how)
    batch = how.get("B", 1) - 1
    sees = torch.ones(1, 1, 300, 530) if mask is None else mask
    runs, heads = read_runs(outline(layer, batch), sees.shape[2])
    assert heads == sees.shape[1]
    for row, ends in zip(sees[batch % len(sees), 0], runs, strict=True):
        drawn = torch.zeros(len(row))
        for a, b in ends:
            drawn[a:b] = 1
        assert torch.equal(drawn, row.float())


SAID = {
    "causal: no token sees what comes after it": causal(20),
    "causal, a window of 6": windowed(20, 6),
    "a window of 3 before and 2 after": (((gap := torch.arange(20)[:, None] - torch.arange(20)) <= 3) & (gap >= -2))[
        None, None
    ],
    "every token may see every other": torch.ones(1, 1, 20, 20, dtype=torch.bool),
    "every token may see every other, padding left out": (torch.arange(20) < 15).expand(1, 1, 20, 20),
    "causal: no token sees what comes after it, padding left out": causal(20) & (torch.arange(20) >= 4),
    None: causal(20) & (torch.arange(20) % 3 > 0),
}


@pytest.mark.parametrize("said", SAID)
def test_a_pattern_is_called_by_its_name(said):
    layer, _ = seen_through(SAID[said])
    assert outlines([layer], 0) == [{"layer": 0, "says": said}]


def test_layers_of_one_pattern_share_its_outline():
    layers = [seen_through(mask)[0] for mask in (causal(30), windowed(30, 9), causal(30), windowed(30, 9))]
    assert [pattern["layer"] for pattern in outlines(layers, 0)] == [0, 1, 0, 1]
    assert len(zlib.compress(outline(seen_through(causal(2000), H=1)[0], 0))) < 200


def test_a_pattern_too_fine_to_be_drawn_is_not():
    T = 1500
    assert T * T // 2 > MOST
    layer, _ = seen_through((torch.arange(T) % 2 == 0).expand(1, 1, T, T), H=1)
    assert outlines([layer], 0) == [{"layer": None, "says": None}]
    with pytest.raises(ClearheadError, match="too many for an outline"):
        outline(layer, 0)


def test_without_q_and_k_no_pattern_is_known():
    record = Record(keep="statistics")
    q = torch.randn(1, 2, 5, D)
    record.add(Sighting("attn", 0, "self", 0, q=q, k=q, v=q, scale=1.0))
    assert outlines(record.layers, 0) == [None]
    with pytest.raises(ClearheadError, match="statistics only"):
        outline(record[0], 0)
    with pytest.raises(ClearheadError, match="statistics only"):
        tile(record[0], 0, 0, 0, 0, 0)


def test_a_saved_page_has_the_clearest_heads_ever_finer_and_then_the_others():
    layer, _ = seen_through(causal(300))
    names = list(worth_saving([layer], [(0, 2), (0, 1)]))
    finer = ["1-0-0", "1-0-1", "1-1-0", "1-1-1"]
    assert names[:8] == [f"tile-0-{head}-{part}" for part in finer for head in (2, 1)]
    assert names[8:10] == ["tile-0-0-0-0-0", "tile-0-3-0-0-0"]
    assert names[10:] == [f"tile-0-{head}-{part}" for part in finer for head in (0, 3)]
    blocks = list(Scene(record_of(layer)).worth_saving())
    assert blocks.index("pattern-0") < blocks.index("tile-0-0-0-0-0")
