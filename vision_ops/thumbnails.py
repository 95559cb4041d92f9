"""Small pictures of inputs of any kind, for reports. Light: no torch."""

from collections.abc import Callable

from vision_ops.clips.decode import clip_thumbnail
from vision_ops.decode import thumbnail
from vision_ops.signals import plot
from vision_ops.volumes import middle_slice

THUMBNAIL_PX = 96
"""longer side, where a report has many"""
THUMBNAILS: dict[str, Callable[..., bytes]] = {
    "picture": thumbnail,
    "clip": clip_thumbnail,
    "signal": plot,
    "volume": middle_slice,
    "face": thumbnail,
    "canvas": thumbnail,
}
"""a kind of `vision_ops.inputs.KINDS` -> `make(data, size_px)`: a row's bytes and the longer side
-> PNG or JPEG; raises ValueError for bytes that are no such input"""
