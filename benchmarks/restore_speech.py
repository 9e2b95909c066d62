"""Speech in noise and in rooms: the diffusion of SGMSE, and StoRM's around a first estimate, on recordings of a real voice.

The recordings are wav files of 8 kHz in a folder of yours. The figures kept here are of one speaker, Allison Smith: files
of the Debian package asterisk-core-sounds-en-wav (CC BY-SA 3.0), of which every tenth is held out. Noise of three kinds
(pink, hum with harmonics and drift, a babble of six other recordings) is added at 0 to 10 dB. Half of the training, and a
second test of the same recordings, is in a room first: the direct sound and a tail of white noise that has fallen by 60 dB
after 0.3 to 0.8 s, with 3 dB more to 6 dB less energy; what is wanted is the dry recording. Items are compressed spectra:
windows of 254 every 64 samples, c -> 0.5 |c|^0.5 e^(i angle c), pieces of 32 frames.

Three small U-Nets: the score of SGMSE, which sees x_t and y, and a predictor and a score trained together on
`train.regeneration_loss`, which sees D(y) too. A step of these two costs twice as much, so they have half as many: the
seconds of both trainings are equal. Figures are over whole held-out recordings of two seconds: SI-SDR, and PESQ (narrow
band) and STOI where the packages of the extra `audio` are here.

    python benchmarks/restore_speech.py FOLDER [--steps 500] [--items 8] [--keep DIR]

Trainings are kept in DIR (default runs/restore_speech) and gone on with. Figures go to
benchmarks/results/restore_speech.json. About six minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.nets import Beside, UNet
from retrograde.plan_file import write_atomically
from retrograde.train import PowerAverage, Uniform, loss, regeneration_loss

RESULTS = Path(__file__).parent / "results" / "restore_speech.json"
RATE, WINDOW, HOP, FRAMES, SECONDS = 8000, 254, 64, 32, 2.0
BINS = WINDOW // 2 + 1
SHAPE = (2, BINS, FRAMES)
PATH = rg.paths.OrnsteinUhlenbeck()
FACTOR, POWER, SPREAD = 0.5, 0.5, 0.25
BATCH, PIECE = 8, (FRAMES - 1) * HOP
NET: dict[str, Any] = {"channels": (32, 64), "patch": 4, "attention": (), "width": 64, "classes": 0}


def recordings(folder: Path) -> list[Tensor]:
    """Read the wav files of a folder, 16 bit, one channel, 8 kHz, longer than half a second; peaks are 0.5 after it."""
    found = []
    for file in sorted(folder.rglob("*.wav")):
        with wave.open(str(file)) as opened:
            if (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) != (RATE, 1, 2):
                continue
            x = torch.from_numpy(np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32))
        if len(x) > RATE // 2 and x.abs().amax() > 0:
            found.append(0.5 * x / x.abs().amax())
    if len(found) < 20:
        raise SystemExit(f"{folder} holds {len(found)} recordings of 8 kHz; 20 or more are needed")
    return found


def spectrum(x: Tensor) -> Tensor:
    """Waves [n, samples] to compressed spectra [n, 2, 128, frames]."""
    c = torch.stft(x, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    c = FACTOR * c.abs().clamp(min=1e-8) ** POWER * torch.exp(1j * c.angle())
    return torch.stack([c.real, c.imag], 1)


def sound(s: Tensor, samples: int) -> Tensor:
    """Compressed spectra back to waves [n, samples]."""
    c = torch.complex(s[:, 0], s[:, 1])
    c = (c.abs() / FACTOR) ** (1.0 / POWER) * torch.exp(1j * c.angle())
    return torch.istft(c, WINDOW, HOP, window=torch.hann_window(WINDOW), length=samples)


def noise(samples: int, voices: list[Tensor], generator: torch.Generator) -> Tensor:
    """Noise of one of three kinds, by chance."""
    kind = int(torch.randint(3, (), generator=generator))
    t = torch.arange(samples) / RATE
    if kind == 0:
        white = torch.fft.rfft(torch.randn(samples, generator=generator))
        return torch.fft.irfft(white / torch.arange(1, len(white) + 1).sqrt(), n=samples)
    if kind == 1:
        low, drift = 50.0 + 100.0 * torch.rand(2, generator=generator)
        phase = 2.0 * math.pi * (low * t + 0.05 * torch.sin(0.02 * drift * t))
        hum = sum(torch.sin(k * phase) / k for k in range(1, 12))
        return torch.as_tensor(hum) + 0.2 * torch.randn(samples, generator=generator)
    return sum((piece(voices, samples, generator) for _ in range(6)), torch.zeros(samples))


def piece(voices: list[Tensor], samples: int, generator: torch.Generator) -> Tensor:
    """A piece of a recording by chance, repeated where it is shorter."""
    x = voices[int(torch.randint(len(voices), (), generator=generator))]
    x = x.repeat(math.ceil((samples + 1) / len(x)))
    start = int(torch.randint(len(x) - samples, (), generator=generator))
    return x[start : start + samples]


def room(x: Tensor, generator: torch.Generator) -> Tensor:
    """A wave in a room by chance: h = direct sound and white noise that decays exponentially, [samples] -> [samples]."""
    fall, share = torch.rand(2, generator=generator).tolist()
    after, ratio = 0.3 + 0.5 * fall, 10.0 ** (0.1 * (9.0 * share - 3.0))
    t = torch.arange(1, int(after * RATE)) / RATE
    tail = torch.randn(len(t), generator=generator) * 10.0 ** (-3.0 * t / after)
    h = torch.cat([torch.ones(1), tail / (tail.square().sum() * ratio).sqrt()])
    size = len(x) + len(h)
    return torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(h, size), size)[: len(x)]


def noisy(x: Tensor, voices: list[Tensor], generator: torch.Generator) -> Tensor:
    """A wave with noise at 0 to 10 dB, of its own power."""
    n = noise(len(x), voices, generator)
    ratio = 10.0 ** (-torch.rand((), generator=generator))
    return x + n * (x.square().mean() / n.square().mean().clamp(min=1e-12) * ratio).sqrt()


def pairs(n: int, voices: list[Tensor], seed: int, samples: int, rooms: float = 0.5) -> tuple[Tensor, Tensor]:
    """Clean and degraded waves [n, samples], scaled to a peak of 1 of the latter, a share in rooms; silence is not taken."""
    generator, others = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1_000_000)
    clean, made = [], []
    while len(clean) < n:
        x = piece(voices, samples, generator)
        if x.square().mean() < 1e-4:
            continue
        inside = torch.rand((), generator=others) < rooms
        y = noisy(room(x, others) if inside else x, voices, generator)
        clean.append(x / y.abs().amax())
        made.append(y / y.abs().amax())
    return torch.stack(clean), torch.stack(made)


class Around(nn.Module):
    """The second stage: the residual anchor - x_0, preconditioned as EDM does, for small networks learn slowly to copy.

    With r = (x_t - anchor)/a = x_0 - anchor + sigma eps and d the deviation of x_0 - anchor: c_skip r + c_out F(c_in r).
    """

    def __init__(self, sees: tuple[str, ...]) -> None:
        super().__init__()
        self.inner = Beside(SHAPE, sees=sees, **NET)

    def forward(self, x_t: Tensor, told: Tensor, **seen: Tensor) -> Tensor:
        t = told.double().reshape(-1, 1, 1, 1)
        a, sigma = PATH.a(t).float(), PATH.sigma(t).float()
        r, norm = (x_t - seen["anchor"]) / a, (sigma**2 + SPREAD**2).sqrt()
        return -(SPREAD**2 / norm**2 * r + sigma * SPREAD / norm * self.inner(r / norm, told, **seen))


class Predictor(nn.Module):
    """The first stage: y less what a U-Net makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UNet(SHAPE, **NET)

    def forward(self, y: Tensor) -> Tensor:
        return y - self.inner(y, torch.zeros(len(y)))


