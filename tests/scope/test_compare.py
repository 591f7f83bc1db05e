"""A comparison says of each head how far its rows and its means are apart in two runs, the largest first."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas
import pytest
import torch
import transformers
from torch import Tensor, nn

import clearhead as ch
from clearhead.scope import compare as comparing
from clearhead.scope.compare import Comparison
from clearhead.scope.moments import student
from clearhead.view.seen import Seen

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 60}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.tensor([[5, 9, 7, 5, 9, 8, 5, 9, 3, 4]])


def llama(**options: Any) -> nn.Module:
    torch.manual_seed(options.pop("seed", 0))
    config = transformers.LlamaConfig(**{**SMALL, **HEADS, **options})
    return transformers.LlamaForCausalLM(config).eval()


def seen(model: nn.Module, *texts: Mapping[str, Tensor] | Tensor, **options: Any) -> Seen:
    with torch.no_grad(), ch.watch(model, **options) as record:
        for text in texts:
            model(**text) if isinstance(text, Mapping) else model(text)
    return record


def rows_of(comparison: Comparison, **options: Any) -> dict[tuple[int, int], dict[str, Any]]:
    return {(row["layer"], row["head"]): row for row in comparison.heads(pandas=False, **options)}


def distances(a: Tensor, b: Tensor) -> Tensor:
    """By the definition, in float64: (B, H, Tq) of two (B, H, Tq, Tk); what a row lacks to 1 is one key more."""
    p, q = (torch.cat([x.double(), 1 - x.double().sum(-1, keepdim=True)], -1).clamp(min=0) for x in (a, b))
    p, q = (x.where(x > 1e-6, 0) / x.where(x > 1e-6, 0).sum(-1, keepdim=True) for x in (p, q))
    m = (p + q) / 2
    parts = (torch.where(x > 0, x * (x / m).log2(), 0).sum(-1) for x in (p, q))
    return (sum(parts) / 2).clamp(min=0).sqrt()


# Rows


@pytest.mark.parametrize("name", ["bert", "llama", "llama_padded", "mistral", "gpt_oss", "bloom", "t5"])
def test_the_distance_is_that_of_the_full_weights_without_padding(name: str, zoo: Mapping[str, Callable]) -> None:
    specimen = zoo[name]()
    before, weights_before = seen(copy.deepcopy(specimen.model), specimen.inputs), specimen.true_weights()
    with torch.no_grad():
        for parameter in specimen.model.parameters():
            parameter += 0.3 * parameter.std(correction=0) * torch.randn_like(parameter)
    after, weights_after = seen(specimen.model, specimen.inputs), specimen.true_weights()
    found = rows_of(Comparison(before, after))
    for number, (a, b) in enumerate(zip(weights_before, weights_after, strict=True)):
        where = specimen.attentions[number]
        decodes = where[0].startswith("decoder")
        counted = torch.ones(a.shape[0], a.shape[2], dtype=torch.bool) if decodes else specimen.inputs["attention_mask"]
        apart = distances(a, b).transpose(1, 2)[counted.bool()].mean(0)
        assert float(apart.min()) > 0.01
        for head, expected in enumerate(apart.tolist()):
            assert found[number, head]["js_distance"] == pytest.approx(expected, abs=2e-4)


def test_what_is_the_same_is_at_no_distance() -> None:
    model = llama()
    for row in Comparison(seen(model, IDS), seen(model, IDS)).heads(pandas=False):
        assert row["js_distance"] < 1e-6
        assert row["change"] == row["entropy_change"] == 0


def test_of_a_long_text_evenly_spaced_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (seen(llama(seed=seed), IDS) for seed in (1, 2))
    few = Comparison(one, other, rows=4)
    assert (few.rows, few.of) == (4, 10)
    sampled = [0, 3, 6, 9]
    for (layer, head), row in rows_of(few).items():
        apart = distances(one[layer].rows(sampled, head)[None, None], other[layer].rows(sampled, head)[None, None])
        assert row["js_distance"] == pytest.approx(float(apart.mean()), abs=1e-6)
    monkeypatch.setattr(comparing, "WEIGHTS_AT_A_TIME", 1)  # row by row
    for place, row in rows_of(Comparison(one, other, rows=4)).items():
        assert row["js_distance"] == pytest.approx(rows_of(few)[place]["js_distance"], abs=1e-6)


def test_every_text_that_both_read_is_compared() -> None:
    texts = IDS, IDS.flip(1)
    one, other = (seen(llama(seed=seed), *texts) for seed in (1, 2))
    both = Comparison(one, other)
    assert (both.rows, both.of) == (20, 20)
    singly = [rows_of(Comparison(*(seen(llama(seed=seed), text) for seed in (1, 2)))) for text in texts]
    for place, row in rows_of(both).items():
        mean = (singly[0][place]["js_distance"] + singly[1][place]["js_distance"]) / 2
        assert row["js_distance"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({}, {"keep": "statistics"}, "a watch kept the statistics alone"),
        ({}, {"text": IDS[:, :5]}, "the two did not read as many tokens"),
    ],
)
def test_rows_that_have_no_like_are_not_compared_and_it_says_why(first: Any, second: Any, why: str) -> None:
    one, other = (seen(llama(), x.pop("text", IDS), **x) for x in (dict(first), dict(second)))
    comparison = Comparison(one, other)
    assert comparison.without_rows == why
    rows = comparison.heads(pandas=False)
    assert all(math.isnan(row["js_distance"]) for row in rows)
    assert comparison.by == "change"
    sizes = [abs(row["change"]) - (row["change_high"] - row["change"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_different_numbers_of_texts_are_said() -> None:
    comparison = Comparison(seen(llama(), IDS), seen(llama(), IDS, IDS.flip(1)))
    assert comparison.without_rows == "the two did not read as many texts, in as many steps"


# Means


def test_changes_are_the_differences_of_the_two_tables() -> None:
    one, other = (seen(llama(seed=seed), IDS) for seed in (1, 2))
    tables = [{(row["layer"], row["head"]): row for row in record.heads(pandas=False)} for record in (one, other)]
    for place, row in rows_of(Comparison(one, other)).items():
        a, b = (table[place] for table in tables)
        for column in ("entropy", "max_score", "previous_token", "induction", "previous_token_uniform"):
            assert (row[f"{column}_a"], row[f"{column}_b"]) == (a[column], b[column])
            assert row[f"{column}_change"] == b[column] - a[column]
        shares = {c.removesuffix("_uniform") for c in a if c.endswith("_uniform")} | {"entropy_normalised", "peak"}
        sure = {c: abs(b[c] - a[c]) - (row[f"{c}_change_high"] - row[f"{c}_change"]) for c in shares}
        known = {c: x for c, x in sure.items() if not math.isnan(x)}
        assert known[row["most"]] == max(known.values())
        for end in ("", "_low", "_high"):
            assert row[f"change{end}"] == row[f"{row['most']}_change{end}"]


def test_heads_are_sorted_by_what_one_asks_for_and_no_number_comes_last() -> None:
    comparison = Comparison(*(seen(llama(seed=seed), IDS) for seed in (1, 2)))
    for by, column in (("js_distance", "js_distance"), ("change", "change"), ("lse", "lse_change")):
        rows = comparison.heads(by, pandas=False)
        halves = [row.get(f"{column}_high", row[column]) - row[column] for row in rows]
        sizes = [abs(row[column]) - half for row, half in zip(rows, halves, strict=True)]
        assert sizes == sorted(sizes, reverse=True)
    assert comparison.heads(pandas=False) == comparison.heads("js_distance", pandas=False)
    comparison._heads[3]["js_distance"] = math.nan
    assert math.isnan(comparison.heads(pandas=False)[-1]["js_distance"])


def test_a_table_is_a_data_frame_where_pandas_is() -> None:
    comparison = Comparison(seen(llama(), IDS), seen(llama(seed=1), IDS))
    frame = comparison.heads()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 8
    assert frame["js_distance"].is_monotonic_decreasing


# Uncertainty


def test_an_interval_is_welchs_and_queries_are_counted() -> None:
    one, other = seen(llama(seed=1), IDS), seen(llama(seed=2), IDS[:, :6])
    first = [record[1].rows(range(1, T))[:, :, 0].double() for record, T in ((one, 10), (other, 6))]
    for head in range(4):
        row = rows_of(Comparison(one, other))[1, head]
        a, b = (w[head] for w in first)
        assert (row["first_token_queries_a"], row["first_token_queries_b"]) == (9, 5)
        x, y = float(a.var()) / 9, float(b.var()) / 5
        half = student(int((x + y) ** 2 / (x**2 / 8 + y**2 / 4))) * (x + y) ** 0.5
        change = float(b.mean() - a.mean())
        found = [row[f"first_token_change{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([change, change - half, change + half], abs=1e-5)


def test_shares_of_few_queries_do_not_come_first() -> None:
    comparison = Comparison(*(seen(llama(seed=seed), IDS[:, :n]) for seed, n in ((1, 4), (2, 5))))
    rows = comparison.heads(pandas=False)
    assert "sink" not in {row["most"] for row in rows}
    for row in rows:  # one query alone has something said twice before it: no interval, and never first
        assert row["duplicate_token_queries_a"] == 1 and math.isnan(row["duplicate_token_change_low"])
        assert row["most"] not in ("duplicate_token", "induction")


def test_a_minimal_pair_is_compared_position_by_position() -> None:
    model, other = llama(), IDS.clone()
    other[0, 4] = 30
    comparison = Comparison(seen(model, IDS), seen(model, other))
    assert comparison.without_rows is None and comparison.by == "js_distance"
    assert (comparison.differing, comparison.tokens, comparison.rows) == (1, 10, 10)
    one, two = (seen(model, ids) for ids in (IDS, other))
    for (layer, head), row in rows_of(comparison).items():
        apart = distances(*(record[layer].rows(range(10), head)[None, None] for record in (one, two)))[0, 0]
        assert float(apart[:4].max()) < 1e-3  # a causal model has not read it yet
        assert row["js_distance"] == pytest.approx(float(apart.mean()), abs=1e-5)
        assert row["js_distance_stderr"] == pytest.approx(float(apart.std()) / 10**0.5, abs=1e-5)


def test_of_two_equal_models_nothing_changed() -> None:
    model = llama()
    same = Comparison(seen(model, IDS), seen(copy.deepcopy(model), IDS))
    assert same.unchanged and same.nothing() == "Nothing changed: all 8 heads have the same numbers in both."
    assert not Comparison(seen(model, IDS), seen(llama(seed=1), IDS)).unchanged
    assert not Comparison(seen(model, IDS), seen(model, IDS[:, :9])).unchanged


# What is compared


def test_a_model_with_a_head_on_top_can_be_compared_with_one_without() -> None:
    model = llama()
    comparison = Comparison(seen(model, IDS), seen(model.model, IDS))
    assert {row["js_distance"] < 1e-6 for row in comparison.heads(pandas=False)} == {True}


def test_other_architectures_are_refused() -> None:
    one = seen(llama(), IDS)
    with pytest.raises(ch.ClearheadError, match="the first has 2 layers, the second 3; expected two models of one"):
        Comparison(one, seen(llama(num_hidden_layers=3), IDS))
    said = "layer 0 is a self-attention of 4 heads in the first and a self-attention of 2 in the second"
    with pytest.raises(ch.ClearheadError, match=said):
        Comparison(one, seen(llama(num_attention_heads=2), IDS))


def test_wrong_arguments_are_refused() -> None:
    record = seen(llama(), IDS)
    with pytest.raises(ch.ClearheadError, match="got rows = 0, expected at least 1"):
        Comparison(record, record, rows=0)
    with pytest.raises(ch.ClearheadError, match="got by = 'beauty', expected one of js_distance, change, entropy"):
        Comparison(record, record).heads("beauty")
    with pytest.raises(ch.ClearheadError, match="one of the two records saw nothing"):
        Comparison(record, Seen())
