"""What an ONNX file that finds faces takes and answers, in a person's words.

Light on purpose. It travels in the file's metadata, beside the card.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from vision_ops.preprocess import Channels

FORMAT_KEY = "argus_face_format"
"""of the metadata of an ONNX file"""
Corners = Literal["corners", "size", "centre"]
Unit = Literal["part", "px"]


@dataclass(frozen=True, kw_only=True)
class OnnxFormat:
    """How a detector that answers with boxes (decoded, not yet suppressed) is asked and read.

    It takes pictures float32 (1, 3, H, W), of one size or of any; a picture is brought to one size
    in its own proportions, at the top left, and the rest is the mean.
    """

    scores: str
    """name of the output (1, N, K) or (1, N): that there is a face, 0..1"""
    score_column: int = -1
    """which of K is the face's; -1: the last"""
    boxes: str
    """name of the output (1, N, 4)"""
    corners: Corners = "corners"
    """x0, y0, x1, y1; size: x0, y0, width, height; centre: x, y of the centre, width, height"""
    landmarks: str = ""
    """name of the output (1, N, 10): x, y of the five points; empty: there is none"""
    unit: Unit = "part"
    """boxes and landmarks are parts of the width and height of what it takes, or its pixels"""
    mean: float = 127.5
    """subtracted from pixels 0..255"""
    std: float = 127.5
    """divided by afterwards"""
    channels: Channels = "RGB"
    """order of channels"""

    def __post_init__(self) -> None:
        for name, accepted in (("corners", Corners), ("unit", Unit), ("channels", Channels)):
            if (value := getattr(self, name)) not in get_args(accepted):
                raise ValueError(f"{name} {value!r}: not one of {', '.join(get_args(accepted))}")
        if not (self.scores and self.boxes):
            raise ValueError("scores and boxes: names of outputs, not empty")
        if not self.std > 0:
            raise ValueError(f"std {self.std}: must be positive")


FORMATS = {
    "ultralight": OnnxFormat(scores="scores", boxes="boxes", mean=127.0, std=128.0),
}
"""of known files: Linzaer's Ultra-Light-Fast-Generic-Face-Detector-1MB, slim and RFB"""


def named_format(name: str) -> OnnxFormat:
    """A known format, or one from a JSON file. Raises ValueError."""
    if name in FORMATS:
        return FORMATS[name]
    if not name.endswith(".json"):
        raise ValueError(
            f"format {name!r}: not one of {', '.join(FORMATS)}, nor a .json file with the fields "
            f"{', '.join(field.name for field in fields(OnnxFormat))}"
        )
    try:
        return format_from_json(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise ValueError(f"format {name}: {wrong}") from wrong


def format_from_json(text: str) -> OnnxFormat:
    """The reverse of `format_to_json`; fields may be left out. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"is a {type(values).__name__}, not an object")
    known = {field.name: field for field in fields(OnnxFormat)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"unknown {unknown}; there are {', '.join(known)}")
    for name, value in values.items():
        kind = known[name].type
        wanted = (int, float) if kind is float else kind if isinstance(kind, type) else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{name} {value!r}: wrong type")
    if missing := [name for name in ("scores", "boxes") if name not in values]:
        raise ValueError(f"lacks {missing}")
    return OnnxFormat(**values)


def format_to_json(onnx_format: OnnxFormat) -> str:
    """As it stands in a file's metadata."""
    return json.dumps(asdict(onnx_format))