def train(module: nn.Module, value_of: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], voices: Any, given: Any) -> Any:
    """Minimize a loss of (clean, noisy, t, eps) with Adam and a cosine; return the running average and the seconds.

    A checkpoint every minute: what is in it is gone on with.
    """
    given.file.parent.mkdir(parents=True, exist_ok=True)
    optimizer, average = torch.optim.Adam(module.parameters(), lr=1e-3), PowerAverage(module)
    step, spent, smooth = 0, 0.0, math.nan
    if given.file.exists():
        held = torch.load(given.file, weights_only=True)
        module.load_state_dict(held["module"])
        optimizer.load_state_dict(held["optimizer"])
        average.network.load_state_dict(held["average"])
        average.updates, step, spent, smooth = held["updates"], held["step"], held["seconds"], held["loss"]
    began, saved = time.process_time() - spent, time.monotonic()
    while step < given.steps:
        clean, made = (spectrum(one)[..., :FRAMES] for one in pairs(BATCH, voices, 10_000 + step, PIECE))
        generator = torch.Generator().manual_seed(step)
        t = Uniform().sample(PATH, BATCH, generator)
        eps = torch.randn(clean.shape, generator=generator)
        value = value_of(clean, made, t, eps).mean()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / given.steps))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update(module)
        step += 1
        smooth = float(value.detach()) if math.isnan(smooth) else smooth + 0.02 * (float(value.detach()) - smooth)
        if step % 100 == 0:
            print(f"{given.file.stem}: step {step}, loss {smooth:.4f}, {time.process_time() - began:.0f} s", flush=True)
        if time.monotonic() - saved > 60.0 or step == given.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "updates": average.updates}
            state |= {"average": average.network.state_dict(), "step": step, "loss": smooth}
            beside = given.file.with_suffix(".part")
            torch.save(state | {"seconds": time.process_time() - began}, beside)
            beside.replace(given.file)
            saved = time.monotonic()
    return average.network.eval()


