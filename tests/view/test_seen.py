"""ch.watch on a real model: what the README's three lines promise."""

from pathlib import Path

import pytest
import torch

import clearhead as ch
from clearhead.models.checkpoints import open_model
from clearhead.scope.columns import ROLES

TEXT = "the cat sat on the mat. the dog sat on the log. the cat sat on the mat."


@pytest.fixture(scope="module")
def smollm2():
    return open_model("smollm2")


@pytest.fixture(scope="module")
def seen(smollm2):
    inputs = smollm2.tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad(), ch.watch(smollm2.model, smollm2.tokenizer) as seen:
        smollm2.model(**inputs)
    return seen


@pytest.fixture(scope="module")
def eager(smollm2):
    """The same model's own weights, `[layer] (1, H, T, T)`."""
    smollm2.model.set_attn_implementation("eager")
    with torch.no_grad():
        result = smollm2.model(**smollm2.tokenizer(TEXT, return_tensors="pt"), output_attentions=True)
    smollm2.model.set_attn_implementation("sdpa")
    return result.attentions


def test_rows_of_smollm2_are_its_weights_on_eager_attention(seen, eager):
    assert len(seen) == 30 and all(layer.heads == 9 for layer in seen.layers)
    for layer, weights in zip(seen.layers, eager, strict=True):
        T = weights.shape[-1]
        torch.testing.assert_close(layer.rows(range(T)), weights[0], rtol=0, atol=1e-4)
    rows = seen["model.layers.3.self_attn"].rows(i=[5, 9], head=2)
    torch.testing.assert_close(rows, eager[3][0, 2, [5, 9]], rtol=0, atol=1e-5)


def test_the_output_of_a_watched_model_is_the_same_up_to_rounding_or_to_the_bit(smollm2):
    inputs = smollm2.tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        alone = smollm2.model(**inputs).logits
        with ch.watch(smollm2.model):
            watched = smollm2.model(**inputs).logits
        with ch.watch(smollm2.model, kernels="model"):
            exact = smollm2.model(**inputs).logits
    torch.testing.assert_close(watched, alone, rtol=1e-4, atol=1e-3)
    assert torch.equal(alone, exact)


def test_the_head_table_says_what_the_weights_say(seen, eager):
    rows = seen.heads(pandas=False)
    assert len(rows) == 30 * 9
    for row in rows[::17]:
        w = eager[row["layer"]][0, row["head"]].double()
        T = len(w)
        assert row["previous_token"] == pytest.approx(w.diagonal(-1).mean().item(), abs=1e-4)
        assert row["first_token"] == pytest.approx(w[1:, 0].mean().item(), abs=1e-4)
        assert row["self_token"] == pytest.approx(w.diagonal().mean().item(), abs=1e-4)
        assert row["entropy"] == pytest.approx(torch.special.entr(w).sum(-1).mean().item(), abs=1e-3)
        assert row["first_token_uniform"] == pytest.approx(sum(1 / n for n in range(2, T + 1)) / (T - 1))


def test_smollm2_has_heads_that_find_what_followed_before(seen):
    """Induction is a fact of trained models of this kind (Olsson et al. 2022), far above chance."""
    best = max(seen.heads(pandas=False), key=lambda row: row["induction"])
    assert best["induction"] > 0.5 > 4 * best["induction_uniform"]


def test_the_page_of_two_hundred_tokens_takes_less_than_3_mb(smollm2, tmp_path):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    inputs = {name: ids[:, :200] for name, ids in smollm2.tokenizer(text, return_tensors="pt").items()}
    with torch.no_grad(), ch.watch(smollm2.model, smollm2.tokenizer) as seen:
        smollm2.model(**inputs)
    assert len(seen[0].queries()) == 200
    assert seen.page(tmp_path / "look.html").stat().st_size < 3_000_000


def test_a_generation_is_rows_of_one_sequence(smollm2):
    inputs = smollm2.tokenizer("the cat sat on the", return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    with ch.watch(smollm2.model, smollm2.tokenizer) as seen:
        tokens = smollm2.model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
    with torch.no_grad(), ch.watch(smollm2.model, smollm2.tokenizer) as whole:
        smollm2.model(tokens[:, :-1])
    T = length + 4
    assert len(seen[7].steps) == 5 and seen[7].queries() == whole[7].queries()
    torch.testing.assert_close(seen[7].rows(range(T)), whole[7].rows(range(T)), rtol=0, atol=1e-4)
    one, other = (s.heads(pandas=False)[7 * 9] for s in (seen, whole))
    for column in ("entropy", "peak", *ROLES):
        assert one[column] == pytest.approx(other[column], abs=1e-4, nan_ok=True)


def test_minilm_is_seen_with_its_padding_left_out():
    minilm = open_model("minilm")
    texts = ["A short one.", "A text that is quite a bit longer than the short one, is it not?"]
    batch = minilm.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad(), ch.watch(minilm.model, minilm.tokenizer) as seen:
        minilm.model(**batch)
    assert len(seen) == 6 and all(layer.heads == 12 for layer in seen.layers)
    short = int(batch["attention_mask"][0].sum())
    assert (seen[0].rows([0], batch=0)[..., short:] == 0).all()
    assert seen.heads(pandas=False)[0]["queries"] == int(batch["attention_mask"].sum())


def test_a_page_of_two_hundred_tokens_of_all_heads_is_under_three_megabytes(smollm2, tmp_path):
    ids = smollm2.tokenizer(TEXT * 12, return_tensors="pt")["input_ids"][:, :200]
    assert ids.shape[1] == 200
    with torch.no_grad(), ch.watch(smollm2.model, smollm2.tokenizer) as seen:
        smollm2.model(ids)
    path = seen.page(tmp_path / "look.html")
    assert path.stat().st_size < 3_000_000
    assert "<title>the cat sat on the mat. the dog sat on the …</title>" in path.read_text()
