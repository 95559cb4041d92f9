"""The file around a clip: what kind it is, and whether all of it is there.

A decoder reads what it finds, and a clip of which the end is lost looks like a shorter one. Every
container but MPEG says how long it is, before or around its frames: that is held against the bytes
there are. What cannot be told: an MPEG program stream or a fragmented MP4 or a live Matroska that
was cut between two packets, as these have no end.
"""

import struct

from vision_ops.decode.formats import UnreadableImageError

DEMUXERS = {"MP4": "mp4", "AVI": "avi", "Matroska": "matroska", "MPEG": "mpeg"}
"""kind -> FFmpeg's demuxer. It is named, never guessed: among those that FFmpeg would guess are
playlists, which name other files and addresses, and it would open them"""
MP4_BOXES = (
    *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"pnot", b"udta"),
    *(b"meta", b"sidx", b"styp", b"uuid", b"emsg", b"prft"),
)
PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
"""of files that are boxed as MP4 is, and hold pictures"""
SEGMENT = 0x18538067
CLUSTER = 0x1F43B675
SEGMENT_CHILDREN = (
    *(CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770),
    *(0x1254C367, 0xEC, 0xBF),
)
"""of Matroska: seek head, info, tracks, cues, attachments, chapters, tags, void, CRC-32"""
UNKNOWN_SIZE = -1


def kind_of_clip(data: bytes) -> str:
    """MP4 (MOV, 3GP too), AVI, Matroska (WebM too) or MPEG, by the first bytes; "" if none."""
    if data[4:8] in MP4_BOXES:
        return "" if data[8:12] in PICTURE_BRANDS else "MP4"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "AVI"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "Matroska"
    return "MPEG" if data[:4] == b"\x00\x00\x01\xba" else ""


def check_whole(kind: str, data: bytes) -> None:
    """Raise UnreadableImageError where the container claims more bytes than there are."""
    end = {"MP4": _end_of_mp4, "AVI": _end_of_avi, "Matroska": _end_of_matroska}
    claimed = end.get(kind, _end_of_mpeg)(data)
    if claimed > len(data):
        raise UnreadableImageError(
            f"truncated {kind}: {claimed:,} bytes by its own account, {len(data):,} are there"
        )


def _end_of_mp4(data: bytes) -> int:
    """Where the last top-level box ends; the whole index must be among them."""
    offset, has_index = 0, False
    while len(data) - offset >= 8:
        size, name = struct.unpack_from(">I4s", data, offset)
        if name not in MP4_BOXES:
            break  # junk behind the last box costs no frame
        has_index = has_index or name == b"moov"
        if size == 1 and len(data) - offset >= 16:
            (size,) = struct.unpack_from(">Q", data, offset + 8)
        if size < 8:  # 0: to the end of the file
            offset = max(offset, len(data))
            break
        offset += size
    if not has_index and offset <= len(data):
        raise UnreadableImageError("truncated MP4: it has no index (moov)")
    return offset


def _end_of_avi(data: bytes) -> int:
    """Where the last RIFF ends; long files have several. 0 and all ones: not said."""
    offset = 0
    while data[offset : offset + 4] == b"RIFF" and len(data) - offset >= 8:
        (size,) = struct.unpack_from("<I", data, offset + 4)
        if size in (0, 0xFFFFFFFF):
            return 0
        offset += 8 + size
    return offset


def _end_of_matroska(data: bytes) -> int:
    """Where the last element ends that says how long it is."""
    offset = 0
    while offset < len(data):
        name, size, start = _element(data, offset)
        if size == UNKNOWN_SIZE and name == SEGMENT:  # live: look into it
            offset = start
            continue
        if size == UNKNOWN_SIZE or (offset and name not in (SEGMENT, *SEGMENT_CHILDREN)):
            break
        offset = start + size
    return offset


def _element(data: bytes, offset: int) -> tuple[int, int, int]:
    """Name, size and start of the contents of an EBML element."""
    name, after = _number(data, offset, keeps_marker=True)
    size, start = _number(data, after, keeps_marker=False)
    return name, size, start


def _number(data: bytes, offset: int, keeps_marker: bool) -> tuple[int, int]:
    """An EBML number and where it ends; UNKNOWN_SIZE where all its bits are set, or none there."""
    first = data[offset] if offset < len(data) else 0
    length = 9 - first.bit_length() if first else 9
    if length > 8 or offset + length > len(data):
        return UNKNOWN_SIZE, len(data)
    value = int.from_bytes(data[offset : offset + length])
    if keeps_marker:
        return value, offset + length
    value &= (1 << 7 * length) - 1
    return (UNKNOWN_SIZE if value == (1 << 7 * length) - 1 else value), offset + length


def _end_of_mpeg(data: bytes) -> int:
    """Where the last packet of a program stream ends (ISO/IEC 13818-1, sec. 2.5)."""
    offset = 0
    while len(data) - offset >= 14 and data[offset : offset + 3] == b"\x00\x00\x01":
        code = data[offset + 3]
        if code == 0xBA:
            is_second = data[offset + 4] >> 6 == 1  # MPEG-2's is longer, and may be stuffed
            offset += 14 + (data[offset + 13] & 7) if is_second else 12
        elif code > 0xBA:
            offset += 6 + int.from_bytes(data[offset + 4 : offset + 6])
        else:
            break
    return offset
