"""All codecs, by name."""

from __future__ import annotations

from collections.abc import Mapping

from ravan_edge.codecs.codec import Codec, CodecName
from ravan_edge.codecs.half import Half
from ravan_edge.codecs.int4 import Int4
from ravan_edge.codecs.int8 import Int8
from ravan_edge.codecs.top_k import TopK

__all__ = ["CODECS", "codec_for"]

CODECS: Mapping[CodecName, Codec] = {
    codec.name: codec for codec in (Half(), Int8(), Int4(), TopK())
}
"""Those that read; ``top-k`` writes with the largest share there can be."""


def codec_for(name: CodecName, top_k_share: float) -> Codec | None:
    """The codec that writes; None: ``fp32``, which is none.

    Args:
        name: Its name.
        top_k_share: What ``top-k`` keeps.
    """
    if name is CodecName.FP32:
        return None
    return TopK(top_k_share) if name is CodecName.TOP_K else CODECS[name]
