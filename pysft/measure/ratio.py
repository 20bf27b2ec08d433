"""Ratios of measured figures. A figure can be 0 or missing, and then the ratio is not known."""

import math


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return part / whole; None if one of them is missing or not finite, or if the whole is 0."""
    if part is None or not whole or not (math.isfinite(part) and math.isfinite(whole)):
        return None
    return part / whole


def rise(now: float | None, before: float | None) -> float | None:
    """Return by which share a figure has risen, as in forgetting: 0.1 is a rise by a tenth. None as
    in ratio()."""
    found = ratio(now, before)
    return None if found is None else found - 1
