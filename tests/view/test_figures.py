"""Figures drawn without a browser show the numbers that the record has."""

import math
import re
import sys

import numpy as np
import pytest
import torch

import clearhead as ch
from clearhead import ClearheadError
from clearhead.scope.columns import ROLES
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting
from clearhead.view import draw
from clearhead.view.drawings import HUE
from clearhead.view.figures import KINDS, figure

pytest.importorskip("matplotlib")
T = 12
IDS = torch.tensor([[3, 5, 6, 7, 8, 5, 6, 7, 9, 5, 6, 11]])


class Words:
    """A tokenizer of made-up words, one of which mathematics would take for its own."""

    def __init__(self):
        self.all_special_ids = []

    def convert_ids_to_tokens(self, ids):
        return [f"w{i}" if i != 5 else "$x_5$" for i in ids]

    def convert_tokens_to_string(self, tokens):
        return "".join(f" {token}" for token in tokens)


@pytest.fixture(scope="module")
def seen(llama):
    with torch.no_grad(), ch.watch(llama, Words()) as seen:
        llama(input_ids=IDS)
    return seen


def drawn(figure):
    """The figure as matplotlib holds it."""
    from matplotlib.figure import Figure

    made = Figure()
    draw.paint(figure.what, made)
    return made


def words(made):
    return [text.get_text() for text in made.findobj(lambda x: hasattr(x, "get_text"))]


CALLS = {
    "head": {"layer": 1, "head": 2},
    "map": {"layer": 1, "head": 2},
    "model": {},
    "query-key": {"layer": 1, "head": 2},
    "roles": {"layer": 1, "head": 2},
    "report": {},
    "similarity": {},
    "patches": {"layer": 1, "head": 2},
    "compare": {},
}
PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype="u1")
"""Of which the twelve tokens are 3 × 4 patches."""


@pytest.fixture(scope="module")
def other(llama):
    """What the same model saw of another text."""
    with torch.no_grad(), ch.watch(llama, Words()) as other:
        llama(input_ids=IDS.flip(1))
    return other


@pytest.fixture
def more(other):
    """What some kinds want besides."""
    return {"compare": {"other": other}, "patches": {"image": PICTURE}}


def test_every_kind_has_a_test_of_every_format():
    assert set(CALLS) == set(KINDS)


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_every_kind_is_saved_in_every_format(seen, more, kind, suffix, begins, tmp_path):
    path = seen.figure(kind, **CALLS[kind], **more.get(kind, {})).save(tmp_path / f"it.{suffix}")
    assert path.read_bytes().startswith(begins)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_notebook_shows_a_figure_as_pixels_or_as_a_drawing(seen):
    figure = seen.figure("roles", layer=0, head=0)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "</svg>" in figure._repr_svg_()


def test_each_weight_of_a_head_is_a_line_as_strong_as_it(seen):
    (panel,) = drawn(seen.figure("head", layer=1, head=2)).axes
    (lines,) = panel.collections
    weights = seen[1].rows(range(T), 2)
    expected = {(i, j): float(weights[i, j]) for i, j in (weights > 0.004).nonzero().tolist()}
    shown = {
        (round(curve[0][1]), round(curve[-1][1])): alpha
        for curve, (*_, alpha) in zip(lines.get_segments(), lines.get_colors(), strict=True)
    }
    assert shown == pytest.approx(expected, abs=1e-6)
    tokens = [text for text in words(panel) if text.startswith("·")]
    assert tokens == [f"·{word}" for word in Words().convert_ids_to_tokens(IDS[0].tolist())] * 2


def test_of_one_query_the_weights_stand_in_numbers(seen):
    (panel,) = drawn(seen.figure("head", layer=1, head=2, query=9, rows=slice(6, 12), columns=slice(0, 10))).axes
    (lines,) = panel.collections
    assert {round(curve[0][1]) for curve in lines.get_segments()} == {9}
    row = seen[1].rows([9], 2)[0, :10].tolist()
    told = [re.search(r"(\d+)%$", text.get_text()) for text in panel.texts if text.get_position()[0] > 1][:10]
    assert [0 if found is None else int(found[1]) for found in told] == [
        round(100 * weight) if weight >= 0.005 else 0 for weight in row
    ]


