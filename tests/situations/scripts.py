"""Characters and scripts."""

from situations import Situation

SITUATIONS: list[Situation] = []
