"""Streams: the frames of one network call are those sampled one by one, in order, whoever is faster."""

import dataclasses
import queue
import threading
import time

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, BadValue, PlanError
from retrograde.sites import ROOT

accelerate = rg.accelerate
FRAMES = list(0.5 * torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("recipe", ["ddim", "ddpm", "dpmpp_2m", "unipc_3"])
def test_frames_on_their_way_together_are_those_sampled_one_by_one(recipe, dit):
    """Twenty frames through four rows: the network is called once for each frame, and three times at the end."""
    plan = rg.plan(recipe, dit.path, nfe=4)
    with sites.timed(dit.network) as book:
        made = list(accelerate.stream(FRAMES, dit, plan, seed=3, condition=1))
    assert book.calls[ROOT] == 20 + 4 - 1
    assert len(made) == 20
    for k in (0, 1, 7, 19):
        alone = rg.sample(dit, plan, seed=3, signal=FRAMES[k][None], items=[k], condition=1)[0]
        assert torch.allclose(made[k], alone, atol=1e-5)
    assert not torch.allclose(made[7], made[8], atol=1e-2)


def test_guided_streams_and_plans_that_start_below_noise(dit):
    plan = rg.plan("dpmpp_2m", dit.path, nfe=8).from_noise(1.0)
    guided = rg.guide.cfg(dit, 2.0)
    made = list(accelerate.stream(FRAMES[:5], guided, plan, condition=lambda frame: int(frame[0, 0, 0] > 0)))
    for k in range(5):
        label = int(FRAMES[k][0, 0, 0] > 0)
        alone = rg.sample(guided, plan, signal=FRAMES[k][None], items=[k], condition=label)[0]
        assert torch.allclose(made[k], alone, atol=1e-5)


def test_a_frame_is_taken_when_there_is_room_and_leaves_as_many_calls_later(dit):
    plan, taken, seen = rg.plan("ddim", dit.path, nfe=3), [], []

    def source():
        for k, frame in enumerate(FRAMES[:6]):
            taken.append(k)
            yield frame

    for made in accelerate.stream(source(), dit, plan):
        seen.append((len(taken), made))
    assert [count for count, _ in seen] == [3, 4, 5, 6, 6, 6]


def test_without_a_new_frame_those_on_their_way_go_on(dit):
    plan = rg.plan("ddim", dit.path, nfe=3)
    sparse = [FRAMES[0], None, None, FRAMES[1], None, FRAMES[2], None, None, None, None]
    made = list(accelerate.stream(sparse, dit, plan))
    dense = list(accelerate.stream(FRAMES[:3], dit, plan))
    assert torch.allclose(torch.stack(made), torch.stack(dense), atol=1e-5)


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_no_frame_is_lost_whoever_is_faster(pause, dit):
    """A producer without pauses fills the queue, one with them leaves it empty most of the time."""
    waiting: queue.Queue = queue.Queue(maxsize=2)

    def produce():
        for frame in FRAMES[:8]:
            time.sleep(pause)
            waiting.put(frame)
        waiting.put(None)

    thread = threading.Thread(target=produce)
    thread.start()
    plan = rg.plan("ddim", dit.path, nfe=2)
    made = torch.stack(list(accelerate.stream(accelerate.arriving(waiting), dit, plan)))
    thread.join()
    assert torch.allclose(made, torch.stack(list(accelerate.stream(FRAMES[:8], dit, plan))), atol=1e-5)


def test_frames_alike_are_left_out_as_often_as_the_formula_says():
    """A frame and neighbours at a known similarity: the rate is binomial; a changed one always passes."""
    generator = torch.Generator().manual_seed(1)
    frame = torch.randn(1, 16, 16, generator=generator)
    other = torch.randn(1, 16, 16, generator=generator)
    other -= frame * (frame * other).sum() / frame.square().sum()
    other *= frame.norm() / other.norm()
    similarity, eta, n = 0.9, 0.8, 4000
    near = similarity * frame + (1 - similarity**2) ** 0.5 * other
    skipped = 0
    for k in range(n):
        first, second = accelerate.changed([frame, near], eta, seed=k)
        assert first is frame
        skipped += second is None
    p = (similarity - eta) / (1 - eta)
    assert abs(skipped / n - p) < 4 * (p * (1 - p) / n) ** 0.5
    # seventy of a hundred frames repeat the one before; what changed is never left out
    frames, k = [], 0
    while len(frames) < 100:
        fresh = torch.randn(1, 8, 8, generator=generator)
        frames += [fresh] * (1 + (k % 3 > 0) * 3 + (k % 3 == 0))
        k += 1
    passed = list(accelerate.changed(frames[:100]))
    for before, now, kept in zip([None, *frames], frames[:100], passed, strict=False):
        assert (kept is now) if before is not now else (kept is None)
    assert sum(x is not None for x in accelerate.changed([frame] * 24, most=10)) == 3  # never more than ten in a row


def test_mistakes_are_explained(den):
    plan = rg.plan("ddim", den.path, nfe=3)
    with pytest.raises(PlanError, match="knobs"):
        accelerate.stream(FRAMES, accelerate.deepcache(den), accelerate.every(plan, 2))
    with pytest.raises(BadType, match="remembers"):
        list(accelerate.stream(FRAMES, accelerate.deepcache(den), plan))
    rows = [dataclasses.replace(row, network_time=0.5) for row in plan.rows]
    with pytest.raises(PlanError, match=r"row 0 tells the network 0\.5"):
        accelerate.stream(FRAMES, den, dataclasses.replace(plan, rows=tuple(rows)))
    with pytest.raises(BadValue, match="eta"):
        accelerate.changed(FRAMES, 1.0)
