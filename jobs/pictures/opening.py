"""A source opened for a network: which files it reads, and what it takes in a person's words."""

from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import Inputs, kind_of_input

WITHOUT_FILES = {"face": "pictures", "canvas": "pictures"}
"""kinds of input that no file is of: what the files are that they are made of"""

CANVAS_ROWS = 32
"""of a slice of whole pictures: each is as much work as some cut to a network's size"""


def open_source(
    source: Source, storage: Storage, decode: DecodeConfig, preprocess: Inputs
) -> Origin:
    """The source as the network's decoder reads it."""
    kind = kind_of_input(preprocess)
    return Origin(
        source=source,
        storage=storage,
        suffixes=make_decoder(decode, preprocess).suffixes,
        takes=WITHOUT_FILES.get(kind, f"{kind}s"),
        least_rows=CANVAS_ROWS if kind == "canvas" else Origin.least_rows,
    )
