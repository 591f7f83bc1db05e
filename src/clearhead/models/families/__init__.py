"""Families of models, a file each: what is special about its attention, and how its checkpoints read."""

from clearhead.models.families.bert import BERT
from clearhead.models.families.bloom import BLOOM
from clearhead.models.families.clip import CLIP
from clearhead.models.families.family import Family
from clearhead.models.families.gemma2 import GEMMA2
from clearhead.models.families.gpt2 import GPT2
from clearhead.models.families.gpt_oss import GPT_OSS
from clearhead.models.families.llama import LLAMA
from clearhead.models.families.mistral import MISTRAL
from clearhead.models.families.mixtral import MIXTRAL
from clearhead.models.families.mpt import MPT
from clearhead.models.families.neox import NEOX
from clearhead.models.families.original import MARIAN
from clearhead.models.families.qwen import QWEN
from clearhead.models.families.t5 import T5
from clearhead.models.families.vit import VIT
from clearhead.models.families.whisper import WHISPER

FAMILIES: dict[str, Family] = {
    name: family
    for family in (
        BERT,
        BLOOM,
        CLIP,
        GEMMA2,
        GPT2,
        GPT_OSS,
        LLAMA,
        MARIAN,
        MISTRAL,
        MIXTRAL,
        MPT,
        NEOX,
        QWEN,
        T5,
        VIT,
        WHISPER,
    )
    for name in family.types
}
"""By the `model_type` of a checkpoint's config.json."""
