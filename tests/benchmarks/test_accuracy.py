"""The accuracy table: its inputs are what their names say, and a worse result is called worse."""

import pytest
import torch
from torch import Tensor

from benchmarks import accuracy


def scores(kind: str) -> Tensor:
    torch.manual_seed(0)
    q, k = accuracy.SCORES[kind]()
    return q @ k.mT * accuracy.D**-0.5


def test_the_scores_are_what_their_names_say() -> None:
    assert 0.9 < float(scores("normal").std()) < 1.1
    assert 9 < float(scores("normal, ×10").std()) < 11
    assert float(scores("constant").std(-1).max()) < 1e-5
    assert float(scores("all negative").max()) < -5
    spiked = scores("spike")
    assert bool((spiked.argmax(-1) == accuracy.T // 3).all())
    assert float(spiked.topk(2).values.diff(dim=-1).max()) < -10
    for rising in ("ramp", "sorted"):
        assert float((scores(rising).mean((0, 1, 2)).diff() > -0.1).float().mean()) == 1
        assert float(scores(rising)[..., -1].mean()) > 5


@pytest.mark.parametrize(
    ("ours", "verdict"), [(1.4, "reached"), (1.6, "1.6 times PyTorch's"), (torch.nan, "inf times")]
)
def test_a_result_is_judged_beside_pytorchs(ours: float, verdict: str) -> None:
    truth = torch.ones(2, 3, dtype=torch.float64)
    compared = accuracy._compared(truth, (truth + 1e-4 * ours).float(), (truth + 1e-4).float())
    assert compared["verdict"].startswith(verdict)


def test_errors_below_the_rounding_of_the_type_are_not_told_apart() -> None:
    truth = torch.ones(2, 3, dtype=torch.float64)
    assert accuracy._compared(truth, (truth + 1e-7).float(), truth.float())["ratio"] < 2.1
    assert accuracy._compared(truth, truth.float(), truth.float())["ratio"] == 1


@pytest.mark.slow
def test_the_formula_in_float64_and_pytorchs_kernel_are_the_same_attention() -> None:
    rows = list(accuracy.errors())
    assert len(rows) == 2 * 2 * len(accuracy.SCORES) * len(accuracy.PARTS)
    assert all(row["pytorch"]["rms"] < (1e-3 if row["type"] == "fp32" else 5) for row in rows)
