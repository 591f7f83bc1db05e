"""Of a repository on the hub, what a model needs is fetched and no more; a pickle only where there is nothing else."""

import errno
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from transformers import GPT2Config, GPT2LMHeadModel

from clearhead import ClearheadError
from clearhead.models.hub import downloaded
from clearhead.models.loading import load


class Hub:
    """Stands for huggingface_hub, with one repository; `asked` is what it was asked to fetch."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.asked: list[str] = []
        self.down = False
        self.fails: Exception | None = None

    def model_info(self, name: str, **options: Any) -> None:
        if self.down:
            raise ConnectionError("no route")

    def list_repo_files(self, name: str) -> list[str]:
        if self.fails is not None:
            raise self.fails
        assert name == "owner/model"
        return [file.relative_to(self.files).as_posix() for file in self.files.rglob("*") if file.is_file()]

    def snapshot_download(self, name: str, allow_patterns: Any = None, local_files_only: bool = False) -> str:
        assert local_files_only == self.down
        if self.down and not (self.files / "config.json").exists():  # as after fetching a GGUF file alone
            if any(self.files.iterdir()):
                raise errors.IncompleteSnapshotError("is incomplete", str(self.files))
            raise errors.LocalEntryNotFoundError("Cannot find")
        self.asked = sorted(allow_patterns or ())
        return str(self.files)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fake.list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def put(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.touch()


OTHERS = ("README.md", "flax_model.msgpack", "tf_model.h5", "onnx/model.onnx", "original/config.json", "rust_model.ot")


def test_safetensors_are_fetched_and_no_copy_of_them(hub: Hub) -> None:
    wanted = ["config.json", "merges.txt", "model.safetensors", "tokenizer.json", "tokenizer.model", "vocab.json"]
    put(hub.files, *wanted, *OTHERS, "pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors")
    assert downloaded("owner/model") == hub.files
    assert hub.asked == wanted


def test_pickles_are_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    shards = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    put(hub.files, "config.json", "pytorch_model.bin.index.json", *shards, "training_args.bin", *OTHERS)
    downloaded("owner/model")
    assert hub.asked == ["config.json", *shards, "pytorch_model.bin.index.json"]


def test_without_a_network_what_was_fetched_before_is_opened(hub: Hub) -> None:
    put(hub.files, "config.json", "pytorch_model.bin", "a-Q4_0.gguf")
    hub.down = True
    assert downloaded("owner/model") == hub.files
    assert downloaded("owner/model:q4_0") == hub.files / "a-Q4_0.gguf"
    assert hub.asked == []


def test_without_a_network_a_gguf_file_that_was_fetched_alone_is_found(hub: Hub) -> None:
    hub.down = True
    with pytest.raises(ClearheadError, match=r"No model 'owner/model' was found: .*cannot be reached \(no route\)"):
        downloaded("owner/model:Q4_0")
    put(hub.files, "a-Q4_0.gguf")
    assert downloaded("owner/model:Q4_0") == hub.files / "a-Q4_0.gguf"
    with pytest.raises(ClearheadError, match=r"what was fetched before of 'owner/model' has 0 GGUF files of .*'Q8_0'"):
        downloaded("owner/model:Q8_0")
    with pytest.raises(ClearheadError, match=r"what was fetched before of 'owner/model' holds no weights"):
        downloaded("owner/model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.GatedRepoError.__new__(errors.GatedRepoError), r"ask for access at https://.*: hf auth login"),
        (errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError), "the hub has none of that name"),
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device\); make room, or set HF_HOME"),
        (TimeoutError("The read operation timed out."), r"fetched from the hub \(The read .* out\); try again: what"),
    ],
)
def test_what_goes_wrong_while_files_come_is_a_sentence(error: Exception, said: str, hub: Hub) -> None:
    hub.fails = error
    with pytest.raises(ClearheadError, match=said):
        load("owner/model")


@torch.no_grad()
def test_a_repository_with_a_pickle_alone_is_loaded(hub: Hub) -> None:
    config = GPT2Config(vocab_size=13, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    theirs = GPT2LMHeadModel(config).eval()
    config.save_pretrained(hub.files)
    torch.save(theirs.state_dict(), hub.files / "pytorch_model.bin")
    tokens = torch.arange(13)[None]
    torch.testing.assert_close(load("owner/model")(tokens), theirs(tokens).logits)


def test_a_gguf_file_is_fetched_by_its_quantisation(hub: Hub) -> None:
    large = [f"Q8_0/a-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    put(hub.files, "a.Q4_K_M.gguf", "a.Q4_K_S.gguf", "mmproj-a-Q8_0.gguf", *large, "config.json")
    assert downloaded("owner/model:Q4_K_M") == hub.files / "a.Q4_K_M.gguf"
    assert hub.asked == ["a.Q4_K_M.gguf"]
    assert downloaded("owner/model:q8_0") == hub.files / large[0]
    assert hub.asked == large
    with pytest.raises(ClearheadError, match=r"has 0 GGUF files of quantisation 'Q4_K'; expected one of: Q8_0/a-Q8_0"):
        downloaded("owner/model:Q4_K")
    put(hub.files, "b.Q4_K_S.gguf")
    with pytest.raises(ClearheadError, match=r"has 2 GGUF files of quantisation 'Q4_K_S'; .* one of: a\.Q4_K_S, b\."):
        downloaded("owner/model:Q4_K_S")


def test_other_peoples_weights_are_left_alone(hub: Hub) -> None:
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    put(hub.files, "config.json", "model.fp16.safetensors", *parts, "model.safetensors.index.json")
    downloaded("owner/model")
    assert hub.asked == ["config.json", *parts, "model.safetensors.index.json"]
    put(hub.files, "a-mmproj-Q8_0.gguf", "a-Q8_0.gguf", "MMPROJ-Q8_0.gguf")
    assert downloaded("owner/model:Q8_0") == hub.files / "a-Q8_0.gguf"


def test_a_file_that_is_there_whole_and_in_parts_is_fetched_whole(hub: Hub) -> None:
    put(hub.files, "config.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), "model.safetensors")
    downloaded("owner/model")
    assert hub.asked == ["config.json", "model.safetensors"]
    put(hub.files, *(f"a-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)), "a-Q8_0.gguf")
    assert downloaded("owner/model:Q8_0") == hub.files / "a-Q8_0.gguf"
    assert hub.asked == ["a-Q8_0.gguf"]


def test_a_quantisation_of_a_repository_without_gguf_files_is_refused(hub: Hub) -> None:
    put(hub.files, "config.json", "model.safetensors")
    with pytest.raises(ClearheadError, match=r"has no GGUF files, of .* 'Q4_0' or .* name it 'owner/model'\."):
        downloaded("owner/model:Q4_0")


def test_a_repository_without_weights_is_named(hub: Hub) -> None:
    put(hub.files, "config.json", *OTHERS)
    with pytest.raises(
        ClearheadError, match=r"'owner/model' holds no weights that .* model\.safetensors, whole or in parts or pyt"
    ):
        downloaded("owner/model")
    put(hub.files, "a.Q4_0.gguf")
    with pytest.raises(ClearheadError, match=r"by its quantisation, as in 'owner/model:Q4_K_M': a\.Q4_0\.gguf"):
        downloaded("owner/model")
