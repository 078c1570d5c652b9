"""How near a denoised slice is to the clean one: PSNR and SSIM, in the whole image and in the body.

Air, which is easy and takes up half of a CT, lifts both figures; those of the body are the ones to compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageQuality:
    """PSNR in dB and SSIM; not a number where the region is empty."""

    psnr: float
    ssim: float
    psnr_body: float
    ssim_body: float


def body_mask(image: FloatImage, level: float = 0.02) -> npt.NDArray[np.bool_]:
    """Return the patient: the largest piece above `level`, with its holes filled.

    Parameters
    ----------
    image : ndarray of float32, shape (h, w)
        A clean slice, windowed to [0, 1] with air at 0.
    level : float
        In units of the windowed image.
    """
    pieces, count = ndimage.label(image > level)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(pieces == largest))


def image_quality(image: FloatImage, reference: FloatImage) -> ImageQuality:
    """Compare a slice with the clean one.

    SSIM is that of Wang et al. 2004 (Gaussian window with sigma 1.5, K1 = .01, K2 = .03, range 1), by scikit-image.
    PSNR is ``10 log10(1 / MSE)``, infinite for equal images.

    Parameters
    ----------
    image, reference : ndarray of float32, shape (h, w)
        In [0, 1]; both sides at least 11.
    """
    from skimage.metrics import structural_similarity

    ssim, local = structural_similarity(
        image, reference, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    error = (image.astype(np.float64) - reference) ** 2
    body = body_mask(reference)
    if not body.any():
        return ImageQuality(_psnr(float(error.mean())), float(ssim), float("nan"), float("nan"))
    return ImageQuality(
        _psnr(float(error.mean())), float(ssim), _psnr(float(error[body].mean())), float(local[body].mean())
    )


def _psnr(mse: float) -> float:
    return float("inf") if mse == 0 else float(-10 * np.log10(mse))