def test_the_map_has_its_tokens_at_the_edges_and_its_weights_inside(seen):
    made = drawn(seen.figure("map", layer=2, head=1, rows=slice(4, 12), columns=slice(0, 9)))
    np.testing.assert_allclose(made.axes[0].images[0].get_array(), seen[2].rows(range(4, 12), 1)[:, :9], atol=1e-6)
    tokens = [f"·{word}" for word in Words().convert_ids_to_tokens(IDS[0].tolist())]
    assert [label.get_text() for label in made.axes[0].get_xticklabels()] == tokens[:9]
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == tokens[4:]


def test_the_wall_has_every_head_s_picture_in_its_place(seen):
    panel, _ = drawn(seen.figure("model")).axes
    cells = np.asarray(panel.images[0].get_array().filled(np.nan))
    assert cells.shape == (3 * (T + 2), 4 * (T + 2))
    for layer in range(3):
        weights = seen[layer].rows(range(T))
        for head in range(4):
            there = cells[layer * (T + 2) + 1 :, head * (T + 2) + 1 :][:T, :T]
            np.testing.assert_allclose(np.sqrt(there), weights[head].sqrt(), atol=0.5 / 255 + 1e-6)
    assert (panel.images[0].norm.vmin, panel.images[0].norm.vmax) == (1e-4, 1)  # as the large map's four decades
    assert np.isnan(cells[0]).all() and np.isnan(cells[:, 0]).all()


def test_the_model_by_a_column_is_the_head_table(seen):
    made = drawn(seen.figure("model", by="induction"))
    shown = made.axes[0].images[0].get_array()
    for row in seen.heads(pandas=False):
        assert shown[row["layer"], row["head"]] == pytest.approx(row["induction"])
    assert "induction" in words(made)


def test_how_a_weight_comes_about_adds_up(seen):
    made = drawn(seen.figure("query-key", layer=1, head=2, query=9, key=6))
    call = seen[1].steps[0].weights.call
    q, k = call.q[0, 2, 9].double(), call.k[0, 1].double()
    for panel, values in zip(made.axes, (q, k[6], q * k[6]), strict=False):
        assert [bar.get_height() for bar in panel.patches] == pytest.approx(values.tolist(), abs=1e-6)
    line, chosen = made.axes[3].lines
    assert line.get_ydata() == pytest.approx((k[:10] @ q * 8**-0.5).tolist(), abs=1e-4)
    assert chosen.get_xdata() == [6]
    said = next(text for text in words(made) if "Σ q·k" in text).replace("−", "-")
    number = r"(-?[\d.]+)"
    found = re.search(rf"Σ q·k = {number},  × {number} = {number};  e\^\({number} - {number}\) = {number}%", said)
    sum_, scale, scaled, score, lse, percent = map(float, found.groups())
    assert sum_ == pytest.approx(float(q @ k[6]), abs=0.0051)
    assert sum_ * scale == pytest.approx(scaled, abs=0.01) and scaled == pytest.approx(score, abs=0.0051)
    assert 100 * math.exp(score - lse) == pytest.approx(percent, rel=0.01, abs=0.06)
    assert percent == pytest.approx(100 * float(seen[1].rows([9], 2)[0, 6]), abs=0.051)


def test_without_a_wish_a_telling_pair_is_shown(seen):
    weights = seen[1].rows(range(T), 2).masked_fill(torch.eye(T, dtype=torch.bool), 0)
    weights[:, 0] = 0
    made = drawn(seen.figure("query-key", layer=1, head=2))
    assert f"= {float(weights.max()):.1%}" in " ".join(words(made))
    assert made.axes[3].lines[1].get_xdata() == [int(weights.max(0).values.argmax())]


