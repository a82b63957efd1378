"""Features of the images in a folder, as a job that can be killed and started again.

In: a folder, a module with its transform, and where the table goes.
Out: a Parquet file or folder, put together from shards, and a table of the files that could not be read. The work is
done by this process, divided among the ranks of torchrun, or by Ray.
"""

from truncate._jobs.identity import code_hash, versions, weights_hash
from truncate._jobs.images import Found, decode, find, load, path_text
from truncate._jobs.ranks import joined
from truncate._jobs.reading import Reading, fatal

__all__ = [
    "Found",
    "Reading",
    "code_hash",
    "decode",
    "fatal",
    "find",
    "joined",
    "load",
    "path_text",
    "versions",
    "weights_hash",
]
