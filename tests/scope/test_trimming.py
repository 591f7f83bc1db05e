"""What is freed between things that are kept goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from clearhead.scope import trimming


def resident() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(row.split()[1]) for row in status if row.startswith("VmRSS"))


@pytest.mark.skipif(sys.platform != "linux" or trimming._trim() is None, reason="the C library has no malloc_trim")
def test_holes_between_what_is_kept_are_given_back():
    blocks = [torch.ones(4096) for _ in range(6000)]  # 94 MiB, each too small to be a map of its own
    kept = blocks[::100]
    del blocks
    before = resident()
    trimming.give_back()
    assert before - resident() > 60e6
    assert all(bool((x == 1).all()) for x in kept)


def test_it_is_done_where_the_process_has_grown_and_not_again_until_it_has_grown_more(monkeypatch):
    held, done = [100], []
    monkeypatch.setattr(trimming, "resident", lambda: held[0] * 2**20)
    monkeypatch.setattr(trimming, "give_back", lambda: done.append(held[0]))
    trimmer = trimming.Trimmer()
    for size in (100, 90, 120, 123, 123, 130, 160):
        held[0] = size
        trimmer.look()
    assert done == [123, 160]


def test_what_the_system_tells_is_what_the_process_holds():
    assert abs(trimming.resident() - resident()) < 20e6
