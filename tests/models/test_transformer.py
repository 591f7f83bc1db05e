"""A Transformer is what its Config says: embeddings, layers, head; whole, in pieces, padded, and with an encoder."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead import nn
from clearhead.errors import ClearheadError
from clearhead.models import Config, Transformer, generate

T, V, E = 10, 40, 24


def config(**options: Any) -> Config:
    return Config(
        **(
            {
                "vocabulary": V,
                "width": E,
                "layers": 3,
                "attention": partial(nn.MultiHeadAttention, heads=4, kv_heads=2),
                "feed_forward": partial(nn.FeedForward, hidden=32),
                "norm": nn.RMSNorm,
                "position": nn.Rotary(6),
            }
            | options
        )
    )


def made(**options: Any) -> Transformer:
    model = Transformer(config(**options)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens(B: int = 2, T: int = T) -> Tensor:
    return torch.randint(V, (B, T))


def test_it_is_its_parts_one_after_the_other() -> None:
    model, ids = made(embedding_scale=3.0, head="own", logit_softcap=5.0), tokens()
    x = model.tokens.weight[ids] * 3.0
    for block in model.stack.blocks:
        x = block(x)
    logits = model.stack.norm(x) @ model.head.weight.T
    torch.testing.assert_close(model(ids), 5.0 * torch.tanh(logits / 5.0))


def test_a_hook_on_the_head_is_called() -> None:
    model, seen = made(head="own", head_bias=True), []
    model.head.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(model(tokens()), seen[0] + model.head_bias)


def test_positions_are_added_to_tokens() -> None:
    model, ids = made(position=nn.Learned(T, E), pattern=ch.full(), embedding_norm=True, segments=2), tokens()
    segments = torch.randint(2, ids.shape)
    x = model.tokens.weight[ids] + model.stack.position.table + model.segments.weight[segments]
    torch.testing.assert_close(model.embed(ids, torch.arange(T)[None], segments), model.embedding_norm(x))


def test_patterns_go_round() -> None:
    two = (ch.window(3), ch.causal())
    model = made(pattern=two)
    assert [block.attention.pattern for block in model.stack.blocks] == [two[0], two[1], two[0]]


@pytest.mark.parametrize("pattern", [ch.causal(), ch.window(3), (ch.window(3), ch.causal())])
def test_pieces_with_caches_give_what_the_whole_gives(pattern: Any) -> None:
    model, ids = made(pattern=pattern), tokens()
    caches = model.caches()
    with torch.no_grad():
        pieces = [model(ids[:, a:b], caches=caches) for a, b in ((0, 4), (4, 5), (5, T))]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids))


def test_padding_changes_nothing_and_the_last_token_is_the_last_real_one() -> None:
    model, ids, lengths = made(), tokens(), torch.tensor([T, 4])
    with torch.no_grad():
        padded, alone = model(ids, lengths=lengths), model(ids[1:, :4])
        torch.testing.assert_close(padded[1, :4], alone[0])
        torch.testing.assert_close(model(ids, lengths=lengths, last=True), padded[[0, 1], lengths - 1])
        torch.testing.assert_close(model(ids, last=True), model(ids)[:, -1])


def test_an_uneven_batch_goes_on_with_caches() -> None:
    model, ids, lengths, more = made(), tokens(), torch.tensor([T, 4]), tokens(T=3)
    caches = model.caches()
    with torch.no_grad():
        model(ids, lengths=lengths, caches=caches)
        after = model(more, lengths=torch.tensor([3, 2]), caches=caches)
        for b, (first, second) in enumerate(((T, 3), (4, 2))):
            whole = model(torch.cat((ids[b : b + 1, :first], more[b : b + 1, :second]), 1))
            torch.testing.assert_close(after[b, :second], whole[0, first:])


def test_an_encoder_is_read_by_cross_attention() -> None:
    model = made(encoder=config(pattern=ch.full(), layers=2))
    source, target, lengths = tokens(T=7), tokens(), torch.tensor([7, 3])
    with torch.no_grad():
        out = model(target, memory=model.encode(source, lengths))
        alone = model(target[1:], memory=model.encode(source[1:, :3]))
        torch.testing.assert_close(out[1:], alone)
        caches, memory = model.caches(), model.encode(source, lengths)
        pieces = [model(target[:, a:b], memory=memory, caches=caches) for a, b in ((0, 6), (6, 7), (7, T))]
        torch.testing.assert_close(torch.cat(pieces, 1), out)
        kept = memory.take(torch.tensor([1, 1]))
        torch.testing.assert_close(model(target[1:].expand(2, -1), memory=kept), alone.expand(2, -1, -1))
    assert model.encoder.tokens is model.tokens


def test_checkpointing_spares_memory_and_keeps_gradients() -> None:
    model, ids = made().train(), tokens()
    grads = []
    for model.stack.checkpointing in (False, True):
        model.zero_grad()
        model(ids).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*grads)


def test_a_tiny_decoder_learns_to_count() -> None:
    model = Transformer(config(layers=2, vocabulary=12)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        ids = (torch.randint(12, (16, 1)) + torch.arange(T)) % 12
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        assert model((torch.arange(6)[None] + 3) % 12, last=True).argmax(-1).tolist() == [9]


def test_two_models_of_one_config_share_no_parameter() -> None:
    described = config(position=nn.Learned(T, E))
    one, other = Transformer(described), Transformer(described)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}


def test_a_model_without_a_head_gives_the_tokens_vectors() -> None:
    assert made(head=None)(tokens()).shape == (2, T, E)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ClearheadError, match="needs a vocabulary="):
        Transformer(replace(config(), vocabulary=None))
    with pytest.raises(ClearheadError, match="has no encoder; only an encoder–decoder"):
        made().encode(tokens())


def test_a_decoder_of_memories_is_not_run_without_one_nor_another_with_one() -> None:
    both, alone = made(encoder=config(pattern=ch.full(), layers=1)), made()
    with pytest.raises(ClearheadError, match="got no memory, which its cross-attention reads"):
        both(tokens())
    with torch.no_grad(), pytest.raises(ClearheadError, match="has no cross-attention to read it"):
        alone(tokens(), memory=both.encode(tokens()))


def test_a_model_that_trains_does_not_write() -> None:
    with pytest.raises(ClearheadError, match="the model is training"):
        made().train().generate([1, 2])


@pytest.mark.parametrize("wrong", [-1, V])
def test_a_token_that_is_not_in_the_vocabulary_is_named(wrong: int) -> None:
    with pytest.raises(
        ClearheadError, match=rf"got numbers from {min(3, wrong)} to {max(3, wrong)}; .* from 0 to {V - 1}"
    ):
        made()(torch.tensor([[3, wrong]]))


def test_each_layer_wants_a_cache_of_its_own() -> None:
    model = made()
    for caches in ([], [nn.Growing()], model.caches()[:2], [nn.Growing()] * 3, [*model.caches(), nn.Growing()]):
        with pytest.raises(ClearheadError, match=rf"caches: got {len(caches)} for 3 layers; expected one a layer"):
            model(tokens(), caches=caches)


def test_a_model_has_layers_and_a_pattern() -> None:
    for wrong in ({"layers": 0}, {"pattern": ()}):
        with pytest.raises(ClearheadError, match=r"Config: got \d layers and pattern .*; expected at least 1 of each"):
            Transformer(config(**wrong))


def test_segments_are_not_passed_over() -> None:
    with pytest.raises(ClearheadError, match="segments: this model tells none apart"):
        made()(tokens(), segments=torch.zeros(2, T, dtype=torch.int64))


@pytest.mark.parametrize("position", [nn.Rotary(6), nn.Alibi(4), nn.T5(4, bidirectional=False)], ids=str)
def test_checkpointing_drops_the_same_on_the_way_back(position: nn.Position) -> None:
    drops = {"attention": partial(nn.MultiHeadAttention, heads=4, dropout=0.2), "dropout": 0.3, "position": position}
    model, ids, gradients = made(**drops).train(), tokens(), []
    for model.stack.checkpointing in (False, True):
        torch.manual_seed(0)
        model.zero_grad()
        model(ids, lengths=torch.tensor([T, 4])).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(once, twice)


def test_a_prompt_read_in_pieces_gives_the_last_logits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, lengths = made(), tokens(3), torch.tensor([10, 3, 8])
    monkeypatch.setattr(generate, "PIECE", 4)
    whole = model(ids, lengths=lengths)[torch.arange(3), lengths - 1]
    torch.testing.assert_close(generate.prefill(model, ids, model.caches(), lengths=lengths), whole)
    torch.testing.assert_close(generate.prefill(model, ids, model.caches()), model(ids)[:, -1])
