import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from mrisr_node.volumes.degradation import (
    SliceProfile,
    SliceStack,
    along_last_axis,
    degradation_matrix,
    profile_sigma,
    resliced_affine,
    slice_profile,
    thicken,
)
from mrisr_node.volumes.geometry import Volume


def blob(z, centre=13.37, width=2.9):
    return np.exp(-0.5 * ((z - centre) / width) ** 2)


def blob_through_profile(z, thickness, centre=13.37, width=2.9):
    """A Gaussian blob seen through a Gaussian profile is a wider, lower Gaussian."""
    total = np.hypot(width, profile_sigma(thickness))
    return width / total * blob(z, centre, total)


@pytest.mark.parametrize(
    ("distance", "thickness", "spacing"),
    [(4.0, 4.0, 1.0), (5.5, 5.0, 0.868), (3.3, 3.0, 0.8), (7.0, 5.0, 1.1), (3.0, 3.6, 0.9)],
)
def test_a_blob_is_acquired_exactly_for_any_factor_and_gap(distance, thickness, spacing):
    stack = SliceStack(12, distance, thickness)
    thin = np.arange(-40.0, 110.0, spacing) + 0.123  # at no special place
    thick = degradation_matrix(stack, thin) @ blob(thin)
    assert thick == pytest.approx(blob_through_profile(stack.centres, thickness), abs=2e-4)


def test_the_analytic_phantom_is_itself_right():
    sigma = profile_sigma(4.0)
    seen, _ = quad(
        lambda z: blob(z) * np.exp(-0.5 * ((z - 12) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)),
        -40,
        60,
    )
    assert blob_through_profile(12.0, 4.0) == pytest.approx(seen, rel=1e-6)


def sinc_gain(cycles_per_mm, thickness):
    """What a slice that a Hann-windowed sinc pulse excites leaves of a wave: the pulse itself.

    Profile and pulse are Fourier pairs; the pulse's unit of time follows from the half maximum.
    """

    def excited(offset):
        return quad(
            lambda t: np.sinc(4 * t) * np.cos(np.pi * t) ** 2 * np.cos(2 * np.pi * offset * t),
            -0.5,
            0.5,
        )[0]

    half = brentq(lambda offset: excited(offset) - 0.5 * excited(0.0), 0.5, 4.0)
    time = cycles_per_mm * thickness / (2 * half)
    return np.where(np.abs(time) < 0.5, np.sinc(4 * time) * np.cos(np.pi * time) ** 2, 0.0)


def gaussian_gain(cycles_per_mm, thickness):
    return np.exp(-2 * (np.pi * profile_sigma(thickness) * cycles_per_mm) ** 2)


@pytest.mark.parametrize("profile", SliceProfile)
def test_a_profile_is_half_as_high_at_half_the_thickness(profile):
    offsets = np.array([-2.5, 0.0, 2.5, 25.0])
    heights = slice_profile(offsets, 5.0, profile)
    assert heights / heights[1] == pytest.approx([0.5, 1.0, 0.5, 0.0], abs=1e-9)


@pytest.mark.parametrize(
    ("profile", "gain"), [(SliceProfile.GAUSSIAN, gaussian_gain), (SliceProfile.SINC, sinc_gain)]
)
@pytest.mark.parametrize("thickness", [5.0, 3.7, 6.1])  # a gap, a wider one, and overlap
@pytest.mark.parametrize("spacing", [1.0, 0.868, 1.13])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_phantom_of_ramp_and_waves_is_acquired_exactly(profile, gain, thickness, spacing, axis):
    """In the millimetres of a tilted patient, by volume and affine alone.

    A profile that is symmetric leaves a ramp as it is and scales a wave by a known gain, so the
    thick slices are known in closed form. A shift by half a voxel would show as 0.5 in the ramp and
    as about 0.1 in the waves.
    """

    def phantom(along, first, second):
        return (
            1.0 * along
            + np.cos(2 * np.pi * along / 11.0 + 0.7) * first
            + np.cos(2 * np.pi * along / 23.0 - 1.9) * second
        )

    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    sizes = [1.3, 1.4, 1.5]
    sizes[axis] = spacing
    affine[:3, :3] = turn @ np.diag(sizes)
    affine[:3, 3] = (-20.0, 13.0, 7.0)

    def along_normal(volume):
        places = np.stack(np.indices(volume.data.shape), axis=-1) @ volume.affine[:3, :3].T
        return (places + volume.affine[:3, 3]) @ turn[:, axis]

    shape = [3, 4, 3]
    shape[axis] = 97
    empty = Volume(np.zeros(shape, np.float32), affine)
    sharp = Volume(phantom(along_normal(empty), 1.0, 1.0).astype(np.float32), affine)

    thick = thicken(sharp, axis, thickness, 5.5 - thickness, profile).volume
    expected = phantom(along_normal(thick), gain(1 / 11.0, thickness), gain(1 / 23.0, thickness))
    inner = [slice(None)] * 3
    inner[axis] = slice(2, -2)  # beyond the ends neither the ramp nor the waves go on
    assert thick.data[tuple(inner)] == pytest.approx(expected[tuple(inner)], abs=2e-3)