def test_softcap_and_bias_have_their_terms_and_scores_alone_are_said(tmp_path):
    record, i, j = Record(), torch.arange(T)[:, None], torch.arange(T)
    q, k = 4 * torch.randn(1, 2, T, 8), 4 * torch.randn(1, 2, T, 8)
    more = {"softcap": 6.0, "bias": -0.25 * (i - j).abs()[None, None]}
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=k, mask=(j <= i)[None, None], scale=0.2, **more))
    record.add(Sighting("scores", 1, "self", 0, scores=torch.randn(1, 2, T, T)))
    told = " ".join(words(drawn(figure(record, "query-key", 0, 1, query=10, key=4))))
    capped = 6 * math.tanh(0.2 * float(q[0, 1, 10] @ k[0, 1, 4]) / 6)
    assert f"softcap 6 = {capped:.2f},  + bias -1.50 = {capped - 1.5:.2f}" in told.replace("−", "-")
    made = drawn(figure(record, "query-key", 1, 0, query=3, key=2))
    assert len(made.axes) == 1 and "score = " in " ".join(words(made))


def test_roles_are_bars_beside_a_uniform_head_s(seen):
    made = drawn(seen.figure("roles", layer=1, head=2))
    row = next(row for row in seen.heads(pandas=False) if (row["layer"], row["head"]) == (1, 2))
    told = [role for role in ROLES if math.isfinite(row[role])]
    assert len(told) > 4
    assert [bar.get_width() for bar in made.axes[0].patches] == pytest.approx([row[role] for role in told])
    assert made.axes[0].lines[0].get_xdata() == pytest.approx([row[f"{role}_uniform"] for role in told])
    from matplotlib.colors import to_rgba

    assert made.axes[0].patches[0].get_facecolor() == to_rgba(HUE)


def test_the_report_has_the_strongest_head_of_each_role_and_every_head_in_the_plane(seen):
    bars, plane, *_ = drawn(seen.figure("report")).axes
    table = seen.heads(pandas=False)
    told = [role for role in ROLES if any(math.isfinite(row[role]) for row in table)]
    best = [max((row for row in table if math.isfinite(row[role])), key=lambda row: row[role]) for role in told]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([b[r] for r, b in zip(told, best, strict=True)])
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert names == [f"{r.replace('_', ' ')}  {b['layer']}·{b['head']}" for r, b in zip(told, best, strict=True)]
    assert len(plane.collections[0].get_offsets()) == 12


def test_similarity_is_that_of_the_record(seen):
    near, *_ = drawn(seen.figure("similarity")).axes
    alike = seen.alike()
    np.testing.assert_allclose(near.images[0].get_array(), alike.distances[alike.order][:, alike.order], atol=1e-6)


def test_patches_are_veiled_by_what_a_token_looks_at(seen):
    left, right = drawn(seen.figure("patches", layer=1, head=2, image=PICTURE, query=6)).axes
    np.testing.assert_array_equal(left.images[0].get_array(), PICTURE)
    weights = seen[1].rows([6], 2)[0].reshape(3, 4)
    np.testing.assert_allclose(right.images[1].get_array()[..., 3], 0.9 * (1 - weights / weights.max()), atol=1e-6)
    (frame,) = left.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((20, 10), 10, 10)  # row 1, column 2


def test_a_comparison_has_every_heads_change_and_the_largest_from_what_to_what(seen, other):
    comparison = ch.compare(seen, other)
    for by in (None, "induction"):
        for made in (seen.figure("compare", other=other, by=by, top=5), comparison.figure(by=by, top=5)):
            grid, listed, _ = drawn(made).axes
            rows = comparison.heads(by, pandas=False)
            column = "induction_change" if by else comparison.by
            for row in rows:
                shown = grid.images[0].get_array()[row["layer"], row["head"]]
                assert shown == pytest.approx(abs(row[column]), nan_ok=True)
            of = [by or row["most"] for row in rows[:5]]
            before, after = listed.lines[-2:]
            assert before.get_xdata() == pytest.approx([row[f"{c}_a"] for row, c in zip(rows, of, strict=False)])
            assert after.get_xdata() == pytest.approx([row[f"{c}_b"] for row, c in zip(rows, of, strict=False)])


