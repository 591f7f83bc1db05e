"""`clearhead generate` writes on from a text as Python does, says how fast, and says in a sentence what is wrong."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from click.testing import CliRunner, Result

from clearhead.cli import generate as command
from clearhead.cli import main
from clearhead.models.generate import Generated, generate
from clearhead.models.loading import load

WORDS = ["<end>", *"abcdefghijklmnopqrstuvwxyz", " ", "!", "?"]
HELLO = "{% for message in messages %}{{ message['content'] }}?{% endfor %}"
SPEED = r"\d+ tokens read in \d+\.\d\d s, \d+ a second · \d+ written in \d+\.\d\d s, \d+\.\d a second · "


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random Llama, as save_pretrained leaves it, whose tokens are letters; in a chat it is asked with "?"."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends: dict[str, Any] = {"vocab_size": len(WORDS), "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    config = transformers.LlamaConfig(max_position_embeddings=64, initializer_range=0.5, **sizes, **ends)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = tokenizers.Tokenizer(tokenizers.models.BPE({word: n for n, word in enumerate(WORDS)}, []))
    letters.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>")
    tokenizer.chat_template = HELLO
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(*args: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["generate", *args], **options)


def by_python(small: str, text: str, **options: Any) -> Generated:
    result = generate(load(small), text, **options)
    assert isinstance(result, Generated)
    return result


def test_what_is_new_goes_to_standard_output_and_the_speed_to_standard_error(small: str) -> None:
    told = by_python(small, "hello there", max_new_tokens=9)
    result = run("hello there", "--model", small, "--max-new-tokens", "9")
    assert result.exit_code == 0, result.stderr
    assert told.text and result.stdout == told.text + "\n"
    *loading, speed = result.stderr.splitlines()
    assert loading == [f"reading {small}"]
    assert speed.startswith("11 tokens read in ") and " a second · 9 written in " in speed
    assert speed.endswith(" · --max-new-tokens")


def test_the_options_are_those_of_python(small: str) -> None:
    chosen = {"temperature": 2.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 4}
    args = [arg for name, value in chosen.items() for arg in (f"--{name.replace('_', '-')}", str(value))]
    told = by_python(small, "hello", max_new_tokens=30, **chosen)
    assert run("hello", "--model", small, "--max-new-tokens", "30", *args).stdout == told.text + "\n"
    assert run("hello", "--model", small, "--max-new-tokens", "30", *args, "--seed", "5").stdout != told.text + "\n"


def test_json_has_the_text_its_tokens_and_times(small: str) -> None:
    told = by_python(small, "hello", max_new_tokens=12, temperature=1.0, seed=1)
    options = ["--max-new-tokens", "12", "--temperature", "1", "--seed", "1"]
    said = json.loads(run("hello", "--model", small, "--json", *options).stdout)
    assert (said["text"], said["tokens"], said["reason"]) == (told.text, told.tokens, told.reason)
    assert (said["prompt"], said["prompt_tokens"], said["seed"], said["dtype"]) == ("hello", 5, 1, "float32")
    assert said["decode_rate"] == pytest.approx((len(told.tokens) - 1) / said["decode_seconds"])
    assert said["prefill_rate"] == pytest.approx(5 / said["prefill_seconds"])


def test_json_knows_no_nan(small: str) -> None:
    told = by_python(small, "hello", max_new_tokens=1)
    assert math.isnan(told.decode_rate)
    assert json.loads(run("hello", "--model", small, "--json", "--max-new-tokens", "1").stdout)["decode_rate"] is None


def test_it_ends_before_each_of_several_stop_texts(small: str) -> None:
    whole = by_python(small, "hello", max_new_tokens=9, temperature=1.5, seed=2).text
    options = ["--model", small, "--max-new-tokens", "9", "--temperature", "1.5", "--seed", "2"]
    result = run("hello", *options, "--stop", whole[4], "--stop", "never said")
    assert result.stdout == whole[: whole.index(whole[4])] + "\n"
    assert result.stderr.rstrip().endswith("· a stop text came")


def test_a_dash_reads_standard_input_without_its_last_newline(small: str) -> None:
    given = run("hello there", "--model", small, "--max-new-tokens", "9").stdout
    assert run("-", "--model", small, "--max-new-tokens", "9", input="hello there\n").stdout == given


def test_a_chat_is_written_as_the_models_template_says(small: str) -> None:
    asked = run("hello", "--chat", "--model", small, "--max-new-tokens", "9")
    assert asked.exit_code == 0, asked.stderr
    assert asked.stdout == run("hello?", "--model", small, "--max-new-tokens", "9").stdout


def test_bfloat16_is_said_and_taken(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    types = []

    def loading(name: str, **options: Any) -> Any:
        types.append(options["dtype"])
        return load(name, **options)

    monkeypatch.setattr(command, "load", loading)
    assert run("hello", "--model", small, "--dtype", "bfloat16", "--max-new-tokens", "2").exit_code == 0
    assert types == [torch.bfloat16]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes after the third piece."""
    stream: Callable[..., Any] = command.stream

    class Interrupted:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.pieces = stream(*args, **options)

        def __iter__(self) -> Iterator[str]:
            for n, piece in enumerate(self.pieces):
                if n == 3:
                    raise KeyboardInterrupt
                yield piece

        @property
        def result(self) -> Generated:
            return self.pieces.result

    monkeypatch.setattr(command, "stream", Interrupted)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_ends_it_with_what_is_there(small: str) -> None:
    options = ["--model", small, "--temperature", "1", "--seed", "1"]
    result = run("hello", *options)
    told = by_python(small, "hello", max_new_tokens=3, temperature=1.0, seed=1)
    assert result.exit_code == 130
    assert result.stdout == told.text + "\n"
    *_, speed, stopped = result.stderr.splitlines()
    assert speed.endswith("· stopped") and stopped == "Stopped."
    assert json.loads(run("hello", *options, "--json").stdout)["reason"] == "stopped"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([""], "The prompt is empty: it has no tokens; give at least a word."),
        (["a" * 65], "The prompt has 65 tokens, but the model takes 64; shorten it."),
        (["a", "--top-p", "2"], "top_p: got 2.0, expected more than 0 and at most 1."),
        (["a", "--max-new-tokens", "0"], "max_new_tokens: got 0, expected 1 or more."),
        (["a", "--stop", ""], "stop: got an empty text, which every text holds; leave it out."),
    ],
)
def test_what_is_wrong_is_a_sentence(small: str, args: list[str], said: str) -> None:
    result = run(*args, "--model", small)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {said}"


def test_an_encoder_and_a_model_that_is_not_there_are_refused() -> None:
    for name, said in (("minilm", "this model has no head"), ("./nowhere", "No model './nowhere' was found")):
        result = run("hello", "--model", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr.splitlines()[-1]


def test_standard_input_that_is_no_text_is_refused(tmp_path: Path) -> None:
    result = run("-", input=b"ab\xff")
    assert result.exit_code == 2
    assert "Standard input is no text in UTF-8: its byte 2 is 0xff; convert it first." in result.stderr
