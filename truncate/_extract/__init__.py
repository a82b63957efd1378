"""Features of many batches.

In: a module, usually a result of `truncate`, and batches of tensors.
Out: arrays (`Features`), or a file: Parquet, .npy or .safetensors. Also here: the parts of it from which the command
line and Ray put together the features of folders (`Batch`, `Forward`, `Extractor`, `Bar`).
"""

from truncate._extract.batches import Batch, Column, Reader, check_rows, columns_of
from truncate._extract.compute import Forward, computed, device_of, evaluating, mapped
from truncate._extract.extractor import Extractor
from truncate._extract.features import Features, extract, gathered
from truncate._extract.progress import Bar
from truncate._extract.rows import check_row
from truncate._extract.sinks import Memory, parquet_room

__all__ = [
    "Bar",
    "Batch",
    "Column",
    "Extractor",
    "Features",
    "Forward",
    "Memory",
    "Reader",
    "check_row",
    "check_rows",
    "columns_of",
    "computed",
    "device_of",
    "evaluating",
    "extract",
    "gathered",
    "mapped",
    "parquet_room",
]
