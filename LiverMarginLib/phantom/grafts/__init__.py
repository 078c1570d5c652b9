"""Phantoms with the organs of real label maps, deformed: the anatomy is real, all around it and the scan are not."""

from __future__ import annotations

from LiverMarginLib.phantom.grafts.donor import Donor
from LiverMarginLib.phantom.grafts.names import SCHEMES, organs_named
from LiverMarginLib.phantom.grafts.transplant import grafted_options, transplant

__all__ = ["SCHEMES", "Donor", "grafted_options", "organs_named", "transplant"]
