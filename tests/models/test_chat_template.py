"""A chat template writes here what it writes in Transformers; where it refuses or fails, a sentence says so."""

from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from clearhead import ClearheadError
from clearhead.models import guarded
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
        "{{ tools is none }} {{ documents is none }} {{ tools is defined }}{% if tools is not none %}tools{% endif %}",
        EACH + "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    ],
)
def test_a_talk_is_written_as_transformers_writes_it(template: str) -> None:
    theirs, _ = render_jinja_template([TALK], chat_template=template, add_generation_prompt=True, eos_token="<end>")
    assert [written(template, TALK, {"eos_token": "<end>"})] == theirs


def test_a_message_lacks_what_is_none_in_it_as_in_transformers() -> None:
    template = EACH + "{{ m.content is defined }} {% endfor %}"
    talk = [{"role": "assistant", "content": None}, {"role": "user", "content": ""}]
    assert written(template, talk, {}) == "False True "


def test_reasoning_is_found_by_the_names_that_transformers_gives_it() -> None:
    template = EACH + "{{ m.reasoning_content }} {{ m.thinking }}{% endfor %}"
    assert written(template, [{"role": "assistant", "reasoning": "why"}], {}) == "why why"


def test_a_template_knows_the_day() -> None:
    before = datetime.now().date()
    day = datetime.fromisoformat(written("{{ strftime_now('%Y-%m-%d') }}", TALK, {})).date()
    assert before <= day <= datetime.now().date()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            EACH + "{{ m.content + 1 }}{% endfor %}",
            r"fails \(TypeError: can only concatenate.*; write the talk as a text",
        ),
        (EACH + "{{ nothing.at_all }}{% endfor %}", r"fails \(UndefinedError: 'nothing' is undefined\)"),
        (EACH + "{{ 1 // loop.index0 }}{% endfor %}", r"fails \(ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", r"fails \(RecursionError"),
        ("{{ raise_exception('No system message') }}", "refuses these messages: No system message"),
        ("{% for %}", "is no Jinja that can be read: Expected an expression"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "writes more than 10,000,000 characters"),
    ],
)
def test_a_template_that_fails_is_a_sentence_that_blames_what_is_at_fault(template: str, why: str) -> None:
    with pytest.raises(ClearheadError, match=f"^chat: the model's template {why}"):
        written(template, TALK, {})


NESTED = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
DOUBLED = "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"
LONG = "{{ strftime_now('%A' * 99999999) * 99 }}"


@pytest.mark.parametrize("template", [NESTED, DOUBLED, LONG], ids=["loops", "doubling", "strftime"])
def test_a_template_has_a_bound_on_time_and_memory(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "SECONDS", 1)
    monkeypatch.setattr(guarded, "MEMORY", 2**29)
    with pytest.raises(ClearheadError, match=r"^chat: the model's template (was given up: |fails \(MemoryError)"):
        written(template, TALK, {})


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "got no messages; expected at least one"),
        ([*TALK, {"content": "x"}], "message 2 is .*; expected a mapping with a "),
        ([{"role": "user", "content": object()}], "the messages hold more than texts, lists and mappings"),
    ],
)
def test_messages_are_blamed_where_they_are_at_fault(messages: list[Any], why: str) -> None:
    with pytest.raises(ClearheadError, match=f"^chat: {why}"):
        written("", messages, {})
