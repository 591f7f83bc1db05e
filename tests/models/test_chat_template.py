"""A chat template writes here what it writes in Transformers; where it refuses or fails, a sentence says so."""

from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from clearhead import ClearheadError
from clearhead.models.chat_template import written

TALK = [{"role": "user", "content": "Is <b> é?"}, {"role": "assistant", "content": "Yes"}]
EACH = "{% for m in messages %}"


@pytest.mark.parametrize(
    "template",
    [
        EACH
        + "{{ m.role }}: {% generation %}{% set x = 1 %}\n {{ m.content }}\n{% endgeneration %}{{ x }}{% endfor %}",
        EACH + "{{ m | tojson }}{{ m | tojson(indent=2) }}{{ m | tojson(ensure_ascii=true) }}{% endfor %}",
        EACH + "{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}{{ eos_token }}",
        "{{ strftime_now('%Y') }} {{ strftime_now(format='%Y') }}",
    ],
)
def test_a_talk_is_written_as_transformers_writes_it(template: str) -> None:
    theirs, _ = render_jinja_template([TALK], chat_template=template, add_generation_prompt=True, eos_token="<end>")
    assert [written(template, TALK, {"eos_token": "<end>"})] == theirs


def test_a_template_knows_the_day() -> None:
    before = datetime.now().date()
    day = datetime.fromisoformat(written("{{ strftime_now('%Y-%m-%d') }}", TALK, {})).date()
    assert before <= day <= datetime.now().date()


@pytest.mark.parametrize(
    ("template", "messages", "why"),
    [
        (EACH + "{{ m.content + '.' }}{% endfor %}", [{"role": "user", "content": None}], "TypeError: unsupported"),
        (EACH + "{{ 1 // loop.index0 }}{% endfor %}", TALK, "ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", TALK, "RecursionError"),
    ],
)
def test_a_template_that_fails_is_a_sentence(template: str, messages: list[Any], why: str) -> None:
    with pytest.raises(
        ClearheadError, match=rf'template fails on these messages \({why}.*; expected each to have a "r'
    ):
        written(template, messages, {})
