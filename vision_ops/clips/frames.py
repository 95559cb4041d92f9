"""Frames of a video file by number, upright in RGB, by PyAV (FFmpeg); or the reason why not.

The packets of the whole clip are counted first: that costs a hundredth of decoding them. MP4 and
Matroska say of each packet when it is shown, so only runs of packets from the last key frame to a
wanted frame are decoded, and of these no frame that none other refers to. AVI and MPEG say it not
at all or wrongly: such clips are decoded from the start to the last wanted frame.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import groupby, islice

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from vision_ops.clips.containers import DEMUXERS, check_whole, kind_of_clip
from vision_ops.decode.formats import UnreadableImageError, check_size
from vision_ops.preprocess import MIRRORED

FFMPEG_ERRORS = (FFmpegError, UnicodeError, OverflowError, ValueError)
"""what PyAV raises for bytes that FFmpeg does not like"""
CONVERSION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""of the conversion to RGB: the same on every CPU"""
TIMED = ("MP4", "Matroska")
"""kinds whose packets say when they are shown"""
SPARING = ("h264", "hevc")
"""decoders that can be told of each packet whether its frame is wanted"""
COVER = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
"""streams that are no moving pictures: what a player shows of a song, or while it seeks"""
NOTHING_NEW_BYTES = 1
"""a packet of AVI that repeats the frame before, or stands for one inside another packet"""
VP8_SHOWN = 0x10
"""bit of a packet's first byte: it is a frame, not one that only others refer to (RFC 6386, 9.1)"""
STANDING = ("mpeg4",)
"""decoders of codecs in which a packet may say that the frame before stays: any number, in silence,
where others leave out what is damaged"""
LOST_FRAMES = 0.05
"""part of the packets of an AVI or MPEG that may be no frame of their own, STANDING apart"""
TURNS: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
"""signs of a, b, c, d of a display matrix (ISO/IEC 14496-12, sec. 6.2.2) -> what makes upright"""


@dataclass(frozen=True, kw_only=True)
class ShownFrame:
    """A frame as it is stored, and how it is turned upright."""

    image: Image.Image
    turn: Image.Transpose | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        width, height = self.image.size
        return (width, height) if MIRRORED[self.turn][0] else (height, width)

    @cached_property
    def upright(self) -> Image.Image:
        """The frame as a viewer sees it."""
        return self.image if self.turn is None else self.image.transpose(self.turn)


class _RanShortError(Exception):
    """A clip turned out to have fewer frames than its packets; its `count` is right by now."""


