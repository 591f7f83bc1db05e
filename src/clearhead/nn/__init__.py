"""Layers: heads, positions, caches, and what stands beside attention in a transformer."""

from clearhead.nn.block import Block
from clearhead.nn.caches.cache import Cache
from clearhead.nn.caches.growing import Growing
from clearhead.nn.caches.latent import Latent
from clearhead.nn.caches.paged import Paged
from clearhead.nn.caches.pool import Pool
from clearhead.nn.caches.quantised import Quantised
from clearhead.nn.caches.sliding import Sliding
from clearhead.nn.caches.static import Static
from clearhead.nn.experts import Experts, balance_loss, routings
from clearhead.nn.feed_forward import FeedForward
from clearhead.nn.heads import MultiHeadAttention
from clearhead.nn.keras_multihead import KerasMultiHeadAttention
from clearhead.nn.latent import MultiHeadLatentAttention
from clearhead.nn.linear import Linear
from clearhead.nn.norms import LayerNorm, RMSNorm
from clearhead.nn.positions import scaling
from clearhead.nn.positions.absolute import Learned, Sinusoidal
from clearhead.nn.positions.distance import T5, Alibi, Relative
from clearhead.nn.positions.position import Position
from clearhead.nn.positions.rotary import Rotary
from clearhead.nn.recurrent import AdditiveAttention, MultiplicativeAttention
from clearhead.nn.torch_multihead import TorchMultiheadAttention

__all__ = [
    "T5",
    "AdditiveAttention",
    "Alibi",
    "Block",
    "Cache",
    "Experts",
    "FeedForward",
    "Growing",
    "KerasMultiHeadAttention",
    "Latent",
    "LayerNorm",
    "Learned",
    "Linear",
    "MultiHeadAttention",
    "MultiHeadLatentAttention",
    "MultiplicativeAttention",
    "Paged",
    "Pool",
    "Position",
    "Quantised",
    "RMSNorm",
    "Relative",
    "Rotary",
    "Sinusoidal",
    "Sliding",
    "Static",
    "TorchMultiheadAttention",
    "balance_loss",
    "routings",
    "scaling",
]
