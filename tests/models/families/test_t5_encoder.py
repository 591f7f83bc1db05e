"""T5's encoder, saved without its decoder, computes here what it computes in Transformers."""

import pytest
from transformers import AutoModelForTextEncoding, T5Config

from clearhead.models.families.t5 import decodes
from tests.models.families.parity import Encoder, Pair
from tests.models.families.test_t5 import SMALL


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = T5Config(**SMALL, is_encoder_decoder=False)
    return Pair(config, tmp_path_factory.mktemp("encoder"), AutoModelForTextEncoding)


class TestT5Encoder(Encoder):
    """It alone."""


def test_either_way_of_saying_that_it_is_alone_will_do() -> None:
    assert not decodes({"is_encoder_decoder": False})
    assert not decodes({"is_encoder_decoder": True, "architectures": ["T5EncoderModel"]})
    assert decodes({"is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]})
    assert decodes({"architectures": None})
