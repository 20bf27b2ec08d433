"""Files of data."""

from situations import Situation

SITUATIONS: list[Situation] = []
