"""The model card a training writes: how the weights came to be, and how good they are."""

from retrograde.denoisers import Denoiser
from retrograde.train.checkpoint import Checkpoint
from retrograde.train.config import TrainConfig

_DIGITS = (
    "MNIST (LeCun, Cortes, Burges), 10,000 images of it as embedded in `retrograde.data`; the images are under CC BY-SA 3.0"
)


def card(config: TrainConfig, denoiser: Denoiser, parameters: int, at: Checkpoint, losses: dict[float, float]) -> str:
    """Return README.md: data, licence, command, steps, seconds, parameters, and the loss at each noise level.

    `at` is where the training stood, with its smoothed loss; `losses` maps the noise-to-signal ratio sigma to the mean
    squared error of the data mean per pixel.
    """
    source = _DIGITS if config.data in ("digits", "digits8") else "see the owner of the data"
    path = {name: value for name, value in denoiser.path.config().items() if name != "alphas_cumprod"}
    what = ", ".join(f"{k}={v}" for k, v in path.items() if k != "name")
    lines = [
        f"# {config.name}",
        "",
        f"A denoiser of items of shape {list(denoiser.shape)} on the path `{path['name']}`"
        + (f" ({what})" if what else "")
        + f", predicting {config.predicts}"
        + (f"; conditions and their null values: {dict(denoiser.conditions)}." if denoiser.conditions else "."),
        "",
        f"- data: `{config.data}`, train split. {source}",
        f"- network: `{config.network}`, {parameters:,} parameters, stored as {config.store}",
        f"- training: `{config.command or 'retrograde.train.run(TrainConfig(...))'}`",
        f"- {at.step:,} steps of {config.batch} in {at.seconds:,.0f} s; last smoothed training loss {at.loss:.4f}",
        f"- learning rate {config.lr:g}, {config.precision}, seed {config.seed}, label dropout {config.label_dropout:g}",
        f"- weights: running average, relative width {config.average_std:g}",
        "- licence of the weights: that of the library; made from the data above",
        "",
        "Denoising loss on the test split (1,000 items, one fixed noise draw): mean squared error of the data mean per",
        "pixel, in squared data units, at noise-to-signal ratio sigma.",
        "",
        "| sigma | loss |",
        "|---|---|",
        *(f"| {sigma:g} | {value:.5f} |" for sigma, value in losses.items()),
        "",
    ]
    return "\n".join(lines)
