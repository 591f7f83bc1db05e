"""Who may see whom: the patterns of the field, drawn. Run it: .venv/bin/python examples/patterns.py"""

import clearhead as ch

PATTERNS = [
    ch.causal(),
    ch.causal() & ch.window(4),
    ch.causal() & (ch.window(4) | ch.first(2)),
    ch.prefix(5),
    ch.causal() & ch.chunks(4, overlap=2),
    ch.causal() & ch.dilated(4, step=3),
    ch.longformer(4, tokens=(0, 8)),
    ch.bigbird(size=2, random=1),
    ch.causal() & ~ch.window(3),
]

for pattern in PATTERNS:
    print(f"{pattern}: {pattern.pairs(16, 16)} of {16 * 16} pairs")
    pattern.draw(16)
    print()
