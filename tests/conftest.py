"""What several test folders judge with: an example of every registered path, and a mixture whose answers are exact."""

from collections.abc import Callable

import pytest
import torch

import retrograde as rg

# Paths that cannot be made without arguments; a path that is neither here nor made without them fails every law.
ARGUMENTS = {
    "tabulated": {
        "times": (0.0, 0.3, 0.7, 1.0),
        "a_values": (1.0, 0.8, 0.4, 0.0),
        "s_values": (0.0, 0.3, 0.8, 1.0),
    },
    "vp_discrete": {
        "alphas_cumprod": tuple(
            torch.cumprod(1.0 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0).tolist()
        )
    },
}


@pytest.fixture(scope="session")
def path_called() -> Callable[[str], rg.paths.Path]:
    """Make the example of a registered path."""
    return lambda name: rg.paths.get(name)(**ARGUMENTS.get(name, {}))


def mixture_on(path: rg.paths.Path, predicts: str = "data") -> rg.oracles.GaussianMixture:
    """Return a mixture of three overlapping components in the plane, whose flow is smooth between the levels 2 and 0.5."""
    return rg.oracles.GaussianMixture(
        path,
        means=torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]]),
        covariances=torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]], [[0.35, -0.1], [-0.1, 0.4]]]),
        weights=torch.tensor([0.5, 0.3, 0.2]),
        predicts=predicts,
    )


@pytest.fixture(scope="session")
def anchor_for() -> Callable[..., dict[str, torch.Tensor]]:
    """Make what a run takes beside the plan: an anchor for items of a shape, where the path carries one."""

    def make(path: rg.paths.Path, *shape: int) -> dict[str, torch.Tensor]:
        if not path.anchored:
            return {}
        size = int(torch.tensor(shape).prod())
        return {"anchor": torch.linspace(-1.3, 1.9, size, dtype=torch.float64).reshape(shape)}

    return make


@pytest.fixture(scope="session")
def mixture() -> Callable[..., rg.oracles.GaussianMixture]:
    """Make the mixture on a path."""
    return mixture_on
