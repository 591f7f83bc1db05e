"""A watch sees the attentions of Clearhead's own layers and models, as it sees any other's."""

from functools import partial

import pytest
import torch

import clearhead as ch
from clearhead import nn

T = 12


def tiny(**options: object) -> ch.models.Transformer:
    config = {
        "vocabulary": 50,
        "width": 32,
        "layers": 2,
        "attention": partial(nn.MultiHeadAttention, heads=4, kv_heads=2),
        "feed_forward": partial(nn.FeedForward, hidden=48),
        "norm": nn.LayerNorm,
        "position": nn.Rotary(8),
    }
    return ch.models.Transformer(ch.models.Config(**(config | options))).eval()


def weights_of(model: ch.models.Transformer, layer: int, tokens: torch.Tensor) -> torch.Tensor:
    """A layer's weights by their definition, from what enters its attention."""
    block, caught = model.stack.blocks[layer], []
    hook = block.attention.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    attention = block.attention
    q, k, _ = attention._project(caught[0])
    q, k = model.stack.position.turn(q, k, model.stack.position.angles(torch.arange(tokens.shape[1])[None]))
    scores = q @ k.repeat_interleave(2, 1).mT * 8**-0.5
    visible = attention.pattern.dense(tokens.shape[1], tokens.shape[1])
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


@pytest.mark.parametrize("pattern", [ch.causal(), ch.window(4), ch.full()])
def test_its_weights_are_those_that_the_layers_computed(pattern: ch.Pattern) -> None:
    model, tokens = tiny(pattern=pattern), torch.randint(50, (2, T))
    with torch.no_grad(), ch.watch(model) as seen:
        model(tokens)
    assert [layer.name for layer in seen.layers] == ["stack.blocks.0.attention", "stack.blocks.1.attention"]
    for number in (0, 1):
        exact = weights_of(model, number, tokens)
        for i in (0, 5, T - 1):
            torch.testing.assert_close(seen[number].steps[0].weights.rows([i])[:, 0], exact[0, :, i])


def test_a_watched_model_gives_what_it_gives_alone() -> None:
    model, tokens = tiny(), torch.randint(50, (2, T))
    with torch.no_grad():
        alone = model(tokens)
        with ch.watch(model):
            watched = model(tokens)
    torch.testing.assert_close(watched, alone)


def test_generation_with_a_cache_is_one_sequence() -> None:
    model, tokens = tiny(), torch.randint(50, (1, T))
    with torch.no_grad(), ch.watch(model) as seen:
        caches = model.caches()
        for start, stop in ((0, 7), (7, 8), (8, T)):
            model(tokens[:, start:stop], caches=caches)
    assert seen[1].lengths == (T, T)
    exact = weights_of(model, 1, tokens)
    for i in (3, 7, T - 1):
        row = seen[1].rows(i)
        torch.testing.assert_close(row.squeeze(), exact[0, :, i, : row.shape[-1]])


def test_sequences_that_are_unlike_long_are_decoded_under_a_watch_as_without_one() -> None:
    model, tokens, lengths = tiny(), torch.randint(50, (2, T)), torch.tensor([T, 5])
    made = []
    for watched in (False, True):
        caches = model.caches()
        with torch.no_grad():
            if watched:
                with ch.watch(model) as seen:
                    model(tokens, lengths=lengths, caches=caches)
                    made.append(model(torch.tensor([[1], [2]]), caches=caches))
            else:
                model(tokens, lengths=lengths, caches=caches)
                made.append(model(torch.tensor([[1], [2]]), caches=caches))
    torch.testing.assert_close(*made)
    assert seen.calls == 8  # two layers, two steps, and two texts that are seen one by one


def test_cross_attention_is_told_apart() -> None:
    encoder = tiny(pattern=ch.full()).config
    model = tiny(encoder=encoder)
    with torch.no_grad(), ch.watch(model) as seen:
        memory = model.encode(torch.randint(50, (1, 9)))
        model(torch.randint(50, (1, T)), memory=memory)
    kinds = {layer.name: layer.kind for layer in seen.layers}
    assert kinds["stack.blocks.0.cross"] == "cross"
    assert kinds["stack.blocks.0.attention"] == "self"
    assert seen["stack.blocks.0.cross"].steps[0].shape == (1, 4, T, 9)


def test_padding_is_left_out_of_the_table() -> None:
    model, tokens, lengths = tiny(), torch.randint(50, (2, T)), torch.tensor([T, 5])
    with torch.no_grad(), ch.watch(model) as seen:
        model(tokens, lengths=lengths)
    assert seen.heads(pandas=False)[0]["queries"] == T + 5


def test_a_layer_that_was_not_chosen_is_not_kept() -> None:
    model, tokens = tiny(), torch.randint(50, (1, T))
    with torch.no_grad(), ch.watch(model, layers=1) as seen:
        model(tokens)
    assert [layer.name for layer in seen.layers] == ["stack.blocks.1.attention"]
