"""Situations from the public threads of other tools."""

from situations import Situation

SITUATIONS: list[Situation] = []
