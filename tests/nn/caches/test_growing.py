"""Growing: gradients through what was written, and room that doubles."""

import torch

import clearhead as ch
from clearhead.nn.caches import Growing


def test_gradients_through_pieces_are_those_of_the_whole() -> None:
    B, H, K, T, D = 2, 4, 2, 20, 16
    made = [torch.randn(B, n, T, D, dtype=torch.float64, requires_grad=True) for n in (H, K, K)]
    weight = torch.randn(B, H, T, D, dtype=torch.float64)
    whole = ch.attention(*made, pattern=ch.causal())
    cache = Growing()
    parts = zip(*(x.split([6, 1, 12, 1], 2) for x in made), strict=True)
    pieces = torch.cat([cache.attend(*part, pattern=ch.causal()) for part in parts], 2)
    for mine, expected in zip(*(torch.autograd.grad((x * weight).sum(), made) for x in (pieces, whole)), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-12)


def test_gradients_of_unlike_lengths_are_those_of_each_alone() -> None:
    B, H, K, T, D = 2, 4, 2, 9, 16
    q, k, v = made = [torch.randn(B, n, T, D, dtype=torch.float64, requires_grad=True) for n in (H, K, K)]
    with torch.no_grad():
        for x in made:
            x[0, :, 3:5] = torch.nan  # padding of the first piece
    cache = Growing()
    first = cache.attend(*(x[:, :, :5] for x in made), torch.tensor([3, 5]), pattern=ch.causal())
    then = cache.attend(*(x[:, :, 5:] for x in made), torch.tensor([4, 2]), pattern=ch.causal())
    mine = torch.autograd.grad(first.square().sum() + then.square().sum(), made)
    rows = [torch.tensor([0, 1, 2, 5, 6, 7, 8]), torch.arange(7)]
    alone = sum(
        ch.attention(*(x[b : b + 1, :, row] for x in made), pattern=ch.causal()).square().sum()
        for b, row in enumerate(rows)
    )
    for one, expected in zip(mine, torch.autograd.grad(alone, (q, k, v)), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-12, rtol=1e-12)


def test_it_moves_only_when_its_room_is_spent() -> None:
    cache, places = Growing(), []
    for _ in range(200):
        cache.write(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8))
        places.append(cache.read()[0].data_ptr())
    moves = [n for n in range(1, 200) if places[n] != places[n - 1]]
    assert moves == [32, 64, 128]
