"""`clearhead heads` prints every number of every head, here or in a file, and says in a sentence what is wrong."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import transformers
from click.testing import CliRunner, Result

import clearhead as ch
from clearhead.cli import main
from clearhead.cli.heads import chosen
from clearhead.models.checkpoints import open_model
from clearhead.scope.columns import COLUMNS, MAIN

TEXT = "The cat sat on the mat because the cat was tired."
ALL = ["layer", "head", *MAIN, "kind", "name", *COLUMNS[len(MAIN) :]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def heads(*args: str) -> Result:
    return CliRunner().invoke(main, ["heads", *args])


def minilm(*args: str) -> str:
    result = heads("--model", "minilm", *args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*args: str) -> str:
    """The sentence of a command that is refused: exit code 2, and nothing left behind."""
    result = heads(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert list(Path.cwd().iterdir()) == []
    return result.stderr.splitlines()[-1]


def parsed(table: str) -> list[dict[str, str]]:
    names, *lines = (line.split() for line in table.splitlines())
    return [dict(zip(names, line, strict=True)) for line in lines]


def test_what_is_printed_is_the_table_that_python_gives_rounded_to_what_means_something() -> None:
    opened = open_model("minilm")
    with ch.watch(opened.model, opened.tokenizer) as seen:
        opened.model(**opened.inputs(TEXT))
    printed, expected = parsed(minilm(TEXT, "--columns", "all")), seen.heads(pandas=False)
    assert len(printed) == len(expected) == 72
    assert list(printed[0]) == list(expected[0]) == ALL
    assert str(seen.heads(pandas=True)).split()[:3] == ["layer", "head", "entropy_normalised"]
    for line, row in zip(printed, expected, strict=True):
        for column, value in row.items():
            if isinstance(value, float):
                digits = len(line[column].partition(".")[2])
                assert digits <= 3
                assert float(line[column]) == pytest.approx(value, abs=0.51 * 10**-digits, nan_ok=True)
            else:
                assert line[column] == str(value)
    # Of 14 queries, shares of some 0.1 have a standard error of some 0.05, and distances of some 0.5.
    assert printed[0]["distance"] == f"{expected[0]['distance']:.1f}"
    assert printed[0]["first_token"] == f"{expected[0]['first_token']:.2f}"


def test_the_columns_that_say_most_are_printed_unless_others_are_named(here: Path) -> None:
    assert list(parsed(minilm(TEXT))[0]) == ["layer", "head", *MAIN]
    assert list(parsed(minilm(TEXT, "--sort", "lse"))[0]) == ["layer", "head", *MAIN, "lse"]
    named = ["layer", "head", "sink", "name", "first_token"]
    told = minilm(TEXT, "--columns", "sink,name, first-token,sink", "--sort", "entropy", "--csv", "named.csv")
    assert told == "→ named.csv\n"
    assert (here / "named.csv").read_text().splitlines()[0].split(",") == named
    result = heads(TEXT, "--model", "minilm", "--columns", ",".join(named[2:]))
    assert list(parsed(result.stdout)[0]) == named
    assert "copying" not in result.stderr  # which was not wanted


def test_of_a_language_model_copying_is_told_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("llama")
    opened = open_model("minilm")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(opened.tokenizer), num_key_value_heads=1, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    opened.tokenizer.save_pretrained(folder)
    result = heads(TEXT, "--model", str(folder), "--sort", "copying")
    assert result.exit_code == 0, result.stderr
    scores = [float(row["copying"]) for row in parsed(result.stdout)]
    (expected,) = ch.copying(open_model(str(folder)).model).scores.values()
    assert scores == pytest.approx(sorted(expected.tolist(), reverse=True), abs=5e-4)


def test_of_a_model_without_logits_it_says_why_there_is_no_copying() -> None:
    said = "BertModel has no output embeddings, so what a head does to the logits is unknown"
    result = heads(TEXT, "--model", "minilm")
    assert f"copying: {said}" in " ".join(result.stderr.split())
    for option in ("--sort", "--columns"):
        assert refused(TEXT, "--model", "minilm", option, "copying").startswith(f"Error: copying: {said}")


def test_sort_sorts_and_top_cuts_and_layer_chooses() -> None:
    rows = parsed(minilm(TEXT, "--sort", "previous-token", "--top", "5"))
    scores = [float(row["previous_token"]) for row in rows]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    every = [float(row["previous_token"]) for row in parsed(minilm(TEXT))]
    assert scores == sorted(every, reverse=True)[:5]
    assert {row["layer"] for row in parsed(minilm(TEXT, "--layer", "3", "--sort", "entropy"))} == {"3"}


def test_heads_without_a_number_come_last_whatever_one_sorts_by() -> None:
    rows = parsed(minilm("What is it? A cat.", "--sort", "induction"))  # no token comes twice
    assert {row["induction"] for row in rows} == {"nan"}
    assert len(rows) == 72
    table = [{"layer": 0, "head": head, "peak": peak} for head, peak in enumerate((math.nan, 0.2, math.nan, 0.7))]
    assert [row["head"] for row in chosen(table, "peak", None, None)] == [3, 1, 0, 2]
    assert [row["head"] for row in chosen(table, "peak", 3, 0)] == [3, 1, 0]


def test_json_and_csv_go_to_files_or_here(here: Path) -> None:
    said = minilm(TEXT, "--json", "heads.json", "--csv", "heads.csv")
    assert said.splitlines() == ["→ heads.json", "→ heads.csv"]
    table = json.loads((here / "heads.json").read_text())
    rows = table.pop("heads")
    assert table.pop("generator")
    assert table == {"model": "minilm", "architecture": "BertModel", "tokens": 14, "layers": 6}
    assert len(rows) == 72 and list(rows[0]) == ALL
    lines = list(csv.DictReader(io.StringIO((here / "heads.csv").read_text())))
    assert [float(line["peak"]) for line in lines] == [row["peak"] for row in rows]
    assert json.loads(minilm(TEXT, "--json", "-"))["heads"] == rows
    assert minilm(TEXT, "--csv", "-") == (here / "heads.csv").read_text()


def test_tokens_reads_the_beginning_alone(here: Path) -> None:
    (here / "text.txt").write_text("cat " * 600)  # more than the model takes
    assert parsed(minilm("--file", "text.txt", "--tokens", "100", "--columns", "queries"))[0]["queries"] == "100"
    (here / "text.txt").unlink()
    said = "Error: The text has 602 tokens, but 'minilm' takes at most 512; shorten the text."
    assert refused("cat " * 600, "--model", "minilm") == said


def test_a_pair_of_texts_is_read_as_bert_reads_it() -> None:
    assert parsed(minilm("--pair", "What is it?", "A cat.", "--columns", "queries"))[0]["queries"] == "10"


@pytest.mark.slow
def test_the_context_of_a_real_model_is_read_whole() -> None:
    text = Path(__file__).parents[2] / "docs" / "texts" / "alice.txt"
    result = heads("--file", str(text), "--tokens", "8192", "--model", "smollm2", "--columns", "all")
    rows = parsed(result.stdout)
    assert len(rows) == 270
    assert {row["queries"] for row in rows} == {"8192"}
    best = max(rows, key=lambda row: float(row["induction"]))
    assert float(best["induction"]) > 20 * float(best["induction_uniform"])
    assert -1 <= float(best["copying"]) <= 1


# What is refused


def test_what_cannot_be_is_refused_before_the_model_is_opened() -> None:
    said = "got 'beauty', expected one of entropy_normalised, peak, "
    assert refused("a", "--sort", "beauty").startswith(f"Error: --sort: {said}")
    assert refused("a", "--columns", "peak,beauty").startswith(f"Error: --columns: {said}")
    assert refused("a", "--json", "-", "--csv", "-") == (
        "Error: Got - for --json and --csv, but one text can be written here, JSON or CSV; name a file."
    )
    assert refused("a", "--parquet", "-").startswith("Error: Got - for --parquet, but one text can be written here")
    said = "Error: none/a.csv cannot be written: there is no folder none; make it first."
    assert refused("a", "--csv", "none/a.csv") == said
    assert refused() == "Error: Got 0 texts, expected one of: a text, --pair A B, --file PATH."


def test_parquet_without_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find = ch.view.export.importlib.util.find_spec
    monkeypatch.setattr(
        "clearhead.view.export.importlib.util.find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    said = "Error: heads.parquet: Parquet needs pyarrow, which is not here; get it with: pip install pyarrow."
    assert refused("a", "--parquet", "heads.parquet") == said


def test_a_layer_that_is_not_there_is_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearhead.cli.reading.watched", lambda *_: pytest.fail("the model ran"))
    said = "Error: There is no layer 6: the model has 6, from 0 to 5."
    assert refused("a", "--model", "minilm", "--layer", "6") == said


def test_a_model_that_needs_more_than_a_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_model("minilm")
    opened.model.forward = lambda input_ids, pixels, **_: None
    monkeypatch.setattr("clearhead.cli.heads.open_model", lambda *_, **__: opened)
    said = "Error: The model 'minilm' cannot read a text alone: "
    assert refused("a", "--model", "minilm").startswith(said)
