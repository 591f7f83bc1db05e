"""Which heads copy what followed before? Random tokens, repeated, leave a model nothing else to go by.

The experiment of Olsson et al. 2022 on SmolLM2-135M: a sequence without meaning is given twice. A head that
looks, from each token of the second half, at the one after the same token in the first, does induction.

Run it: .venv/bin/python examples/induction.py
"""

import torch

import clearhead as ch

opened = ch.open_model("smollm2")
once = torch.randint(1000, 40_000, (1, 100), generator=torch.Generator().manual_seed(0))
ids = torch.cat([once, once], 1)

with torch.no_grad(), ch.watch(opened.model, keep="statistics") as seen:
    loss = opened.model(ids, labels=ids).loss
    first_half = opened.model(once, labels=once).loss

print(f"loss a token: {first_half:.2f} on the sequence, {loss:.2f} on it twice: the repeat is predicted, not learned\n")
for row in sorted(seen.heads(pandas=False), key=lambda row: -row["induction"])[:6]:
    print(f"layer {row['layer']:2} head {row['head']}  induction {row['induction']:.2f}", end="  ")
    print(f"(a uniform head: {row['induction_uniform']:.3f})")
