"""OpenVINO's ScaledDotProductAttention; bf16 by the hint of the inference's precision."""

import torch
from torch import Tensor

from benchmarks.peers.peer import Bind, Cannot, Peer, Ready
from benchmarks.peers.pytorch import written_mask
from benchmarks.problem import Problem

OPENVINO = "OpenVINO"


def prepare(problem: Problem) -> Bind:
    """A compiled model of the one operation. At decode a group's query heads are rows of one head."""
    import openvino
    from openvino import opset13 as operations

    if problem.backward:
        raise Cannot("has no backward")
    group = problem.H // problem.K
    if group > 1 and problem.queries != 1:
        raise Cannot("has no grouped heads")
    kinds = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}
    if problem.dtype not in kinds:
        raise Cannot(f"has no {problem.name} on a CPU")
    kind = kinds[problem.dtype]

    def shared(x: Tensor) -> openvino.Tensor:
        if x.dtype == torch.float32:
            return openvino.Tensor(x.numpy(), shared_memory=True)
        return openvino.Tensor(x.view(torch.uint16).numpy(), list(x.shape), kind)

    mask = written_mask(problem)
    if mask is not None:  # a float one: OpenVINO's own bool masks mean the same, and are slower
        mask = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else mask
        mask = mask.to(problem.dtype).view(-1, *mask.shape[-3:] if mask.dim() > 2 else (1, *mask.shape)).contiguous()
    rows = (problem.B, problem.K, group, problem.D) if group > 1 else (problem.B, problem.H, problem.queries, problem.D)
    keys = (problem.B, problem.K, problem.T, problem.D)
    shapes = [rows, keys, keys, *([] if mask is None else [mask.shape])]
    inputs = [operations.parameter(list(shape), kind) for shape in shapes]
    attended = operations.scaled_dot_product_attention(*inputs, causal=problem.causal and mask is None)
    options = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(openvino.Model([attended], inputs), "CPU", options)

    def bind(q: Tensor, k: Tensor, v: Tensor) -> Ready:
        request = compiled.create_infer_request()
        inputs = dict(enumerate(shared(x) for x in (q.view(rows), k, v, *([] if mask is None else [mask]))))

        def read(_: object) -> Tensor:
            out = torch.from_numpy(request.get_output_tensor(0).data)
            return out.view(problem.dtype).view(q.shape).clone()

        return Ready(lambda: request.infer(inputs, share_inputs=True, share_outputs=True), read)

    return bind


PEERS = [Peer(OPENVINO, prepare, "openvino")]
