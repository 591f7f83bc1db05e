"""Likeness, as a page tells it: what `alike` finds, of the heads that read one text, where that is quick enough."""

import pytest
import torch

import clearhead as ch
from clearhead.scope.alike import Alike
from clearhead.view import likeness as module
from clearhead.view.likeness import likeness
from clearhead.view.seen import Seen


def watched(layers: int = 3, heads: int = 4, tokens: int = 12) -> Seen:
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(16, heads, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, tokens, 16))
    return seen


def test_the_page_tells_what_alike_finds() -> None:
    seen = watched()
    found, told = seen.alike(), likeness(seen)
    assert told["heads"] == [[layer, head] for layer in range(3) for head in range(4)]
    assert torch.tensor(told["points"]) == pytest.approx(found.layout[0], abs=1e-3)
    assert torch.tensor(told["nearest"]) == pytest.approx(found.nearest, rel=1e-3)
    assert told["clusters"] == [[list(head) for head in cluster] for cluster in found.clusters()]
    assert told["verdict"] == found.verdict()
    (a, b) = (found.heads.index((layer, head)) for layer, head in told["closest"])
    assert found.distances[a, b] == found.nearest.min() and a != b


def test_clusters_say_how_far_apart_their_members_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched()
    found = seen.alike()
    for threshold in (float(found.nearest.min()), float(found.nearest.median()), 1.0):
        monkeypatch.setattr(Alike.clusters, "__defaults__", (threshold,))
        told = likeness(seen)
        assert len(told["clusters"]) == len(told["spans"]) > 0
        for cluster, span in zip(told["clusters"], told["spans"], strict=True):
            places = [found.heads.index((layer, head)) for layer, head in cluster]
            assert span == pytest.approx(max(float(found.distances[a, b]) for a in places for b in places), rel=1e-3)
    assert told["kept"] == pytest.approx(found.layout[1], rel=1e-3)


def test_of_an_encoder_and_a_decoder_those_are_compared_that_have_most_heads() -> None:
    torch.manual_seed(2)
    model = torch.nn.Transformer(16, 2, num_encoder_layers=1, num_decoder_layers=3, batch_first=True).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, 7, 16), torch.randn(1, 5, 16))
    kinds = {seen.layers[layer].kind for layer, _ in likeness(seen)["heads"]}
    assert len(likeness(seen)["heads"]) == 6
    assert len(kinds) == 1


def test_what_takes_too_long_is_left_out_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched()
    monkeypatch.setattr(module, "HEADS", 11)
    told = likeness(seen)["without"]
    assert told.startswith("12 heads on 12 tokens take too long to compare for a page")
    monkeypatch.setattr(module, "HEADS", 12)
    assert "clusters" in likeness(seen)
    monkeypatch.setattr(module, "PAIRS", 144 * 12 * 3 - 1)
    assert "take too long" in likeness(seen)["without"]
    monkeypatch.setattr(module, "PAIRS", 144 * 12 * 3)
    assert "over 6 of 12 queries" in likeness(seen)["verdict"]


def test_a_head_that_has_none_to_be_compared_with_says_so() -> None:
    assert likeness(watched(1, 1)) == {"without": "alike: got 1 head, expected two or more to compare."}
