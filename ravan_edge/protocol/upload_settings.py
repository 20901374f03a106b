"""How devices write their updates: options that server and simulator share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ravan_edge.codecs import LARGEST_SHARE, Codec, CodecName, codec_for
from ravan_edge.training.options import check_options, option, option_values

__all__ = ["UploadSettings"]

_UPLOADS = "Uploads"


@dataclass(frozen=True)
class UploadSettings:
    """The codec of updates.

    Raises:
        UsageError: A number is out of range; names the option.
    """

    codec: CodecName = option(
        CodecName.FP32,
        "How devices write the numbers of an update. Bytes a number: fp32 4, fp16 2, int8 1.03, int4 "
        "0.53, top-k 8 for each that is kept.",
        group=_UPLOADS,
    )
    top_k_share: float = option(
        0.1,
        "With --codec top-k: share of the numbers that is sent, the largest ones.",
        above=0,
        maximum=LARGEST_SHARE,
        group=_UPLOADS,
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def coder(self) -> Codec | None:
        """The codec; None: fp32, with which numbers are written as they are."""
        return codec_for(self.codec, self.top_k_share)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return option_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UploadSettings:
        """The inverse of :meth:`as_dict`; what is not there has its default."""
        known = dict(values)
        if "codec" in known:
            known["codec"] = CodecName(known["codec"])
        return cls(**known)
