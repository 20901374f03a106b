"""docs/artifact.md, section 8: its examples are what the code and the plain reference make of them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from ravan_edge.codecs import CODECS, CodecName
from ravan_edge.codecs.blocks import BLOCK
from ravan_edge.codecs.top_k import TopK
from ravan_edge.protocol import rounding_stream
from tests.codecs.reference_codecs import encoded

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text("utf-8")
CODECS_OF_PAGE = PAGE.split("### Codecs")[1].split("### Error feedback")[0]
EXAMPLES = {
    found[1]: found[2].split()
    for line in CODECS_OF_PAGE.split("| what | value |")[1].splitlines()
    if (found := re.fullmatch(r"\| (.+?) \| ([^|]+) \|", line))
}
PREFIX = "the same; "


def test_the_examples_are_those_of_the_code() -> None:
    numbers = [float(np.float32(text)) for text in EXAMPLES["numbers"]]
    vector = np.array(numbers, np.float32)
    stream = rounding_stream(7, 2, 5)
    int8, int4, half = (CODECS[CodecName(name)] for name in ("int8", "int4", "fp16"))
    found = int8.encode(vector, stream)
    first = "seed 7, round 2, device 5; `int8` `numbers`"
    assert found["numbers"].tolist() == [int(text) for text in EXAMPLES[first]]
    assert [f"{bits:04x}" for bits in found["scales"]] == EXAMPLES[
        f"{PREFIX}`int8` `scales`, as bits"
    ]
    found = int4.encode(vector, stream)
    assert [f"{byte:02x}" for byte in found["numbers"]] == EXAMPLES[
        f"{PREFIX}`int4` `numbers`, as bytes"
    ]
    assert [f"{bits:04x}" for bits in found["scales"]] == EXAMPLES[
        f"{PREFIX}`int4` `scales`, as bits"
    ]
    found = TopK(0.4).encode(vector, stream)
    for name in ("indices", "numbers"):
        texts = EXAMPLES[f"`top-k` with share 0.4: `{name}`"]
        assert found[name].tolist() == [int(text) for text in texts]
    bits = half.encode(vector, stream)["numbers"].view(np.uint16)
    assert [f"{each:04x}" for each in bits] == EXAMPLES["`fp16` `numbers`, as bits"]
    raw = encoded("int8", numbers, 0, 7, 2, 5)["numbers"]
    assert [str(code) for code in struct.unpack("9b", raw)] == EXAMPLES[first]


def test_the_forms_are_those_of_the_code() -> None:
    rows = {
        found[1]: (found[2], found[3])
        for line in CODECS_OF_PAGE.splitlines()
        if (found := re.fullmatch(r"\| `([a-z0-9-]+)` \| (.+?) \| .+ \| (yes|no) \|", line))
    }
    assert set(rows) == set(CODECS)
    sizes = {"n": 1000, "ceil(n / 2)": 500, f"ceil(n / {BLOCK})": 16, "k": 500}
    for name, (tensors, biased) in rows.items():
        codec = CODECS[CodecName(name)]
        assert codec.biased == (biased == "yes")
        forms = re.findall(r"`(\w+)` (\w+) \[([^\]]+)\]", tensors)
        assert {key: (dtype, (sizes[size],)) for key, dtype, size in forms} == codec.forms(1000)
