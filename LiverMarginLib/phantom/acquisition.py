"""What the scanner does to the picture: blur, texture sampling, noise of a kernel, streaks, field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from LiverMarginLib.phantom.fields import FloatArray


@dataclass(frozen=True)
class Acquisition:
    """Scanner settings of one scan.

    Parameters
    ----------
    blur : float
        Standard deviation of the in-plane point spread function, mm.
    noise : float
        Noise standard deviation at the body's centre, HU.
    sharpness : float
        0 for the noise of a smooth kernel, 1 for a sharp one.
    streaks : float
        Strength of streaks, 0 to 1.
    cupping : float
        Darkening of the centre by beam hardening, HU.
    padding : int or None
        Value outside the circular field of view; None for no circle.
    """

    blur: float
    noise: float
    sharpness: float
    streaks: float
    cupping: float
    padding: int | None

    @classmethod
    def draw(
        cls, rng: np.random.Generator, noise: float | None, streaks: float | None, padding: int | None
    ) -> Acquisition:
        """Draw settings; arguments that are not None are kept."""
        drawn = (
            float(np.clip(rng.lognormal(np.log(12), 0.38), 5, 30)),
            float(rng.beta(0.7, 2.2)),
            int(rng.choice([-2000, -1024, -3024])) if rng.random() < 0.12 else None,
        )
        return cls(
            blur=float(rng.uniform(0.4, 0.95)),
            noise=drawn[0] if noise is None else float(noise),
            sharpness=float(rng.beta(1.4, 2.0)),
            streaks=drawn[1] if streaks is None else float(streaks),
            cupping=float(rng.uniform(0, 7)),
            padding=drawn[2] if padding is None else int(padding),
        )

    def expose(
        self, rng: np.random.Generator, hu: FloatArray, spacing: tuple[float, float, float]
    ) -> npt.NDArray[np.int16]:
        """Turn ideal intensities into a scan.

        Parameters
        ----------
        hu : ndarray of float32, shape (k, j, i)
            Ideal HU with partial volume; changed in place.
        spacing : tuple of float
            mm along (k, j, i).

        Returns
        -------
        ndarray of int16, shape (k, j, i)
        """
        _, sj, si = spacing
        shape = hu.shape
        filters = _noise_filter(shape[1:], (sj, si), self.sharpness)
        streak = _streak_filter(shape[1:], (sj, si))
        wall = 70.0  # mm over which attenuation adds up
        for k in range(shape[0]):
            plane = gaussian_filter(hu[k], (self.blur / sj, self.blur / si), mode="nearest")
            step = max(1, int(8 / min(sj, si)))
            coarse = plane[::step, ::step]
            dense = gaussian_filter(np.clip(coarse + 1000, 0, 2200) / 1000, (wall / sj / step, wall / si / step))
            bone = gaussian_filter(
                np.clip(coarse - 200, 0, 1500) / 1000, (5 / sj / step, 90 / si / step), mode="constant"
            )
            depth = _enlarge(dense, plane.shape, step)
            level = 0.45 + 0.7 * depth
            white = rng.standard_normal(shape[1:], dtype=np.float32)
            spectrum = fft.rfft2(white)
            noise = fft.irfft2(spectrum * filters, s=shape[1:])
            plane += self.noise * level * noise
            plane -= self.cupping * np.clip(depth - 0.4, 0, None)
            if self.streaks > 0.02:
                lines = fft.irfft2(fft.rfft2(rng.standard_normal(shape[1:], dtype=np.float32)) * streak, s=shape[1:])
                strength = self.streaks * (5 * np.clip(depth - 0.45, 0, None) + 90 * _enlarge(bone, plane.shape, step))
                plane += strength * (0.35 * self.noise + 4) * lines
            hu[k] = plane
        if self.padding is not None:
            rows = (np.arange(shape[1]) - (shape[1] - 1) / 2) * sj
            columns = (np.arange(shape[2]) - (shape[2] - 1) / 2) * si
            outside = np.hypot(rows[:, None], columns[None, :]) > max(rows[-1], columns[-1])
        np.clip(hu, -1024, 3071, out=hu)
        result = np.rint(hu).astype(np.int16)
        if self.padding is not None:
            result[:, outside] = self.padding
        return result


def texture(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float], size: float
) -> FloatArray:
    """Random field of unit standard deviation with features of about `size` mm."""
    steps = [max(1, int(size * 0.8 / s)) for s in spacing]
    small = tuple(-(-n // step) + 2 for n, step in zip(shape, steps, strict=True))
    values = rng.standard_normal(small, dtype=np.float32)
    for axis, (s, step) in enumerate(zip(spacing, steps, strict=True)):
        sigma = size / 2.2 / (s * step)
        if sigma > 0.25:
            values = gaussian_filter1d(values, sigma, axis=axis)
    values /= max(float(values.std()), 1e-6)
    for axis in (0, 1, 2):
        values = _stretch(values, axis, np.arange(shape[axis]) / steps[axis])
    return values


def _noise_filter(shape: tuple[int, ...], spacing: tuple[float, float], sharpness: float) -> FloatArray:
    """Amplitude response of unit noise variance: a ramp with the kernel's roll-off, as filtered back projection."""
    fy = fft.fftfreq(shape[0], spacing[0])[:, None]
    fx = fft.rfftfreq(shape[1], spacing[1])[None, :]
    f = np.hypot(fx, fy)
    cut = 0.16 + 0.5 * sharpness  # cycles per mm
    response = np.sqrt(0.03 + f / cut) * np.exp(-0.5 * (f / cut) ** 2)
    return _unit_gain(response, shape)


