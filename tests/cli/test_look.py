"""`clearhead look` draws real models, writes whole files, and says in one sentence what is wrong."""

import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result

from clearhead import ClearheadError
from clearhead.cli import look as looking
from clearhead.cli import main
from clearhead.models.checkpoints import open_model

TEXT = "The cat sat on the mat because the cat was tired."
SHELL = [sys.executable, "-m", "clearhead", "look"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(*args: str) -> Result:
    return CliRunner().invoke(main, ["look", *args])


def minilm(*args: str) -> Result:
    result = look("--model", "minilm", *args)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*args: str) -> str:
    """The sentence of a command that is refused: exit code 2, and nothing left behind."""
    before = sorted(Path.cwd().iterdir())
    result = look(*args)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert sorted(Path.cwd().iterdir()) == before
    return result.stderr.splitlines()[-1]


# The main job


@pytest.fixture(scope="module")
def cache() -> Iterator[str]:
    """A cache of converted models that is empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@pytest.fixture
def environment(cache: str) -> dict[str, str]:
    plain = {name: x for name, x in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**plain, "CLEARHEAD_CACHE": cache}


def on_a_terminal(command: list[str], columns: int, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code, and all that the command wrote, on a terminal with colours."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env={**environment, **colours})
    os.close(its)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(2**16)
            except OSError:  # how Linux says that the other end was closed
                break
            written += part
    return process.wait(), written.decode()


def test_the_first_look_converts_smollm2_and_the_second_takes_the_copy(here: Path, environment: dict[str, str]) -> None:
    first = subprocess.run([*SHELL, TEXT], env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines()[0] == "converting smollm2, this once"
    assert "smollm2  LlamaForCausalLM · 30 layers × 9 heads · 12 tokens" in first.stdout
    assert [int(n) for n in re.findall(r"^ +(\d+) [░▒▓█•]{18}", first.stdout, re.MULTILINE)] == list(range(30))
    said = " ".join(first.stdout.split())
    assert "✓ 30 attentions seen in 30 layers. The model's output is within " in said
    assert float(re.search(r"is within (\S+) of an unwatched run's, whose largest value is", said)[1]) < 1e-3
    assert float(re.search(r"largest difference is (\S+)\. ", said)[1]) < 1e-5
    page = (here / "look.html").read_text()
    assert len(page) < 3e6
    assert "src=" not in page.split("<script")[0]

    code, second = on_a_terminal([*SHELL, TEXT], 100, environment)
    assert code == 0
    assert "converting" not in second
    assert "watching smollm2 on 12 tokens" in second  # in the bar
    assert "\x1b[48;2;" in second or ";48;2;" in second  # cells in true colour
    assert sorted(path.name for path in here.iterdir()) == ["look.html"]


def test_minilm_reads_a_pair_as_bert_does(here: Path) -> None:
    said = minilm("--pair", "What is it?", "It is a cat.").stdout
    assert "minilm  BertModel · 6 layers × 12 heads · 12 tokens" in said
    assert "6 attentions seen in 6 layers" in said
    assert "[SEP]" in (here / "look.html").read_text()


def test_a_text_may_come_from_a_file(here: Path) -> None:
    (here / "text.txt").write_text("Ein Kätzchen.", encoding="utf-8")
    minilm("--file", "text.txt", "--json", "look.json")
    tokens = json.loads((here / "look.json").read_text())["tokens"]
    assert "".join(token.removeprefix("##") for token in tokens) == "[CLS]einkatzchen.[SEP]"


def test_by_names_what_colours_the_heads_with_dashes_or_not() -> None:
    for by in ("previous-token", "previous_token"):
        said = minilm(TEXT, "--by", by).stdout
        assert "previous token  weight on the token just before" in said
        assert said.splitlines()[-1] == "→ look.html#by=previous_token"  # the page's colours too


def test_a_layer_from_near_shows_its_heads_in_numbers() -> None:
    said = minilm(TEXT, "--layer", "2").stdout
    assert "layer 2  encoder.layer.2.attention.self, self-attention" in said
    assert re.search(r"^head +0 +1 +2 +3 +4 +5 +6 +uniform *$", said, re.MULTILINE)
    assert re.search(r"^head +7 +8 +9 +10 +11 +uniform *$", said, re.MULTILINE)
    assert said.splitlines()[-1] == "→ look.html#layer=2"


def test_a_head_from_near_shows_the_keys_that_the_model_itself_weighs_most(here: Path) -> None:
    said = minilm(TEXT, "--layer", "2", "--head", "9", "--html", "near.html").stdout
    opened = open_model("minilm")
    opened.model.set_attn_implementation("eager")
    inputs = opened.inputs(TEXT)
    with torch.no_grad():
        weights = opened.model(**inputs, output_attentions=True).attentions[2][0, 9]
    tokens = opened.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert len(tokens) == 14
    for i, row in enumerate(weights):
        line = next(line for line in said.splitlines() if re.match(rf" +{i} +{re.escape(tokens[i])} ", line))
        weight, j = row.max(0)
        key, number = re.split(r"[░▒▓█ ]{14} +", line)[-1].split()[:2]
        assert (key, float(number)) == (tokens[j], pytest.approx(weight.item(), abs=0.0051))
    assert said.splitlines()[-1] == "→ near.html#layer=2&head=9"
    assert (here / "near.html").exists()


def test_of_many_queries_the_last_are_shown() -> None:
    said = minilm("cat " * 100, "--layer", "0", "--head", "0").stdout
    assert re.findall(r"^ +(\d+) (?:cat|\[SEP\]) ", said, re.MULTILINE) == [str(n) for n in range(62, 102)]
    assert "The last 40 of 102 queries; the page has all." in said


def test_json_holds_the_table_of_heads_and_the_facts(here: Path) -> None:
    minilm("What is it? A cat.", "--json", "look.json")
    numbers = json.loads((here / "look.json").read_text())
    heads = numbers.pop("heads")
    assert len(heads) == 6 * 12
    assert list(heads[0])[:4] == ["layer", "head", "entropy_normalised", "peak"]
    assert heads[0]["induction"] is None  # no token comes twice
    assert all(math.isfinite(row["peak"]) for row in heads)
    assert 0 < numbers.pop("self_check") < 1e-5
    assert 0 <= numbers.pop("output_largest_difference") < 1e-5
    assert numbers.pop("generator")
    assert numbers == {
        "model": "minilm",
        "architecture": "BertModel",
        "tokens": ["[CLS]", "what", "is", "it", "?", "a", "cat", ".", "[SEP]"],
        "layers": 6,
        "attentions_seen": 6,
        "output_unchanged": True,
    }


def test_a_change_is_none_rounding_or_more() -> None:
    x = torch.tensor([1.0, math.nan, 0.0])
    assert looking._change((x, "no tensor"), (x.clone(), "other")) is None
    assert looking._change((x[2:],), (-x[2:],)) == (0.0, 0.0, True)  # minus zero is equal, but other bits
    assert looking._change((x[:1], x[2:]), (x[:1], x[2:] + 0.25)) == (0.25, 1.0, False)
    assert looking._change((4 * x[:1],), (4 * x[:1] + 2**-9,)) == (2**-9, 4.0, True)
    assert looking._change((x[:1],), (x[1:2],)).is_rounding is False


# What is refused


def test_an_empty_text_is_refused() -> None:
    for args in (("",), (" \n",), ("--pair", "a", " ")):
        assert refused(*args) == "Error: The text is empty; give at least a word."


def test_no_text_or_two_are_refused() -> None:
    said = "Error: Got {} texts, expected one of: a text, --pair A B, --file PATH."
    assert refused() == said.format(0)
    assert refused("a", "--pair", "b", "c") == said.format(2)


def test_a_text_longer_than_the_context_is_refused() -> None:
    said = "Error: The text has 602 tokens, but 'minilm' takes at most 512; shorten the text."
    assert refused("cat " * 600, "--model", "minilm") == said


def test_a_model_that_is_not_there_is_refused() -> None:
    assert refused("a", "--model", "./nothing").startswith("Error: No model './nothing' was found: there is no such")
    assert "the hub cannot be reached" in refused("a", "--model", "someone/model")


def test_a_model_that_needs_more_than_a_text_is_refused(here: Path) -> None:
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(text_config=tiny, vision_config={**tiny, "image_size": 8, "patch_size": 4})
    transformers.CLIPModel(config).save_pretrained(here / "clip")
    open_model("minilm").tokenizer.save_pretrained(here / "clip")
    assert refused("a", "--model", "clip").startswith("Error: The model 'clip' cannot read a text alone: ")


def test_a_layer_or_a_head_that_is_not_there_is_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_run", lambda *_: pytest.fail("the model ran"))
    for layer in ("6", "-1"):
        said = f"Error: There is no layer {layer}: the model has 6, from 0 to 5."
        assert refused("a", "--model", "minilm", "--layer", layer) == said
    said = "Error: There is no head 12: layer 3 has 12, from 0 to 11."
    assert refused("a", "--model", "minilm", "--layer", "3", "--head", "12") == said


def test_a_head_without_a_layer_is_refused() -> None:
    assert refused("a", "--head", "3") == "Error: --head 3 says no layer; add --layer."


def test_an_unknown_statistic_is_refused_with_those_there_are() -> None:
    said = refused("a", "--by", "beauty")
    assert said.startswith("Error: --by: got 'beauty', expected one of entropy, entropy_normalised, peak, ")
    assert "induction" in said


def test_a_file_that_cannot_be_read_is_refused(here: Path) -> None:
    assert refused("--file", "none.txt") == "Error: The file none.txt cannot be read: No such file or directory."
    (here / "latin.txt").write_bytes("Kätzchen".encode("latin-1"))
    said = "Error: The file latin.txt is no text in UTF-8: its byte 1 is 0xe4; convert it first."
    assert refused("--file", "latin.txt") == said


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_model_runs(option: str) -> None:
    said = "Error: none/look cannot be written: there is no folder none; make it first."
    assert refused("a", option, "none/look") == said


def test_a_failure_to_write_is_a_sentence_and_leaves_no_half_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clearhead.view.export.write_rows", full)
    result = look("a", "--model", "minilm", "--json", "look.json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: look.json cannot be written: No space left on device."
    assert sorted(path.name for path in here.iterdir()) == ["look.html"]


# The command itself


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert re.fullmatch(r"clearhead \d+\.\d+\.\d+\S*\n", result.output)


def test_every_option_is_explained() -> None:
    help_text = " ".join(look("--help").output.split())
    for option in ("--model NAME", "--pair A B", "--file PATH", "--layer N", "--head N", "--by COLUMN"):
        assert option in help_text
    assert "smollm2, minilm, a folder, a .gguf file, or a name on the hub" in help_text


def test_ctrl_c_and_errors_end_any_command_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Any:
        def instead(*_: object, **__: object) -> None:
            raise error

        return instead

    monkeypatch.setattr(looking, "open_model", fail(KeyboardInterrupt()))
    assert (look("a").exit_code, look("a").stderr) == (130, "Stopped.\n")
    monkeypatch.setattr(looking, "open_model", fail(ClearheadError("A sentence.")))
    assert (look("a").exit_code, look("a").stderr) == (2, "Error: A sentence.\n")
