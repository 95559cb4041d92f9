"""An agent that was trained: its policy, the world that it learnt in, and whether it fits one."""

from dataclasses import asdict
from typing import Any

from jobs.navigation.env import Interface, WorldConfig, unshaped
from jobs.navigation.layouts import RoomsConfig
from jobs.runtime.checkpoints import BEST
from jobs.runtime.report.page import facts_of
from jobs.runtime.run import MANIFEST, Run
from jobs.runtime.storage import Storage, absolute, join
from vision_ops.card import Card
from vision_ops.models.policy import split_policy
from vision_ops.weights import Resolved, resolve

TRAINS = "train_navigation"
"""the job whose runs hold agents"""


def open_agent(weights: str, storage: Storage, *, accept_licence: bool) -> Resolved:
    """The policy of a run's best judgement, or of a checkpoint.

    Raises ValueError where there is none: no run, one of another job or before its first judgement,
    or a checkpoint that steers nothing.
    """
    name = weights
    if is_run(weights):
        run = _load_run(weights, storage)
        name = run.path(BEST)
        if storage.stat(name) is None:
            raise ValueError(
                f"weights {weights}: has no {BEST} yet; python -m jobs.{TRAINS} --out {weights}, "
                "with the options that began it, goes on to its first judgement"
            )
    resolved = resolve(name, storage.fetch, accept_licence=accept_licence)
    _check_policy(resolved.card, weights)
    return resolved


def is_run(weights: str) -> bool:
    """Whether a name is of a run directory; else it is of a checkpoint."""
    return not (weights.endswith((".safetensors", ".onnx", ".openvino")) or _is_hub(weights))


def learnt_world(weights: str, storage: Storage) -> WorldConfig | None:
    """The world that the agent of a run learnt in, without the rewards that were there to learn by;
    None of a checkpoint, or where no run is.

    Raises ValueError for a run of another job, or of another Argus' worlds.
    """
    if not is_run(weights) or not _is_there(weights, storage):
        return None
    said: dict[str, Any] = _load_run(weights, storage).manifest["config"]["world"]
    try:
        rooms: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in said["rooms"].items()
        }
        return unshaped(WorldConfig(**{**said, "rooms": RoomsConfig(**rooms)}))
    except TypeError as unknown:
        raise ValueError(
            f"weights {weights}: its world is of another Argus: {unknown}"
        ) from unknown


def differences(learnt: WorldConfig, world: WorldConfig) -> list[str]:
    """In what a world differs from another, field by field."""
    before, now = (facts_of(asdict(unshaped(each))) for each in (learnt, world))
    return [
        f"{name} {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]


def check_fits(card: Card, weights: str, world: WorldConfig, interface: Interface) -> None:
    """Raise ValueError where a policy sees or does something else than a world shows or takes."""
    if card.classes != interface.actions:
        raise ValueError(
            f"weights {weights}: the policy's actions are {', '.join(card.classes)}; those of "
            f"world.name {world.name} are {', '.join(interface.actions)}"
        )
    num_frames = split_policy(card.network)[1]
    made = (num_frames, *card.preprocess.shape[-3:])
    if made != interface.shape:
        raise ValueError(
            f"weights {weights}: the policy {card.network} sees {_pictures(made)}; world.name "
            f"{world.name} shows {_pictures(interface.shape)} (--world.frames, --world.tile-px and "
            "--world.rooms.* change that)"
        )


def _is_hub(weights: str) -> bool:
    return ":" in weights and not weights.startswith("s3://")


def _is_there(weights: str, storage: Storage) -> bool:
    return storage.stat(join(absolute(weights), MANIFEST)) is not None


def _load_run(weights: str, storage: Storage) -> Run:
    if not _is_there(weights, storage):
        raise ValueError(
            f"weights {weights}: neither a run directory ({absolute(weights)} has no {MANIFEST}) "
            f"nor a checkpoint (.safetensors); this makes a run: python -m jobs.{TRAINS}"
        )
    run = Run.load(weights, storage)
    job = run.manifest.get("job", "nothing")
    if job != TRAINS:
        raise ValueError(
            f"weights {weights}: a run of {job}; accepted: a run of {TRAINS}, or a checkpoint of a "
            "policy"
        )
    return run


def _check_policy(card: Card, weights: str) -> None:
    if card.is_policy:
        return
    does = f"names {len(card.classes)} classes ({', '.join(card.classes[:4])}"
    does += ", …)" if len(card.classes) > 4 else ")"
    if card.is_painter or card.is_translator or card.is_dreamer:
        does = "makes pictures"
    elif card.is_embedder:
        does = "embeds faces"
    elif not card.classes:
        does = "finds faces"
    raise ValueError(
        f"weights {weights}: {card.network} is no policy, it {does}; accepted: what python -m "
        f"jobs.{TRAINS} writes as {BEST}"
    )


def _pictures(shape: tuple[int, ...]) -> str:
    frames, height, width, _ = shape
    return f"{frames} picture{'s' * (frames > 1)} of {height} x {width} pixels"
