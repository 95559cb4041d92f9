"""Weights by the names that people already use -> a checkpoint on this machine.

    runs/…/best.safetensors, model.onnx      a file
    s3://bucket/key, https://host/file       fetched once
    torchvision:resnet50/IMAGENET1K_V2       fetched once, converted once
    timm:resnet50.a1_in1k
    torchvision_detection:fasterrcnn_resnet50_fpn_v2/COCO_V1
    yunet, sface                             OpenCV's, for faces: fetched once
    untrained:textures                       random filters, for style: made here once

A state file of another network (`module:function`) becomes a checkpoint by
`python -m jobs.weights import`.
"""

import os
import queue
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from vision_ops.card import (
    CARD_FORMAT,
    DETECTOR,
    Card,
    is_compiled,
    is_onnx,
    read_card,
    sha256_file,
)
from vision_ops.weights.licence import refuse_non_commercial

if TYPE_CHECKING:
    from vision_ops.weights.face_files import FaceFile
    from vision_ops.weights.hub import Published

CONNECT_TIMEOUT_S = 0.7
"""patience with a hub that does not answer, name lookup included"""
HUBS = ("torchvision:", DETECTOR, "timm:")
UNTRAINED = "untrained:"
"""begins the names of `vision_ops.weights.untrained`"""
UNTRAINED_FORMAT = 1
"""raised when what is made changes: files in the cache are of one"""
REMOTE = ("s3://", "https://", "http://")
ACCEPTED = (
    "a checkpoint (.safetensors, .onnx), s3://…, https://…, "
    "torchvision:NAME[/WEIGHTS], torchvision_detection:NAME[/WEIGHTS], timm:NAME[.TAG], "
    "yunet, sface, untrained:textures"
)
FOR_FACES = ("yunet", "sface")
"""names of `vision_ops.weights.face_files`"""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Weights that lie on this machine, ready to load."""

    path: Path
    """the checkpoint: .safetensors or .onnx"""
    card: Card
    """what it says of itself"""
    sha256: str
    """of the file's bytes"""
    source: str
    """the full name that it was found under"""


def resolve(name: str, fetch: Callable[[str], Path], *, accept_licence: bool = False) -> Resolved:
    """Find weights by name, fetching what is not on this machine.

    `fetch` brings an s3:// or https:// file here and says where it lies. Raises ValueError for a
    name of no known form, a file that is absent or cannot be fetched (naming it, every place
    looked at and the command that fetches it), one that is no checkpoint, and a licence for
    non-commercial use that was not accepted.
    """
    if name.startswith(HUBS):
        from vision_ops.weights.hub import published  # torchvision: 5 s that a file does without

        return _from_hub(published(name), fetch, accept_licence=accept_licence)
    if name in FOR_FACES and not Path(name).is_file():
        return _for_faces(name, fetch)
    if name.startswith(UNTRAINED):
        return _made(name)
    path = _fetched(name, fetch) if name.startswith(REMOTE) else _local(name)
    resolved = _resolved(path, name)
    refuse_non_commercial(resolved.card.licence, name, accept_licence=accept_licence)
    return resolved


def cache_folder() -> Path:
    """Where fetched and converted weights are kept: $ARGUS_CACHE, else ~/.cache/argus."""
    return Path(os.environ.get("ARGUS_CACHE") or Path.home() / ".cache" / "argus")


def _resolved(path: Path, source: str) -> Resolved:
    return Resolved(path=path, card=read_card(path), sha256=sha256_file(path), source=source)