class ClipFile:
    """A video file opened: how many frames it has, and those of them that are wanted.

    Sound, subtitles and all video streams but the first are left unread. Pixels are taken as
    square and as progressive, colours by the matrix that the stream names (BT.601 where it names
    none) without tone mapping. Raises UnreadableImageError, with the reason, wherever bytes are
    missing or no video, before memory is taken where a frame is too large.
    """

    def __init__(self, data: bytes, max_megapixels: float) -> None:
        self.kind = kind_of_clip(data)
        if not self.kind:
            raise UnreadableImageError(_no_clip(data))
        check_whole(self.kind, data)
        self.max_megapixels = max_megapixels
        try:
            self.container = _open(self.kind, data, max_megapixels)
            self.codec, self.packets = self._demux()
        except UnreadableImageError:
            raise
        except FFMPEG_ERRORS as error:
            raise self._corrupt(error) from error
        self.shown = self._in_order()
        """packets in the order in which their frames are shown; none where that is not said"""
        self.count = len(self.shown) or sum(map(self._has_frame, self.packets))
        """frames of the clip"""
        self.size = (0, 0)
        """height and width of the frame that was read last, upright"""
        if not self.count:
            raise UnreadableImageError(f"{self.kind} without a frame")
        self.reformatter = VideoReformatter()

    def close(self) -> None:
        """Free what FFmpeg holds."""
        self.container.close()

    def read(
        self, choose: Callable[[int], Sequence[int]], use: Callable[[int, ShownFrame], None]
    ) -> None:
        """Call `use(place, frame)` for each of the frames that `choose(count)` names.

        Their numbers must not fall. Where an AVI or MPEG has a few frames less than packets, which
        is found out at its end, all is done again with the right `count`.
        """
        try:
            try:
                self._read(choose(self.count), use)
            except _RanShortError:
                self._read(choose(self.count), use)
        except UnreadableImageError:
            raise
        except FFMPEG_ERRORS as error:
            raise self._corrupt(error) from error

    def _read(self, wanted: Sequence[int], use: Callable[[int, ShownFrame], None]) -> None:
        found = self._timed(wanted) if self.shown else self._counted(wanted)
        for _, group in groupby(range(len(wanted)), wanted.__getitem__):
            shown = self._converted(next(found))
            self.size = shown.size
            for place in group:
                use(place, shown)

    def _demux(self) -> tuple[VideoCodecContext, list[Packet]]:
        """The decoder of the first video stream, and its packets, as they lie in the file."""
        streams = self.container.streams
        moving = [each for each in streams.video if not each.disposition & COVER]
        if not moving:
            what = "sound only" if streams.audio else "no stream that is known"
            raise UnreadableImageError(f"{self.kind} without pictures: {what}")
        stream = moving[0]
        codec = stream.codec_context
        if codec is None:
            raise UnreadableImageError(f"{self.kind} of a codec that FFmpeg does not know")
        check_size(codec.width, codec.height, self.max_megapixels)
        codec.thread_count = 1  # a process decodes one clip on one core
        packets = [packet for packet in self.container.demux(stream) if packet.size]
        if any(packet.is_corrupt for packet in packets):
            raise UnreadableImageError(f"truncated {self.kind}: it ends within a frame")
        if self.kind == "MP4" and (listed := len(stream.index_entries)) > len(packets):
            told = f"{len(packets):,} frames of {listed:,} are there"
            raise UnreadableImageError(f"truncated MP4: {told}")
        return codec, packets

    def _in_order(self) -> list[Packet]:
        times = {packet.pts for packet in self.packets}
        if self.kind not in TIMED or None in times or len(times) < len(self.packets):
            return []
        return sorted(filter(self._has_frame, self.packets), key=_time)

    def _has_frame(self, packet: Packet) -> bool:
        """Whether a frame is shown for it: those that an MP4's edit list cuts off serve others."""
        if packet.size <= NOTHING_NEW_BYTES or packet.is_discard:
            return False
        return self.codec.name != "vp8" or bool(memoryview(packet)[0] & VP8_SHOWN)

    def _timed(self, wanted: Sequence[int]) -> Iterator[VideoFrame]:
        """The wanted frames, each once, by their times.

        A run that begins at a key frame gives in all but odd streams (open groups of pictures,
        gradual refresh) what decoding from the start gives; where a frame does not come out whole,
        everything is decoded.
        """
        times = [_time(self.shown[number]) for number in dict.fromkeys(wanted)]
        given = 0
        try:
            for frame in self._runs(times, self._starts(times)):
                given += 1
                yield frame
            return
        except FFMPEG_ERRORS:
            pass
        yield from self._from_start(times[given:])

    def _from_start(self, times: Sequence[int]) -> Iterator[VideoFrame]:
        """The frames of these times, everything decoded; of STANDING those that stand then."""
        self.codec.flush_buffers()
        self.codec.skip_frame = "DEFAULT"
        left, last = deque(times), None
        for packet in [*self.packets, None]:
            for frame in self.codec.decode(packet):
                if frame.is_corrupt:
                    raise _lost()
                while left and frame.pts is not None and left[0] < frame.pts:
                    yield self._standing(last, left.popleft())
                last = frame
                if left and left[0] == frame.pts:
                    left.popleft()
                    yield frame
            if not left:
                return
        while left:
            yield self._standing(last, left.popleft())

    def _standing(self, frame: VideoFrame | None, time: int) -> VideoFrame:
        """The frame that is to be seen at a time, the last one of those before; or it is lost."""
        if frame is None or (frame.pts != time and self.codec.name not in STANDING):
            raise _lost()
        return frame

    def _starts(self, times: Sequence[int]) -> list[int]:
        """For each time, where in the file the last key frame before it lies."""
        place = {packet.pts: number for number, packet in enumerate(self.packets)}
        keys = [number for number, packet in enumerate(self.packets) if packet.is_keyframe]
        starts = []
        for time in times:
            last = bisect_right(keys, place[time]) - 1
            while last >= 0 and _time(self.packets[keys[last]]) > time:
                last -= 1
            starts.append(keys[last] if last >= 0 else 0)
        return starts

    def _runs(self, times: Sequence[int], starts: Sequence[int]) -> Iterator[VideoFrame]:
        """Decode from `starts` until the frame of each time came out.

        By SPARING decoders frames that are not wanted, and that no other refers to, are skipped.
        Raises InvalidDataError where a frame does not come out whole.
        """
        sparing = self.codec.name in SPARING
        self.codec.flush_buffers()
        self.codec.skip_frame = "DEFAULT"
        missing, found = set(times), dict[int, VideoFrame]()
        coming = iter(self.packets)
        position, ended = 0, False
        for time, start in zip(times, starts, strict=True):
            if start > position:
                self.codec.flush_buffers()
                coming, position = islice(coming, start - position, None), start
            while time not in found:
                if ended:
                    raise _lost()
                packet = next(coming, None)
                position, ended = position + 1, packet is None
                if packet is not None and sparing:
                    spared = packet.pts not in missing
                    self.codec.skip_frame = "NONREF" if spared else "DEFAULT"
                for frame in self.codec.decode(packet):
                    if frame.is_corrupt:  # those that refer to it are not marked
                        raise _lost()
                    if frame.pts in missing:
                        missing.remove(frame.pts)
                        found[frame.pts] = frame
            yield found.pop(time)

    def _counted(self, wanted: Sequence[int]) -> Iterator[VideoFrame]:
        """The wanted frames, each once, by counting what comes out of the decoder."""
        self.codec.flush_buffers()
        numbers = set(wanted)
        number = 0
        for packet in [*self.packets, None]:
            for frame in self.codec.decode(packet):
                if frame.is_corrupt:
                    raise _lost()
                if number in numbers:
                    yield frame
                number += 1
        lost = number < (1 - LOST_FRAMES) * self.count - 1 and self.codec.name not in STANDING
        if lost or not number:
            told = f"{number:,} frames of {self.count:,} can be decoded"
            raise UnreadableImageError(f"corrupt {self.kind}: {told}")
        self.count = number
        raise _RanShortError

    def _converted(self, frame: VideoFrame) -> ShownFrame:
        check_size(frame.width, frame.height, self.max_megapixels)
        rgb = self.reformatter.reformat(frame, format="rgb24", interpolation=CONVERSION, threads=1)
        return ShownFrame(image=rgb.to_image(), turn=_turn(frame))

    def _corrupt(self, error: BaseException) -> UnreadableImageError:
        said = getattr(error, "strerror", None) or str(error)
        text = " ".join(str(said).split())[:200] or type(error).__name__
        return UnreadableImageError(f"corrupt {self.kind}: {text}")


def _open(kind: str, data: bytes, max_megapixels: float) -> InputContainer:
    options = {"err_detect": "crccheck+explode", "max_pixels": str(int(max_megapixels * 1e6))}
    return av.open(
        BytesIO(data),
        "r",
        format=DEMUXERS[kind],
        options=options,
        metadata_errors="replace",
        buffer_size=1 << 18,
    )


def _lost() -> InvalidDataError:
    return InvalidDataError(0, "a frame cannot be decoded whole")


def _time(packet: Packet) -> int:
    """When it is shown, in the stream's units."""
    return packet.pts or 0


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """What makes a frame upright: quarter turns and mirrorings, of any other angle nothing."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32)[:5]).tolist()
    return TURNS.get((a, b, c, d))


def _no_clip(data: bytes) -> str:
    if not data:
        return "empty file"
    text = data[:16].decode("latin-1")
    shown = repr(text) if text.isascii() and text.strip().isprintable() else data[:8].hex(" ")
    return f"not a clip that is read ({', '.join(DEMUXERS)} are): starts with {shown}"
