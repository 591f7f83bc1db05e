"""A survey merges documents exactly, goes on where it was stopped, and lets no document stop it."""

import copy
import json
import math
import multiprocessing
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import clearhead as ch
from clearhead import ClearheadError, WatchWarning
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope import checkpoint as checkpoints
from clearhead.scope import corpus as corpora
from clearhead.scope import survey as surveying
from clearhead.scope.columns import MAIN, NAMES
from clearhead.scope.corpus import Corpus, Document
from clearhead.scope.moments import student
from clearhead.scope.record import Record
from clearhead.scope.survey import Progress, Surveyed, survey, weights_sum
from clearhead.scope.workers import AHEAD

TEXTS = [
    "The cat sat on the mat, because the cat was tired.",
    "A dog.",
    "It rains; it pours. The old man is snoring, and it rains.",
    "One, two, three, four, one, two, three, four.",
    "Nothing is said twice here",
]


@pytest.fixture(scope="module")
def opened() -> Opened:
    """A model of one attention with two heads, and MiniLM's tokenizer."""
    tokenizer = open_model("minilm").tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    torch.manual_seed(0)
    return Opened("tiny", transformers.BertModel(config).eval(), tokenizer, 512)


@pytest.fixture
def run(opened: Opened) -> Callable[..., Surveyed]:
    def run(documents: Any = TEXTS, **options: Any) -> Surveyed:
        return survey(opened.model, opened.tokenizer, documents, **options)

    return run


def told(found: Surveyed) -> str:
    return json.dumps([table(found), found.notes, found.documents, found.tokens])


def table(found: Surveyed) -> str:
    """All bits of the table: what is no number equals itself here."""
    return json.dumps(found.heads(pandas=False))


def means(row: dict[str, Any]) -> list[str]:
    return [column for column in row if f"{column}_low" in row]


def within(column: str, mean: float, half: float) -> tuple[float, float]:
    """The interval of a mean in its range: linear, of the logarithm, or of the logit."""
    if column == "lse" or half == 0:
        return mean - half, mean + half
    if column in ("entropy", "distance", "effective_context"):
        least = column == "effective_context"
        ends = np.exp(np.log(mean - least) + np.array([-1, 1]) * half / (mean - least)) + least
    else:
        ends = 1 / (1 + np.exp(-np.log(mean / (1 - mean)) + np.array([1, -1]) * half / mean / (1 - mean)))
    return ends[0], ends[1]


# What it tells


def test_of_one_document_it_is_the_table_of_its_record(opened: Opened, run: Callable[..., Surveyed]) -> None:
    with torch.no_grad(), ch.watch(opened.model, opened.tokenizer) as seen:
        opened.model(**opened.inputs(TEXTS[0]))
    rows = run(TEXTS[:1]).heads(pandas=False)
    for row, expected in zip(rows, seen.heads(pandas=False), strict=True):
        assert [row[name] for name in NAMES] == [expected[name] for name in NAMES]
        numbers = {column: x for column, x in expected.items() if column not in NAMES}
        assert {column: row[column] for column in numbers} == pytest.approx(numbers, rel=1e-6, abs=1e-9, nan_ok=True)
        assert all(math.isnan(row[f"{column}_low"]) for column in means(row))  # one says nothing of the others
    assert list(rows[0])[:6] == ["layer", "head", *(f"{MAIN[0]}{end}" for end in ("", "_low", "_high")), MAIN[1]]


def test_means_and_intervals_are_those_of_the_documents_own_sums(opened: Opened, run: Callable[..., Surveyed]) -> None:
    rows = run().heads(pandas=False)
    of_document = []
    for text in TEXTS:
        with torch.no_grad(), ch.watch(opened.model, opened.tokenizer, keep="statistics") as seen:
            opened.model(**opened.inputs(text))
        of_document.append([layer.summary() for layer in seen.layers])
    for row in rows:
        summaries = [layers[row["layer"]] for layers in of_document]
        assert row["queries"] == sum(summary.counts["entropy"] for summary in summaries)
        assert row["max_score"] == max(float(summary.max_score[row["head"]]) for summary in summaries)
        for column in means(row):
            # A text in which nothing is said twice has no duplicates, and is not of those D documents.
            told = [summary for summary in summaries if summary.counts.get(column)]
            n = np.array([summary.counts[column] for summary in told], dtype=float)
            S = np.array([float(summary.sums[column][row["head"]]) for summary in told])
            D = len(told)
            got = [row[column], row[f"{column}_low"], row[f"{column}_high"]]
            if D == 0:
                assert np.isnan(got).all()
                continue
            mean = S.sum() / n.sum()
            half = math.nan
            if D > 1:
                half = student(D - 1) * math.sqrt(D / (D - 1) * ((S - mean * n) ** 2).sum()) / n.sum()
            low, high = within(column, mean, half)
            np.testing.assert_allclose(got, [mean, low, high], rtol=1e-6, atol=1e-8)
    assert 0 < sum(row["duplicate_token"] > 0 for row in rows)


