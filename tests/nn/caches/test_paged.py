"""Paged: blocks shared until they are written to, used again when they are free, and an end that is said."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.nn.caches import Paged, Pool

H, K, D = 4, 2, 16


def tokens(B: int, T: int) -> tuple[Tensor, Tensor]:
    return torch.randn(B, K, T, D), torch.randn(B, K, T, D)


def test_a_common_prompt_is_kept_once_and_copied_where_they_part() -> None:
    pool = Pool(blocks=16, block=4)
    cache = Paged(pool)
    k, v = tokens(1, 10)
    cache.write(k, v)
    assert pool.free == 13
    cache.take(torch.tensor([0, 0, 0]))
    assert pool.free == 13
    more_k, more_v = tokens(3, 1)
    cache.write(more_k, more_v)
    assert pool.free == 11  # two copies of the last block; the third sequence has the block to itself
    for b in range(3):
        for kept, prompt, more in zip(cache.read(), (k, v), (more_k, more_v), strict=True):
            torch.testing.assert_close(kept[b], torch.cat((prompt[0], more[b]), 1), atol=0, rtol=0)


def test_a_fork_goes_its_own_way() -> None:
    pool = Pool(blocks=16, block=4)
    cache = Paged(pool)
    k, v = tokens(2, 6)
    cache.write(k, v)
    other = cache.fork()
    assert pool.free == 12
    for one in (cache, other):
        more_k, more_v = tokens(2, 3)
        one.write(more_k, more_v)
        torch.testing.assert_close(one.read()[0], torch.cat((k, more_k), 2), atol=0, rtol=0)
        torch.testing.assert_close(one.read()[1], torch.cat((v, more_v), 2), atol=0, rtol=0)
    assert other.counts == cache.counts == [9, 9]
    assert cache.nbytes == 6 * 4 * K * 2 * D * 4


@pytest.mark.parametrize("end", ["crop", "take", "del"])
def test_freed_blocks_are_used_again(end: str) -> None:
    pool = Pool(blocks=6, block=4)
    for _ in range(5):
        cache = Paged(pool)
        cache.write(*tokens(2, 12))
        assert pool.free == 0
        if end == "crop":
            cache.crop(torch.tensor([0, 4]))
            assert pool.free == 5
            cache.write(*tokens(2, 8))
        elif end == "take":
            cache.take(torch.tensor([1]))
            assert pool.free == 3
        del cache
        assert pool.free == 6
    assert pool.users == [0] * 6


def test_a_full_pool_says_so_and_changes_nothing() -> None:
    pool = Pool(blocks=4, block=4)
    cache = Paged(pool)
    k, v = tokens(1, 10)
    cache.write(k, v)
    cache.take(torch.tensor([0, 0, 0]))
    expected = r"the pool is full: 2 more blocks of 4 tokens are wanted, and 1 of 4 are free\. Make it larger"
    with pytest.raises(ClearheadError, match=expected):
        cache.write(*tokens(3, 1))
    assert cache.counts == [10] * 3
    assert pool.free == 1
    for kept, x in zip(cache.read(), (k, v), strict=True):
        torch.testing.assert_close(kept, x.expand(3, -1, -1, -1), atol=0, rtol=0)


def test_a_step_reads_the_blocks_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    k, v = tokens(2, 20)
    q = torch.randn(2, H, 20, D)
    cache = Paged(Pool(blocks=16, block=4))
    with torch.no_grad():
        cache.attend(q[:, :, :19], k[:, :, :19], v[:, :, :19], pattern=ch.causal())
        read: Callable[..., object] = lambda self: pytest.fail("the blocks were copied")  # noqa: E731
        monkeypatch.setattr(Paged, "read", read)
        out = cache.attend(q[:, :, 19:], k[:, :, 19:], v[:, :, 19:], pattern=ch.causal())
    expected = ch.attention(q, k, v, pattern=ch.causal())[:, :, 19:]
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


def test_what_it_can_not_do_is_said() -> None:
    with pytest.raises(ClearheadError, match="got 0 blocks of 16 tokens"):
        Pool(0)
    with pytest.raises(ClearheadError, match="nothing has been written to this pool"):
        Pool(4).tensors()
    cache = Paged(Pool(4))
    k, v = tokens(1, 3)
    with pytest.raises(ClearheadError, match=r"a paged cache keeps no gradient"):
        cache.write(k.requires_grad_(), v)
