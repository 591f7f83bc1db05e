"""JAX's dot_product_attention, compiled by jit."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import Bind, Peer, Ready
from benchmarks.problem import Problem

JAX = "JAX"


def prepare(problem: Problem) -> Bind:
    """jax.nn.dot_product_attention, of tensors (B, T, heads, D); its threads are as many as the cores bound to."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    from jax import numpy

    bias = None if problem.dense_bias is None else numpy.asarray(problem.dense_bias.numpy(), _dtype(problem))
    window = None if problem.window is None else (problem.window - 1, 0)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, bias, is_causal=problem.causal, local_window_size=window)

    forward = jax.jit(attend)
    backward = jax.jit(lambda vjp, gradient: vjp(gradient))

    def array(x: Tensor) -> Any:
        return numpy.asarray(x.transpose(1, 2).float().contiguous().numpy(), _dtype(problem))

    def tensor(x: Any) -> Tensor:
        return torch.from_numpy(np.array(x, np.float32)).transpose(1, 2)

    def bind(q: Tensor, k: Tensor, v: Tensor) -> Ready:
        arrays = [array(x) for x in (q, k, v)]
        if not problem.backward:
            return Ready(lambda: forward(*arrays).block_until_ready(), tensor)
        _, vjp = jax.vjp(forward, *arrays)
        gradient = array(problem.gradient())
        return Ready(
            lambda: jax.block_until_ready(backward(vjp, gradient)), lambda grads: tuple(tensor(x) for x in grads)
        )

    return bind


def _dtype(problem: Problem) -> Any:
    from jax import numpy

    return {"fp32": numpy.float32, "bf16": numpy.bfloat16, "fp16": numpy.float16}[problem.name]


PEERS = [Peer(JAX, prepare, "jax")]
