"""How the numbers of an update are written: fewer bytes for a bounded error (docs/artifact.md, section 8)."""

from ravan_edge.codecs.codec import Codec, CodecName, CodedTensors, TensorForms
from ravan_edge.codecs.feedback import Transmission, transmit
from ravan_edge.codecs.registry import CODECS, codec_for
from ravan_edge.codecs.top_k import LARGEST_SHARE

__all__ = [
    "CODECS",
    "LARGEST_SHARE",
    "Codec",
    "CodecName",
    "CodedTensors",
    "TensorForms",
    "Transmission",
    "codec_for",
    "transmit",
]
