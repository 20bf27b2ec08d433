"""Runs and machines."""

from situations import Situation

SITUATIONS: list[Situation] = []
