"""The real MiniLM's vectors of texts are those that Transformers makes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models.checkpoints import open_model

TEXTS = [
    "A cat sleeps on the sofa.",
    "",
    "Two and two is four.",
    "Attention weights are recomputed on demand for the rows and tiles asked for. " * 12,
    "Ein Hund läuft über die Straße — 犬が走る 🐕.",
]


@pytest.fixture(scope="module")
def minilm() -> Any:
    return ch.models.load("minilm")


@torch.no_grad()
def test_the_vectors_of_the_real_minilm_are_transformers_to_1e_5(minilm: Any) -> None:
    opened = open_model("minilm")
    inputs = opened.tokenizer(TEXTS, return_tensors="pt", padding=True)
    x = opened.model(**inputs).last_hidden_state
    real = inputs["attention_mask"][..., None]
    expected = F.normalize((x * real).sum(1) / real.sum(1), dim=-1)
    off = float((ch.models.embed(minilm, TEXTS) - expected).abs().max())
    assert off < 1e-5


def test_a_vector_does_not_hang_on_what_is_read_beside_it(minilm: Any) -> None:
    together = ch.models.embed(minilm, TEXTS * 8)
    for n, text in enumerate(TEXTS):
        alone = ch.models.embed(minilm, text)
        torch.testing.assert_close(together[n :: len(TEXTS)], alone.expand(8, -1), atol=1e-5, rtol=0)


def test_each_vector_is_of_length_1_and_likeness_is_seen(minilm: Any) -> None:
    cat, dog, four = ch.models.embed(minilm, ["A cat sleeps.", "A dog lies down.", "Two and two is four."])
    assert float(cat.norm()) == pytest.approx(1)
    assert cat @ dog > cat @ four + 0.2


def test_a_text_that_is_too_long_is_named(minilm: Any) -> None:
    with pytest.raises(ClearheadError, match=r"text 1 has 602 tokens; expected from 1 to 512\. Cut a long text"):
        ch.models.embed(minilm, ["short", "word " * 600])


def test_a_model_without_a_tokenizer_reads_no_text() -> None:
    model = torch.nn.Module()
    model.tokenizer = None
    with pytest.raises(ClearheadError, match="embed: this model has no tokenizer"):
        ch.models.embed(model, ["text"])
