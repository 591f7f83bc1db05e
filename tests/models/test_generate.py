"""A model writes what it should, alone, in a batch and in a stream, and ends where it should."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clearhead as ch
from clearhead.models import generate as generating
from clearhead.models.checkpoints import open_model
from clearhead.models.config import Config
from clearhead.models.generate import Generated, Prompt, generate, stream
from clearhead.models.loading import load
from clearhead.models.tokens import Tokenizer
from clearhead.models.transformer import Transformer
from clearhead.nn.caches.cache import Cache
from clearhead.nn.feed_forward import FeedForward
from clearhead.nn.heads import MultiHeadAttention
from clearhead.nn.norms import LayerNorm
from clearhead.nn.positions.rotary import Rotary

END = 256


class Bytes(Tokenizer):
    """Every byte is a token, so that a character may take four, and a stop text as many as it has letters."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(token for token in ids if token != END).decode(errors="replace")


class History(Cache):
    """Remembers the tokens themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[list[int]] = []

    def take(self, rows: Tensor) -> None:
        self.tokens = [list(self.tokens[row]) for row in rows.tolist()]

    def write(self, k: Any, v: Any, new: Any = None) -> None:
        raise NotImplementedError

    def _clear(self) -> None:
        self.tokens = []

    read = crop = write  # type: ignore[assignment]
    nbytes = 0  # type: ignore[assignment]


class Told(nn.Module):
    """A stand-in for a model: what comes after which tokens is a function of all of them."""

    encoder = None
    tokenizer: Tokenizer | None = Bytes(None, ends=(END,))

    def __init__(self, following: Callable[[list[int]], Tensor], context: int | None = None) -> None:
        super().__init__()
        self.eval()
        self.following, self.context = following, context
        self.config = SimpleNamespace(vocabulary=257, head="tied", start=None)
        self.somewhere = nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    def caches(self, kind: Callable[[], Cache]) -> list[Cache]:
        return [History()]

    def forward(self, tokens: Tensor, *, lengths: Tensor | None = None, memory: Any, caches: Any, last: bool) -> Tensor:
        assert last
        (history,) = caches
        B, T = tokens.shape
        self.batches.append(B)
        real = [T] * B if lengths is None else lengths.tolist()
        history.tokens = history.tokens or [[] for _ in range(B)]
        for past, row, n in zip(history.tokens, tokens.tolist(), real, strict=True):
            past += row[:n]
            assert self.context is None or len(past) <= self.context
        return torch.stack([self.following(past) for past in history.tokens])


def telling(*texts: str, context: int | None = None) -> Told:
    """A model that goes on to the end of whichever of these texts has begun."""
    known = [[*text.encode(), END] for text in texts]

    def following(past: list[int]) -> Tensor:
        (text,) = (text for text in known if text[: len(past)] == past)
        return nn.functional.one_hot(torch.tensor(text[len(past)]), 257) * 9.0

    return Told(following, context)


def by_chance() -> Told:
    """A model whose next token hangs by chance on the last one."""
    table = torch.randn(257, 257)
    table[:, END] = -torch.inf
    return Told(lambda past: table[past[-1]])


def one(model: Any, prompt: Prompt, **options: Any) -> Generated:
    result = generate(model, prompt, **options)
    assert isinstance(result, Generated)
    return result


def several(model: Any, prompts: Any, **options: Any) -> list[Generated]:
    result = generate(model, prompts, **options)
    assert isinstance(result, list)
    return result


STORY = "Once upon a time there was a lighthouse — 灯台 🗼 — and its keeper."


def test_a_text_is_gone_on_with_to_its_end() -> None:
    result = one(telling(STORY), "Once upon")
    assert result.text == STORY.removeprefix("Once upon")
    assert result.tokens == [*STORY.encode()[9:], END]
    assert (result.reason, result.prompt_tokens) == ("end", 9)
    assert result.prefill_seconds > 0 and result.decode_seconds > 0


def test_texts_of_unlike_length_are_gone_on_with_together_and_leave_when_they_end() -> None:
    model = telling("Short.", STORY, "A middling text.")
    results = several(model, ["Sho", "Once upon a", "A"])
    assert [result.text for result in results] == [
        "rt.",
        " time there was a lighthouse — 灯台 🗼 — and its keeper.",
        " middling text.",
    ]
    assert [result.prompt_tokens for result in results] == [3, 11, 1]
    written = [len(result.tokens) for result in results]
    assert model.batches == [sum(n < count for count in written) for n in range(max(written))]


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_tokens_are_as_good_as_a_text(kind: Callable[[list[int]], Any]) -> None:
    prompt = kind(list(b"Once"))
    assert one(telling(STORY), prompt).text == STORY[4:]
    assert [result.text for result in several(telling(STORY), [prompt, prompt[:2], "O"])] == [
        STORY[4:],
        STORY[2:],
        STORY[1:],
    ]


def test_a_matrix_of_tokens_is_a_batch() -> None:
    rows = torch.tensor([list(b"Once"), list(b"Once")])
    assert [result.text for result in several(telling(STORY), rows)] == [STORY[4:]] * 2
    assert several(telling(STORY), []) == []


def test_a_model_without_a_tokenizer_gives_tokens_alone() -> None:
    model = telling(STORY)
    model.tokenizer = None
    result = one(model, list(b"Once"), max_new_tokens=5)
    assert (result.text, result.tokens, result.reason) == ("", list(b" upon"), "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("time", " upon a "),
        (["keeper", "house", "ouse —"], " upon a time there was a light"),
        (" upon", ""),
        ("🗼", " upon a time there was a lighthouse — 灯台 "),
        (["there is", "a lighter"], STORY[4:]),
        (["keeper.."], STORY[4:]),
    ],
)
def test_it_ends_before_a_stop_text_that_spans_tokens(stop: str | list[str], text: str) -> None:
    result = one(telling(STORY), "Once", stop=stop)
    assert result.text == text
    assert result.reason == ("end" if text == STORY[4:] else "stop")
    pieces, said = stream(telling(STORY), "Once", stop=stop), ""
    for piece in pieces:
        said += piece
        assert text.startswith(said)
    assert said == text


def test_only_what_may_be_a_stop_text_is_held_back() -> None:
    pieces = list(stream(telling("x aab aac"), "x", stop="aac"))
    assert pieces == [" ", "aab", " "]


def test_a_stream_is_of_whole_characters() -> None:
    pieces = stream(telling(STORY), "Once")
    assert "".join(pieces) == STORY[4:]
    assert all(len(piece) == 1 for piece in stream(telling(STORY), "Once"))
    assert pieces.result.text == STORY[4:]


def test_a_character_is_not_whole_at_the_end_and_the_text_says_so() -> None:
    result = one(telling("a🗼"), "a", max_new_tokens=3)
    assert result.text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("most", [1, 5])
def test_it_ends_after_so_many_tokens(most: int) -> None:
    result = one(telling(STORY), "Once", max_new_tokens=most)
    assert (len(result.tokens), result.reason) == (most, "length")
    assert math.isnan(result.decode_rate) == (most == 1)


def test_it_ends_when_the_context_is_full() -> None:
    results = several(telling(STORY, context=10), ["Once", "On"])
    assert [result.text for result in results] == [STORY[4:11], STORY[2:11]]
    assert [result.reason for result in results] == ["context", "context"]


def test_a_seed_gives_the_same_text_again_and_another_one_another() -> None:
    model = by_chance()
    texts = [one(model, "ab", temperature=1.0, seed=seed, max_new_tokens=20).tokens for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_what_a_sequence_draws_does_not_depend_on_its_batch() -> None:
    model, options = by_chance(), {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 20}
    together = several(model, ["a", "bcd", "a"], seed=3, **options)
    for n, prompt in enumerate(["a", "bcd", "a"]):
        assert together[n].tokens == one(model, prompt, seed=3 + n, **options).tokens
    assert together[0].tokens != together[2].tokens


def test_without_a_seed_pytorch_decides() -> None:
    model, texts = by_chance(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(one(model, "a", temperature=1.0, max_new_tokens=20).tokens)
    assert texts[0] == texts[1] != texts[2]


def test_the_penalty_is_on_the_prompts_tokens_and_on_new_ones() -> None:
    logits = torch.full((257,), -100.0)
    logits[list(b"abcd")] = torch.tensor([4.0, 3.5, 3.4, 3.0])
    model = Told(lambda past: logits)
    assert one(model, "x", max_new_tokens=3).text == "aaa"
    assert one(model, "x", max_new_tokens=6, repetition_penalty=1.5).text == "abcdaa"
    assert [r.text for r in several(model, ["xa", "yyb"], max_new_tokens=2, repetition_penalty=1.5)] == ["bc", "ac"]


def test_a_stream_may_be_left_and_has_what_was_written() -> None:
    pieces = stream(telling(STORY), "Once")
    for n, _ in enumerate(pieces):
        if n == 5:
            break
    assert (pieces.result.text, pieces.result.reason) == (" upon ", "stopped")


def test_a_stream_that_is_interrupted_has_what_was_written() -> None:
    def following(past: list[int]) -> Tensor:
        if len(past) == 4:
            raise KeyboardInterrupt
        return telling("abcdefg").following(past)

    pieces = stream(Told(following), "a")
    with pytest.raises(KeyboardInterrupt):
        list(pieces)
    assert (pieces.result.text, pieces.result.reason) == ("bcd", "stopped")


# Real layers, with a cache: the same as reading all anew for each token.


def tiny(**options: Any) -> Transformer:
    parts = Config(
        vocabulary=40,
        width=32,
        layers=2,
        attention=partial(MultiHeadAttention, heads=4),
        feed_forward=partial(FeedForward, hidden=48),
        norm=LayerNorm,
        position=Rotary(8),
        **options,
    )
    model = Transformer(parts).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that the likeliest token is no close call
    return model


@torch.no_grad()
def anew(model: Transformer, prompt: list[int], count: int) -> list[int]:
    """Greedy, all tokens read again for each next one."""
    source = torch.tensor([prompt])
    memory = None if model.encoder is None else model.encode(source)
    tokens = source if memory is None else torch.tensor([[model.config.start]])
    for _ in range(count):
        chosen = model(tokens, memory=memory)[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, chosen], 1)
    return tokens[0, -count:].tolist()


PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]


def test_a_decoder_writes_the_same_as_without_a_cache() -> None:
    model = tiny()
    results = several(model, PROMPTS, max_new_tokens=12)
    assert [result.tokens for result in results] == [anew(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(result.tokens) for result in results}) == 3


def test_a_stream_that_was_left_goes_on_where_it_was() -> None:
    pieces = stream(telling(STORY), STORY[:4], max_new_tokens=20)
    said = next(iter(pieces)) + "".join(pieces)
    assert said == pieces.result.text == STORY[4 : 4 + len(said)]
    assert len(pieces.result.tokens) == 20
    assert list(pieces) == []


def test_a_device_is_waited_for_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    generating._finish(torch.device("cpu"))
    assert not waited
    generating._finish(torch.device("cuda", 0))
    assert waited == [torch.device("cuda", 0)]


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    prompts = [torch.randint(0, 40, (n,)).tolist() for n in (11, 4, 8, 1, 5)]
    whole = several(model, prompts, max_new_tokens=6)
    monkeypatch.setattr(generating, "PIECE", 4)
    lengths: list[int] = []
    model.tokens.register_forward_hook(lambda _, tokens, __: lengths.append(tokens[0].shape[1]))
    assert [one.tokens for one in several(model, prompts, max_new_tokens=6)] == [one.tokens for one in whole]
    assert lengths[:4] == [4, 4, 3, 1]
    assert one(model, prompts[0], max_new_tokens=6).tokens == whole[0].tokens


def test_an_encoder_decoder_reads_the_prompt_and_begins_anew() -> None:
    encoder = Config(
        width=32,
        layers=2,
        attention=partial(MultiHeadAttention, heads=4),
        feed_forward=partial(FeedForward, hidden=48),
        norm=LayerNorm,
        position=Rotary(8),
        pattern=ch.full(),
        head=None,
    )
    model = tiny(encoder=encoder, start=7)
    results = several(model, PROMPTS, max_new_tokens=12)
    assert [result.tokens for result in results] == [anew(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(result.tokens) for result in results}) == 3


# A real model


@pytest.mark.slow
def test_smollm2_writes_the_same_200_tokens_as_in_transformers() -> None:
    theirs = open_model("smollm2")
    inputs = theirs.inputs("Once upon a time")
    read = inputs["input_ids"].shape[1]
    tokens = theirs.model.generate(**inputs, do_sample=False, max_new_tokens=200)[0, read:]
    result = one(load("smollm2"), "Once upon a time", max_new_tokens=200)
    assert result.tokens == tokens.tolist()
    assert result.text == theirs.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.slow
def test_smollm2_writes_the_same_in_a_batch_as_alone() -> None:
    model, prompts = load("smollm2"), ["def fibonacci(n):", "The capital of France is", "灯台"]
    together = several(model, prompts, max_new_tokens=12)
    assert [result.tokens for result in together] == [one(model, text, max_new_tokens=12).tokens for text in prompts]
