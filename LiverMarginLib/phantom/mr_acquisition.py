"""What an MR scanner does to the picture: coil sensitivity, blur, ringing, Rician noise, and units of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import gaussian_filter

from LiverMarginLib.phantom.acquisition import texture
from LiverMarginLib.phantom.fields import FloatArray

_BRIGHTEST = 32767


@dataclass(frozen=True)
class MrAcquisition:
    """Scanner settings of one scan.

    Parameters
    ----------
    blur : float
        Standard deviation of the in-plane point spread function, mm.
    noise : float
        Standard deviation of the noise in each of the two channels, in units of the liver's signal.
    bias : float
        Standard deviation of the logarithm of the smooth field by which intensities are multiplied.
    bias_mm : float
        Size of that field's features.
    ringing : float
        Share of the spatial frequencies along the phase encoding that is not measured, 0 to 0.6; truncation makes
        Gibbs' ringing.
    gain : float
        Value of the liver in the units of the file.
    """

    blur: float
    noise: float
    bias: float
    bias_mm: float
    ringing: float
    gain: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, noise: float | None, bias: float | None, ringing: float | None
    ) -> MrAcquisition:
        """Draw settings; arguments that are not None are kept."""
        drawn = (
            float(np.clip(rng.lognormal(np.log(0.05), 0.45), 0.015, 0.15)),
            float(rng.uniform(0.05, 0.3)),
            float(rng.uniform(0.15, 0.45)) if rng.random() < 0.4 else 0.0,
        )
        return cls(
            blur=float(rng.uniform(0.5, 1.1)),
            noise=drawn[0] if noise is None else float(noise),
            bias=drawn[1] if bias is None else float(bias),
            bias_mm=float(rng.uniform(150, 300)),
            ringing=drawn[2] if ringing is None else float(ringing),
            gain=float(np.exp(rng.uniform(np.log(80), np.log(3000)))),
        )

    def expose(
        self, rng: np.random.Generator, signal: FloatArray, spacing: tuple[float, float, float]
    ) -> npt.NDArray[np.int16]:
        """Turn ideal signals into a scan.

        Parameters
        ----------
        signal : ndarray of float32, shape (k, j, i)
            In units of the liver's; changed in place.
        spacing : tuple of float
            mm along (k, j, i).

        Returns
        -------
        ndarray of int16, shape (k, j, i)
            Magnitudes, 0 to 32767.
        """
        _, sj, si = spacing
        shape = signal.shape
        field = texture(rng, shape, spacing, self.bias_mm)  # type: ignore[arg-type]  # three axes
        field *= np.float32(self.bias)
        signal *= np.exp(field, out=field)
        response = _truncation(shape[1], 1 - self.ringing)
        for k in range(shape[0]):
            plane = gaussian_filter(signal[k], (self.blur / sj, self.blur / si), mode="nearest")
            if self.ringing:
                plane = fft.ifft(fft.fft(plane, axis=0) * response[:, None], axis=0).real.astype(np.float32)
            real, imaginary = (rng.standard_normal(shape[1:], dtype=np.float32) * self.noise for _ in range(2))
            # The magnitude of a complex signal with Gaussian noise in both parts follows Rice's distribution.
            signal[k] = np.hypot(plane + real, imaginary)
        signal *= np.float32(self.gain)
        return np.rint(np.clip(signal, 0, _BRIGHTEST)).astype(np.int16)


def _truncation(length: int, share: float) -> npt.NDArray[np.float32]:
    """1 for the lowest `share` of the frequencies of a discrete Fourier transform, 0 for the others."""
    return (np.abs(fft.fftfreq(length)) <= 0.5 * share).astype(np.float32)
