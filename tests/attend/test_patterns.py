"""Each pattern against its definition, written out pair by pair."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import clearhead as ch

SIZES = [(6, 6), (3, 8), (1, 9), (7, 4), (5, 5), (0, 3), (3, 0)]
SQUARE_OR_CACHED = [(Tq, Tk) for Tq, Tk in SIZES if Tq <= Tk]

Rule = Callable[[int, int, int, int, int, int], bool]
"""(batch, head, query's position, key, Tq, Tk) -> may it be seen?"""


def dense(rule: Rule, Tq: int, Tk: int, B: int = 1, H: int = 1) -> Tensor:
    cells = [
        [[[rule(b, h, r + Tk - Tq, j, Tq, Tk) for j in range(Tk)] for r in range(Tq)] for h in range(H)]
        for b in range(B)
    ]
    return torch.tensor(cells, dtype=torch.bool).view(B, H, Tq, Tk)


LENGTHS = torch.tensor([2, 5])
ALIGN = torch.tensor([3, -1])
MATRIX = torch.tensor([[[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[0, 1, 1], [1, 1, 1], [1, 0, 0]]], dtype=torch.bool)

ONE_FOR_ALL: list[tuple[ch.Pattern, Rule]] = [
    (ch.full(), lambda b, h, i, j, Tq, Tk: True),
    (ch.causal(), lambda b, h, i, j, Tq, Tk: j <= i),
    (ch.causal(align="start"), lambda b, h, i, j, Tq, Tk: j <= i - (Tk - Tq)),
    (ch.causal(align=2), lambda b, h, i, j, Tq, Tk: j <= i - (Tk - Tq) + 2),
    (ch.window(1), lambda b, h, i, j, Tq, Tk: j == i),
    (ch.window(3), lambda b, h, i, j, Tq, Tk: j in (i, i - 1, i - 2)),
    (ch.window(2, 1), lambda b, h, i, j, Tq, Tk: j in (i - 2, i - 1, i, i + 1)),
    (ch.window(0, 2), lambda b, h, i, j, Tq, Tk: j in (i, i + 1, i + 2)),
    (ch.window(None, 1), lambda b, h, i, j, Tq, Tk: j <= i + 1),
    (ch.window(1, None), lambda b, h, i, j, Tq, Tk: j >= i - 1),
    (ch.window(2, align="start"), lambda b, h, i, j, Tq, Tk: j in (i - (Tk - Tq), i - (Tk - Tq) - 1)),
    (ch.first(2), lambda b, h, i, j, Tq, Tk: j < 2),
    (ch.first(100), lambda b, h, i, j, Tq, Tk: True),
    (ch.prefix(3), lambda b, h, i, j, Tq, Tk: j < 3 or j <= i),
    (ch.chunks(3), lambda b, h, i, j, Tq, Tk: j // 3 == i // 3),
    (ch.chunks(3, 2), lambda b, h, i, j, Tq, Tk: i // 3 * 3 - 2 <= j < i // 3 * 3 + 3),
    (ch.chunks(2, 3), lambda b, h, i, j, Tq, Tk: i // 2 * 2 - 3 <= j < i // 2 * 2 + 2),
    (ch.dilated(3, 2), lambda b, h, i, j, Tq, Tk: j in (i, i - 2, i - 4)),
    (ch.dilated(2, 1), lambda b, h, i, j, Tq, Tk: j in (i, i - 1)),
    (ch.global_tokens((0, 4, 50)), lambda b, h, i, j, Tq, Tk: i in (0, 4, 50) or j in (0, 4, 50)),
    (ch.longformer(4, (1,)), lambda b, h, i, j, Tq, Tk: abs(i - j) <= 2 or i == 1 or j == 1),
    (ch.causal() & ch.window(2) | ch.first(1), lambda b, h, i, j, Tq, Tk: j in (i, i - 1) or j == 0),
    (ch.causal() & (ch.window(2) | ch.first(1)), lambda b, h, i, j, Tq, Tk: j in (i, i - 1) or (j == 0 and j <= i)),
    (~ch.causal() | ch.window(1), lambda b, h, i, j, Tq, Tk: j >= i),
    (ch.causal() & ~(ch.window(2) | ch.first(1)), lambda b, h, i, j, Tq, Tk: 0 < j < i - 1),
]

ONE_A_BATCH: list[tuple[ch.Pattern, Rule]] = [
    (ch.padding(LENGTHS), lambda b, h, i, j, Tq, Tk: j < LENGTHS[b]),
    (ch.padding(LENGTHS, side="left"), lambda b, h, i, j, Tq, Tk: j >= Tk - LENGTHS[b]),
    (ch.first(LENGTHS), lambda b, h, i, j, Tq, Tk: j < LENGTHS[b]),
    (ch.prefix(LENGTHS), lambda b, h, i, j, Tq, Tk: j < LENGTHS[b] or j <= i),
    (ch.causal(align=ALIGN), lambda b, h, i, j, Tq, Tk: j <= i - (Tk - Tq) + ALIGN[b]),
    (ch.window(2, align=ALIGN), lambda b, h, i, j, Tq, Tk: -1 <= j - (i - (Tk - Tq) + ALIGN[b]) <= 0),
    (ch.causal() & ch.padding(LENGTHS), lambda b, h, i, j, Tq, Tk: j <= i and j < LENGTHS[b]),
]


def named(value: object) -> str | None:
    return repr(value) if isinstance(value, ch.Pattern) else None


@pytest.mark.parametrize(("Tq", "Tk"), SIZES)
@pytest.mark.parametrize(("pattern", "rule"), ONE_FOR_ALL, ids=named)
def test_a_pattern_is_what_its_definition_says(pattern: ch.Pattern, rule: Rule, Tq: int, Tk: int) -> None:
    expected = dense(rule, Tq, Tk)
    assert torch.equal(pattern.dense(Tq, Tk), expected)
    assert pattern.pairs(Tq, Tk) == int(expected.sum())


@pytest.mark.parametrize(("Tq", "Tk"), SIZES)
@pytest.mark.parametrize(("pattern", "rule"), ONE_A_BATCH, ids=named)
def test_a_pattern_may_differ_by_batch(pattern: ch.Pattern, rule: Rule, Tq: int, Tk: int) -> None:
    assert torch.equal(pattern.dense(Tq, Tk), dense(rule, Tq, Tk, B=2))


@pytest.mark.parametrize(("Tq", "Tk"), SQUARE_OR_CACHED)
def test_a_query_sees_the_keys_of_its_document(Tq: int, Tk: int) -> None:
    ids = torch.randint(3, (2, Tk)) * 5 - 3
    assert torch.equal(
        ch.documents(ids).dense(Tq, Tk), dense(lambda b, h, i, j, *_: bool(ids[b, i] == ids[b, j]), Tq, Tk, B=2)
    )
    if Tk:
        assert torch.equal(ch.documents(ids[0]).dense(Tq, Tk), ch.documents(ids).dense(Tq, Tk)[:1])


@pytest.mark.parametrize(("Bq", "Bk"), [(1, 1), (2, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize(("Tq", "Tk"), [*SIZES, (9, 2)])
def test_queries_may_have_ids_that_the_keys_have_not(Tq: int, Tk: int, Bq: int, Bk: int) -> None:
    ids, of_queries = torch.randint(3, (Bk, Tk)), torch.randint(-1, 4, (Bq, Tq), dtype=torch.int16)
    B = max(Bq, Bk)
    expected = (of_queries[:, None, :, None] == ids[:, None, None]).expand(B, 1, Tq, Tk)
    assert torch.equal(ch.documents(ids, query_ids=of_queries).dense(Tq, Tk), expected)
    if Bq == 1:
        assert torch.equal(ch.documents(ids, of_queries[0]).dense(Tq, Tk), expected)


EMPTY = torch.zeros(0, dtype=torch.int64)
EMPTY_BATCHES = [
    ch.documents(EMPTY[:, None].expand(0, 5)),
    ch.documents(EMPTY[:, None].expand(0, 5), query_ids=EMPTY[:, None].expand(0, 5)) & ch.causal(),
    ch.padding(EMPTY),
    ~ch.padding(EMPTY, side="left"),
    ch.prefix(EMPTY) | ch.first(EMPTY),
    ch.window(2, align=EMPTY),
    ch.where(torch.ones(0, 1, 5, 5, dtype=torch.bool)) | ch.first(2),
]


@pytest.mark.parametrize("pattern", EMPTY_BATCHES, ids=repr)
def test_a_batch_may_be_empty(backend: str, pattern: ch.Pattern) -> None:
    assert pattern.dense(5, 5).shape == (0, 1, 5, 5)
    q = torch.randn(0, 2, 5, 4, requires_grad=True)
    out, seen = ch.attention(q, q, q, pattern=pattern, probe=True, backend=backend)
    assert out.shape == (0, 2, 5, 4) and seen.visible.shape == (0, 2, 5)
    out.sum().backward()
    assert ch.explain(q, q, q, pattern=pattern, backend=backend).skipped == 0


@pytest.mark.parametrize(("Tq", "Tk"), [(6, 6), (2, 5), (1, 6)])
def test_blocks_are_seen_where_their_matrix_says(Tq: int, Tk: int) -> None:
    by_head = dense(lambda b, h, i, j, *_: bool(MATRIX[h, i // 2, j // 2]), Tq, Tk, H=2)
    assert torch.equal(ch.blocks(MATRIX, size=2).dense(Tq, Tk), by_head)
    assert torch.equal(ch.blocks(MATRIX[0], size=2).dense(Tq, Tk), by_head[:, :1])
    assert torch.equal(ch.blocks(MATRIX[None], size=2).dense(Tq, Tk), by_head)


@pytest.mark.parametrize("shape", [(4, 6), (1, 6), (4, 1), (3, 4, 6), (2, 1, 4, 6), (2, 3, 1, 6)])
def test_where_takes_a_mask_of_any_broadcast_shape(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) < 0.5
    assert torch.equal(ch.where(mask).dense(4, 6).expand(2, 3, 4, 6), mask.expand(2, 3, 4, 6))


BEYOND = [2**31 - 1, 2**31, 2**32 + 1, sys.maxsize, 2**70]
"""Numbers that stand for "no limit", which 32 or 64 bits may not hold."""


@pytest.mark.parametrize("n", BEYOND)
@pytest.mark.parametrize(
    ("make", "alike"),
    [
        (lambda n: ch.window(n), ch.causal()),
        (lambda n: ch.window(None, n), ch.full()),
        (lambda n: ch.window(n, n), ch.full()),
        (lambda n: ch.window(n, n, align=n), ch.window(0, None, align="start")),
        (lambda n: ch.window(n, align=-n), ~ch.full()),
        (lambda n: ch.causal(align=n), ch.full()),
        (lambda n: ch.causal(align=-n), ~ch.full()),
        (lambda n: ch.first(n), ch.full()),
        (lambda n: ch.prefix(n), ch.full()),
        (lambda n: ch.chunks(n), ch.full()),
        (lambda n: ch.chunks(1, n), ch.causal()),
        (lambda n: ch.dilated(n, 1), ch.causal()),
        (lambda n: ch.dilated(n, n), ch.window(1)),
        (lambda n: ch.blocks(torch.ones(1, 1, dtype=torch.bool), n), ch.full()),
        (lambda n: ch.global_tokens((n, 1)), ch.global_tokens((1,))),
        (lambda n: ch.longformer(n), ch.full()),
        (lambda n: ch.bigbird(n), ch.full()),
        (lambda n: ch.bigbird(1, around=n, ends=0, random=0), ch.full()),
        (lambda n: ch.bigbird(1, ends=n, around=0, random=0), ch.full()),
    ],
)
def test_a_number_beyond_the_sequence_is_as_good_as_its_end(
    make: Callable[[int], ch.Pattern], alike: ch.Pattern, n: int
) -> None:
    for Tq, Tk in ((4, 4), (2, 5)):
        assert torch.equal(make(n).dense(Tq, Tk), alike.dense(Tq, Tk))


@pytest.mark.parametrize("n", [*BEYOND[:4], 2**32 + 3, 2**63])
def test_numbers_beyond_the_sequence_may_differ_by_batch(n: int) -> None:
    beyond = torch.tensor([2, n], dtype=torch.uint64)  # the one type that holds them all
    for pattern in (ch.first, ch.padding, lambda lengths: ch.padding(lengths, side="left")):
        assert torch.equal(pattern(beyond).dense(4, 4), pattern(torch.tensor([2, 4])).dense(4, 4))
    assert torch.equal(ch.prefix(beyond).dense(4, 4), ch.prefix(torch.tensor([2, 4])).dense(4, 4))
    assert torch.equal(ch.causal(align=beyond).dense(4, 4), ch.causal(align=torch.tensor([2, 4])).dense(4, 4))
    if n < 2**63:
        below = -torch.tensor([1, n])
        assert torch.equal(ch.causal(align=below).dense(4, 4), ch.causal(align=torch.tensor([-1, -4])).dense(4, 4))
        ids = torch.tensor([0, n, n + 1 - 2 * (n % 2), n])
        assert ch.documents(ids).dense(1, 4)[0, 0, 0].tolist() == [False, True, False, True]


def test_positions_near_the_largest_are_counted_right() -> None:
    most = 2**31 - 1
    assert ch.full().pairs(2, most) == 2 * most
    assert (ch.causal() & ch.window(7)).pairs(4, most) == 28
    assert (ch.causal() & ~ch.window(7)).pairs(4, most) == ch.causal().pairs(4, most) - 28
    with pytest.raises(ch.ClearheadError, match=r"a pattern of 2,147,483,648 keys: expected at most 2³¹ − 1"):
        ch.causal().pairs(1, 2**31)


def test_bigbird_sees_its_neighbours_the_global_blocks_and_random_ones() -> None:
    size, blocks = 4, 32
    T = size * blocks
    mask = ch.bigbird(size, around=1, ends=1, random=3, seed=1).dense(T, T)[0, 0]
    by_block = mask.view(blocks, size, blocks, size).permute(0, 2, 1, 3).flatten(2)
    assert torch.equal(by_block.all(-1), by_block.any(-1))
    seen = by_block.all(-1)
    i, j = torch.arange(blocks)[:, None], torch.arange(blocks)
    always = ((i - j).abs() <= 1) | (i == 0) | (j == 0)
    assert seen[always].all()
    at_random = (seen & ~always).sum(-1)
    assert at_random.max() <= 3
    assert at_random[1:].float().mean() > 2
    assert not torch.equal(ch.bigbird(size, seed=2).dense(T, T)[0, 0], mask)
    assert torch.equal(ch.bigbird(size, seed=1).dense(T, T)[0, 0], mask)


def test_bigbird_without_random_blocks_is_a_window_of_blocks_and_global_ones() -> None:
    expected = dense(lambda b, h, i, j, *_: abs(i // 2 - j // 2) <= 1 or i < 2 or j < 2, 3, 9)
    assert torch.equal(ch.bigbird(2, random=0).dense(3, 9), expected)


def test_a_decode_step_sees_what_the_last_row_of_the_whole_sees() -> None:
    for pattern in (ch.causal() & ch.window(3) | ch.first(1), ch.chunks(3, 1), ch.dilated(2, 2), ch.bigbird(2)):
        assert torch.equal(pattern.dense(1, 9)[:, :, 0], pattern.dense(9, 9)[:, :, -1]), pattern


def test_a_pattern_prints_as_the_call_that_makes_it() -> None:
    pattern = ch.causal() & (ch.window(2, 1) | ch.first(4)) & ~ch.chunks(8)
    assert repr(pattern) == "causal() & (window(2, 1) | first(4)) & ~chunks(8)"
    again = eval(repr(pattern), vars(ch))
    assert torch.equal(again.dense(20, 20), pattern.dense(20, 20))


def test_a_drawing_has_a_square_for_each_pair(capsys: pytest.CaptureFixture[str]) -> None:
    (ch.causal() & ch.window(2)).draw(3, 4)
    assert capsys.readouterr().out == "■ ■ · ·\n· ■ ■ ·\n· · ■ ■\n"


def test_a_drawing_of_many_tokens_is_pooled_in_shades(capsys: pytest.CaptureFixture[str]) -> None:
    ch.causal().draw(640)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 64
    assert rows[0] == "▒" + " ·" * 63
    assert rows[-1] == "■ " * 63 + "▒"


def test_a_million_tokens_take_under_200_megabytes_and_under_a_second() -> None:
    script = """
import resource, time
import torch
import clearhead as ch
pattern = ch.causal() & ch.window(4096) | ch.first(16)
pattern.runs(8, 8)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # megabytes on Linux
before, began = peak(), time.process_time()
runs = pattern.runs(1_000_000, 1_000_000)
seconds = time.process_time() - began
assert runs.count()[0, 0, [0, 5000, -1]].tolist() == [16, 4096 + 16, 4096 + 16]
print(peak() - before, seconds)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    megabytes, seconds = map(float, done.stdout.split())
    print(f"1,000,000 tokens: {megabytes:.0f} MB, {seconds:.2f} s")
    assert megabytes < 200
    assert seconds < 10  # of the processor; 0.2 s on an idle machine


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ch.window(0), r"window\(0\) counts the query itself, so it must be at least 1\."),
        (lambda: ch.window(-1, 2), r"window\(-1, 2\): a side counts keys, so it can't be negative\."),
        (lambda: ch.window(True), r"window: got True, expected whole numbers"),
        (lambda: ch.chunks(0), r"chunks\(0\): size must be at least 1 and overlap at least 0\."),
        (lambda: ch.dilated(2, 0), r"dilated\(2, 0\): w and step must be at least 1\."),
        (lambda: ch.padding(LENGTHS, side="top"), r"padding: got side='top', expected 'right' or 'left'\."),
        (lambda: ch.causal(align="middle").dense(2, 2), r"align: got 'middle', expected 'end', 'start', a number"),
        (lambda: ch.global_tokens((0, -1)), r"global_tokens\(\(0, -1\)\): positions count from the first"),
        (
            lambda: ch.where(torch.ones(2, 2)),
            r"where: got a tensor of torch\.float32, expected a tensor of torch\.bool .* bias=",
        ),
        (
            lambda: ch.where(torch.ones(2, 3, dtype=torch.bool)).dense(2, 2),
            r"where: got a mask of shape \(2, 3\) for Tq = 2, Tk = 2",
        ),
        (
            lambda: ch.where(torch.ones(3, dtype=torch.bool)).dense(3, 3),
            r"a mask of shape \(3,\) has 1 dimensions; expected \(Tq, Tk\)",
        ),
        (
            lambda: ch.documents(torch.zeros(3, dtype=torch.int64)).dense(4, 4),
            r"documents: got ids for 3 keys in a call with Tq = 4, Tk = 4",
        ),
        (lambda: ch.documents(torch.zeros(3, dtype=torch.int64)).dense(4, 3), r"queries that are the last Tq of them"),
        (lambda: ch.documents(LENGTHS, query_ids=LENGTHS).dense(3, 2), r"got query_ids for 2 queries .* Tq = 3"),
        (
            lambda: ch.documents(LENGTHS.expand(3, 2), query_ids=LENGTHS.expand(2, 2)).dense(2, 2),
            r"documents: got ids of 3 sequences and query_ids of 2; expected as many of each, or 1",
        ),
        (lambda: ch.documents([1, 2]), r"documents: got ids of list; expected a tensor \(T,\) or \(B, T\)"),
        (lambda: ch.documents(LENGTHS, LENGTHS[0]), r"documents: got query_ids of shape \(\); expected a tensor"),
        (
            lambda: ch.blocks(MATRIX, size=2).dense(7, 7),
            r"a 3 × 3 matrix of blocks of 2 covers 6 positions, but the call has Tq = 7 and Tk = 7",
        ),
        (lambda: ch.causal() & torch.ones(2, 2), r"pattern & Tensor: expected another Pattern; .* where\(mask\)"),
        (lambda: ch.causal() | None, r"pattern \| NoneType: expected another Pattern"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_said_in_a_sentence(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ch.ClearheadError, match=says):
        make()
