"""Figures show what was found, in files that are whole."""

import sys

import numpy as np
import pytest
import torch

import clearhead as ch
from clearhead import ClearheadError
from clearhead.view import draw as drawing
from clearhead.view.draw import draw, write_pixels

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def seen():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for parameter in model.parameters():
        parameter.data *= 4
    causal = torch.nn.Transformer.generate_square_subsequent_mask(60)
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.randn(1, 60, 16), mask=causal)
    return seen


FOUND = {
    "map": lambda seen: seen.map(1, 2, size=(30, 30)),
    "alike": lambda seen: seen.alike(),
    "flow": lambda seen: seen.flow([20, 59]),
}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_everything_that_is_found_can_be_drawn_in_every_format(seen, what, suffix, begins, tmp_path):
    path = draw(FOUND[what](seen), tmp_path / f"it.{suffix}")
    assert path.read_bytes().startswith(begins)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_figures_say_what_they_show(seen, tmp_path):
    for what, said in {
        "map": ["layer 1, head 2 (layers.1.self_attn)", "key", "query", "log scale"],
        "alike": ["of 8 heads have another within", "mean Jensen–Shannon distance", "kept"],
        "flow": ["where token 20 comes from", "where token 59 comes from", "at the input of", "layer 1"],
    }.items():
        figure = figure_of(FOUND[what](seen))
        texts = [text.get_text() for text in figure.findobj(lambda x: hasattr(x, "get_text"))]
        assert all(any(word in text for text in texts) for word in said), what


def figure_of(what):
    from matplotlib.figure import Figure

    figure = Figure()
    drawing.paint(what, figure)
    return figure


def test_the_heat_map_of_likeness_has_its_heads_in_the_order_of_clusters(seen):
    alike = seen.alike()
    shown = figure_of(alike).axes[0].images[0].get_array()
    order = alike.order
    assert sorted(order) == list(range(8))
    np.testing.assert_allclose(shown, alike.distances[order][:, order].numpy())


def test_pixels_are_the_logarithms_of_the_weights(seen, tmp_path):
    region = seen.map(0, 1)
    image = Image.open(write_pixels(region, tmp_path / "map.png"))
    index, weights = np.asarray(image), region.weights.double().numpy()
    assert image.size == (60, 60) and image.mode == "P"
    assert "log scale" in image.text["Description"] and image.text["Title"].startswith("layer 0, head 1")
    heaviest = weights.max()
    assert (index[weights < heaviest / 1e4 * 0.999] == 0).all() and (index[weights == heaviest] == 255).all()
    above = weights > heaviest / 1e4 * 1.001
    assert 100 < above.sum() < 60 * 61 / 2 + 1
    np.testing.assert_allclose(index[above], 1 + 254 / 4 * (np.log10(weights[above] / heaviest) + 4), atol=0.51)


def test_the_colours_grow_lighter_with_the_weight(seen, tmp_path):
    image = Image.open(write_pixels(seen.map(0, 0), tmp_path / "map.png"))
    palette = np.array(image.getpalette()).reshape(-1, 3) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(palette) > -2).all() and palette[0] < 1 and palette[-1] > 230


def test_a_map_in_which_nothing_is_seen_is_black(seen, tmp_path):
    hidden = seen.map(0, 0, slice(0, 10), slice(50, 60))
    assert hidden.weights.max() == 0
    assert (np.asarray(Image.open(write_pixels(hidden, tmp_path / "map.png"))) == 0).all()
    draw(hidden, tmp_path / "figure.png")


def test_what_cannot_be_drawn_is_refused_in_a_sentence(seen, tmp_path, monkeypatch):
    with pytest.raises(ClearheadError, match=r"draw: got 'it.gif', expected a name that ends in \.png, \.svg, \.pdf"):
        draw(seen.map(0, 0), tmp_path / "it.gif")
    with pytest.raises(ClearheadError, match=r"write_pixels: got 'it.svg', expected a name that ends in \.png"):
        write_pixels(seen.map(0, 0), tmp_path / "it.svg")
    broken = seen.map(0, 0)
    broken.weights[0, 0] = torch.nan
    for write in (draw, write_pixels):
        with pytest.raises(ClearheadError, match="draw: got weights that are no numbers"):
            write(broken, tmp_path / "it.png")
    monkeypatch.setattr(drawing, "find_spec", lambda package: None)
    for write in (draw, write_pixels):
        with pytest.raises(ClearheadError, match=r"need matplotlib, which is not installed: pip install 'clearhead\["):
            write(seen.map(0, 0), tmp_path / "it.png")
    assert list(tmp_path.iterdir()) == []


def test_clearhead_is_imported_without_matplotlib():
    import subprocess

    script = "import clearhead, clearhead.view.draw, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
