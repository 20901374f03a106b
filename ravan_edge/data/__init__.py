"""Data of a device or a simulation: readers, labels, tokenising, batches, partitions."""

from ravan_edge.data.batches import (
    Batch,
    Draw,
    collate,
    local_round_batches,
    split_micro_batches,
)
from ravan_edge.data.dataset import NO_LABEL, TokenisedDataset, open_dataset
from ravan_edge.data.examples import Dataset, TextRows
from ravan_edge.data.labels import encode_labels, label_map, label_map_from_file, numbered_labels
from ravan_edge.data.pairs import PairRows, tokenise_pairs
from ravan_edge.data.partitions import (
    PartitionSpec,
    PartitionStatistics,
    describe_partition,
    parse_partition,
    partition,
    validation_split,
)
from ravan_edge.data.readers import DATA_SUFFIXES, read_rows
from ravan_edge.data.rows import Columns, ReaderLimits, Rows
from ravan_edge.data.sequences import MaskedRows, NextTokenRows
from ravan_edge.data.some_rows import SomeRows, part_of
from ravan_edge.data.tokenise import cache_folder, tokenise, tokenise_texts

__all__ = [
    "DATA_SUFFIXES",
    "NO_LABEL",
    "Batch",
    "Columns",
    "Dataset",
    "Draw",
    "MaskedRows",
    "NextTokenRows",
    "PairRows",
    "PartitionSpec",
    "PartitionStatistics",
    "ReaderLimits",
    "Rows",
    "SomeRows",
    "TextRows",
    "TokenisedDataset",
    "cache_folder",
    "collate",
    "describe_partition",
    "encode_labels",
    "label_map",
    "label_map_from_file",
    "local_round_batches",
    "numbered_labels",
    "open_dataset",
    "parse_partition",
    "part_of",
    "partition",
    "read_rows",
    "split_micro_batches",
    "tokenise",
    "tokenise_pairs",
    "tokenise_texts",
    "validation_split",
]
