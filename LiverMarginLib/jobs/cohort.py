"""Phantom patients for a training or an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from LiverMarginLib.events import CancelToken, OnEvent
from LiverMarginLib.jobs.phantom import read_donor

if TYPE_CHECKING:
    from LiverMarginLib.phantom import PhantomOptions
    from LiverMarginLib.phantom.grafts import Donor
    from LiverMarginLib.training.data import SliceSource, Source
    from LiverMarginLib.training.volume_config import VolumeConfig
    from LiverMarginLib.training.volume_sources import PhantomVolumes

# Phantom patients of different purposes must never be the same: each purpose has a range of seeds of its own.
VALIDATION_SEEDS = 900_000
TUNING_SEEDS = 930_000
TEST_SEEDS = 950_000


@dataclass(frozen=True)
class PhantomCohort:
    """Phantom patients for training or evaluation.

    Parameters
    ----------
    patients : int
    first_seed : int
    scans : int
        Scans of each patient that differ in contrast and noise.
    shape, spacing : tuple
        Voxels and mm along (k, j, i).
    random_contrast : float
        Share of the scans with unrelated random intensities.
    noise_hu, streaks : float, optional
        Noise (standard deviation in HU) and strength of streaks; drawn by the seed if None.
    without_liver : int
        Further patients, of whom the scans show the chest or the pelvis alone.
    lesions : int, optional
        Lesions of each liver; drawn by the seed, none in half of the patients, if None.
    lesion_mm : tuple of float, optional
        Smallest and largest radius of the lesions; drawn by the seed if None.
    modality : str
        "CT" or "MR". The anatomy of a seed is the same in both.
    from_labels : str, optional
        A label map whose organs, deformed by the seed, further patients have.
    label_names : tuple of str
        What its values mean; see `LiverMarginLib.jobs.phantom.PhantomJob`.
    with_its_organs : int
        How many further patients these are.
    """

    patients: int
    first_seed: int = 0
    scans: int = 2
    shape: tuple[int, int, int] = (44, 256, 256)
    spacing: tuple[float, float, float] = (5.0, 1.55, 1.55)
    random_contrast: float = 0.2
    noise_hu: float | None = None
    streaks: float | None = None
    without_liver: int = 0
    lesions: int | None = None
    lesion_mm: tuple[float, float] | None = None
    modality: str = "CT"
    from_labels: str | None = None
    label_names: tuple[str, ...] = ()
    with_its_organs: int = 0

    def source(self, folder: Path, on_event: OnEvent, cancel: CancelToken) -> SliceSource:
        """Make the patients that `folder` does not hold yet, and give their slices."""
        from LiverMarginLib.training.data import JoinedSource
        from LiverMarginLib.training.phantom_source import PhantomSource

        sources = [
            PhantomSource(seeds, options, folder, scans=self.scans, donor=donor)
            for seeds, options, donor in self._groups()
        ]
        for source in sources:
            source.store.prepare(on_event=on_event, cancel=cancel)
        return sources[0] if len(sources) == 1 else JoinedSource(sources)

    def volumes(self, folder: Path, config: VolumeConfig, on_event: OnEvent, cancel: CancelToken) -> Source:
        """The same, as whole volumes that are prepared for a volumetric network."""
        from LiverMarginLib.training.data import JoinedSource
        from LiverMarginLib.training.volume_data import PreparedVolumes

        sources: list[Source] = []
        for scans in self.scanned(folder, on_event, cancel):
            volumes = PreparedVolumes(scans, config, folder / "prepared")
            volumes.prepare(on_event, cancel)
            sources.append(volumes)
        return sources[0] if len(sources) == 1 else JoinedSource(sources)

    def scanned(self, folder: Path, on_event: OnEvent, cancel: CancelToken) -> list[PhantomVolumes]:
        """Make the patients that `folder` does not hold yet, and give their scans as they are, group by group."""
        from LiverMarginLib.training.phantom_source import PhantomStore
        from LiverMarginLib.training.volume_sources import PhantomVolumes

        found = []
        for seeds, options, donor in self._groups():
            store = PhantomStore(seeds, options, folder, scans=self.scans, donor=donor)
            store.prepare(on_event=on_event, cancel=cancel)
            found.append(PhantomVolumes(store))
        return found

    def _groups(self) -> list[tuple[range, PhantomOptions, Donor | None]]:
        """Return the seeds of patients, and what they have in common.

        Those with liver, of the chest, of the pelvis, with the organs of a label map.
        """
        from LiverMarginLib.phantom import Region

        first, options = self.first_seed + self.patients, self._options()
        last = first + self.without_liver
        groups: list[tuple[range, PhantomOptions, Donor | None]] = [
            (range(self.first_seed, first), options, None),
            (range(first, last, 2), replace(options, region=Region.CHEST), None),
            (range(first + 1, last, 2), replace(options, region=Region.PELVIS), None),
        ]
        if self.from_labels is not None:
            donor = read_donor(self.from_labels, self.label_names)
            groups.append((range(last, last + self.with_its_organs), options, donor))
        return [group for group in groups if group[0]]

    def _options(self) -> PhantomOptions:
        from LiverMarginLib.phantom import PhantomOptions

        return PhantomOptions(
            shape=self.shape,
            spacing=self.spacing,
            random_contrast=self.random_contrast,
            noise_hu=self.noise_hu,
            streaks=self.streaks,
            lesions=self.lesions,
            lesion_mm=self.lesion_mm,
            modality=self.modality,
        )
