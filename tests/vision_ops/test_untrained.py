"""Features that nobody trained: made anywhere without a download, always the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from vision_ops.checkpoint import load_checkpoint
from vision_ops.losses.style import content_loss, gram_matrix
from vision_ops.models import build
from vision_ops.models.textures import FLAT, GRID, halving, orthogonal
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.layers import LAYERS
from vision_ops.style.tiles import TiledFeatures
from vision_ops.weights import cache_folder, resolve

NAME = "untrained:textures"
SHA256 = "406aa244bd0f8177f9d9f8649de63c04db7ac6fcd3ef89ebcdc1ff8831e99e43"


def no_fetch(uri: str) -> Path:
    raise AssertionError(f"{uri} was asked for")


def test_untrained_weights_are_made_once_and_have_the_same_bytes_everywhere():
    torch.manual_seed(1)
    found = resolve(NAME, no_fetch)
    torch.manual_seed(2)
    found.path.unlink()
    again = resolve(NAME, no_fetch)
    assert found == again
    assert found.sha256 == SHA256
    assert found.path.parent == cache_folder() / "weights"
    assert (found.card.network, found.card.source) == ("textures", NAME)
    stamp = found.path.stat().st_mtime_ns
    assert resolve(NAME, no_fetch).path.stat().st_mtime_ns == stamp


def test_an_untrained_name_that_there_is_not_says_which_there_are():
    with pytest.raises(ValueError, match="untrained:nothing: not one of untrained:textures"):
        resolve("untrained:nothing", no_fetch)


def test_untrained_weights_say_nothing_of_a_picture():
    network, _ = load_checkpoint(resolve(NAME, no_fetch).path, "cpu")
    assert network(torch.rand(2, 3, 40, 50)).abs().max() == 0
    assert network.get_parameter("head.weight").shape == (1, 32 + 64 + 96 + 128)


@pytest.mark.parametrize(("outputs", "inputs"), [(32, 3), (32, 32), (64, 32)])
def test_filters_are_at_right_angles_but_for_a_part_of_their_means(outputs: int, inputs: int):
    drawn = orthogonal(np.random.RandomState(0), outputs, inputs)
    assert np.array_equal(drawn * GRID, np.round(drawn * GRID))
    means = drawn.mean(axis=(2, 3), keepdims=True)
    whole = (drawn + (1 / FLAT - 1) * means).reshape(outputs, inputs * 9)
    products = whole @ whole.T if outputs <= inputs * 9 else whole.T @ whole
    np.testing.assert_allclose(products, 2 * np.eye(len(products)), atol=0.01)


def test_a_blurred_picture_is_far_from_a_sharp_one():
    """Else a network that learns by these features would learn to blur."""
    sharp = Image.fromarray(load_sample_images().images[0]).resize((128, 128))
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    (layer,) = LAYERS["textures"].content
    network = FeatureNetwork(resolve(NAME, no_fetch).path, [layer])
    maps = [
        network(torch.from_numpy(np.array(each)).permute(2, 0, 1)[None].float() / 255)[layer]
        for each in (sharp, blurred)
    ]
    assert content_loss(maps[1], maps[0], "relative").item() > 0.3


def test_halving_keeps_what_is_flat_and_takes_away_what_is_finest():
    layer = halving(2)
    flat = layer(torch.full((1, 2, 9, 12), 0.7))
    assert flat.shape == (1, 2, 5, 6)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.7))
    finest = torch.ones(1, 2, 16, 16)
    finest[..., ::2] = -1
    assert layer(finest)[..., 1:-1].abs().max() < 1e-6  # edges are repeated


def test_the_network_does_not_depend_on_the_generator_of_torch_but_for_its_last_layer():
    torch.manual_seed(0)
    one = build("textures", 3).state_dict()
    torch.manual_seed(1)
    other = build("textures", 3).state_dict()
    differs = [name for name in one if not torch.equal(one[name], other[name])]
    assert differs == ["head.weight", "head.bias"]


def test_gram_matrices_of_untrained_features_tell_textures_apart():
    """Parts of one texture are nearer to each other than to those of another, at each layer."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:192]
    stripes = np.stack([np.sin((x + y) / k) for k in (2.0, 2.0, 3.0)])
    checks = np.stack([np.sign(np.sin(x / 5) * np.sin(y / 5))] * 3)
    network = FeatureNetwork(resolve(NAME, no_fetch).path, LAYERS["textures"].style)
    grams = []
    for texture in (stripes, checks):
        noisy = 0.5 + 0.3 * texture + random.normal(0, 0.02, texture.shape)
        for part in np.split(noisy, 2, axis=2):
            maps = network(torch.from_numpy(part[None]).float())
            grams.append({name: gram_matrix(found)[0] for name, found in maps.items()})
    for layer in LAYERS["textures"].style:
        same = (grams[0][layer] - grams[1][layer]).norm()
        other = (grams[0][layer] - grams[2][layer]).norm()
        assert other > 3 * same


def test_pictures_in_tiles_are_seen_as_whole_ones():
    layers = LAYERS["textures"].style
    network = FeatureNetwork(resolve(NAME, no_fetch).path, layers)
    tiled = TiledFeatures(network, tile_px=96)
    pixels = torch.rand(1, 3, 200, 260, generator=torch.Generator().manual_seed(0))
    assert len(tiled.tiles(200, 260)) > 1
    whole, joined = network(pixels), tiled.whole(pixels, layers)
    for layer in layers:
        torch.testing.assert_close(joined[layer], whole[layer], rtol=1e-4, atol=1e-5)
