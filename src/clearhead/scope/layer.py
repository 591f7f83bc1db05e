"""What one attention of a watched model showed, call by call."""

import weakref
from dataclasses import dataclass, field, fields, replace
from typing import Literal, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.attend.arguments import whole_number
from clearhead.attend.call import Call
from clearhead.attend.statistics import Statistics
from clearhead.errors import ClearheadError
from clearhead.scope import words
from clearhead.scope.added import Added
from clearhead.scope.indexing import Indices, index, indices
from clearhead.scope.pieces import Word, WordWeights, word_weights, words_of
from clearhead.scope.store import KeysOnDisk, OnDisk
from clearhead.scope.summary import Summary
from clearhead.scope.weights import Weights


@dataclass(eq=False)
class Keys:
    """The keys of a growing sequence, kept once however many steps looked back at them."""

    whole: Float[Tensor, "B K Tk D"]

    def __post_init__(self) -> None:
        self._room = self.whole

    def grow(self, k: Float[Tensor, "B K Tk D"]) -> bool:
        """Takes in a longer version of itself; False if k is something else."""
        old = self.whole.shape[2]
        if k.shape[2] < old or not torch.equal(k[:, :, :old], self.whole):
            return False
        if k.shape[2] > self._room.shape[2]:  # room for half as many again, so that a key is copied a few times only
            self._room = k.new_empty(*k.shape[:2], k.shape[2] * 3 // 2, k.shape[3])
            self._room[:, :, :old] = self.whole
        self._room[:, :, old : k.shape[2]] = k[:, :, old:]
        self.whole = self._room[:, :, : k.shape[2]]
        return True

    def crop(self, n: int) -> None:
        """Forgets all but the first n."""
        self.whole = self.whole[:, :, :n]


@dataclass(eq=False)
class Step:
    """One call of one attention."""

    statistics: Statistics
    shape: tuple[int, int, int, int]
    """(B, H, Tq, Tk)."""
    ids_q: Int[Tensor, "B Tq"] | None
    ids_k: Int[Tensor, "B tokens"] | None
    real: Bool[Tensor, "B tokens"] | None
    """Which keys are no padding, where something was said of padding; of cross-attention nothing is."""
    valid: Bool[Tensor, "B Tq"] | None
    """Which queries are no padding, likewise."""
    newest: Float[Tensor, "B K 1 D"]
    """The last key, by which a later step is known to go on from here."""
    marks: Int[Tensor, "B n"]
    """A number for each key that is new in this call, likewise."""
    added: Added = ()
    """The keys behind those of the tokens that the module added, by their names."""
    row: int | None = None
    """Which sequence of the batch this is, where each attends alone."""
    cache: "weakref.ref[object] | None" = None
    """What the model keeps its keys in."""
    summary: Summary | None = None
    call: Call | None = None
    """The call without its keys, and without its queries if they are on disk; None where only statistics were kept."""
    keys: Keys | KeysOnDisk | None = None
    file: OnDisk | None = None
    """Where its q lies, and its v if it was kept, if that is on disk."""
    values: Float[Tensor, "B K Tk Dv"] | None = None

    @property
    def tokens(self) -> int:
        """How many of the keys are those of tokens."""
        return self.shape[3] - len(self.added)

    @property
    def v(self) -> Float[Tensor, "B K Tk Dv"] | None:
        """The values, if they were kept."""
        values = self.file.read("v") if self.file is not None and self.file.has_values else self.values
        return None if values is None else values[:, :, : self.shape[3]]

    @property
    def weights(self) -> Weights:
        """The weights, to look at."""
        if self.call is None or self.keys is None:
            raise ClearheadError(
                "the watch kept statistics only, so weights can't be made again; watch with keep='qk' to see rows."
            )
        q = self.call.q if self.file is None else self.file.read("q")[:, :, : self.shape[2]]
        k = self.keys.whole[:, :, : self.shape[3]]
        return Weights.made(replace(self.call, q=q, k=k, v=k[..., :0]), self.statistics)


@dataclass(eq=False)
class Layer:
    """One attention of a model. Its queries are counted through the steps of a generation, as positions are.

    `rows` and `top` speak of one sequence: a text, with the tokens that were generated after it. If the model
    read several in one watch, say which: `layer.sequence(0).rows(...)`. Where texts leave a batch, as those that end
    in `generate` of our models do, the others go on as the next sequence, whose rows are the texts that stay.
    """

    name: str
    """The module's name, `model.layers.3.self_attn`."""
    kind: Literal["self", "cross"]
    order: int
    """Its place among the model's attentions, as the model defines them."""
    tokenizer: words.Tokenizer | None = None
    sequences: list[list[Step]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, {self.kind}, heads={self.heads}, calls={len(self.steps)})"

    @property
    def steps(self) -> list[Step]:
        """Every call, in order."""
        return [step for sequence in self.sequences for step in sequence]

    @property
    def heads(self) -> int:
        """H."""
        return self.steps[0].shape[1]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tq and Tk of the sequence, however many calls read it: all their queries, and the keys of the last."""
        steps = self._only
        return sum(step.shape[2] for step in steps), max(step.shape[3] for step in steps)

    def sequence(self, n: SupportsIndex) -> "Layer":
        """What the layer showed of the n-th text alone."""
        number = whole_number(n)
        if number is None or not -len(self.sequences) <= number < len(self.sequences):
            raise ClearheadError(f"{self.name} saw {len(self.sequences)} sequences, counted from 0; there is no {n}.")
        return replace(self, sequences=[self.sequences[number]])

    @property
    def _only(self) -> list[Step]:
        if len(self.sequences) != 1:
            raise ClearheadError(
                f"{self.name} saw {len(self.sequences)} sequences in this watch; "
                f"say which: seen[{self.name!r}].sequence(0)."
            )
        return self.sequences[0]

    @property
    def weights(self) -> Weights:
        """The weights of a layer that was called once: `received`, `map`, `toward` and the rest."""
        if len(self.steps) != 1:
            raise ClearheadError(f"{self.name} was called {len(self.steps)} times; choose one: .steps[n].weights.")
        return self.steps[0].weights

    @property
    def statistics(self) -> Statistics:
        """Of every query of the sequence, `(B, H, queries)`."""
        steps = [step.statistics for step in self._only]
        whole = {f.name: torch.cat([getattr(s, f.name) for s in steps], 2) for f in fields(Statistics)}
        return Statistics(**whole | {"peak_at": whole["peak_at"].long()})

    def rows(self, i: Indices, head: SupportsIndex | None = None, batch: SupportsIndex = 0) -> Tensor:
        """Exact weights of the queries i: `(len(i), Tk)` for one head, `(H, len(i), Tk)` for all."""
        steps = self._only
        Tq, Tk = self.lengths
        queries = indices(i, f"query i of {self.name}", Tq)
        parts, at, start = [steps[0].weights.rows([], head, batch)], [], 0
        for step in steps:
            here = ((queries >= start) & (queries < start + step.shape[2])).nonzero()[:, 0]
            at.append(here)
            if len(here):
                parts.append(step.weights.rows(queries[here] - start, head, batch))
            start += step.shape[2]
        wide = [torch.nn.functional.pad(rows, (0, Tk - rows.shape[-1])) for rows in parts]
        return torch.cat(wide, -2)[..., torch.cat(at).argsort(), :]

    def top(self, k: int, share: float = 1.0) -> tuple[Int[Tensor, "B H T n"], Float[Tensor, "B H T n"]]:
        """The k heaviest keys of each query and their weights, as `Weights.top`."""
        parts = [step.weights.top(k, share) for step in self._only]
        n = max(keys.shape[-1] for keys, _ in parts)
        pad = torch.nn.functional.pad
        return (
            torch.cat([pad(keys, (0, n - keys.shape[-1]), value=-1) for keys, _ in parts], 2),
            torch.cat([pad(weights, (0, n - weights.shape[-1])) for _, weights in parts], 2),
        )

    def queries(self, batch: SupportsIndex = 0) -> list[str]:
        """The text of each query's token; a piece of a character as its bytes, "\\xf0\\x9f"."""
        steps = self._only
        b = index(batch, "batch", steps[0].shape[0])
        return [t for s in steps for t in self._texts(s.ids_q, s.shape[2], b, s.tokens - s.shape[2])]

    def keys(self, batch: SupportsIndex = 0) -> list[str]:
        """The text of each key's token, as `queries`, then the names of those that nn.MultiheadAttention added."""
        last = max(self._only, key=lambda step: step.shape[3])
        return [*self._texts(last.ids_k, last.tokens, index(batch, "batch", last.shape[0]), 0), *last.added]

    @property
    def added(self) -> Added:
        """The keys behind those of the tokens that nn.MultiheadAttention added: "[bias_k]", "[zero_attn]"."""
        return self.steps[-1].added

    def _texts(self, ids: Tensor | None, length: int, batch: int, past: int) -> list[str]:
        if ids is None and self.kind == "self":
            return words.texts(None, None, past + length)[past:]
        return words.texts(self.tokenizer, None if ids is None else ids[batch], length)

    def words(self, i: Indices, head: SupportsIndex | None = None, batch: SupportsIndex = 0) -> WordWeights:
        """The weights of words: of the words i, counted from 0, a row over all words, for one head or for all.

        A word's tokens are summed where it is looked at, averaged where it looks (Clark et al. 2019). `words([])`
        lists the words. One row of weights is made for each token of the words i, and a few are held at a time.

        Raises:
            ClearheadError: if there was no tokenizer or the tokens are not known, or if a word has no query here.
        """
        last, first = max(self._only, key=lambda step: step.shape[3]), self._only[0]
        if self.tokenizer is None or last.ids_k is None or first.ids_q is None:
            lacks = "watch was given no tokenizer" if self.tokenizer is None else "its tokens are not known"
            raise ClearheadError(f"{self.name} can't be read in words: {lacks}. Use rows(i), which counts tokens.")
        b = index(batch, "batch", last.shape[0])
        keys = words_of(self.tokenizer, last.ids_k[b])
        if self.kind == "self":
            past, queries = first.tokens - first.shape[2], keys
        else:
            asked = torch.cat([step.ids_q[b] for step in self._only if step.ids_q is not None])
            past, queries = 0, words_of(self.tokenizer, asked)
        chosen = [queries[n] for n in indices(i, f"word i of {self.name}", len(queries)).tolist()]
        unasked = [word.text for word in chosen if word.stop <= past]
        if unasked:
            raise ClearheadError(
                f"{self.name}: no query of {unasked[0]!r} was seen, it was read before the watch; choose a later word."
            )
        keys = [*keys, *(Word(name, n, n + 1) for n, name in enumerate(last.added, last.tokens))]
        return word_weights(lambda rows: self.rows(rows, head, b), chosen, keys, past)

    def summary(self) -> Summary:
        """The sums behind this layer's lines of the head table."""
        total = Summary()
        for step in self.steps:
            if step.summary is None:
                step.summary = summarise(step, self.kind, self.tokenizer)
            total += step.summary
        return total


def summarise(step: Step, kind: str, tokenizer: words.Tokenizer | None) -> Summary:
    """The summary of one step; roles are of self-attention alone."""
    ids = step.ids_k if kind == "self" else None
    kinds = None if ids is None else words.kinds(tokenizer, ids)
    return Summary.of(step.weights, ids, step.real, kinds, step.valid)
