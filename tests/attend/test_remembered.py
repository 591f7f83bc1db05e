"""What is remembered of a pattern is made again where one of its tensors was written to, in whichever way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend.patterns import full
from clearhead.attend.remembered import runs_of
from clearhead.scope.masks import MaskReader


def by_numpy(x: Tensor, new: Tensor) -> None:
    x.numpy()[...] = new.numpy()


def by_data(x: Tensor, new: Tensor) -> None:
    x.data.copy_(new)


def in_place(x: Tensor, new: Tensor) -> None:
    x.copy_(new)


def in_inference_mode(x: Tensor, new: Tensor) -> None:
    with torch.inference_mode():
        x.copy_(new)


WRITES = [by_numpy, by_data, in_place, in_inference_mode]
Write = Callable[[Tensor, Tensor], None]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("inference", [False, True], ids=["", "a tensor of inference mode"])
@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        (ch.where, torch.ones(4, 6).tril(2) > 0, torch.ones(4, 6).triu() > 0),
        (lambda mask: ch.causal() & ~ch.where(mask[None, :, :]), torch.rand(4, 6) < 0.5, torch.rand(4, 6) < 0.5),
        (ch.padding, torch.tensor([2, 6]), torch.tensor([6, 2])),
        (lambda start: ch.causal(align=start), torch.tensor([0, 1]), torch.tensor([2, 0])),
        (ch.documents, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 0])),
    ],
    ids=["where", "composed", "padding", "align", "documents"],
)
def test_a_pattern_is_what_its_tensor_holds_now(
    backend: str,
    make: Callable[[Tensor], ch.Pattern],
    before: Tensor,
    after: Tensor,
    write: Write,
    inference: bool,
) -> None:
    q, k = torch.randn(2, 1, 4, 3), torch.randn(2, 1, 6, 3)
    with torch.inference_mode(inference):
        held = before.clone()
        pattern = make(held)
    with torch.inference_mode():
        first = ch.attention(q, k, k, pattern=pattern, backend=backend)
        write(held, after)
        again = ch.attention(q, k, k, pattern=pattern, backend=backend)
        assert torch.equal(again, ch.attention(q, k, k, pattern=make(after.clone()), backend=backend))
    assert not torch.equal(again, first)


@pytest.mark.parametrize("write", WRITES)
def test_a_models_mask_is_what_it_holds_now(write: Write) -> None:
    held, after = torch.zeros(1, 1, 4, 6), torch.randn(1, 1, 4, 6)
    expanded, reader = held.expand(2, 3, 4, 6), MaskReader()
    first = reader.read(expanded, 4, 6)
    assert first == (None, None) and reader.read(expanded, 4, 6) is first
    write(held, after)
    pattern, bias = reader.read(expanded, 4, 6)
    assert pattern is None and bias is not None
    assert torch.equal(bias.weights[0], after.expand(2, 3, 4, 6))


def test_what_has_not_changed_is_not_made_again() -> None:
    pattern = ch.causal() & ch.padding(torch.tensor([3, 5]))
    first = runs_of(pattern, 4, 6, torch.device("cpu"))
    assert runs_of(pattern, 4, 6, torch.device("cpu")) is first
    assert runs_of(full(), 4, 6, torch.device("cpu")) is not first
    assert runs_of(pattern, 5, 6, torch.device("cpu")) is not first
