"""Signals: how a network wants them, and bytes -> samples or the reason why not.

Light on purpose: drivers and decoder processes import it and start without torch. A signal is
(L, C) everywhere but in the network, which sees (C, L).
"""

import io
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from vision_ops.arrays import MAGIC, UnreadableArrayError, check_count, check_finite, read_npy
from vision_ops.decode import DecodeConfig
from vision_ops.decode.formats import too_much
from vision_ops.resampling import resample, standardise

Fit = Literal["resample", "crop_or_pad"]
Scaling = Literal["standardise", "none"]

MAX_SAMPLES = 1_000_000
MAX_CHANNELS = 4_096
SIGNAL_SUFFIXES = (".csv", ".npy")
DELIMITERS = (";", "\t", ",")
"""of a .csv, the first of them that its first line holds; else white space"""
LINE_COLOURS = ("#1f6feb", "#d1495b", "#2e8b57", "#8a6fd1")
FINER = 4
"""times finer than it is shown is a thumbnail drawn"""


@dataclass(frozen=True, kw_only=True)
class SignalPreprocess:
    """How a network wants its signals: so many samples of so many channels, float32."""

    samples: int = 128
    """L, samples that the network sees of each channel"""
    num_channels: int = 1
    """C, channels (leads, axes, sensors); a signal with another number is a failed row"""
    fit: Fit = "resample"
    """signals of another length: resample stretches or shrinks time to L samples; crop_or_pad
    keeps the rate, takes the middle L samples or fills up with zeros at both ends"""
    scaling: Scaling = "standardise"
    """standardise: each channel of each signal to mean 0 and standard deviation 1 over what is
    seen of it (before padding), a constant one to zeros; none: values as they are stored"""

    def __post_init__(self) -> None:
        for name, most in (("samples", MAX_SAMPLES), ("num_channels", MAX_CHANNELS)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1..{most}")
        for name, accepted in (("fit", Fit), ("scaling", Scaling)):
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(f"{name} {getattr(self, name)!r}: not one of {get_args(accepted)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded signal: (L, C)."""
        return (self.samples, self.num_channels)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded signal: its values have no range that an integer could hold."""
        return np.dtype(np.float32)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of what the network sees: (C, L)."""
        return (self.num_channels, self.samples)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        how = {"resample": "time resampled", "crop_or_pad": "cropped or padded with zeros"}
        scaling = {"standardise": "each channel to mean 0, deviation 1", "none": "as stored"}
        return {
            "signal": f"{self.samples} samples of {self.num_channels} channels, {how[self.fit]}",
            "input": f"{scaling[self.scaling]}, float32",
        }


class DecodeSignal:
    """Decoder of signals: .npy of (L,) or (L, C), .csv of a sample a line; never raises for bytes.

    A .csv may begin with one line of names, and is split by `;`, tab, `,` or white space; one
    single line of numbers is one channel. Failed: what is truncated, empty, of another number of
    channels, or holds a value that is missing or infinite. Picklable.
    """

    def __init__(self, config: DecodeConfig, preprocess: SignalPreprocess) -> None:
        self.config = config
        self.preprocess = preprocess
        self.shape = preprocess.shape
        self.dtype = preprocess.dtype
        self.suffixes: tuple[str, ...] = SIGNAL_SUFFIXES
        self.extent: tuple[int, ...] = ()
        """samples and channels of the signal decoded last"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write float32 (L, C) into out; return "" or why it is not there."""
        config, wanted = self.config, self.preprocess
        try:
            if len(data) > config.max_megabytes * 1e6:
                return too_much(len(data), "megabytes", config.max_megabytes)
            signal = read_signal(data, config.max_megapixels * 1e6)
            if signal.shape[1] != wanted.num_channels:
                shape = " x ".join(map(str, signal.shape))
                return f"{shape} (samples x channels), wanted are {wanted.num_channels} channels"
            out[...] = fit_signal(signal, wanted)
            self.extent = signal.shape
        except UnreadableArrayError as refusal:
            return str(refusal)
        except MemoryError:
            return "not enough memory for this signal"
        return ""


def read_signal(data: bytes, max_values: float = 100e6) -> np.ndarray:
    """The signal in a .npy or .csv file: finite float32 (L, C), at least one sample and channel.

    Raises UnreadableArrayError.
    """
    if not len(data):
        raise UnreadableArrayError("empty file")
    data = bytes(data)  # the decoder's memory is reused while views of it may live
    values = read_npy(data, max_values) if data.startswith(MAGIC) else _read_csv(data)
    if values.ndim not in (1, 2):
        raise UnreadableArrayError(f"{values.ndim} axes: a signal is (samples,) or (samples, C)")
    check_count(values.shape, max_values)
    with np.errstate(over="ignore"):  # of a float64: becomes infinite, and is refused as such
        signal = values.reshape(len(values), -1).astype(np.float32)
    check_finite(signal)
    return signal


def _read_csv(data: bytes) -> np.ndarray:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise UnreadableArrayError("neither a .npy file nor text") from wrong
    lines = text.strip().splitlines()
    if not lines:
        raise UnreadableArrayError("empty: holds no value")
    delimiter = next((each for each in DELIMITERS if each in lines[0]), None)
    has_names = not all(map(_is_number, lines[0].split(delimiter)))
    if len(lines) == has_names:
        raise UnreadableArrayError(f"no signal: {lines[0][:60]!r}")
    try:
        values = np.loadtxt(lines, delimiter=delimiter, skiprows=int(has_names), ndmin=2)
    except ValueError as wrong:
        raise UnreadableArrayError(f"no table of numbers: {str(wrong)[:200]}") from wrong
    return values.T if len(values) == 1 and not has_names else values


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def fit_signal(signal: np.ndarray, preprocess: SignalPreprocess) -> np.ndarray:
    """float32 (n, C) -> float32 (L, C), scaled."""
    samples, length = preprocess.samples, len(signal)
    if preprocess.fit == "resample":
        signal = resample(signal, samples, axis=0)
    elif length > samples:
        first = (length - samples) // 2
        signal = signal[first : first + samples]
    if preprocess.scaling == "standardise":
        signal = standardise(signal, axes=(0,))
    if len(signal) < samples:
        before = (samples - length) // 2
        signal = np.pad(signal, ((before, samples - length - before), (0, 0)))
    return signal


def plot(data: bytes, size_px: int = 96) -> bytes:
    """A signal as lines for a report: PNG of size_px x size_px * 3 / 4, a colour per channel.

    Each channel fills the height by itself. Raises UnreadableArrayError, a ValueError.
    """
    signal = read_signal(data)
    width, height = size_px * FINER, size_px * FINER * 3 // 4
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    margin = 2 * FINER
    for number, channel in enumerate(signal.T[: len(LINE_COLOURS)]):
        low, high = float(channel.min()), float(channel.max())
        part = (channel - low) / (high - low) if high > low else np.full(len(channel), 0.5)
        x = np.linspace(margin, width - margin, len(channel))
        y = height - margin - part * (height - 2 * margin)
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        draw.line(points * 2 if len(points) == 1 else points, LINE_COLOURS[number], FINER + 2)
    image = image.resize((width // FINER, height // FINER), Image.Resampling.BOX)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return target.getvalue()