@pytest.mark.parametrize("profile", SliceProfile)
def test_a_profile_leaves_a_constant_as_it_is(profile):
    stack = SliceStack(6, 4.4, 4.0)
    rows = degradation_matrix(stack, stack.divided(23), profile).sum(axis=1)
    assert rows == pytest.approx(np.ones(6))


def test_a_sinusoid_keeps_its_phase():
    """A shift by half a voxel would show as a phase of 0.39 here."""
    stack = SliceStack(16, 4.3, 4.0)
    thin = stack.divided(16 * 4 + 3)
    period = 17.2
    wave = np.exp(2j * np.pi * thin / period)
    matrix = degradation_matrix(stack, thin)
    thick = (matrix @ wave)[2:-2]
    phase = np.angle(thick / np.exp(2j * np.pi * stack.centres[2:-2] / period))
    assert np.abs(phase).max() < 1e-3


def test_thin_slices_fill_exactly_the_field_of_view():
    stack = SliceStack(24, 5.5, 5.0)
    thin = stack.divided(stack.thin_count(0.868))
    spacing = thin[1] - thin[0]
    assert len(thin) == round(24 * 5.5 / 0.868)
    assert thin[0] - spacing / 2 == pytest.approx(-5.5 / 2)
    assert thin[-1] + spacing / 2 == pytest.approx(23.5 * 5.5)
    assert stack.gap_mm == pytest.approx(0.5)


def test_rows_are_means_also_at_the_ends():
    stack = SliceStack(5, 4.0, 6.0)
    assert degradation_matrix(stack, stack.divided(20)).sum(axis=1) == pytest.approx(np.ones(5))


@pytest.mark.parametrize("profile", SliceProfile)
def test_beyond_the_ends_the_outermost_thin_slice_goes_on(profile):
    stack = SliceStack(5, 4.0, 6.0)
    thin = stack.divided(20)  # 1 mm apart
    wide = np.arange(thin[0] - 30.0, thin[-1] + 31.0)
    image = np.random.default_rng(0).normal(size=20)
    seen = degradation_matrix(stack, wide, profile) @ np.pad(image, 30, mode="edge")
    assert degradation_matrix(stack, thin, profile) @ image == pytest.approx(seen)


def test_one_thin_slice_is_all_that_one_thick_slice_sees():
    stack = SliceStack(1, 4.0, 4.0)
    assert degradation_matrix(stack, stack.divided(1)) == pytest.approx(np.ones((1, 1)))


def test_the_transpose_is_the_adjoint():
    random = np.random.default_rng(0)
    stack = SliceStack(7, 3.7, 4.1)
    matrix = degradation_matrix(stack, stack.divided(31))
    thin = random.normal(size=(3, 4, 31)).astype(np.float32)
    thick = random.normal(size=(3, 4, 7)).astype(np.float32)
    forward = np.vdot(along_last_axis(matrix, thin), thick)
    backward = np.vdot(thin, along_last_axis(matrix.T, thick))
    assert forward == pytest.approx(backward, rel=1e-5)


def test_a_slice_outside_of_the_thin_ones_is_an_error():
    with pytest.raises(ValueError, match="outside"):
        degradation_matrix(SliceStack(9, 5.0, 5.0), np.arange(10.0))


@pytest.mark.parametrize("values", [(0, 1.0, 1.0), (3, 0.0, 1.0), (3, 1.0, -1.0)])
def test_a_stack_must_be_possible(values):
    with pytest.raises(ValueError, match="above zero"):
        SliceStack(*values)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thickening_keeps_every_point_in_its_place(axis):
    """A blob in a tilted volume is acquired where it is, along any axis."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.9, 1.0, 1.1])
    affine[:3, 3] = (-20.0, 13.0, 7.0)
    index = np.stack(np.meshgrid(*(np.arange(41.0),) * 3, indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ (19.3, 20.8, 21.1) + affine[:3, 3]
    data = np.exp(-0.5 * (np.linalg.norm(world - centre, axis=-1) / 3.0) ** 2)
    volume = Volume(data.astype(np.float32), affine)

    made = thicken(volume, axis, thickness_mm=3.0, gap_mm=0.4)
    thick = made.volume
    assert thick.spacing[axis] == pytest.approx(3.4)
    weights = np.asarray(thick.data, dtype=float)
    places = np.stack(
        np.meshgrid(*(np.arange(size) for size in weights.shape), indexing="ij"), axis=-1
    )
    mean = np.tensordot(weights, places, axes=3) / weights.sum()
    assert thick.position(tuple(mean)) == pytest.approx(centre, abs=0.05)

    first = volume.position(tuple(made.inside.start if a == axis else 0 for a in range(3)))
    along = np.linalg.norm(first - thick.position((0, 0, 0)))
    assert along == pytest.approx(abs(made.positions[0]), abs=1e-6)


def test_resliced_affine_moves_only_along_its_axis():
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    result = resliced_affine(affine, 2, -0.4, 0.2)
    assert result[:3, 3] == pytest.approx((0.0, 0.0, -2.0))
    assert np.linalg.norm(result[:3, :3], axis=0) == pytest.approx((1.0, 2.0, 1.0))


def test_a_volume_thinner_than_a_slice_is_an_error():
    with pytest.raises(ValueError, match="thinner"):
        thicken(Volume(np.zeros((4, 4, 3), np.float32), np.eye(4)), 2, 5.0)
