"""A teacher with an easier task: what it says of a picture less degraded is the target for one that sees less of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Denoiser
from retrograde.denoisers.denoiser import prepare_condition
from retrograde.errors import BadValue
from retrograde.train.objective import loss


def easier_target_loss(
    student: Denoiser,
    teacher: AbstractDenoiser,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    conditions: Mapping[str, Tensor],
    easier: Mapping[str, Tensor],
) -> Tensor:
    """Return w(t) mean |D_student(x_t, c) - D_teacher(x_t, c')|^2 for every item: the clean item is replaced by the answer.

    Both see the same x_t = a x_0 + s eps. Where c is made of c', as a picture shrunk by four is of that shrunk by two, the
    mean of the exact teacher's answers over all that the student sees alike is the exact student's (the tower property), so
    that the best student is that of `loss`, and its target varies less: by E var(x_0 | x_t, c'). w is that of `loss` for
    what the student predicts.

    With models of small digits fitted by least squares, a student of 1,024 draws gains 1.5 dB in one step and 0.8 in
    four by a teacher of 8,192; one fitted to 9,216 draws itself is another decibel better, and gains 0.05 by the teacher.
    So it is worth its updates where the teacher is there already, or where the clean target's variance is what holds back.

    Shapes: x_0, eps [n, *shape], t [n] path times, conditions name -> [n, ...] -> [n].

    Raises:
        BadValue: a teacher on another path.

    Reference: Noroozi, Hadji, Martinez, Bulat, Tzimiropoulos, You Only Need One Step: Fast Super-Resolution with Stable
    Diffusion via Scale Distillation, 2024, arXiv 2401.17258.
    """
    if teacher.path != student.path:
        given = f"a teacher on path {teacher.path.name!r}, a student on {student.path.name!r}"
        raise BadValue(given, "one path", "teacher=rg.denoisers.on_path(teacher, student.path)")
    place = t.double().reshape(-1, *(1,) * (x_0.ndim - 1))
    x_t = (student.path.a(place) * x_0 + student.path.s(place) * eps).to(x_0.dtype)
    with torch.no_grad():
        answer = teacher.predict(x_t, t, prepare_condition(teacher, dict(easier), len(x_0), x_0.device)).data.to(x_0.dtype)
    # the noise that makes the same x_t of the answer: every parameterization's target follows
    told = ((x_t - student.path.a(place) * answer) / student.path.s(place)).to(x_0.dtype)
    return loss(student, answer, t, told, conditions)


systems.register(
    systems.System(
        title="You Only Need One Step: Fast Super-Resolution with Stable Diffusion via Scale Distillation",
        authors=("Mehdi Noroozi", "Isma Hadji", "Brais Martinez", "Adrian Bulat", "Georgios Tzimiropoulos"),
        year=2024,
        arxiv="2401.17258",
        home="distill",
        call="rg.train.easier_target_loss(student, teacher, x_0, t, eps, {'low': quarter}, {'low': half}).mean()",
        test="tests/train/test_scale.py::test_the_best_student_is_the_exact_one_and_its_target_varies_less",
    )
)
