"""What the page shows of items that are no pictures."""

import base64
import io

import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
from retrograde.studio import strip


def shown(samples):
    return Image.open(io.BytesIO(base64.b64decode(strip.mean(samples).rpartition(",")[2])))


@pytest.mark.parametrize("shape", [(3, 5, 8, 6), (1, 5, 8, 6), (4, 8, 6)])
def test_videos_and_latents_are_shown_by_their_mean(shape):
    samples = torch.rand(2, *shape) * 2 - 1
    assert strip.size(shape) == strip.size((1, 8, 6))
    flat = samples.reshape(2, -1, 8, 6).mean(1, keepdim=True)
    assert shown(samples).tobytes() == shown(flat).tobytes()


def test_pictures_are_shown_as_they_are():
    image = shown(torch.ones(2, 3, 8, 6))
    assert image.convert("RGB").getextrema() == ((255, 255),) * 3
