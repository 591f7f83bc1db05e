"""Sampling draws from exactly the distributions that Transformers draws from, and says what it can't take."""

import re

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from clearhead.errors import ClearheadError
from clearhead.models.sampling import Sampling, generators

V = 50


def theirs(how: Sampling, logits: Tensor, tokens: Tensor) -> Tensor:
    """The logits as Transformers' generate() filters them, which takes them in float32."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(how.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(how.temperature))
    if how.top_k is not None:
        processors.append(TopKLogitsWarper(how.top_k))
    if how.top_p is not None and how.top_p < 1:  # as in generate()
        processors.append(TopPLogitsWarper(how.top_p))
    if how.min_p is not None:
        processors.append(MinPLogitsWarper(how.min_p))
    filtered: Tensor = processors(tokens, logits.float())
    return filtered


def held(tokens: Tensor) -> Tensor:
    return torch.zeros(len(tokens), V, dtype=torch.bool).scatter(1, tokens, True)


WAYS = [
    Sampling(temperature=0.7),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.3, top_k=7),
    Sampling(temperature=1.0, top_k=1000),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(temperature=1.0, top_p=1e-6),
    Sampling(temperature=1.0, top_p=1.0),
    Sampling(temperature=1.5, min_p=0.1),
    Sampling(temperature=1.0, min_p=0.0),
    Sampling(temperature=1.0, min_p=1.0),
    Sampling(temperature=1.0, repetition_penalty=1.3),
    Sampling(temperature=1.0, repetition_penalty=0.5),
    Sampling(temperature=0.9, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.2),
]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "kind", ["random", "flat", "peaked", "tied", "large", "some are out"], ids=lambda kind: kind.replace(" ", "-")
)
def test_the_distribution_is_that_of_transformers(how: Sampling, dtype: torch.dtype, kind: str) -> None:
    logits = {
        "random": 3 * torch.randn(4, V),
        "flat": torch.zeros(4, V),
        "peaked": torch.eye(4, V) * 100,
        "tied": torch.randint(-2, 3, (4, V)).float(),
        "large": 1e4 * torch.randn(4, V),
        "some are out": torch.randn(4, V).masked_fill(torch.arange(V) % 3 == 0, -torch.inf),
    }[kind].to(dtype)
    tokens = torch.randint(0, V, (4, 12))
    assert torch.equal(how.filtered(logits, held(tokens)), theirs(how, logits, tokens))


def test_one_token_always_stays() -> None:
    how = Sampling(temperature=1.0, top_k=1, top_p=1e-9, min_p=1.0)
    assert how.filtered(torch.randn(3, V)).isfinite().sum(-1).tolist() == [1, 1, 1]


def test_temperature_0_takes_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([[3.0, 2.9, -1.0], [3.0, 2.9, -1.0]])
    seen = torch.tensor([[True, False, False], [False, True, True]])
    assert Sampling(repetition_penalty=1.1).choose(logits, [], seen).tolist() == [1, 0]
    assert Sampling().choose(logits, [], seen).tolist() == [0, 0]


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    how, by = Sampling(temperature=0.5, top_k=3), generators(1, seed=7)
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5]])
    drawn = torch.cat([how.choose(logits, by) for _ in range(4000)])
    expected = torch.tensor([2.0, 1.0, 0.0]).softmax(0)
    frequencies = drawn.bincount(minlength=4) / 4000
    assert frequencies[3] == 0
    assert torch.allclose(frequencies[:3], expected, atol=0.03)  # four standard deviations


def test_a_rows_draws_do_not_depend_on_the_other_rows() -> None:
    how, logits = Sampling(temperature=1.0), torch.randn(3, V)
    together, alone = generators(3, seed=5), generators(1, seed=7)
    for _ in range(20):
        assert how.choose(logits, together)[2] == how.choose(logits[2:], alone)[0]


def test_without_a_seed_pytorch_decides() -> None:
    def first() -> list[int]:
        return [generator.initial_seed() for generator in generators(2, seed=None)]

    torch.manual_seed(1)
    one = first()
    assert first() != one
    torch.manual_seed(1)
    assert first() == one


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "temperature: got -1.0, expected 0, for the likeliest token, or 1e-6 on."),
        ({"temperature": float("nan")}, "temperature: got nan, expected 0, for the likeliest token, or 1e-6 on."),
        ({"top_k": 0}, "top_k: got 0, expected 1 or more."),
        ({"top_p": 0.0}, "top_p: got 0.0, expected more than 0 and at most 1."),
        ({"top_p": 1.1}, "top_p: got 1.1, expected more than 0 and at most 1."),
        ({"min_p": -0.1}, "min_p: got -0.1, expected from 0 to 1."),
        ({"repetition_penalty": 0.0}, "repetition_penalty: got 0.0, expected more than 0; 1 is no penalty."),
    ],
)
def test_a_number_out_of_range_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ClearheadError, match=re.escape(said)):
        Sampling(**options)  # type: ignore[arg-type]
