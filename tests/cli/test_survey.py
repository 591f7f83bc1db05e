"""`clearhead survey` reports over a corpus, whatever is in it, and the same however the work was done."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from rich.console import Console

from clearhead.cli import main
from clearhead.cli import survey as surveying
from clearhead.cli.steps import telling
from clearhead.models.checkpoints import open_model
from clearhead.scope.survey import Progress

SENTENCES = [f"The {a} saw a {b}, and the {b} saw the {a}." for a in ("cat", "dog", "owl") for b in ("man", "bee")]
SHELL = [sys.executable, "-m", "clearhead", "survey"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, in which the command runs, with a corpus of six lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES))
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model with one attention of two heads."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = open_model("minilm").tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def survey(*args: str) -> Result:
    return CliRunner().invoke(main, ["survey", *args])


def refused(*args: str) -> str:
    """The sentence of a command that is refused: exit code 2, and nothing changed."""
    before = {path: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}
    result = survey(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()} == before
    return result.stderr.splitlines()[-1]


# What it prints and writes


def test_a_corpus_with_all_sorts_of_documents_is_read_and_they_are_told_of(here: Path, tiny: str) -> None:
    (here / "corpus").mkdir()
    for n, sentence in enumerate(SENTENCES[:2]):
        (here / "corpus" / f"{n}.txt").write_text(sentence)
    for name in ("empty", "blank"):
        (here / "corpus" / f"{name}.txt").write_text(" \n")
    (here / "corpus" / "latin.txt").write_bytes("Kätzchen".encode("latin-1"))
    (here / "corpus" / "long.txt").write_text(" ".join(SENTENCES))
    result = survey("corpus", "--model", tiny, "--context", "30", "--json", "out.json", "--csv", "out.csv")
    assert result.exit_code == 0, result.stderr
    told = json.loads((here / "out.json").read_text())
    heads = told.pop("heads")
    assert told.pop("notes")[0] == {"document": "blank.txt", "what": "empty", "why": "it has no tokens"}
    assert re.fullmatch(r"\d+", str(told.pop("tokens")))
    assert told.pop("generator")
    assert told == {
        "model": tiny,
        "architecture": "BertModel",
        "corpus": "corpus",
        "documents": 3,
        "context": 30,
        "long": "split",
        "confidence": 0.95,
    }
    assert len(heads) == 2 and heads[0]["peak_low"] < heads[0]["peak"] < heads[0]["peak_high"]
    rows = list(csv.DictReader((here / "out.csv").read_text().splitlines()))
    assert float(rows[1]["peak_high"]) == heads[1]["peak_high"]

    assert re.search(r"tiny +BertModel · 3 documents ·\s+\d+\s+tokens", result.stdout)
    assert f"{heads[0]['previous_token_low']:.3f} – {heads[0]['previous_token_high']:.3f}" in result.stdout
    last = result.stdout.splitlines()[-5:]
    assert last == [
        "! 2 empty: blank.txt, empty.txt",
        "! 1 undecodable: latin.txt",
        "! 1 split: long.txt",
        "→ out.json",
        "→ out.csv",
    ]
    assert sorted(path.name for path in here.iterdir()) == ["corpus", "lines.txt", "out.csv", "out.json"]


def test_json_lines_are_read_by_their_field(here: Path, tiny: str) -> None:
    (here / "corpus.jsonl").write_text("\n".join(json.dumps({"body": sentence}) for sentence in SENTENCES))
    assert "6 documents" in survey("corpus.jsonl", "--model", tiny, "--field", "body").stdout
    said = refused("corpus.jsonl", "--model", tiny)
    assert said.startswith(
        "Error: No document could be read: corpus.jsonl:1: the object has no field 'text', but body;"
    )


def test_the_table_may_be_written_here(here: Path, tiny: str) -> None:
    told = json.loads(survey("lines.txt", "--model", tiny, "--json", "-").stdout)
    assert (told["documents"], len(told["heads"])) == (6, 2)
    assert sorted(path.name for path in here.iterdir()) == ["lines.txt"]


def test_the_bar_tells_the_pace_and_the_time_left() -> None:
    clock = iter([0.0, 10.0, 12.0])
    with telling() as steps:
        told = surveying._Told(steps, "corpus", 10000, lambda: next(clock))
        told(Progress(1, 1000, 500))  # the first is slow, and not counted
        told(Progress(2, 1500, 700))
        task = steps.bar.tasks[0]
        assert task.description == "reading corpus: 2 documents, 100 tokens a second, 0:00:34 left"
        assert (task.completed, task.total) == (1500, 10000)


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter([0.0, 10.0, 20.0, 50.0])
    with telling() as steps:
        told = surveying._Told(steps, "corpus", 4000, lambda: next(clock))
        for n in range(1, 4):
            told(Progress(n, 1000 * n, 100 * n))
    assert capsys.readouterr().err.splitlines() == [
        "reading corpus",
        "reading corpus: 3 documents, 5 tokens a second, 0:00:20 left",
    ]


def test_the_table_fits_a_narrow_terminal(tiny: str) -> None:
    result = survey("lines.txt", "--model", tiny, "--by", "previous-token")
    assert "previous token  weight on the token just before" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= Console(width=80).width


# However the work is done


def uninterrupted(folder: Path, *args: str) -> bytes:
    """The JSON of MiniLM's survey, by a process of its own."""
    command = [*SHELL, "lines.txt", "--model", "minilm", "--threads", "1", "--json", "out.json", *args]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "out.json").read_bytes()


