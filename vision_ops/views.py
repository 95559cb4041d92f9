"""Sizes of the views that encoders of worlds are made for, as their names say them. Light."""

import re

TILES, NATURE = "tiles:", "nature:"
"""begin the names of encoders of views of a world: before their size"""
WANTED = {TILES: "ROWSxCOLUMNSxPIXELS", NATURE: "HEIGHTxWIDTH"}
MAX_SIDE = 1_024


def view_size(network: str) -> tuple[int, int] | None:
    """Height and width in pixels; None where the name is not of such an encoder."""
    for family in WANTED:
        if network.startswith(family):
            numbers = view_numbers(network, family)
            tile = numbers[2] if family == TILES else 1
            return numbers[0] * tile, numbers[1] * tile
    return None


def view_numbers(network: str, family: str) -> list[int]:
    """The numbers of a name. Raises ValueError where they are not as many as the family wants."""
    size = network.removeprefix(family)
    numbers = [int(each) for each in size.split("x")] if re.fullmatch(r"\d+(x\d+)*", size) else []
    count = WANTED[family].count("x") + 1
    if len(numbers) != count or not all(1 <= number <= MAX_SIDE for number in numbers):
        raise ValueError(f"network {network}: wanted {family}{WANTED[family]}, 1..{MAX_SIDE} each")
    return numbers
