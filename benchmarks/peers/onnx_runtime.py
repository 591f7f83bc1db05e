"""ONNX Runtime's two operators of attention, each run as a model of one node."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import Bind, Cannot, Peer, Ready
from benchmarks.problem import Problem

MULTI_HEAD, GROUPED = "ONNX Runtime MHA", "ONNX Runtime GQA"
LENGTHS = ("last", "total")


def multi_head(problem: Problem) -> Bind:
    """com.microsoft.MultiHeadAttention. It takes a window as a dense bias."""
    _check(problem)
    if problem.H != problem.K:
        raise Cannot("MultiHeadAttention has no grouped heads")
    bias = problem.dense_bias
    if problem.window is not None:
        hidden = torch.zeros(1, 1, *problem.mask.shape).masked_fill(~problem.mask, torch.finfo(torch.float32).min)
        bias = hidden if bias is None else bias + hidden
    slots = ["q", "k", "v", "", "", *([] if bias is None else ["bias"])]
    model = _Model("MultiHeadAttention", slots, ["out"], num_heads=problem.H, unidirectional=int(problem.causal))
    extra = {} if bias is None else {"bias": bias.numpy()}

    def bind(q: Tensor, k: Tensor, v: Tensor) -> Ready:
        return model.ready(problem, {"q": _flat(q), "k": _flat(k), "v": _flat(v), **extra})

    return bind


def grouped(problem: Problem) -> Bind:
    """com.microsoft.GroupQueryAttention, which is causal and knows windows.

    At decode the last key is the new one, and the cache is one buffer, past and present alike, as generating
    with ONNX Runtime has it.
    """
    _check(problem)
    decode = problem.queries == 1
    if not (decode or (problem.causal and problem.queries == problem.T)):
        raise Cannot("GroupQueryAttention is always causal")
    bias = problem.dense_bias
    slots = ["q", "k", "v", *(["past_k", "past_v"] if decode else ["", ""]), *LENGTHS]
    slots += [] if bias is None else ["", "", "", "bias"]
    window = {} if problem.window is None else {"local_window_size": problem.window}
    model = _Model(
        "GroupQueryAttention",
        slots,
        ["out", "present_k", "present_v"],
        num_heads=problem.H,
        kv_num_heads=problem.K,
        **window,
    )
    extra = {"last": np.full(problem.B, problem.T - 1, np.int32), "total": np.array(problem.T, np.int32)}
    extra |= {} if bias is None else {"bias": bias.numpy()}

    def bind(q: Tensor, k: Tensor, v: Tensor) -> Ready:
        new = slice(problem.T - 1 if decode else 0, None)
        feeds = {"q": _flat(q), "k": _flat(k[:, :, new]), "v": _flat(v[:, :, new]), **extra}
        if decode:
            feeds |= {"past_k": k.numpy(), "past_v": v.numpy()}
        return model.ready(problem, feeds)

    return bind


class _Model:
    """One node of com.microsoft, its inputs in the operator's slots, a slot left out being ""."""

    def __init__(self, operator: str, slots: list[str], outputs: list[str], **attributes: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper

        node = helper.make_node(operator, slots, outputs, domain="com.microsoft", **attributes)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name in LENGTHS else TensorProto.FLOAT, None)
            for name in slots
            if name
        ]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph([node], operator, inputs, made)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = outputs

    def ready(self, problem: Problem, feeds: dict[str, np.ndarray[Any, Any]]) -> Ready:
        """A run on these inputs; a present that has a past among them is written into the past's buffer."""
        from onnxruntime import OrtValue

        values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            past = values.get(name.replace("present", "past"))
            if past is None:
                binding.bind_output(name)
            else:
                binding.bind_ortvalue_output(name, past)

        def read(_: None) -> Tensor:
            out = torch.from_numpy(binding.get_outputs()[0].numpy())
            return out.view(problem.B, problem.queries, problem.H, problem.D).transpose(1, 2)

        return Ready(lambda: self.session.run_with_iobinding(binding), read)


def _check(problem: Problem) -> None:
    if problem.backward:
        raise Cannot("has no backward")
    if problem.dtype != torch.float32:
        raise Cannot(f"has no {problem.name} on a CPU")


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    """(B, heads, T, D) as (B, T, heads · D)."""
    array: np.ndarray[Any, Any] = x.transpose(1, 2).flatten(2).contiguous().numpy()
    return array


PEERS = [Peer(MULTI_HEAD, multi_head, "onnxruntime"), Peer(GROUPED, grouped, "onnxruntime")]
