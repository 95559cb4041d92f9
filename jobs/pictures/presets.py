"""A command whose first word may name a preset, which the options change."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def parse_preset(
    arguments: Sequence[str],
    presets: Mapping[str, Callable[[], Config]],
    prog: str,
    text: str | None,
) -> Config:
    """The preset that the first word names, or the first there is, changed by the options.

    Options are those of the preset's kind of input. Raises ValueError for a word that names none.
    """
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if name and name not in presets:
        raise ValueError(f"preset {name!r}: not one of {', '.join(presets)}")
    preset = presets[name or next(iter(presets))]()
    return tyro.cli(
        type(preset),
        default=preset,
        args=list(arguments[1 if name else 0 :]),
        config=(tyro.conf.AvoidSubcommands,),
        prog=prog,
        description=text,
    )
