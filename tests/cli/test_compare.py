"""`clearhead compare` says what changed between two models or two texts, and in a sentence what is wrong."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import clearhead as ch
from clearhead.cli import main
from clearhead.models.checkpoints import open_model

TEXT = "The cat sat on the mat because the cat was tired."
OTHER = "The dog sat on the mat, and the dog sat there for long."


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tuned() -> Iterator[str]:
    """MiniLM with head 3 of layer 2 made blind: its queries are 0, so that it weighs all keys alike."""
    opened = open_model("minilm")
    attention = opened.model.encoder.layer[2].attention.self
    with torch.no_grad():
        attention.query.weight[3 * 32 : 4 * 32] = 0
        attention.query.bias[3 * 32 : 4 * 32] = 0
    with tempfile.TemporaryDirectory() as folder:
        opened.model.save_pretrained(folder)
        opened.tokenizer.save_pretrained(folder)
        yield folder


def compare(*args: str) -> Result:
    return CliRunner().invoke(main, ["compare", *args])


def done(*args: str) -> str:
    result = compare(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*args: str) -> str:
    """The sentence of a command that is refused: exit code 2, and nothing left behind."""
    before = sorted(Path.cwd().iterdir())
    result = compare(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert sorted(Path.cwd().iterdir()) == before
    return result.stderr.splitlines()[-1]


def table(*args: str) -> dict:
    return json.loads(done(*args, "--json", "-"))


def test_of_two_models_the_head_that_was_changed_comes_first(here: Path, tuned: str) -> None:
    said = done("minilm", tuned, "--text", TEXT, "--top", "5")
    assert f"minilm → {tuned}" in said
    assert "6 layers, 72 heads · 14 tokens" in said
    assert "The heads' rows were compared on 14 of 14 queries." in said
    listed = next(line for line in said.splitlines() if "━" in line)
    assert listed.split("━")[0].split()[-2:] == ["2", "3"]
    assert (here / "compare.html").read_text().count("js_distance") > 72

    known = table("minilm", tuned, "--text", TEXT)
    rows = known.pop("heads")
    assert known.pop("generator")
    assert known == {"a": "minilm", "b": tuned, "model": None, "tokens": [14, 14], "rows_compared": 14}
    assert (rows[0]["layer"], rows[0]["head"]) == (2, 3)
    assert rows[0]["entropy_normalised_b"] == pytest.approx(1)
    assert {row["js_distance"] < 1e-4 for row in rows if row["layer"] < 2} == {
        True
    }  # before the change all is as it was


def test_two_texts_in_one_model_are_compared_by_their_means(here: Path) -> None:
    opened, tables = open_model("minilm"), []
    for text in (TEXT, OTHER):
        with ch.watch(opened.model, opened.tokenizer) as seen:
            opened.model(**opened.inputs(text))
        tables.append({(row["layer"], row["head"]): row for row in seen.heads(pandas=False)})
    known = table(TEXT, OTHER, "--model", "minilm", "--by", "entropy")
    assert known["tokens"] == [14, 17]
    sure = [abs(row["entropy_change"]) - (row["entropy_change_high"] - row["entropy_change"]) for row in known["heads"]]
    assert sure == sorted(sure, reverse=True)
    for row in known["heads"]:
        a, b = (one[row["layer"], row["head"]]["entropy"] for one in tables)
        assert row["entropy_change"] == pytest.approx(b - a, abs=1e-5)
        assert row["js_distance"] is None
    said = done(TEXT, OTHER, "--model", "minilm")
    assert "The heads' rows were not compared, as the two did not read as many tokens." in said
    (here / "one.txt").write_text(TEXT)
    (here / "other.txt").write_text(OTHER)
    assert table("one.txt", "other.txt", "--files", "--model", "minilm", "--by", "entropy")["heads"] == known["heads"]


def test_of_one_model_twice_it_says_that_nothing_changed(here: Path) -> None:
    assert "Nothing changed: all 72 heads have the same numbers in both." in done("minilm", "minilm", "--text", TEXT)


def test_tables_go_to_files_beside_the_page(here: Path) -> None:
    said = done(TEXT, OTHER, "--model", "minilm", "--csv", "heads.csv", "--html", "changes.html", "--tokens", "9")
    assert said.splitlines()[-2:] == ["→ changes.html", "→ heads.csv"]
    assert "9 tokens" in said
    assert len((here / "heads.csv").read_text().splitlines()) == 73


# What is refused


def test_what_a_and_b_are_must_be_said() -> None:
    said = "Error: Say what A and B are: two models, with --text TEXT or --file PATH; or two texts, with --model NAME, "
    for args in ((), ("--text", "a", "--model", "minilm"), ("--text", "a", "--files"), ("--files",)):
        assert refused("a", "b", *args).startswith(said)
    assert "Got 2 texts" in refused("a", "b", "--text", "a", "--file", "c")


def test_models_of_two_architectures_are_refused(here: Path, tuned: str) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32, vocab_size=30522
    )
    with tempfile.TemporaryDirectory() as folder:
        BertModel(config).save_pretrained(folder)
        open_model("minilm").tokenizer.save_pretrained(folder)
        said = "Error: compare: the first has 6 layers, the second 3; expected two models of one architecture."
        assert refused("minilm", folder, "--text", TEXT) == said


def test_what_cannot_be_is_refused_before_a_model_is_opened() -> None:
    said = "Error: --by: got 'beauty', expected one of js_distance, change, entropy_normalised, "
    assert refused("a", "b", "--text", "c", "--by", "beauty").startswith(said)
    assert refused("a", "b", "--text", " ") == "Error: The text is empty; give at least a word."
    assert refused("a", "", "--model", "minilm") == "Error: The text is empty; give at least a word."
    said = "Error: none/a.html cannot be written: there is no folder none; make it first."
    assert refused("a", "b", "--text", "c", "--html", "none/a.html") == said
    said = "Error: The file none.txt cannot be read: No such file or directory."
    assert refused("none.txt", "none.txt", "--files", "--model", "minilm") == said
