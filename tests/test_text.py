"""Which strings are text that a tokenizer can read; each way to a model refuses the others in the same sentence."""

from collections.abc import Callable

import pytest

import clearhead as ch
from clearhead.models.checkpoints import Opened
from clearhead.text import check_text
from tests.models.test_generate import tiny
from tests.models.test_tokens import smollm2

__all__ = ["smollm2"]  # the fixture

BYTE, HALF = "x \udcff y", "x \ud83d"
WHY = {
    BYTE: "is not valid Unicode: its character 2 is the byte 0xff, which is not UTF-8",
    HALF: "is not valid Unicode: its character 2 is U\\+D83D, half of a surrogate pair",
}


@pytest.mark.parametrize("text", [BYTE, HALF], ids=ascii)
def test_half_a_character_is_refused_in_a_sentence(text: str, smollm2: ch.models.Tokenizer) -> None:
    model = tiny()
    model.tokenizer = smollm2
    reader = Opened("reader", type("Reader", (), {"main_input_name": "input_ids"})(), None, None)
    ways: dict[str, Callable[[], object]] = {
        "generate": lambda: model.generate(text),
        "encode": lambda: smollm2.encode(text),
        "inputs": lambda: reader.inputs("whole", text),
    }
    for way in ways.values():
        with pytest.raises(ch.ClearheadError, match=f"^The text {WHY[text]}"):
            way()
    with pytest.raises(ch.ClearheadError, match=f"^stop {WHY[text]}"):
        model.generate("a", stop=["b", text])


def test_what_is_no_string_is_refused_in_a_sentence() -> None:
    with pytest.raises(ch.ClearheadError, match=r"^Text 1 is int \('7'\); expected a string"):
        check_text(7, "Text 1")


def test_whole_text_is_given_back_as_it_is() -> None:
    text = "a ½ 🙂 \ufffd \x00"
    assert check_text(text) is text
