"""What each operator is: compared with its definition, and with what another program says."""

import math

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde import operators
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_gaussian_blur_is_that_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = normal(1, 1, 9, 12)
    for boundary, mode in (("reflect", "reflect"), ("periodic", "wrap"), ("zero", "constant")):
        ours = operators.blur((1, 9, 12), 1.1, boundary)(x)[0, 0]
        theirs = ndimage.gaussian_filter(x[0, 0].numpy(), 1.1, mode=mode, radius=math.ceil(4.4))
        assert np.abs(ours.numpy() - theirs).max() < 1e-12


@pytest.mark.parametrize(("boundary", "mode"), [("periodic", "wrap"), ("zero", "constant"), ("replicate", "nearest")])
def test_a_measured_kernel_is_a_convolution_with_its_origin_in_the_middle(boundary, mode):
    ndimage = pytest.importorskip("scipy.ndimage")
    kernel, x = normal(3, 5, seed=1), normal(1, 1, 8, 9)
    ours = operators.kernel_blur((1, 8, 9), kernel, boundary)(x)[0, 0]
    assert np.abs(ours.numpy() - ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=mode)).max() < 1e-12


def test_motion_blur_is_a_line_of_its_length():
    flat = operators.motion_blur((1, 15, 15), length=5.0, angle=0.0)
    assert torch.allclose(flat.kernel.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert float(flat.kernel[flat.kernel.shape[0] // 2].sum()) == pytest.approx(1.0)
    upright = operators.motion_blur((1, 15, 15), length=5.0, angle=90.0)
    assert torch.allclose(upright.kernel, flat.kernel.T, atol=1e-9)


def test_the_radon_transform_of_a_disc_is_its_chords():
    side, radius = 65, 20.0
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    disc = ((at[:, None] ** 2 + at**2).sqrt() <= radius).double()[None, None]
    A = operators.radon((1, side, side), views=7)
    u = torch.arange(A.measured[-1], dtype=torch.float64) - (A.measured[-1] - 1) / 2
    chords = 2.0 * (radius**2 - u**2).clamp(min=0.0).sqrt()
    assert float((A(disc)[0, 0] - chords).abs().mean()) < 0.6
    assert torch.allclose(A(disc)[0, 0].sum(-1), disc.sum(), rtol=0.01)


def test_views_of_a_radon_transform_are_the_picture_turned():
    x = normal(1, 1, 8, 8)
    A = operators.radon((1, 8, 8), views=2, detectors=8)
    assert torch.allclose(A(x)[0, 0, 0], x[0, 0].sum(0), atol=1e-9)
    assert torch.allclose(A(x)[0, 0, 1], x[0, 0].sum(1), atol=1e-9)


def test_down_sampling_takes_means_and_keeps_constants():
    x = normal(1, 2, 8, 8)
    assert torch.allclose(operators.down((2, 8, 8), 4)(x)[0, 1, 0, 1], x[0, 1, :4, 4:].mean())
    for kind in ("mean", "every", "cubic"):
        assert torch.allclose(operators.down((1, 8, 8), 2, kind)(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 4, 4))


def test_cubic_down_sampling_is_that_of_pillow():
    image = pytest.importorskip("PIL.Image")
    x = normal(16, 12).float()
    theirs = np.asarray(image.fromarray(x.numpy()).resize((6, 8), image.Resampling.BICUBIC))
    ours = operators.down((1, 16, 12), 2, "cubic")(x[None, None])[0, 0].numpy()
    # away from the edge, where Pillow cuts the kernel and we mirror the picture
    assert np.abs(ours - theirs)[2:-2, 2:-2].max() < 1e-4


def test_sensors_read_between_the_points():
    x = normal(1, 1, 4, 4)
    A = operators.sensors((1, 4, 4), places=((1.0, 2.0), (0.5, 0.0), (1.5, 2.5)))
    wanted = torch.stack([x[0, 0, 1, 2], x[0, 0, :2, 0].mean(), x[0, 0, 1:3, 2:4].mean()])
    assert torch.allclose(A(x)[0, 0], wanted)
    with pytest.raises(BadValue, match="sensors"):
        operators.sensors((1, 4, 4), places=((4.0, 0.0),))


def test_the_sensitivities_of_several_coils_add_up_to_one():
    A = operators.fourier((2, 8, 6), share=1.0, coils=4)
    x = normal(2, 2, 8, 6)
    assert torch.allclose(A.adjoint(A(x)), x, atol=1e-10)
    assert A.measured == (8, 8, 6)


def test_fourier_samples_the_middle_first():
    A = operators.fourier((2, 4, 20), share=0.3, middle=0.15)
    columns = A.sampled[0]
    assert int(columns.sum()) == 6
    assert bool((columns[[0, 1, -1]] == 1).all())


def test_phases_are_lost():
    A = operators.phase((1, 6, 6))
    x = 0.3 * normal(1, 1, 6, 6)
    turned = x.flip((2, 3))
    assert torch.allclose(A(turned), A(x), atol=1e-7)
    assert not torch.allclose(A(-x), A(x), atol=1e-3)
    without = operators.phase((1, 6, 6), offset=0.0)
    assert torch.allclose(without(-x), without(x), atol=1e-7)


def test_jpeg_is_that_of_pillow():
    image = pytest.importorskip("PIL.Image")
    import io

    grey = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) * 255).round()
    stream = io.BytesIO()
    image.fromarray(grey.byte().numpy()).save(stream, "JPEG", quality=30)
    theirs = torch.from_numpy(np.asarray(image.open(io.BytesIO(stream.getvalue()))).copy()).double()
    ours = operators.jpeg((1, 16, 16), quality=30)((grey.double() - 128.0)[None, None] * 2 / 255)[0, 0] * 255 / 2 + 128
    assert float((ours - theirs).abs().mean()) < 2.0
    assert float((ours - grey).abs().mean()) > 10.0


def test_quantizing_twice_changes_nothing_and_its_derivative_is_that_of_the_identity():
    A = operators.jpeg((1, 8, 8), quality=10)
    x = 0.5 * normal(2, 1, 8, 8)
    assert torch.allclose(A(A(x)), A(x), atol=1e-10)
    v = normal(2, 1, 8, 8, seed=1)
    assert torch.allclose(A.pull_back(x, v), v, atol=1e-10)


def test_the_curve_of_a_camera_lets_light_win():
    x = -torch.ones(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 4] = 1.0
    plain = operators.blur((1, 9, 9), 1.0)(x)
    curved = operators.curved_blur((1, 9, 9), 1.0)(x)
    assert float(curved[0, 0, 4, 6]) > float(plain[0, 0, 4, 6]) + 0.1
    assert torch.allclose(operators.curved_blur((1, 9, 9), 1.0, gamma=1.0)(0.5 * x), operators.blur((1, 9, 9), 1.0)(0.5 * x))


def test_a_stack_measures_side_by_side_and_a_chain_one_after_the_other():
    A, B = operators.mask((1, 8, 8), 0.5), operators.down((1, 8, 8), 4)
    x = normal(2, 1, 8, 8)
    both = operators.stack(A, B, scales=(1.0, 0.1))
    assert torch.allclose(both(x)[:, 64:], B(x).flatten(1) / 0.1)
    M = both.matrix()
    y = normal(2, *both.measured)
    assert torch.allclose(both.adjoint(y).flatten(1), y @ M)
    chain = operators.compose(A, B)
    assert torch.allclose(chain(x), B(A(x)))
    assert torch.allclose(chain.matrix(), B.matrix() @ A.matrix())
    assert not isinstance(operators.compose(operators.hdr((1, 8, 8)), B), operators.Linear)
    assert not isinstance(operators.stack(A, operators.hdr((1, 8, 8))), operators.Linear)
    with pytest.raises(ShapeError, match="after one that makes"):
        operators.compose(B, A)
    with pytest.raises(ShapeError, match="one shape"):
        operators.stack(A, operators.mask((1, 4, 4)))


def test_any_function_is_an_operator():
    W = normal(3, 6)
    A = operators.function(lambda x: x.flatten(1) @ W.T.to(x), (2, 3), linear=True)
    y = normal(2, 3, seed=1)
    assert torch.allclose(A.adjoint(y).flatten(1), y @ W)
    assert torch.allclose(A.pseudo_inverse(y).flatten(1), y @ torch.linalg.pinv(W).T)
    f = operators.function(lambda x: x.sin(), (2, 3))
    x, v = normal(2, 2, 3), normal(2, 2, 3, seed=1)
    assert torch.allclose(f.pull_back(x, v), v * x.cos())
    with pytest.raises(BadValue, match="said to be linear"):
        operators.function(lambda x: x + 1.0, (3,), linear=True)
    with pytest.raises(ShapeError, match="batch axis"):
        operators.function(lambda x: x.sum(0), (3,))
    with pytest.raises(BadType):
        operators.function(3, (3,))


class Physics:
    """What deepinv calls a physics: A, A_adjoint, A_dagger."""

    W = normal(3, 6)

    def A(self, x, **_):
        return x.flatten(1) @ self.W.T.to(x)

    def A_adjoint(self, y, **_):
        return (y @ self.W.to(y)).reshape(-1, 1, 2, 3)

    def A_dagger(self, y, **_):
        return (y @ torch.linalg.pinv(self.W).T.to(y)).reshape(-1, 1, 2, 3)


def test_a_physics_of_deepinv_is_an_operator():
    A = operators.from_deepinv(Physics(), (1, 2, 3))
    y = normal(2, 3)
    assert torch.equal(A.adjoint(y), Physics().A_adjoint(y))
    assert torch.equal(A.pseudo_inverse(y), Physics().A_dagger(y))
    assert isinstance(A, operators.Linear)

    class Squares:
        def A(self, x):
            return x * x

    assert not isinstance(operators.from_deepinv(Squares(), (1, 2, 3)), operators.Linear)
    with pytest.raises(BadType, match="physics"):
        operators.from_deepinv(object(), (1, 2, 3))


@pytest.mark.parametrize("name", ["Blur", "Inpainting"])
def test_deepinv_itself_where_it_is_installed(name):
    deepinv = pytest.importorskip("deepinv")
    x = torch.rand(2, 1, 8, 8)
    kernel = torch.rand(1, 1, 3, 3)
    blur, mask = deepinv.physics.Blur, deepinv.physics.Inpainting
    physics = blur(kernel, padding="circular") if name == "Blur" else mask((1, 8, 8), 0.5)
    A = operators.from_deepinv(physics, (1, 8, 8))
    assert torch.allclose(A(x), physics.A(x))
    y = torch.rand_like(A(x))
    assert torch.allclose((A(x) * y).sum(), (x * A.adjoint(y)).sum(), rtol=1e-4)


def test_operators_are_typed_by_name():
    A = rg.operators.make("blur:sigma=2.5,boundary=periodic", (1, 8, 8))
    assert torch.allclose(A.matrix(), operators.blur((1, 8, 8), 2.5, "periodic").matrix())
    assert operators.make("down:2", (1, 8, 8)).measured == (1, 4, 4)
    assert operators.make("then:blur:sigma=1.0;down:factor=2", (1, 8, 8)).measured == (1, 4, 4)
    with pytest.raises(UnknownName, match="blur"):
        operators.make("blurr", (1, 8, 8))
    with pytest.raises(UnknownName, match="sigma"):
        operators.make("blur:sigm=1", (1, 8, 8))
    with pytest.raises(BadValue, match="twice"):
        operators.make("blur:1,sigma=2", (1, 8, 8))
    with pytest.raises(BadValue, match="kernel"):
        operators.make("kernel_blur", (1, 8, 8))
    with pytest.raises(BadValue, match="divisor"):
        operators.make("down:3", (1, 8, 8))
    with pytest.raises(ShapeError):
        operators.make("radon", (8,))


def test_conjugate_gradients_solve_each_item_by_itself_and_stop_where_they_are_done():
    M = torch.diag(torch.tensor([1.0, 3.0, 10.0, 0.0], dtype=torch.float64))
    b = torch.tensor([[1.0, 3.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    asked = []

    def product(x):
        asked.append(1)
        return x @ M

    x = operators.conjugate_gradients(product, b)
    assert torch.allclose(x, torch.tensor([[1.0, 1.0, 0.5, 0.0], [0.0] * 4], dtype=torch.float64))
    assert len(asked) == 3


def test_an_operator_too_large_for_its_matrix_has_no_decomposition():
    A = operators.radon((1, 80, 80), views=2)
    with pytest.raises(BadValue, match="decomposition"):
        operators.spectrum_of(A)
