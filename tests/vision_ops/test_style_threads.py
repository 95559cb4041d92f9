"""Pictures optimised in several threads of a process: one reading of each style, the same bits."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from tests.untrained import save_untrained
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.gatys import Gatys
from vision_ops.style.gatys_config import GatysConfig
from vision_ops.style.make import make_stylists

CALLERS = 3


def spots(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def of(stylists: Mapping[str, Stylist]) -> list[Gatys]:
    return [each for each in stylists.values() if isinstance(each, Gatys)]


@pytest.mark.parametrize("each", [False, True])
def test_threads_share_what_is_found_of_styles_and_the_weights_and_change_no_bit(
    tmp_path: Path, each: bool
):
    config = StylizeConfig(
        weights=save_untrained(tmp_path / "residual.safetensors", 32),
        styles=("one.png", "other.png"),
        each=each,
        gatys=GatysConfig(steps=2, levels=2),
    )
    styles = [spots(30, 34, 1), spots(26, 38, 2)]
    contents = [spots(32, 24 + 2 * number, 3 + number) for number in range(CALLERS)]
    sets = make_stylists(styles, config, CALLERS)
    sizes: list[tuple[int, ...]] = []
    for stylists in sets:
        first, *others = of(stylists)
        first.features.network.register_forward_pre_hook(
            lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:]))
        )
        assert all(each.features is first.features for each in others)
    weights = [list(of(stylists)[0].features.network.parameters()) for stylists in sets]
    assert len({id(of(stylists)[0].features.network) for stylists in sets}) == CALLERS
    assert all(
        own is first for those in weights for own, first in zip(those, weights[0], strict=True)
    )
    together = Barrier(CALLERS)

    def paint(stylists: Mapping[str, Stylist], content: np.ndarray) -> list[np.ndarray]:
        together.wait()
        return [each([content])[0].pixels for each in stylists.values()]

    with ThreadPoolExecutor(CALLERS) as pool:
        found = list(pool.map(paint, sets, contents))
    passes = Counter(sizes)
    assert [passes[size] for size in ((30, 34), (26, 38), (15, 17), (13, 19))] == [1] * 4
    (alone,) = make_stylists(styles, config, 1)
    for content, pictures in zip(contents, found, strict=True):
        for stylist, picture in zip(alone.values(), pictures, strict=True):
            assert np.array_equal(stylist([content])[0].pixels, picture)
