"""Items of one protocol as another one would have them, by a conditional diffusion of an autoencoder's codes."""

from __future__ import annotations

from torch import Tensor

from retrograde import systems
from retrograde.codec import Codec
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import ShapeError
from retrograde.plan import Plan
from retrograde.sampling import sample


def standardized(
    codec: Codec, denoiser: AbstractDenoiser, plan: Plan, x: Tensor, *, seed: int = 0, seen: str = "seen"
) -> Tensor:
    """Return a draw for every item of what the standard protocol would have made of it: decoder(z), z ~ p(z | encoder(x)).

    The autoencoder is trained first, on items of all protocols, and stays; then the denoiser, on pairs of the same thing:

        codec = Codec(encoder, decoder, shape, latent).fitted(standard)
        rg.train.fit(denoiser, codec.encode(standard), None, config, conditions={"seen": codec.encode(other)})

    A regression of codes answers with their mean, which lacks texture; a draw has as much of it as the standard's items.

    Shapes: x [n, *shape] -> [n, *shape], those of the codec.

    Args:
        denoiser: of codes, told those of x by the condition `seen`.

    Raises:
        ShapeError: x is not the codec's data, or its codes are not the denoiser's items.

    Reference: Selim, Zhang, Fathi, Brooks, Wang, Yu and Chen, Latent Diffusion Model for Medical Image Standardization and
    Enhancement, 2023, arXiv 2310.05237.
    """
    if tuple(codec.latent) != tuple(denoiser.shape):
        given = f"codes of shape {list(codec.latent)} for a denoiser of {list(denoiser.shape)}"
        raise ShapeError(given, "one shape", "train the denoiser on codec.encode(standard)")
    made = sample(denoiser, plan, n=len(x), seed=seed, condition={seen: codec.encode(x)}, dtype=x.dtype)
    return codec.decode(made)


systems.register(
    systems.System(
        title="Latent Diffusion Model for Medical Image Standardization and Enhancement",
        authors=(
            "Md Selim",
            "Jie Zhang",
            "Faraneh Fathi",
            "Michael A. Brooks",
            "Ge Wang",
            "Guoqiang Yu",
            "Jin Chen",
        ),
        year=2023,
        arxiv="2310.05237",
        home="restore",
        call="rg.train.standardized(codec, denoiser, rg.plan('ddpm', denoiser, nfe=50), x)",
        test="tests/train/test_standardize.py::test_codes_have_the_law_that_pairs_say",
    )
)
