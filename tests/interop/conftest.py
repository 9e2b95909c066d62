"""Small pipelines of diffusers with random weights, built without a network."""

import functools
import importlib.util
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

NEED_TEXT_ENCODERS = ("text_pipelines", "opened_pipelines", "pipeline_denoisers", "pipeline_places")
collect_ignore = (
    [] if find_spec("transformers") else [f"test_{part}.py" for part in NEED_TEXT_ENCODERS]
)  # the extra "dev" brings it

_FILE = Path(__file__).parents[2] / "examples" / "tiny_pipelines.py"


def peer(name: str, **options: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**options)


@functools.cache
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_pipelines", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_pipelines() -> ModuleType:
    """The file that makes them."""
    return tiny()


@pytest.fixture(scope="session")
def tiny_pipeline() -> Callable[[str], Any]:
    """Make a pipeline by name, silent."""

    def make(name: str, **options: Any) -> Any:
        pipe = tiny().MAKERS[name](**options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def states_of() -> Callable[..., list[torch.Tensor]]:
    """Call a pipeline under a seed and return the state before its first step and the one after each."""

    def states(pipe: Any, seed: int = 3, **call: Any) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        step = pipe.scheduler.step

        @functools.wraps(step)
        def watched(output: Any, timestep: Any, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
            made = step(output, timestep, sample, *rest, **options)
            kept.extend([sample] if not kept else [])
            kept.append(made[0] if isinstance(made, tuple) else made.prev_sample)
            return made

        pipe.scheduler.step = watched
        try:
            pipe(generator=torch.Generator().manual_seed(seed), output_type="pt", **call)
        finally:
            del pipe.scheduler.step
        return kept

    return states


def largest(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Largest deviation of one trajectory from another, in units of the largest value of the state."""
    pairs = zip(ones, others, strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


@pytest.fixture(scope="session")
def deviation() -> Callable[..., float]:
    """Measure how far one trajectory is from another."""
    return largest


@pytest.fixture(scope="session")
def scheduler_called() -> Callable[..., Any]:
    """Make a scheduler of diffusers by the name of its class."""
    return peer


class Drawn:
    """Noise of a generator, in the order in which rows ask, for two items."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def draw(self, shape: Any, interval: Any, occurrence: int = 0, dtype: Any = torch.float32, device: Any = "cpu") -> Any:
        return torch.randn(2, *shape, generator=self.generator, dtype=dtype)


@pytest.fixture(scope="session")
def drawn() -> type[Drawn]:
    """A source of noise as pipelines have it."""
    return Drawn