def test_an_encoder_decoder_has_rows_for_its_cross_attention(opened: Opened) -> None:
    config = transformers.T5Config(
        vocab_size=len(opened.tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    config.decoder_start_token_id = 0
    rows = survey(transformers.T5ForConditionalGeneration(config).eval(), opened.tokenizer, TEXTS).heads(pandas=False)
    assert [row["kind"] for row in rows] == ["self"] * 4 + ["cross"] * 2
    assert all(math.isnan(row["previous_token"]) == (row["kind"] == "cross") for row in rows)


def test_a_frame_where_pandas_is_there(run: Callable[..., Surveyed]) -> None:
    frame = run(TEXTS[:2]).heads()
    assert len(frame) == 2 and (frame.peak_low < frame.peak).all()


# Documents that are too long, or bad


def test_pieces_of_a_long_document_count_as_one(opened: Opened, run: Callable[..., Surveyed]) -> None:
    whole = run([" ".join(TEXTS)], context=20)
    assert (whole.documents, whole.noted) == (1, {"split": ["document 0"]})
    assert whole.tokens == sum(map(len, _pieces(opened, 20)))
    row = whole.heads(pandas=False)[0]
    assert row["queries"] == whole.tokens and math.isnan(row["peak_low"])
    apart = run(_decoded(opened, _pieces(opened, 20))).heads(pandas=False)[0]
    assert row["peak"] == pytest.approx(apart["peak"], rel=1e-6)


def _pieces(opened: Opened, context: int) -> list[list[int]]:
    """The tokens of all texts in pieces of that length, [CLS] and [SEP] around each."""
    ids = opened.tokenizer(" ".join(TEXTS), add_special_tokens=False).input_ids
    room = context - 2
    return [[101, *ids[start : start + room], 102] for start in range(0, len(ids), room)]


def _decoded(opened: Opened, pieces: list[list[int]]) -> list[str]:
    return opened.tokenizer.batch_decode([piece[1:-1] for piece in pieces])


def test_a_long_document_is_truncated_or_skipped_as_asked(opened: Opened, run: Callable[..., Surveyed]) -> None:
    documents = [TEXTS[1], " ".join(TEXTS)]
    cut = run(documents, context=20, long="truncate")
    assert (cut.documents, cut.tokens, cut.noted) == (2, 5 + 20, {"truncated": ["document 1"]})
    skipped = run(documents, context=20, long="skip")
    assert (skipped.documents, skipped.tokens, skipped.noted) == (1, 5, {"skipped": ["document 1"]})
    tokens = sum(map(len, _pieces(opened, 20)))
    assert skipped.notes[0].why == f"it has {tokens} tokens in 4 pieces, and at most 20 are taken at a time"


def test_bad_documents_are_noted_and_change_nothing_else(run: Callable[..., Surveyed]) -> None:
    bad = [Document("latin", "", ("undecodable", "its byte 0 is 0xff")), " \n"]
    found = run([bad[0], *TEXTS[:2], bad[1], *TEXTS[2:]])
    assert table(found) == table(run())
    assert found.notes == [
        (0, "latin", "undecodable", "its byte 0 is 0xff"),
        (3, "document 3", "empty", "it has no tokens"),
    ]
    assert repr(found).endswith("tokens; 1 undecodable, 1 empty)")


def test_a_document_whose_scores_are_no_numbers_is_left_out(opened: Opened, run: Callable[..., Surveyed]) -> None:
    model = copy.deepcopy(opened.model)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[opened.tokenizer.convert_tokens_to_ids("dog")] = math.nan
    found = survey(model, opened.tokenizer, TEXTS)
    assert found.noted["not finite"] == ["document 1"]
    assert table(found) == table(run([TEXTS[0], *TEXTS[2:]]))


def test_what_a_watch_warns_of_is_noted_once_a_document(
    run: Callable[..., Surveyed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(record: Record, unseen: list[str]) -> None:
        warnings.warn("Less was seen.", WatchWarning, stacklevel=1)

    monkeypatch.setattr(Record, "close", close)
    found = run(TEXTS[:2])
    assert [note[1:] for note in found.notes] == [(f"document {n}", "warned", "Less was seen.") for n in range(2)]
    assert found.documents == 2


def test_a_document_on_which_the_model_fails_is_named(run: Callable[..., Surveyed]) -> None:
    with pytest.raises(ClearheadError, match="BertModel failed on document document 1: "):
        run([TEXTS[0], "cat " * 600])  # without context=512


def test_half_of_a_surrogate_pair_is_no_text_and_stops_nothing(run: Callable[..., Surveyed]) -> None:
    found = run([TEXTS[0], "a \ud83d b", *TEXTS[1:]])
    assert found.notes == [(1, "document 1", "undecodable", "its character 2 is half of a surrogate pair")]
    assert table(found) == table(run())


def test_what_cannot_even_be_cut_into_tokens_is_named_too(opened: Opened) -> None:
    model = copy.deepcopy(opened.model)
    model.config.is_encoder_decoder = True  # and says not what its decoder begins with
    with pytest.raises(ClearheadError, match="BertModel failed on document document 0: "):
        survey(model, opened.tokenizer, TEXTS)


def test_nothing_but_bad_documents_is_an_error(run: Callable[..., Surveyed]) -> None:
    with pytest.raises(ClearheadError, match=r"No document could be read: document 0: it has no tokens\."):
        run([""])
    with pytest.raises(ClearheadError, match=r"No document could be read: there were none\."):
        run([])


# In parts


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bits(run: Callable[..., Surveyed]) -> None:
    documents = [*TEXTS, "", " ".join(TEXTS), *TEXTS[::-1]]
    results = {told(run(documents, context=20, processes=processes, threads=1)) for processes in (1, 2, 3)}
    assert len(results) == 1


@pytest.mark.slow
def test_two_processes_hold_no_more_of_the_corpus_than_they_need(run: Callable[..., Surveyed]) -> None:
    drawn = 0

    def documents() -> Iterator[str]:
        nonlocal drawn
        for text in TEXTS * 10:
            drawn += 1
            yield text

    ahead = []
    run(documents(), processes=2, report=lambda progress: ahead.append(drawn - progress.documents))
    assert len(ahead) == 50 and 0 < max(ahead) <= 2 * AHEAD


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_survey_with_a_sentence(run: Callable[..., Surveyed], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"

    def kill(progress: Progress) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(ClearheadError, match=r"One of 2 processes ended by force, as when memory runs out; use fewer"):
        run(TEXTS * 20, processes=2, checkpoint=path, report=kill)
    assert checkpoints.read(path)["documents"] > 0
    assert multiprocessing.active_children() == []


def test_documents_are_drawn_one_at_a_time(run: Callable[..., Surveyed]) -> None:
    drawn: list[int] = []
    ahead = []
    run(
        (drawn.append(n) or text for n, text in enumerate(TEXTS)),
        report=lambda progress: ahead.append(len(drawn) - progress.documents),
    )
    assert ahead == [0] * 5


def test_threads_are_as_before_afterwards(run: Callable[..., Surveyed]) -> None:
    before = torch.get_num_threads()
    during = []
    run(TEXTS[:1], threads=1, report=lambda progress: during.append(torch.get_num_threads()))
    assert (during, torch.get_num_threads()) == ([1], before)


MACHINES = """
    import sys, torch, torch.distributed as dist
    from clearhead.scope import together
    from clearhead.scope.summary import Summary
    from clearhead.scope.totals import Tally, Totals

    def one(n, column, layer="a"):
        sums = torch.tensor([n / 3, -n * 1e9], dtype=torch.float64)
        summary = Summary({column: sums}, {column: n}, torch.tensor([n, -n]))
        return Totals(1, n, {layer: Tally.of(0, "self", 2, summary)})

    parts = [[one(5, "entropy"), one(7, "peak")], [], [one(1, "peak"), one(2, "entropy", "b")]]
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    whole = together.summed(sum(parts[rank], Totals()))
    alone = sum([part for some in parts for part in some], Totals())
    assert whole.as_json() == alone.as_json(), (whole.as_json(), alone.as_json())
    assert sorted(whole.layers) == ["a", "b"] and whole.documents == 4
    try:
        together.check_same("corpus", rank)
    except ValueError as error:
        assert str(error) == "The corpus is not the same everywhere: rank 0 has 0, rank 1 1.", error
    else:
        raise AssertionError
"""


@pytest.mark.slow
def test_machines_add_up_to_what_one_would_have_even_if_one_read_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(MACHINES)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True) for rank in range(3)
    ]
    for rank in ranks:
        assert (rank.communicate()[1], rank.returncode) == ("", 0)


# Stopping and going on


def stop_after(n: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.documents == n:
            raise KeyboardInterrupt

    return report


@pytest.fixture
def interrupted(run: Callable[..., Surveyed], tmp_path: Path) -> Path:
    """The checkpoint of a survey that Ctrl-C stopped after three documents."""
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(["", *TEXTS], checkpoint=path, report=stop_after(3))
    return path


def test_going_on_gives_the_same_bits_and_reads_the_rest_alone(run: Callable[..., Surveyed], interrupted: Path) -> None:
    read = []
    found = run(["", *TEXTS], checkpoint=interrupted, resume=True, report=lambda p: read.append(p.documents))
    assert told(found) == told(run(["", *TEXTS]))
    assert read == [4, 5, 6]
    assert list(interrupted.parent.iterdir()) == []  # all is done


def test_going_on_after_a_line_beyond_the_limit_gives_the_same_bits(
    run: Callable[..., Surveyed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "LINE", 100)
    file, checkpoint = tmp_path / "texts.txt", tmp_path / "checkpoint"
    file.write_text("\n".join([*TEXTS[:2], "cat" * 100, *TEXTS[2:], "dog" * 100]))
    whole = run(Corpus(file))
    assert whole.documents == len(TEXTS) and whole.noted == {"line too long": ["texts.txt:3", "texts.txt:7"]}
    with pytest.raises(KeyboardInterrupt):
        run(Corpus(file), checkpoint=checkpoint, report=stop_after(4))
    monkeypatch.setattr(corpora, "PIECE", 7)  # how a file is read changes no digest
    assert told(run(Corpus(file), checkpoint=checkpoint, resume=True)) == told(whole)


def test_ctrl_c_amid_a_document_loses_that_document_alone(
    run: Callable[..., Surveyed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, add, seen = tmp_path / "checkpoint", Record.add, 0

    def strike(record: Record, sighting: Any) -> None:
        nonlocal seen
        seen += 1
        if seen % 2 == 0:  # the second document of each run
            raise KeyboardInterrupt
        add(record, sighting)

    monkeypatch.setattr(Record, "add", strike)
    for documents in range(1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=path, resume=True)
        assert checkpoints.read(path)["documents"] == documents
        seen = 0
    monkeypatch.undo()
    assert told(run(checkpoint=path, resume=True)) == told(run())


def test_a_result_that_could_not_be_written_is_not_lost(run: Callable[..., Surveyed], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"

    def fail(found: Surveyed) -> None:
        raise OSError("No space left")

    with pytest.raises(OSError, match="No space left"):
        run(checkpoint=path, finish=fail)
    given, read = [], []
    found = run(checkpoint=path, resume=True, report=read.append, finish=given.append)
    assert told(found) == told(run())
    assert (given, read) == ([found], [])  # nothing was read again
    assert not path.exists()


def test_checkpoints_come_every_few_seconds(
    run: Callable[..., Surveyed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, there = tmp_path / "checkpoint", []
    run(checkpoint=path, report=lambda progress: there.append(path.exists()))
    assert there == [False] * 5
    monkeypatch.setattr(surveying, "EVERY", 0.0)
    run(checkpoint=path, report=lambda progress: there.append(path.exists()))
    assert there[5:] == [False] + [True] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        [1, 2],
        {},
        {"totals": None},
        {"documents": "three"},
        {"totals": {"documents": 3, "tokens": 5, "layers": {"a": {"order": 0}}}},
        {"notes": [[1]]},
        {"totals": {"documents": -3, "tokens": 5, "layers": {}}},
        {
            "totals": {
                "documents": 3,
                "tokens": 5,
                "layers": {"a": {"order": 0, "kind": "self", "max_score": [1.0], "columns": {"peak": [1, 2, 4, [1]]}}},
            }
        },
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_checkpoint_with_a_right_sum_and_wrong_contents_is_refused(
    wrong: Any, run: Callable[..., Surveyed], interrupted: Path
) -> None:
    told = checkpoints.read(interrupted)
    checkpoints.write(interrupted, told | wrong if wrong else wrong) if isinstance(wrong, dict) else (
        checkpoints.write(interrupted, wrong)
    )
    with pytest.raises(ClearheadError, match=r"The checkpoint .* (has the right sum but|holds a list, not a survey)"):
        run(["", *TEXTS], checkpoint=interrupted, resume=True)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ("one string", r"documents: got one string, .* expected several: \[text\]\."),
        (b"bytes", "documents: got one string"),
        (["ok", None], "documents: number 1 is NoneType; expected a string or a Document"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_list_of_texts_is_refused(documents: Any, said: str, run: Callable[..., Surveyed]) -> None:
    with pytest.raises(ClearheadError, match=said):
        run(documents)


def test_a_survey_that_was_interrupted_is_not_overwritten(run: Callable[..., Surveyed], interrupted: Path) -> None:
    before = interrupted.read_bytes()
    with pytest.raises(
        ClearheadError, match=r"interrupted after 3 documents\. Go on with it \(--resume\), or remove it"
    ):
        run(["", *TEXTS], checkpoint=interrupted)
    assert interrupted.read_bytes() == before


def test_going_on_with_another_survey_is_refused(run: Callable[..., Surveyed], interrupted: Path) -> None:
    def refused(match: str, documents: list[str], **options: Any) -> None:
        with pytest.raises(ClearheadError, match=match):
            run(documents, checkpoint=interrupted, resume=True, **options)
        assert interrupted.exists()

    same = ["", *TEXTS]
    refused(r"of another survey: its long is split, this one's skip\.", same, long="skip")
    refused(r"of another survey: its context is None, this one's 20\.", same, context=20)
    n = torch.get_num_threads()
    refused(rf"of another survey: its threads is {n}, this one's {n + 1}\.", same, threads=n + 1)
    refused(r"the first 3 documents of the corpus are other ones now\.", ["", "x", *TEXTS])
    refused(r"the first 3 documents of the corpus are 2 now\.", ["", TEXTS[0]])


def test_going_on_with_another_model_is_refused(opened: Opened, interrupted: Path) -> None:
    model = copy.deepcopy(opened.model)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[0, 0].mul_(1.0000002)
    assert weights_sum(model) != weights_sum(opened.model) == weights_sum(copy.deepcopy(opened.model))
    with pytest.raises(ClearheadError, match=r"its model is BertModel with the weights \w+, this one's BertModel with"):
        survey(model, opened.tokenizer, ["", *TEXTS], checkpoint=interrupted, resume=True)


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"long": "cut"}, r"long: got 'cut', expected 'split', 'skip' or 'truncate'\."),
        ({"processes": 0}, r"processes: got 0, expected 1 or more\."),
        ({"threads": -1}, r"threads: got -1, expected 1 or more\."),
        ({"context": 2}, r"context: got 2, but 2 of them are special tokens; expected 3 or more\."),
    ],
)
def test_options_that_make_no_sense_are_refused(
    opened: Opened, run: Callable[..., Surveyed], options: dict[str, Any], said: str
) -> None:
    if options == {"long": "cut"}:  # the tests' type checker would be first
        with pytest.raises(ClearheadError, match=said):
            surveying._check(opened.model, None, [], None, "cut", 1, 1)
        return
    with pytest.raises(ClearheadError, match=said):
        run(**options)


def test_a_model_in_training_mode_is_refused(opened: Opened) -> None:
    with pytest.raises(ClearheadError, match=r"BertModel is in training mode, .*; call model\.eval\(\) first\."):
        survey(copy.deepcopy(opened.model).train(), opened.tokenizer, TEXTS)


def test_a_model_that_reads_no_text_is_refused(opened: Opened) -> None:
    with pytest.raises(ClearheadError, match=r"A survey reads texts with a Transformers model .*; got Linear\."):
        survey(torch.nn.Linear(2, 2), opened.tokenizer, TEXTS)