def si_sdr(made: Tensor, clean: Tensor) -> Tensor:
    """Scale-invariant ratio of signal to distortion in dB, [n] (Le Roux et al., 2018, arXiv 1811.02508)."""
    target = (made * clean).sum(1, keepdim=True) / clean.square().sum(1, keepdim=True) * clean
    return 10.0 * torch.log10(target.square().sum(1) / (made - target).square().sum(1))


def perceived(made: Tensor, clean: Tensor) -> dict[str, float]:
    """PESQ and STOI, where their packages are installed."""
    found: dict[str, float] = {}
    both = list(zip(clean.double().numpy(), made.double().numpy(), strict=True))
    try:
        from pesq import pesq
    except ImportError:
        pass
    else:
        found["pesq"] = round(float(np.mean([pesq(RATE, one, other, "nb") for one, other in both])), 3)
    try:
        from pystoi import stoi
    except ImportError:
        pass
    else:
        found["stoi"] = round(float(np.mean([stoi(one, other, RATE) for one, other in both])), 4)
    return found


def main() -> None:
    """Train, restore, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--keep", type=Path, default=Path("runs") / "restore_speech")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    voices = recordings(given.folder)
    held_out, learned = voices[::10], [x for k, x in enumerate(voices) if k % 10]
    plain = rg.Denoiser(Around(("anchor",)), PATH, "residual", SHAPE)
    told = {"noisy": torch.zeros(SHAPE)}
    around = rg.Denoiser(Around(("anchor", "noisy")), PATH, "residual", SHAPE, conditions=told)
    stages = nn.ModuleList([Predictor(), around.network])  # type: ignore[list-item]

    given.file = given.keep / "sgmse.pt"
    found = train(plain.network, lambda x, y, t, eps: loss(plain, x, t, eps, None, "noise", y), learned, given)  # type: ignore[arg-type]
    plain = rg.Denoiser(found, PATH, "residual", SHAPE)
    given.file, steps, given.steps = given.keep / "storm.pt", given.steps, given.steps // 2
    found = train(
        stages, lambda x, y, t, eps: regeneration_loss(around, stages[0], x, y, t, eps, measure="noise"), learned, given
    )
    given.steps = steps
    predictor, network = found
    around = rg.Denoiser(network, PATH, "residual", SHAPE, conditions=told)

    frames = FRAMES * int(SECONDS * RATE / HOP / FRAMES)
    samples = (frames - 1) * HOP
    rows: list[dict[str, Any]] = []

    def keep(name: str, nfe: int, made: Tensor) -> None:
        waves = sound(torch.cat(made.split(given.items), -1), samples)
        gained = si_sdr(waves, clean) - si_sdr(y, clean)
        row = {"place": place, "model": name, "evaluations": nfe, "si_sdr": round(float(si_sdr(waves, clean).mean()), 3)}
        row |= {"gain": round(float(gained.mean()), 3), "error": round(float(gained.std()) / math.sqrt(given.items), 3)}
        rows.append(row | perceived(waves, clean))
        print(rows[-1], flush=True)
        made_by = f"python benchmarks/restore_speech.py FOLDER --steps {given.steps} --items {given.items}"
        kept: dict[str, Any] = {"command": made_by, "torch": torch.__version__}
        kept |= {"recordings": len(voices), "steps": given.steps, "items": given.items}
        kept |= {"there_and_back": round(lost, 1), "rows": rows}
        write_atomically(RESULTS, (json.dumps(kept, indent=1) + "\n").encode())

    for rooms in (0.0, 1.0):
        place = "room" if rooms else "noise"
        clean, y = pairs(given.items, held_out, 1, samples, rooms)
        lost = float(si_sdr(sound(spectrum(clean), samples), clean).mean())
        pieces = torch.cat(spectrum(y).split(FRAMES, -1))
        keep("degraded", 0, pieces)
        with torch.no_grad():
            estimate = predictor(pieces)
        keep("predictor", 1, estimate)
        for nfe, corrections in ((2, 0), (5, 0), (10, 0), (30, 0), (60, 1)):
            plan = rg.recipes.sgmse.plan(PATH, nfe=nfe, corrections=corrections)
            keep("sgmse", nfe, rg.sample(plain, plan, seed=0, anchor=pieces))
            if nfe <= 30:
                made = rg.sample(around, plan, seed=0, anchor=estimate, condition={"noisy": pieces})
                keep("storm", nfe + 1, made)


if __name__ == "__main__":
    main()