@pytest.mark.slow
def test_what_two_processes_began_and_ctrl_c_stopped_one_ends_with_the_same_bytes(here: Path) -> None:
    lines = [f"{sentence} Number {n}." for n in range(10) for sentence in SENTENCES]
    (here / "lines.txt").write_text("\n".join(lines))
    expected = uninterrupted(here)

    stopped = here / "stopped"
    stopped.mkdir()
    os.mkfifo(stopped / "lines.txt")  # which gives no more documents than are asked for here
    command = [*SHELL, "lines.txt", "--model", "minilm", "--threads", "1", "--processes", "2"]
    process = subprocess.Popen(command, cwd=stopped, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with (stopped / "lines.txt").open("w") as corpus:
        for line in lines[:-5]:
            corpus.write(line + "\n")
            corpus.flush()
        waited = time.monotonic()
        while not (stopped / "survey.checkpoint").exists():
            assert time.monotonic() - waited < 120
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-2:] == ["What is finished is kept in survey.checkpoint: go on with --resume.", "Stopped."]
    for _ in range(100):  # nobody of the family is left
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process goes on")
    told = json.loads((stopped / "survey.checkpoint").read_text().partition("\n")[2])
    assert 0 < told["documents"] < len(lines)

    (stopped / "lines.txt").unlink()
    (stopped / "lines.txt").write_text("\n".join(lines))
    assert uninterrupted(stopped, "--resume") == expected
    assert not (stopped / "survey.checkpoint").exists()


@pytest.mark.slow
def test_two_machines_under_torchrun_give_the_bytes_of_one(here: Path) -> None:
    (here / "lines.txt").write_text("\n".join([*SENTENCES, "", "The end."]))
    expected = uninterrupted(here)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", *SHELL[2:], "lines.txt", "--model", "minilm", "--threads", "1", "--json", "two.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (here / "two.json").read_bytes() == expected
    assert done.stdout.count("documents") == 1  # one of them speaks
    assert sorted(path.name for path in here.iterdir()) == ["lines.txt", "out.json", "two.json"]


def test_an_interrupted_survey_is_gone_on_with_or_refused(
    here: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Progress) -> None:
        if progress.documents == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(surveying._Told, "__call__", lambda told, progress: stop(progress))
        result = survey("lines.txt", "--model", tiny)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "Stopped.")
    said = refused("lines.txt", "--model", tiny)
    assert said.startswith("Error: survey.checkpoint holds a survey that was interrupted after 2 documents. Go on with")
    said = refused("lines.txt", "--model", tiny, "--resume", "--long", "skip")
    assert "is of another survey: its long is split, this one's skip." in said
    result = survey("lines.txt", "--model", tiny, "--resume", "--json", "out.json")
    assert result.exit_code == 0 and "begins" not in result.stderr
    assert json.loads((here / "out.json").read_text())["documents"] == 6
    assert not (here / "survey.checkpoint").exists()


def test_a_result_that_could_not_be_written_is_kept(here: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clearhead.view.export.write_rows", full)
        result = survey("lines.txt", "--model", tiny, "--json", "out.json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-2:] == [
        "What is finished is kept in survey.checkpoint: go on with --resume.",
        "Error: out.json cannot be written: No space left on device.",
    ]
    assert survey("lines.txt", "--model", tiny, "--json", "out.json", "--resume").exit_code == 0
    assert json.loads((here / "out.json").read_text())["documents"] == 6
    assert not (here / "survey.checkpoint").exists()


def test_with_nothing_to_go_on_with_it_begins_and_says_so(tiny: str) -> None:
    result = survey("lines.txt", "--model", tiny, "--resume")
    assert result.exit_code == 0
    assert "There is no survey.checkpoint to go on with: it begins at the first document." in result.stderr


# What is refused


def test_a_corpus_that_is_not_there_is_refused_before_the_model_is_opened(here: Path) -> None:
    said = "Error: There is no corpus none: name a folder of texts, a file with one a line, or JSON lines."
    assert refused("none", "--model", "./none") == said


def test_an_unknown_column_and_a_file_that_cannot_be_written_are_refused() -> None:
    assert refused("lines.txt", "--by", "beauty").startswith("Error: --by: got 'beauty', expected one of entropy, ")
    said = "Error: none/out.json cannot be written: there is no folder none; make it first."
    assert refused("lines.txt", "--json", "none/out.json") == said


def test_nothing_is_written_into_the_corpus() -> None:
    said = "would lie in the corpus ., and be read as a document next time; name a place outside."
    assert refused(".") == f"Error: survey.checkpoint {said}"
    assert refused(".", "--checkpoint", "../c", "--csv", "sub.csv") == f"Error: sub.csv {said}"


def test_a_machine_that_is_done_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _, timeout: asked.append(timeout.days))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with surveying._machines():
        assert asked and asked[0] >= 7


def test_a_file_that_is_no_checkpoint_is_left_alone(here: Path, tiny: str) -> None:
    (here / "diary.txt").write_text("Dear diary,\n")
    said = refused("lines.txt", "--model", tiny, "--checkpoint", "diary.txt")
    assert said == "Error: diary.txt is no checkpoint of a survey; name another with --checkpoint, or move it away."
