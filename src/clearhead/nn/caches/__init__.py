"""Caches: what an attention remembers of the tokens before."""

from clearhead.nn.caches.cache import Cache
from clearhead.nn.caches.growing import Growing
from clearhead.nn.caches.latent import Latent
from clearhead.nn.caches.paged import Paged
from clearhead.nn.caches.pool import Pool
from clearhead.nn.caches.quantised import Quantised
from clearhead.nn.caches.sliding import Sliding
from clearhead.nn.caches.static import Static

__all__ = ["Cache", "Growing", "Latent", "Paged", "Pool", "Quantised", "Sliding", "Static"]
