"""Whole models side by side: the same weights, the same answers, or no time is told."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import cases, llama_cpp, looking, models, running
from benchmarks.goals import Faster
from benchmarks.llama_cpp import LLAMA
from benchmarks.models import AGREES, FP32, TRANSFORMERS
from benchmarks.peers.ours import OURS
from benchmarks.peers.peer import Cannot


def test_each_case_has_a_name_of_its_own_and_a_goal_against_transformers() -> None:
    names = [case.name for case in (*cases.CASES, *looking.CASES, *models.CASES)]
    assert len(set(names)) == len(names)
    for case in models.CASES:
        assert TRANSFORMERS in {goal.against for goal in case.goals}
        for goal in case.goals:
            assert goal.aim >= goal.at_least if goal.higher_is_better else goal.aim <= goal.at_least


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_a_gguf_file_is_written_again_with_the_same_weights_and_words(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_block_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_token_list(["the", "cat"])
    matrix, vector = np.random.default_rng(0).normal(size=(2, 64)).astype("float32"), np.arange(3, dtype="float32")
    stored = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("matrix", stored, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("vector", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    llama_cpp.convert(source, target, kind)
    read = gguf.GGUFReader(target)
    words = {name: read.fields[name].contents() for name in ("llama.block_count", "tokenizer.ggml.tokens")}
    assert words == {"llama.block_count": 2, "tokenizer.ggml.tokens": ["the", "cat"]}
    again = {tensor.name: tensor for tensor in read.tensors}
    assert again["matrix"].tensor_type == gguf.GGMLQuantizationType[kind]
    assert again["vector"].tensor_type == gguf.GGMLQuantizationType.F32
    exact = gguf.dequantize(stored, gguf.GGMLQuantizationType.Q4_1)
    got = gguf.dequantize(again["matrix"].data, again["matrix"].tensor_type)
    assert np.array_equal(got, exact if kind == "F32" else torch.tensor(exact).bfloat16().float().numpy())
    assert np.array_equal(again["vector"].data, vector)


def test_who_says_something_else_is_not_timed() -> None:
    truth = torch.randn(20)
    runs = {OURS: lambda: truth * (1 + AGREES[FP32] / 2), TRANSFORMERS: lambda: truth}
    assert list(models._agreed(runs, truth, AGREES[FP32])) == [OURS, TRANSFORMERS]
    wrong = {OURS: lambda: truth * (1 + 2 * AGREES[FP32]), LLAMA: lambda: truth * torch.nan}
    agreed = models._agreed(runs | wrong, truth, AGREES[FP32])
    assert agreed[TRANSFORMERS] is runs[TRANSFORMERS]
    assert str(agreed[OURS]) == "gives other logits: 1.0e-02 away from those of Transformers in float32"
    assert str(agreed[LLAMA]).startswith("gives other logits: nan away")


def test_a_contestant_that_disagrees_costs_no_other_its_time() -> None:
    made = {OURS: lambda: None, TRANSFORMERS: lambda: None, LLAMA: Cannot("gives other logits")}
    goals = (Faster(TRANSFORMERS, 1e-9, 1e9), Faster(LLAMA, 1, 1))
    bench = running.Bench.__new__(running.Bench)  # no yardstick is measured
    bench.options, bench.tell = running.Options(rounds=3, seconds=0), lambda what: None
    result = bench.run(cases.Case("a contest", cases.Contest(lambda: made), goals))
    assert set(result["times"]) == {OURS, TRANSFORMERS}
    assert result["skipped"] == {LLAMA: "gives other logits"}
    assert [goal["verdict"] for goal in result["goals"]] == ["reached", "not measured: gives other logits"]


def test_a_process_that_fails_is_told_of_in_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "tokens", lambda count: torch.zeros(1, count, dtype=torch.int64))
    with pytest.raises(Cannot, match=r"^the process of nobody failed: KeyError: 'nobody'$"):
        models.in_a_process("nobody", "float32")


def test_both_learn_the_same_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"vocab_size": 50, "hidden_size": 40, "intermediate_size": 24, "num_hidden_layers": 1}
    monkeypatch.setattr(models, "TRAINED", models.TRAINED | small)
    monkeypatch.setattr(looking, "tokens", lambda count: torch.arange(count)[None] ** 2)
    steps = models.training()
    assert list(steps) == [OURS, TRANSFORMERS]
    for step in steps.values():
        before = step()
        for _ in range(3):
            after = step()
        assert isinstance(before, Tensor) and isinstance(after, Tensor)
        assert after < before


@pytest.mark.slow
def test_reading_and_writing_give_the_same_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "WRITES", 3)
    for runs in (models.reading(FP32, 20), models.writing(FP32, 20)):
        assert {OURS, TRANSFORMERS} <= set(runs)
        for run in runs.values():
            first, second = run(), run()
            assert isinstance(first, Tensor) and isinstance(second, Tensor)
            assert torch.equal(first, second)
