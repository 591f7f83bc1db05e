"""What is kept on disk is what would have been kept in memory, in files that anyone can read."""

import errno

import pytest
import torch
from safetensors.torch import load_file

import clearhead as ch
from clearhead import ClearheadError
from clearhead.scope import store
from clearhead.scope.store import OnDisk, Store


@pytest.fixture
def llama(zoo):
    return zoo["llama"]()


def watched(specimen, **options):
    with torch.no_grad(), ch.watch(specimen.model, **options) as seen:
        specimen.run()
    return seen


def test_the_weights_are_the_same_as_from_memory(specimen, tmp_path):
    memory, disk = watched(specimen, values=True), watched(specimen, store=tmp_path, values=True)
    for one, other in zip(memory.layers, disk.layers, strict=True):
        for a, b in zip(one.steps, other.steps, strict=True):
            assert torch.equal(a.weights.rows(range(a.shape[2])), b.weights.rows(range(a.shape[2])))
            assert (a.v is None and b.v is None) or torch.equal(a.v, b.v)
    for one, other in zip(memory.heads(pandas=False), disk.heads(pandas=False), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


def test_nothing_of_q_and_k_is_kept_in_memory(llama, tmp_path):
    for layer in watched(llama, store=tmp_path).layers:
        (step,) = layer.steps
        assert step.call.q.numel() == step.call.k.numel() == step.call.v.numel() == 0
        assert step.call.q.untyped_storage().nbytes() == 0 and step.call.k.untyped_storage().nbytes() == 0
        assert step.values is None


def test_there_is_a_file_a_call_that_anyone_can_read(llama, tmp_path):
    folder = tmp_path / "new" / "folder"
    seen = watched(llama, store=folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.layers.0.self_attn.0.safetensors",
        "model.layers.1.self_attn.1.safetensors",
    ]
    read = load_file(folder / "model.layers.1.self_attn.1.safetensors")
    assert sorted(read) == ["k", "q"]
    assert read["q"].shape == (2, 4, 9, 8) and read["k"].shape == (2, 2, 9, 8)
    assert torch.equal(read["q"], seen[1].weights.call.q)


def test_a_generation_puts_each_key_on_disk_once(llama, tmp_path):
    ids = llama.inputs["input_ids"]
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with ch.watch(llama.model, store=tmp_path) as disk:
        tokens = llama.model.generate(ids, **options)
    with ch.watch(llama.model) as memory:
        llama.model.generate(ids, **options)
    T = tokens.shape[1] - 1
    for one, other in zip(memory.layers, disk.layers, strict=True):
        assert torch.equal(one.rows(range(T), batch=1), other.rows(range(T), batch=1))
    first = [load_file(path)["k"].shape[2] for path in tmp_path.glob("model.layers.0.*")]
    assert sorted(first) == [1, 1, 1, 9]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_type_is_written_as_safetensors_reads_it(dtype, tmp_path):
    q, k = torch.randn(2, 5, 3, 4).to(dtype).transpose(1, 2), torch.randn(2, 1, 5, 0).to(dtype)
    read = load_file(Store(tmp_path).write("layer", q=q, k=k, v=None).path)
    assert torch.equal(read["q"], q) and read["k"].shape == k.shape and sorted(read) == ["k", "q"]


def test_a_tensor_is_read_as_a_map_of_its_file(tmp_path):
    x = torch.randn(1, 1, 2**20, 4)  # 16 MiB
    file = Store(tmp_path).write("layer", q=x)

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    before = resident()
    read = file.read("q")
    assert resident() - before < 4 * 2**20
    assert torch.equal(read, x)


def test_a_folder_with_files_of_an_earlier_watch_is_refused(llama, tmp_path):
    watched(llama, store=tmp_path)
    said = r"store: .* holds files already, as model.layers.*safetensors; name an empty folder\."
    with pytest.raises(ClearheadError, match=said), ch.watch(llama.model, store=tmp_path):
        pass


def test_what_can_be_no_folder_is_refused(llama, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClearheadError, match=r"store: .*file can't be a folder for q and k: File exists"):
        watched(llama, store=tmp_path / "file")


def test_statistics_alone_have_nothing_to_store(llama, tmp_path):
    with pytest.raises(ClearheadError, match="store: keep='statistics' keeps nothing that could go to disk"):
        watched(llama, keep="statistics", store=tmp_path)


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_save", full)
    with pytest.raises(ClearheadError, match=r"store: .*layer.0.safetensors cannot be written: No space left"):
        Store(tmp_path).write("layer", q=torch.ones(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fits", [0, 1])
def test_a_watch_on_a_full_disk_ends_with_that_sentence(fits, llama, tmp_path, monkeypatch):
    save, saved = store._save, []

    def full(tensors, path):
        if len(saved) == fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(tensors, path)

    monkeypatch.setattr(store, "_save", full)
    said = rf"store: .*layers.{fits}.*safetensors cannot be written: No space left on device\."
    with pytest.raises(ClearheadError, match=said), torch.no_grad(), ch.watch(llama.model, store=tmp_path) as seen:
        llama.run()
    assert len(seen) == fits and seen.calls == fits


def test_a_file_that_was_deleted_is_named(tmp_path):
    with pytest.raises(ClearheadError, match=r"gone.safetensors, in which the watch stored q and k, is gone\."):
        OnDisk(tmp_path / "gone.safetensors").read("q")
