"""What a training is: everything that decides its result, in one validated record."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Target = Literal["data", "noise", "v", "score", "velocity", "edm", "residual", "resnoise", "reverting_v"]
"""What a network may predict: what every path knows, and what anchored ones do."""


class TrainConfig(BaseModel):
    """A training run. Unknown fields are errors; the same record gives the same weights on the same machine.

    `data` names a function of `retrograde.data`, or any "package.module:function", that maps a split ("train",
    "test") to images [n, *shape] and labels [n], and on an anchored path to anchors [n, *shape] too, unless `degrade`
    makes them: an operator of `retrograde.operators` as text, such as "down:4", with `degrade_noise` as the standard
    deviation of what is added to its measurement. `network` holds "class", a class of `retrograde.nets` or
    "package.module:Class", and its keywords; on an anchored path it is put into a `Beside`, which shows it the
    anchor. `path` is a configuration of `retrograde.paths.from_config`, or just its name. `levels` is a law of
    `retrograde.train.LAWS` with its parameters (None: the usual one). `store` is the type weights are exported in,
    `command` what the model card says made them. Times are seconds, `sigma_data` is in data units.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "model"
    data: str = "digits"
    path: dict[str, Any] | str = "edm"
    degrade: str | None = None
    degrade_noise: float = Field(default=0.0, ge=0)
    predicts: Target = "edm"
    network: dict[str, Any] = Field(default_factory=lambda: {"class": "UNet"})
    classes: int = Field(default=10, ge=0)
    sigma_data: float = Field(default=0.5, gt=0)
    levels: dict[str, Any] | None = None
    measure: Literal["data", "noise", "v", "score", "velocity"] | None = None

    steps: int = Field(default=20_000, ge=1)
    batch: int = Field(default=64, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=500, ge=0)
    clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    average_std: float = Field(default=0.05, gt=0, lt=0.28)
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=0, ge=0)

    store: Literal["float32", "float16"] = "float32"
    command: str = ""
    out: str = "trained"
    resume: bool = False
    seconds: float | None = Field(default=None, gt=0)
    save_every: float = Field(default=120.0, gt=0)
    log_every: int = Field(default=50, ge=1)
    test_every: int = Field(default=1000, ge=1)
    progress: bool = True
