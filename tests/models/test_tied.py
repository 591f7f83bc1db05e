"""A tied weight is found by whichever of its names a checkpoint stores it, as in Transformers."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import clearhead as ch

LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
T5 = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
LIKE_LLAMA = LLAMA | {"vocab_size": 11, "max_position_embeddings": 8, "tie_word_embeddings": True, "pad_token_id": None}
MODELS = {
    "llama": (transformers.LlamaConfig(**LIKE_LLAMA), "model.embed_tokens", ("lm_head",)),
    "gpt2": (transformers.GPT2Config(**GPT2, vocab_size=11), "transformer.wte", ("lm_head",)),
    "t5": (
        transformers.T5Config(**T5, vocab_size=11),
        "shared",
        ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens"),
    ),
}


@pytest.mark.parametrize(("kind", "copy"), [(kind, copy) for kind, (*_, copies) in MODELS.items() for copy in copies])
def test_a_tied_weight_may_be_stored_by_its_other_name_alone(kind: str, copy: str, tmp_path: Path) -> None:
    config, name, copies = MODELS[kind]
    auto = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    theirs = auto.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = {key: weight for key, weight in load_file(file).items() if key.removesuffix(".weight") not in copies}
    stored[f"{copy}.weight"] = stored.pop(f"{name}.weight")
    save_file(stored, file, {"format": "pt"})
    model = ch.models.load(tmp_path)
    assert torch.equal(model.get_parameter("tokens.weight"), theirs.get_input_embeddings().weight)


def test_an_own_head_does_not_stand_in_for_the_embedding(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**LIKE_LLAMA | {"tie_word_embeddings": False})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    del stored["model.embed_tokens.weight"]
    save_file(stored, file, {"format": "pt"})
    with pytest.raises(ch.ClearheadError, match=r"1 missing: model\.embed_tokens\.weight"):
        ch.models.load(tmp_path)