def test_what_cannot_be_drawn_is_refused_in_a_sentence(seen, tmp_path, monkeypatch):
    for kind, options, said in [
        (
            "heads",
            {},
            r"figure: got 'heads', expected one of head, map, .*, roles, report, similarity, patches, compare\.",
        ),
        ("head", {"head": 1}, r"figure\('head'\): say which layer, as in figure\('head', layer=3, head=2\)"),
        ("model", {"layer": 1}, r"figure\('model'\): got layer=, expected some of by, sequence, batch"),
        ("map", {"layer": 1, "head": 1, "query": 2}, r"figure\('map'\): got query=, expected some of layer, head"),
        ("head", {"layer": 1, "head": 7}, "head: got 7, but there are 4"),
        ("head", {"layer": 9, "head": 1}, "there is no layer 9"),
        ("head", {"layer": 1, "head": 1, "rows": slice(0, 3), "query": 5}, "query 5 is not among the rows 0 to 2"),
        ("head", {"layer": 1, "head": 1, "rows": slice(0, 9, 2)}, "has a step; expected slices without"),
        ("head", {"layer": 1, "head": 1, "rows": slice(5, 5)}, "got 0 queries and 12 keys"),
        ("model", {"by": "beauty"}, "got by='beauty', expected one of .*entropy"),
        ("query-key", {"layer": 1, "head": 1, "query": 2, "key": 8}, "query 2 puts no weight on key 8"),
        ("patches", {"layer": 1, "head": 1}, "give image=, the picture that the model read"),
        ("compare", {}, "give other=, the record of the run to compare"),
        ("compare", {"other": seen, "top": 0}, "got top=0, expected how many heads to list, 1 or more"),
    ]:
        with pytest.raises(ClearheadError, match=said):
            seen.figure(kind, **options)
    figure = seen.figure("roles", layer=0, head=0)
    with pytest.raises(ClearheadError, match=r"save: got 'it.gif', expected a name that ends in \.png, \.svg, \.pdf"):
        figure.save(tmp_path / "it.gif")
    monkeypatch.setattr(draw, "find_spec", lambda package: None)
    with pytest.raises(ClearheadError, match=r"Figures need matplotlib, which is not installed: pip install 'cl"):
        figure.save(tmp_path / "it.png")
    assert list(tmp_path.iterdir()) == []


def test_head_query_and_text_are_any_whole_number_and_no_bool(seen):
    for kind, named in {
        "head": {"head": 1, "query": 3, "batch": 0},
        "roles": {"head": 1},
        "model": {"batch": 0},
    }.items():
        layer, nothing = 0 if "head" in named else None, {"head": None}
        for number in (np.int64, torch.tensor):
            figure(seen, kind, layer, **nothing | {name: number(n) for name, n in named.items()})
        for name in named:
            for wrong in (True, torch.tensor(True)):
                with pytest.raises(ClearheadError, match=f"got {name}=.*True.*, expected a whole number"):
                    figure(seen, kind, layer, **nothing | named | {name: wrong})


def test_too_many_tokens_for_lines_are_refused_and_some_of_them_drawn():
    q = torch.randn(1, 1, 200, 4)
    record = Record()
    record.add(Sighting("attn", 0, "self", 0, q=q, k=q, v=q, scale=1.0))
    with pytest.raises(ClearheadError, match=r"got 200 queries and 200 keys, expected 1 to 150 .* figure\('map', …\)"):
        figure(record, "head", 0, 0)
    assert drawn(figure(record, "head", 0, 0, rows=slice(100, 200), columns=slice(50, 200))).axes[0].collections


def test_clearhead_is_imported_without_matplotlib():
    import subprocess

    script = "import clearhead, clearhead.view.figures, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
