"""Whole models: SmolLM2-135M read and written by ours, by Transformers and by llama.cpp; a small Llama trained.

A prefill makes the last token's logits alone. A decode feeds 20 tokens one by one after a context, then forgets them
again. Memory is the most that a process of its own holds while it does both, VmHWM, the weights included.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import llama_cpp, looking
from benchmarks.cases import BF16, FP32, Case, Contest, Quantity
from benchmarks.goals import Faster, Goal, Takes
from benchmarks.llama_cpp import LLAMA
from benchmarks.machine import use_cores
from benchmarks.measure import Run
from benchmarks.memory import resident
from benchmarks.peers.ours import OURS
from benchmarks.peers.peer import Cannot
from clearhead.models.checkpoints import open_model
from clearhead.models.families import FAMILIES
from clearhead.models.generate import prefill
from clearhead.models.loading import load
from clearhead.models.names import to_ours

TRANSFORMERS = "Transformers"
SHORT, LONG, WRITES = 128, 4096, 20
AGREES = {FP32: 5e-3, BF16: 1e-1}
"""How far the last token's logits may be from Transformers' in float32, relative in the root of squares. llama.cpp
keeps its cache in float16; bfloat16's own rounding, through 30 layers, is the rest."""


@dataclass(frozen=True)
class Reader:
    """A way to run SmolLM2. Both return the last token's logits `(V,)`."""

    read: Callable[[Tensor], Tensor]
    """Reads tokens `(1, T)` from the beginning."""
    write: Callable[[Tensor], Tensor]
    """Feeds tokens one by one after those that were read last, then forgets them again."""


def ours(dtype: torch.dtype) -> Reader:
    """Clearhead's own model."""
    model: Any = load("smollm2", dtype=dtype)
    caches: list[Any] = []

    def read(tokens: Tensor) -> Tensor:
        caches[:] = model.caches()
        return prefill(model, tokens, caches)[0]

    def write(tokens: Tensor) -> Tensor:
        before = caches[0].lengths
        logits = [model(token, caches=caches, last=True)[0] for token in tokens.split(1, 1)]
        for one in caches:
            one.crop(before)
        return logits[-1]

    return Reader(read, write)


def transformers(dtype: torch.dtype) -> Reader:
    """Transformers' model on PyTorch's SDPA, as it is by default."""
    model = open_model("smollm2").model.to(dtype)
    kept: list[Any] = []

    def read(tokens: Tensor) -> Tensor:
        said = model(tokens, use_cache=True, logits_to_keep=1)
        kept[:] = [said.past_key_values]
        return said.logits[0, -1]  # type: ignore[no-any-return]

    def write(tokens: Tensor) -> Tensor:
        (past,) = kept
        logits = [model(token, past_key_values=past, use_cache=True).logits[0, -1] for token in tokens.split(1, 1)]
        past.crop(-WRITES)
        return logits[-1]

    return Reader(read, write)


def llama(dtype: torch.dtype) -> Reader:
    """llama.cpp, as its Python package has it by default."""
    model = llama_cpp.opened(dtype, context=LONG + WRITES)

    def read(tokens: Tensor) -> Tensor:
        model.reset()
        model.eval(tokens[0].tolist())
        return llama_cpp.logits(model)

    def write(tokens: Tensor) -> Tensor:
        before = model.n_tokens
        for token in tokens[0].tolist():
            model.eval([token])
        model.n_tokens = before  # what lies beyond is forgotten when the next token comes
        return llama_cpp.logits(model)

    return Reader(read, write)


READERS = {OURS: ours, TRANSFORMERS: transformers} | ({LLAMA: llama} if llama_cpp.THERE else {})


@cache
def reader(name: str, dtype: torch.dtype) -> Reader:
    """Each, once."""
    return READERS[name](dtype)


# Time


def reading(dtype: torch.dtype, count: int) -> dict[str, Run | Cannot]:
    """Reading so many tokens."""
    tokens, truth = looking.tokens(count), _truth(count)
    runs = {name: partial(_quietly, reader(name, dtype).read, tokens) for name in READERS}
    return _agreed(runs, truth, AGREES[dtype])


def writing(dtype: torch.dtype, count: int) -> dict[str, Run | Cannot]:
    """Writing 20 tokens after so many."""
    tokens, truth = looking.tokens(count + WRITES), _truth(count + WRITES)
    for name in READERS:
        _quietly(reader(name, dtype).read, tokens[:, :count])
    runs = {name: partial(_quietly, reader(name, dtype).write, tokens[:, count:]) for name in READERS}
    return _agreed(runs, truth, AGREES[dtype])


