"""The registry of peers: every way to compute attention that is measured."""

from benchmarks.peers import onnx_runtime, open_vino, ours, pytorch, with_jax
from benchmarks.peers.peer import Cannot, Peer, Ready

PEERS: dict[str, Peer] = {
    peer.name: peer for module in (ours, pytorch, onnx_runtime, open_vino, with_jax) for peer in module.PEERS
}

__all__ = ["PEERS", "Cannot", "Peer", "Ready"]
