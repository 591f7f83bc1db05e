"""A budget refuses before anything is computed what would not fit, and says what would."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clearhead as ch
from clearhead import ClearheadError
from clearhead.scope.byte_sizes import in_bytes, in_words

X = torch.randn(2, 50, 16)


class Attention(nn.Module):
    """Two heads on one key head; says how often it got as far as computing anything."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 32)
        self.ended = 0

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in self.qkv(x).split([16, 8, 8], -1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        self.ended += 1
        return out.transpose(1, 2).flatten(2)


STATISTICS = 7 * 2 * 2 * 50 * 4
QK = (2 * 2 * 50 * 8 + 2 * 1 * 50 * 8) * 4


def refused(memory, dtype=torch.float32, **options):
    """The sentence, if the first of four attentions is refused before it is computed."""
    model = nn.Sequential(*(Attention() for _ in range(4))).to(dtype)
    with pytest.raises(ClearheadError) as error, ch.watch(model, memory=memory, **options):
        model(X.to(dtype))
    assert [layer.ended for layer in model] == [0, 0, 0, 0]
    return str(error.value)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [("2 GiB", 2**31), ("1.5GB", 1.5e9), ("64 kb", 64_000), ("10 KiB", 10_240), ("5", 5), (1234, 1234), (2e6, 2e6)],
)
def test_memory_is_a_number_of_bytes_or_has_a_unit(memory, expected):
    assert in_bytes(memory) == expected


@pytest.mark.parametrize("memory", ["much", "2 GiBs", "", "-1 MB", 0, -5, float("inf"), True])
def test_what_is_no_memory_is_refused(memory):
    with pytest.raises(ClearheadError, match=r"memory: got .*, expected a number of bytes, or one with its unit"):
        in_bytes(memory)


def test_bytes_are_said_for_people():
    assert [in_words(n) for n in (12, 2048, 396361728, 3 * 2**30)] == ["12 B", "2.0 KiB", "378 MiB", "3.0 GiB"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("keep", "values"), [("qk", False), ("qk", True), ("statistics", False)])
def test_what_is_reckoned_is_what_is_kept(keep, values, dtype):
    model = nn.Sequential(*(Attention() for _ in range(4))).to(dtype)
    with ch.watch(model, keep=keep, values=values, memory="1 GB") as seen:
        model(X.to(dtype))
    kept = 0
    for layer in seen.layers:
        (step,) = layer.steps
        mine = [getattr(step.statistics, name) for name in ("lse", "entropy", "entropy_normalised", "peak", "peak_at")]
        mine += [step.statistics.distance, step.statistics.max_score]
        if keep == "qk":
            mine += [step.call.q, step.keys.whole]
        if values:
            mine.append(step.v)
        kept += sum(x.numel() * x.element_size() for x in mine)
    assert seen.budget.used == kept


def test_the_sentence_says_what_it_would_take_and_how_many_layers_would_fit():
    said = refused(2 * (STATISTICS + QK) + 1)
    assert said.startswith(
        "memory: what is kept of the 4 attentions with (B, H, K, Tq, Tk, D) = (2, 2, 1, 50, 50, 8) in float32 would "
        "take 59 KiB, more than 30 KiB. What would fit: layers=range(2), the first 2 of them; keep='statistics'; "
        "store=PATH, which puts q and k on disk."
    )


def test_bfloat16_is_named_where_it_would_fit():
    enough = 4 * (STATISTICS + QK // 2)
    assert "the model in bfloat16" in refused(enough)
    assert "the model in bfloat16" not in refused(enough - 1)
    assert "the model in bfloat16" not in refused(enough - 1, torch.bfloat16)


def test_values_are_counted_and_named():
    assert "values=False" in refused(4 * (STATISTICS + QK), values=True)


def test_what_the_sentence_names_does_fit():
    for memory, options in [
        (2 * (STATISTICS + QK) + 1, {"layers": range(2)}),
        (4 * STATISTICS, {"keep": "statistics"}),
    ]:
        refused(memory)
        model = nn.Sequential(*(Attention() for _ in range(4)))
        with ch.watch(model, memory=memory, **options) as seen:
            model(X)
        assert seen.budget.used <= memory


def test_where_nothing_fits_it_says_so():
    said = refused(STATISTICS - 1, keep="statistics")
    assert said.endswith("Nothing of it would fit; a shorter text might.")


def test_a_run_that_grows_beyond_its_budget_ends_in_a_sentence():
    model = Attention()
    said = r"memory: with one more attention, .*, what is kept would take 30 KiB"
    with ch.watch(model, memory=int(1.5 * (STATISTICS + QK))) as seen:
        model(X)
        with pytest.raises(ClearheadError, match=said):
            model(X)
    assert seen.calls == 1


def test_with_the_model_s_own_kernels_it_is_refused_before_too():
    assert refused(100, kernels="model").startswith("memory: ")


class Decoder(nn.Module):
    """Attends from the last of its tokens to all, as a step of a generation does with its cache."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.keys = torch.randn(1, 1, 20, 8)

    def forward(self, n):
        keys = self.keys[:, :, :n]
        return F.scaled_dot_product_attention(keys[:, :, -1:], keys, keys)


def test_the_keys_of_a_growing_sequence_are_counted_once():
    model = Decoder()
    with ch.watch(model, memory="1 GB") as seen:
        for n in range(5, 21):
            model(n)
    (sequence,) = seen[0].sequences
    assert len(sequence) == 16
    assert seen.budget.used == 16 * (7 + 8) * 4 + 20 * 8 * 4  # statistics and q of each step, and the keys