def _streak_filter(shape: tuple[int, ...], spacing: tuple[float, float]) -> FloatArray:
    """Noise in lines that run across the patient, as photon starvation between shoulders, arms or hips gives."""
    fy = fft.fftfreq(shape[0], spacing[0])[:, None]
    fx = fft.rfftfreq(shape[1], spacing[1])[None, :]
    along = np.exp(-0.5 * (fx * 2 * np.pi * 30) ** 2)
    across = np.sqrt(np.abs(fy)) * np.exp(-0.5 * (fy / 0.3) ** 2)
    fan = np.exp(-0.5 * (fx / (0.12 * np.abs(fy) + 0.004)) ** 2)
    return _unit_gain((along + 0.6 * fan) * across, shape)


def _unit_gain(response: npt.NDArray[np.float64], shape: tuple[int, ...]) -> FloatArray:
    weight = np.full(response.shape[1], 2.0)
    weight[0] = 1
    if shape[1] % 2 == 0:
        weight[-1] = 1
    power = float((response**2 * weight).sum()) / (shape[0] * shape[1])
    return np.asarray(response / np.sqrt(max(power, 1e-12)), dtype=np.float32)


def _enlarge(small: FloatArray, shape: tuple[int, ...], step: int) -> FloatArray:
    """Bilinear enlargement of every `step`-th sample back to `shape`."""
    return _stretch(_stretch(small, 0, np.arange(shape[0]) / step), 1, np.arange(shape[1]) / step)


def _stretch(values: FloatArray, axis: int, at: npt.NDArray[np.float64]) -> FloatArray:
    """Linear interpolation along an axis at fractional indices."""
    last = values.shape[axis] - 1
    if len(at) == last + 1 and np.array_equal(at, np.arange(last + 1)):
        return values
    low = np.clip(at.astype(np.intp), 0, max(last - 1, 0))
    part = np.clip(at - low, 0, 1).astype(np.float32).reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    lower = np.take(values, low, axis=axis)
    upper = np.take(values, np.minimum(low + 1, last), axis=axis)
    upper -= lower
    upper *= part
    upper += lower
    return upper
