"""Laws of operators, over the registry: the adjoint, the pseudo-inverse, the decomposition, the solvers."""

import pytest
import torch

from retrograde import operators
from retrograde.operators import Linear

EXAMPLES = [
    pytest.param(name, shape, settings, id=f"{name}-{place}")
    for name in operators.names()
    for place, (shape, settings) in enumerate(operators.get(name).examples)
]
LINEAR = [one for one in EXAMPLES if isinstance(operators.make(one.values[0], one.values[1], **one.values[2]), Linear)]
OTHER = [one for one in EXAMPLES if one not in LINEAR]


def made(name, shape, settings):
    return operators.make(name, shape, **settings)


def random(n, shape, seed=0):
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(one, other):
    return (one * other).flatten(1).sum(1)


def test_every_operator_has_an_example():
    assert all(operators.get(name).examples for name in operators.names())
    assert len(LINEAR) > 20
    assert len(OTHER) >= 5


@pytest.mark.parametrize(("name", "shape", "settings"), EXAMPLES)
def test_it_measures_what_it_says_item_by_item_in_the_type_of_the_items(name, shape, settings):
    A = made(name, shape, settings)
    x = random(3, A.shape)
    y = A(x)
    assert tuple(y.shape) == (3, *A.measured)
    assert torch.allclose(A(x[1:2]), y[1:2])
    assert A(x.float()).dtype == torch.float32
    assert torch.allclose(A(x.float()).double(), y, atol=1e-4)
    with pytest.raises(ValueError, match="items of shape"):
        A(x[0])


@pytest.mark.parametrize(("name", "shape", "settings"), OTHER)
def test_the_derivative_is_that_of_the_operator(name, shape, settings):
    if name == "jpeg":
        pytest.skip("rounding has no slope; its derivative is set, see below")
    A = made(name, shape, settings)
    x, v = 0.4 * random(2, A.shape), random(2, A.measured, 1)
    direction = random(2, A.shape, 2)
    h = 1e-6
    slope = dot(A(x + h * direction) - A(x - h * direction), v) / (2 * h)
    assert torch.allclose(dot(A.pull_back(x, v), direction), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "shape", "settings"), LINEAR)
def test_the_adjoint_is_the_adjoint(name, shape, settings):
    A = made(name, shape, settings)
    x, y = random(3, A.shape), random(3, A.measured, 1)
    assert torch.allclose(dot(A(x), y), dot(x, A.adjoint(y)), rtol=1e-10, atol=1e-10)
    assert torch.allclose(A.pull_back(x, y), A.adjoint(y), atol=1e-10)
    assert torch.allclose(A.matrix() @ x[0].flatten(), A(x)[0].flatten(), atol=1e-10)


@pytest.mark.parametrize(("name", "shape", "settings"), LINEAR)
def test_the_pseudo_inverse_is_that_of_moore_and_penrose(name, shape, settings):
    A = made(name, shape, settings)
    y = random(2, A.measured)
    exact = y.flatten(1) @ torch.linalg.pinv(A.matrix(), rtol=1e-9).T
    assert torch.allclose(A.pseudo_inverse(y).flatten(1), exact, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize(("name", "shape", "settings"), LINEAR)
def test_its_solvers_solve(name, shape, settings):
    A = made(name, shape, settings)
    b, v, c = random(2, A.shape), random(2, A.measured, 1), 0.03
    x = A.solve(b, c)
    assert torch.allclose(A.adjoint(A(x)) + c * x, b, atol=1e-8)
    u = A.solve_measured(v, c)
    assert torch.allclose(A(A.adjoint(u)) + c * u, v, atol=1e-8)
    inverse = torch.linalg.pinv(A.matrix(), rtol=1e-9)
    exact = v.flatten(1) @ inverse.T @ inverse
    assert torch.allclose(A.solve_measured(v, 0.0).flatten(1), exact, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize(("name", "shape", "settings"), LINEAR)
def test_the_decomposition_is_the_operator(name, shape, settings):
    A = made(name, shape, settings)
    S = operators.spectrum_of(A)
    x, y = random(2, A.shape), random(2, A.measured, 1)
    d = A.matrix().shape[1]
    assert torch.allclose(S.basis.T @ S.basis, torch.eye(d, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(S.rotate_back(S.rotate(x)), x, atol=1e-9)
    assert torch.allclose(S.write(S.values * S.rotate(x)), A(x), atol=1e-9)
    assert torch.allclose(S.rotate_back(S.values * S.read(y)), A.adjoint(y), atol=1e-9)
    z = random(2, (d,), 2) * S.seen
    assert torch.allclose(S.read(S.write(z)), z, atol=1e-9)
    assert bool((S.values >= 0.0).all())
    exact = torch.linalg.svdvals(A.matrix())
    ours = S.values.sort(descending=True).values[: len(exact)]
    assert torch.allclose(ours, exact[: len(ours)], atol=1e-9)