@cache
def _truth(count: int) -> Tensor:
    """The last logits of so many tokens, as Transformers has them in float32, reading all at once."""
    return _quietly(reader(TRANSFORMERS, FP32).read, looking.tokens(count))


def _agreed(runs: dict[str, Callable[[], Tensor]], truth: Tensor, within: float) -> dict[str, Run | Cannot]:
    """The runs that say the same of the last token; of each other one, how far away it is."""
    agreed: dict[str, Run | Cannot] = {}
    for name, run in runs.items():
        error = float((run().float() - truth).norm() / truth.norm())
        agreed[name] = run
        if not error <= within:
            agreed[name] = Cannot(f"gives other logits: {error:.1e} away from those of {TRANSFORMERS} in float32")
    return agreed


def _quietly(run: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return run(tokens)


# Memory


def share_of_memory(dtype: str) -> float:
    """What ours holds at its most, as a share of Transformers'."""
    return in_a_process(OURS, dtype) / in_a_process(TRANSFORMERS, dtype)


def in_a_process(name: str, dtype: str) -> int:
    """VmHWM of a process that reads 4,096 tokens and writes 20."""
    said = json.dumps([name, dtype, looking.tokens(LONG + WRITES).tolist(), torch.get_num_threads()])
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.models"],
        input=said,
        capture_output=True,
        text=True,
        cwd=looking.HOME,
    )
    if child.returncode:
        last = next(reversed(child.stderr.strip().splitlines()), f"it ended with code {child.returncode}")
        raise Cannot(f"the process of {name} failed: {last}")
    return int(child.stdout.splitlines()[-1])


def _held(name: str, dtype: str, ids: list[list[int]], threads: int) -> int:
    use_cores(threads)
    one, tokens = READERS[name](looking.NAMES[dtype]), torch.tensor(ids)
    _quietly(one.read, tokens[:, :64])  # loads the code and starts the threads
    Path("/proc/self/clear_refs").write_text("5")
    _quietly(one.read, tokens[:, :LONG])
    _quietly(one.write, tokens[:, LONG:])
    return resident("VmHWM")


# Training

TRAINED = {
    "vocab_size": 8192,
    "hidden_size": 320,
    "intermediate_size": 864,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
"""Of a Llama of 10 million parameters."""


def training() -> dict[str, Run]:
    """A step, forward, backward and AdamW, on one text of 1,024 tokens, from the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    stock = LlamaForCausalLM(LlamaConfig(**TRAINED))
    family, config = FAMILIES["llama"], stock.config.to_dict()
    mine = family.build(config)
    to_ours(family.names_of(config), {name: weight.clone() for name, weight in stock.state_dict().items()}, mine)
    tokens = looking.tokens(1024) % TRAINED["vocab_size"]
    steps = {
        OURS: _step(mine.train(), mine, tokens),
        TRANSFORMERS: _step(stock.train(), lambda tokens: stock(tokens, use_cache=False).logits, tokens),
    }
    for _ in range(3):
        losses = [float(step()) for step in steps.values()]
        if not abs(losses[0] - losses[1]) <= 1e-3 * losses[1]:
            raise Cannot(f"learns otherwise: its loss is {losses[0]:.4f}, that of {TRANSFORMERS} {losses[1]:.4f}")
    return dict(steps)


def _step(model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Tensor) -> Callable[[], Tensor]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(logits(tokens)[0, :-1], tokens[0, 1:])
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _cases() -> Iterator[Case]:
    for dtype, name, reads, writes in ((FP32, "fp32", 1.3, 1.5), (BF16, "bf16", 1.5, 2.0)):
        for count in (512, LONG):
            yield _contest(f"{name} SmolLM2, reading {count} tokens", partial(reading, dtype, count), reads)
        for count in (SHORT, LONG):
            made = partial(writing, dtype, count)
            yield _contest(f"{name} SmolLM2, writing {WRITES} tokens after {count}", made, writes)
        share = Quantity(partial(share_of_memory, str(dtype).removeprefix("torch.")))
        yield Case(f"{name} SmolLM2, memory of both at {LONG}", share, (Takes(TRANSFORMERS, 1, 1),), quick=False)
    yield Case(
        "a training step, 10 M parameters, 1024 tokens", Contest(training), (Faster(TRANSFORMERS, 1.2, 1.2),), False
    )


def _contest(name: str, make: Callable[[], dict[str, Run | Cannot]], faster: float) -> Case:
    goals: tuple[Goal, ...] = (Faster(TRANSFORMERS, faster, faster),)
    if llama_cpp.THERE:
        goals += (Faster(LLAMA, 1, 1),)
    return Case(name, Contest(make), goals, quick=False)


CASES = list(_cases())

if __name__ == "__main__":
    print(_held(*json.load(sys.stdin)))
