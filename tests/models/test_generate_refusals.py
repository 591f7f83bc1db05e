"""What can't be written is refused in a sentence, before anything is computed."""

import re
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.models.generate import Prompt, generate
from tests.models.test_generate import STORY, telling, tiny


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ("", {}, "The prompt is empty: it has no tokens; give at least a word."),
        ("a" * 11, {}, "The prompt has 11 tokens, but the model takes 10; shorten it."),
        ([1, 300], {}, "The prompt has token 300, but the model knows those from 0 to 256."),
        ("a", {"max_new_tokens": 0}, "max_new_tokens: got 0, expected 1 or more."),
        ("a", {"stop": ["b", ""]}, "stop: got an empty text, which every text holds; leave it out."),
        ("a", {"temperature": -1.0}, "temperature: got -1.0, expected 0, for the likeliest token, or 1e-6 on."),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(prompt: Prompt, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ch.ClearheadError, match=re.escape(said)):
        generate(telling(STORY, context=10), prompt, **options)


def test_without_a_tokenizer_there_is_no_text() -> None:
    model = telling(STORY)
    model.tokenizer = None
    with pytest.raises(ch.ClearheadError, match="The prompt is a text, but this model has no tokenizer; give tokens"):
        generate(model, "Once")
    with pytest.raises(ch.ClearheadError, match="stop: this model has no tokenizer, so it knows no text"):
        generate(model, [1], stop="x")


@pytest.mark.parametrize("prompt", [torch.tensor([1.5, 2.5]), torch.tensor(3), [torch.tensor([[1, 2]])]], ids=str)
def test_what_is_no_row_of_whole_numbers_is_refused(prompt: Any) -> None:
    with pytest.raises(
        ch.ClearheadError, match=r"^The prompt is tensor.*; expected a text, or the whole numbers of its"
    ):
        generate(tiny(), prompt)


def test_a_model_whose_tokens_see_those_after_them_does_not_write() -> None:
    with pytest.raises(ch.ClearheadError, match="this model's tokens see those after them, as BERT's do"):
        generate(tiny(pattern=(ch.causal(), ch.full())), [1])


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ch.ClearheadError, match="this model has no head, so it writes no tokens"):
        generate(tiny(head=None), [1])
