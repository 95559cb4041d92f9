"""Bytes of a video file -> the frames that a network wants, or the reason why not.

What is read: MP4, MOV and 3GP, AVI, MKV and WebM, MPEG program streams, of any codec that PyAV's
FFmpeg decodes. What is refused: a clip of which bytes are missing by its container's own account,
and one whose wanted frames, or those that they are made from, have damage that their decoder sees.
Frames that no wanted one depends on are not decoded, and their damage is not looked for.
"""

from contextlib import closing
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from vision_ops.clips import CLIP_SUFFIXES, ClipPreprocess
from vision_ops.decode import DecodeConfig
from vision_ops.decode.formats import UnreadableImageError, too_much
from vision_ops.preprocess import fit, fit_stored

if TYPE_CHECKING:
    from vision_ops.clips.frames import ShownFrame


class DecodeClip:
    """Decoder of clips: bytes in, the frames that the network wants out.

    Picklable; one call at a time per array. Bad bytes never raise. Of the config `max_megapixels`
    is of one frame. Raises ValueError for `apply_icc`: clips have no profile; and without PyAV.
    """

    def __init__(self, config: DecodeConfig, preprocess: ClipPreprocess) -> None:
        if config.apply_icc:
            raise ValueError("decode.apply_icc: pictures have ICC profiles, clips have none")
        if find_spec("av") is None:
            raise ValueError("clips need the package av: pip install -e '.[video]'")
        self.config = config
        self.preprocess = preprocess
        self.shape = preprocess.shape
        self.dtype = preprocess.dtype
        self.suffixes = CLIP_SUFFIXES
        self.extent: tuple[int, ...] = ()
        """frames, height and width of the clip decoded last, upright"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write uint8 sRGB pixels into out (T, H, W, 3); return "" or why they are not there.

        Each frame is fitted as a picture is: exact by `fit`, fast by `fit_stored`.
        """
        from vision_ops.clips.frames import ClipFile  # PyAV: who decodes pays

        try:
            if len(data) > self.config.max_megabytes * 1e6:
                told = too_much(len(data), "megabytes", self.config.max_megabytes)
                raise UnreadableImageError(told)
            with closing(ClipFile(data, self.config.max_megapixels)) as clip:
                clip.read(self.preprocess.frames_of, lambda *each: self._put(out, *each))
                self.extent = (clip.count, *clip.size)
        except UnreadableImageError as refusal:
            return str(refusal)
        except MemoryError:
            return "not enough memory for this clip"
        return ""

    def _put(self, out: np.ndarray, place: int, frame: "ShownFrame") -> None:
        """One frame, fitted as a picture is."""
        if self.config.mode == "fast":
            size = (frame.image.height, frame.image.width)
            out[place] = np.asarray(
                fit_stored(frame.image, self.preprocess.frame, size, frame.turn)
            )
        else:
            out[place] = np.asarray(fit(frame.upright, self.preprocess.frame))


def clip_thumbnail(data: bytes, size_px: int = 96) -> bytes:
    """Small JPEG of a clip's middle frame for a report, longer side at most size_px.

    Never enlarged. Raises UnreadableImageError where there is none.
    """
    from vision_ops.clips.frames import ClipFile

    target = BytesIO()

    def save(_: int, frame: "ShownFrame") -> None:
        image = frame.upright
        image.thumbnail((size_px, size_px))
        image.save(target, "JPEG", quality=88, subsampling=0)

    with closing(ClipFile(data, DecodeConfig().max_megapixels)) as clip:
        clip.read(ClipPreprocess(num_frames=1).frames_of, save)
    return target.getvalue()
