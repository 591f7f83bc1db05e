"""Positions: where tokens stand, told by adding to them, by turning queries and keys, or by a bias."""

from clearhead.nn.positions import scaling
from clearhead.nn.positions.absolute import Learned, Sinusoidal
from clearhead.nn.positions.distance import T5, Alibi, Relative
from clearhead.nn.positions.position import Angles, Position
from clearhead.nn.positions.rope_config import rotary_of
from clearhead.nn.positions.rotary import Rotary

__all__ = ["T5", "Alibi", "Angles", "Learned", "Position", "Relative", "Rotary", "Sinusoidal", "rotary_of", "scaling"]