def _local(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        known = path.suffix.lower() == ".safetensors" or is_onnx(path) or is_compiled(path)
        if not known:
            raise ValueError(
                f"weights {name}: not a checkpoint (.safetensors, .onnx); "
                "`python -m jobs.weights import` makes one of a state file"
            )
        return path.absolute()
    if re.fullmatch(r"[\w.]+:\w+", name):
        raise ValueError(
            f"weights {name}: a network without weights; "
            f"`python -m jobs.weights import --network {name} --state FILE …` makes a checkpoint"
        )
    raise ValueError(
        f"weights {name}: no such file (looked at {path.absolute()}); accepted: {ACCEPTED}; "
        f"`python -m jobs.{_trainer(path)}` trains a checkpoint of your own"
    )


def _trainer(path: Path) -> str:
    """The job of which this would be the run, as far as its name tells."""
    found = re.search(r"runs/(train_\w+)/checkpoints/", path.as_posix())
    return found[1] if found else "train_classifier"


def _fetched(uri: str, fetch: Callable[[str], Path]) -> Path:
    try:
        return fetch(uri)
    except OSError as absent:  # FileNotFoundError, no connection, no permission
        raise ValueError(
            f"weights {uri}: cannot be fetched ({absent}); where it can be reached: {_pull(uri)}"
        ) from absent


def _from_hub(item: "Published", fetch: Callable[[str], Path], *, accept_licence: bool) -> Resolved:
    refuse_non_commercial(item.origin.licence, item.name, accept_licence=accept_licence)
    slug = re.sub(r"[^\w.-]+", "-", item.name)
    target = cache_folder() / "weights" / f"{slug}.card{CARD_FORMAT}.safetensors"
    if not target.is_file():
        from vision_ops.weights.hub import make_checkpoint

        make_checkpoint(item, _state_file(item, target, fetch), target)
    return _resolved(target, item.name)


def _made(name: str) -> Resolved:
    from vision_ops.weights.untrained import check_untrained, make_untrained

    check_untrained(name)
    slug = re.sub(r"[^\w.-]+", "-", name)
    target = cache_folder() / "weights" / f"{slug}.{UNTRAINED_FORMAT}.card{CARD_FORMAT}.safetensors"
    if not target.is_file():
        make_untrained(name, target)
    return _resolved(target, name)


def _for_faces(name: str, fetch: Callable[[str], Path]) -> Resolved:
    target = cache_folder() / "weights" / f"{name}.card{CARD_FORMAT}.onnx"
    if not target.is_file():
        from vision_ops.weights.face_files import FACE_FILES, make_face_checkpoint

        item = FACE_FILES[name]
        make_face_checkpoint(item, _state_file(item, target, fetch), target)
    return _resolved(target, name)


def _state_file(item: "Published | FaceFile", target: Path, fetch: Callable[[str], Path]) -> Path:
    """The published file: from the publisher's own cache, else fetched; its hash is checked."""
    path = next((place for place in item.places if place.is_file()), None)
    if path is None:
        reason = why_unreachable(item.url)
        try:
            path = None if reason else fetch(item.url)
        except OSError as refusal:
            reason = str(refusal)
        if path is None:
            looked_at = ", ".join(str(place) for place in (target, *item.places, item.url))
            raise ValueError(
                f"weights {item.name}: {item.file_name} is not on this machine and cannot be "
                f"fetched ({reason}); looked at: {looked_at}; on a machine with network: "
                f"{_pull(item.name)}, then copy {target.name} to {target.parent}"
            )
    sha256 = sha256_file(path)
    if not sha256.startswith(item.sha256_prefix):
        raise ValueError(
            f"weights {item.name}: {path} has sha256 {sha256[:16]}…, published is "
            f"{item.sha256_prefix}…; remove the file and pull again"
        )
    return path


def why_unreachable(url: str) -> str:
    """Why nothing answers at a URL's host (or its proxy); "" when something does.

    Takes CONNECT_TIMEOUT_S at the most: a name lookup has no timeout of its own.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_knock, args=(host, port, answers), daemon=True).start()
    try:
        return answers.get(timeout=CONNECT_TIMEOUT_S)
    except queue.Empty:
        return f"no answer from {host} within {CONNECT_TIMEOUT_S} s"


def _knock(host: str, port: int, answers: "queue.SimpleQueue[str]") -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as refusal:
        answers.put(f"no connection to {host}: {refusal}")
    else:
        answers.put("")


def _pull(name: str) -> str:
    return f"`python -m jobs.weights pull {name}`"
