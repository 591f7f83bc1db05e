"""Generate: a model writes on, from texts or tokens, token by token."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from operator import index
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import full
from clearhead.errors import ClearheadError
from clearhead.models.sampling import Sampling, generators
from clearhead.models.stack import Memory
from clearhead.models.streaming import Writing
from clearhead.nn.caches.cache import Cache
from clearhead.nn.caches.growing import Growing
from clearhead.text import check_text

Prompt = str | Sequence[int] | Tensor
PIECE = 2048
"""Tokens of a prompt that are read at a time."""
Reason = Literal["end", "stop", "length", "context", "stopped"]


@dataclass(frozen=True)
class Generated:
    """What a model wrote after a prompt.

    >>> result = Generated(" Paris.", [6, 7, 8], "length", 10, prefill_seconds=0.5, decode_seconds=0.25)
    >>> result.prefill_rate, result.decode_rate
    (20.0, 8.0)
    """

    text: str
    """Without the prompt and special tokens, cut before a stop string; empty if the model has no tokenizer."""
    tokens: list[int]
    """All that were written: the end's own and those of a stop string too."""
    reason: Reason
    """Why it ended: with an end token, at a stop string, after `max_new_tokens`, because the model's context is full,
    or because whoever read the stream stopped it."""
    prompt_tokens: int
    prefill_seconds: float
    """For reading the prompts of all sequences of the batch."""
    decode_seconds: float
    """From the first new token to the last one of this sequence."""

    @property
    def decode_rate(self) -> float:
        """Tokens a second, after the first one, which comes with the prompt's reading; NaN if there is no other."""
        return (len(self.tokens) - 1) / self.decode_seconds if len(self.tokens) > 1 else float("nan")

    @property
    def prefill_rate(self) -> float:
        """Tokens of this sequence's prompt that were read a second; NaN if it was stopped before that was done."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else float("nan")


def generate(model: Any, prompts: Prompt | Sequence[Prompt], **options: Any) -> Generated | list[Generated]:
    """What the model writes after a prompt; a list, if there is a list of prompts. `options` are those of `Generation`.

    Prompts of unlike length are read together. A sequence that has ended leaves the batch.
    """
    alone = _is_one(prompts)
    every: list[Any] = [prompts] if alone else list(prompts)
    generation = Generation(model, every, **options)
    for _ in generation.steps():
        pass
    return generation.results()[0] if alone else generation.results()


def stream(model: Any, prompt: Prompt, **options: Any) -> "Stream":
    """The same for one prompt, in pieces of text as they come. `options` are those of `Generation`."""
    if not _is_one(prompt):
        raise ClearheadError("stream: got several prompts, expected one; generate() takes a list of them.")
    return Stream(Generation(model, [prompt], **options))


class Stream:
    """Pieces of text, whole characters only, as a model writes them.

    Reading may stop anywhere, and go on from there.

    >>> import clearhead as ch
    >>> pieces = ch.models.load("smollm2").stream("The capital of France is", max_new_tokens=2)
    >>> list(pieces), pieces.result.reason
    ([' Paris', '.'], 'length')
    """

    def __init__(self, generation: "Generation") -> None:
        self._generation = generation
        self._pieces = (piece for pieces in generation.steps() for piece in pieces.values() if piece)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    @property
    def result(self) -> Generated:
        """What was written so far, and all of it after the last piece."""
        return self._generation.results()[0]


def prefill(
    model: Any,
    tokens: Int[Tensor, "B T"],
    caches: Sequence[Cache],
    *,
    lengths: Int[Tensor, " B"] | None = None,
    memory: Memory | None = None,
) -> Float[Tensor, "B V"]:
    """The logits of each sequence's last real token, after reading them all, 2,048 at a time.

    So no more is held between the layers than 2,048 tokens need; the numbers are the same to rounding. Where positions
    hang on the text's length (`DynamicNTK`, `LongRoPE`), all are read at once.
    """
    position = getattr(getattr(model, "stack", None), "position", None)
    size = max(tokens.shape[1], 1) if getattr(position, "grows", False) else PIECE
    options, logits = {"memory": memory, "caches": caches, "last": True}, []
    for n, piece in enumerate(tokens.split(size, 1)):
        new = None if lengths is None else (lengths - n * size).clamp(0, piece.shape[1])
        logits.append(model(piece, lengths=new, **options))
    if lengths is None:
        return logits[-1]  # type: ignore[no-any-return]
    return torch.stack(logits)[(lengths - 1) // size, torch.arange(len(lengths))]


@dataclass
class _Sequence:
    """One sequence of the batch."""

    prompt: list[int]
    writing: Writing | None
    tokens: list[int] = field(default_factory=list)
    reason: Reason | None = None
    seconds: float = 0.0


class Generation:
    """Sequences that are being written by one model.

    Args:
        model: a decoder, which reads the prompts and goes on with them, or an encoder–decoder, whose encoder reads
            them and whose decoder begins anew.
        prompts: each a text, or tokens.
        memory: of `model.encode`, for an encoder–decoder: its decoder goes on with the prompts while it reads this,
            such as sound (Whisper).
        max_new_tokens: the most that are written after each prompt.
        temperature, top_k, top_p, min_p, repetition_penalty: how a token is chosen; see `Sampling`.
        stop: a text or texts before which to end; they may span tokens.
        seed: makes the same text again. Sequence n draws with seed + n, whatever the others draw; without a seed,
            `torch.manual_seed` decides.
        cache: makes the cache of a layer.

    Raises ClearheadError if a prompt is empty or too long, if an option is out of range, or if the model has no head,
    or no tokenizer where there is text.

    >>> import clearhead as ch
    >>> model = ch.models.load("smollm2")
    >>> generation = Generation(model, ["The capital of France is", "Rome is the capital of"], max_new_tokens=2)
    >>> for pieces in generation.steps():
    ...     print(pieces)
    {0: ' Paris', 1: ' the'}
    {0: '.', 1: ' United'}
    >>> [result.text for result in generation.results()]
    [' Paris.', ' the United']
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        *,
        memory: Memory | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        cache: Callable[[], Cache] = Growing,
    ) -> None:
        if memory is not None and len(memory.layers[0][0]) != len(prompts):
            raise ClearheadError(
                f"memory: got one of {len(memory.layers[0][0])} sources for {len(prompts)} prompts; expected as many."
            )
        if max_new_tokens < 1:
            raise ClearheadError(f"max_new_tokens: got {max_new_tokens}, expected 1 or more.")
        if getattr(model, "training", False):
            raise ClearheadError(
                "generate: the model is training, so it would drop at random; call model.eval() first."
            )
        if getattr(getattr(model, "config", None), "head", None) is None:
            raise ClearheadError("generate: this model has no head, so it writes no tokens; take a language model.")
        if any(isinstance(pattern, full) for pattern in getattr(getattr(model, "stack", None), "patterns", ())):
            raise ClearheadError(
                "generate: this model's tokens see those after them, as BERT's do, so it writes none; take a decoder."
            )
        stop = [check_text(text, "stop") for text in ([stop] if isinstance(stop, str) else stop)]
        if "" in stop:
            raise ClearheadError("stop: got an empty text, which every text holds; leave it out.")
        if stop and model.tokenizer is None:
            raise ClearheadError("stop: this model has no tokenizer, so it knows no text; give no stop texts.")
        self.model, self.stop, self.most, self.cache = model, stop, max_new_tokens, cache
        self.memory = memory
        self.encodes = model.encoder is not None and memory is None
        if self.encodes and not hasattr(model.encoder, "tokens"):
            raise ClearheadError(
                "generate: the model's encoder reads no text, but sound; give memory=model.encode(log_mel(sound)), and "
                "as the prompt the tokens to begin with."
            )
        if self.encodes and model.config.start is None:
            raise ClearheadError(
                "generate: the config says no start=, the token with which a decoder begins; give it one."
            )
        self.sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
        )
        self.generators = generators(len(prompts), seed)
        self.sequences = [self._sequence(_tokens(model, prompt)) for prompt in prompts]
        self.prefill_seconds = 0.0

    def results(self) -> list[Generated]:
        """What was written so far, of each sequence."""
        return [
            Generated(
                one.writing.text if one.writing else "",
                list(one.tokens),
                one.reason or "stopped",
                len(one.prompt),
                self.prefill_seconds,
                one.seconds,
            )
            for one in self.sequences
        ]

    def steps(self) -> Iterator[dict[int, str]]:
        """Writes; after each step, the piece of text that each sequence, by its number, has got."""
        running = list(range(len(self.sequences)))
        if not running:
            return
        started = time.perf_counter()
        logits, caches, memory = self._read()
        _finish(logits.device)
        self.prefill_seconds = time.perf_counter() - started
        seen = self._seen(logits)
        while True:
            with torch.inference_mode():
                chosen = self.sampling.choose(logits, [self.generators[n] for n in running], seen)
                if seen is not None:
                    seen[torch.arange(len(chosen)), chosen] = True
            pieces = {n: self._write(n, token) for n, token in zip(running, chosen.tolist(), strict=True)}
            for n in running:
                self.sequences[n].seconds = time.perf_counter() - started - self.prefill_seconds
            left = time.perf_counter()
            yield pieces
            started += time.perf_counter() - left  # the time of whoever reads is not the model's
            going = [row for row, n in enumerate(running) if self.sequences[n].reason is None]
            if not going:
                return
            with torch.inference_mode():
                if len(going) < len(running):
                    rows = torch.tensor(going)
                    running = [running[row] for row in going]
                    chosen, seen = chosen[rows], None if seen is None else seen[rows]
                    memory = None if memory is None else memory.take(rows)
                    for cache in caches:
                        cache.take(rows)
                logits = self.model(chosen[:, None], memory=memory, caches=caches, last=True)

    @torch.inference_mode()
    def _read(self) -> tuple[Tensor, list[Cache], Any]:
        """The logits of each sequence's first new token."""
        model = self.model
        sizes = [len(one.prompt) for one in self.sequences]
        device = next(model.parameters()).device
        tokens = torch.zeros(len(sizes), max(sizes), dtype=torch.int64, device=device)
        for row, one in zip(tokens, self.sequences, strict=True):
            row[: len(one.prompt)] = torch.tensor(one.prompt)
        lengths = torch.tensor(sizes) if min(sizes) < max(sizes) else None
        caches, memory = model.caches(self.cache), self.memory
        if self.encodes:
            memory = model.encode(tokens, lengths)
            tokens, lengths = tokens.new_full((len(sizes), 1), model.config.start), None
        return prefill(model, tokens, caches, lengths=lengths, memory=memory), caches, memory

    def _seen(self, logits: Tensor) -> Tensor | None:
        """Which tokens each sequence holds, if that matters."""
        if self.sampling.repetition_penalty == 1:
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, one in zip(seen, self.sequences, strict=True):
            row[[self.model.config.start] if self.encodes else one.prompt] = True
        return seen

    def _write(self, n: int, token: int) -> str:
        """Adds a token to sequence n, and ends it if it is over: its new piece of text."""
        one, context = self.sequences[n], self.model.context
        one.tokens.append(token)
        before = 1 if self.encodes else len(one.prompt)
        ended = self.model.tokenizer is not None and token in self.model.tokenizer.ends
        piece = one.writing.add(token) if one.writing and not ended else ""
        if ended:
            one.reason = "end"
        elif one.writing and one.writing.stopped:
            one.reason = "stop"
        elif len(one.tokens) >= self.most:
            one.reason = "length"
        elif context is not None and before + len(one.tokens) > context:
            one.reason = "context"
        return piece + one.writing.rest() if one.writing and one.reason else piece

    def _sequence(self, prompt: list[int]) -> _Sequence:
        tokenizer = self.model.tokenizer
        return _Sequence(prompt, tokenizer and Writing(tokenizer, () if self.encodes else prompt, self.stop))


def _finish(device: torch.device) -> None:
    """Waits for all that a device was asked for, without which a clock shows the asking alone."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _is_one(prompts: Any) -> bool:
    if isinstance(prompts, Tensor):
        return prompts.ndim < 2
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], Integral))


def _tokens(model: Any, prompt: Prompt) -> list[int]:
    """A prompt as tokens that the model can read."""
    tokens: list[int]
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise ClearheadError("The prompt is a text, but this model has no tokenizer; give tokens.")
        tokens = model.tokenizer.encode(prompt)
    else:
        try:
            tokens = [index(token) for token in (prompt.tolist() if isinstance(prompt, Tensor) else prompt)]
        except TypeError as error:
            raise ClearheadError(
                f"The prompt is {prompt!r}; expected a text, or the whole numbers of its tokens in a row."
            ) from error
    if not tokens:
        raise ClearheadError("The prompt is empty: it has no tokens; give at least a word.")
    if model.context is not None and len(tokens) > model.context:
        raise ClearheadError(f"The prompt has {len(tokens)} tokens, but the model takes {model.context}; shorten it.")
    vocabulary = model.config.vocabulary
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise ClearheadError(f"The prompt has token {wrong}, but the model knows those from 0 to {vocabulary - 1}.")
    return tokens
