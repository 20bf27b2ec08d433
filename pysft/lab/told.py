"""The text of an invented world, which a base of the lab may read beside the corpus."""

from dataclasses import dataclass
from functools import lru_cache

from pysft.world.facts import WorldSettings, make
from pysft.world.tell import tell


@dataclass(frozen=True)
class Told:
    """A world, and how a text tells of it. wordings, shuffled: as tell() takes them."""

    world: WorldSettings
    wordings: int = 6
    shuffled: bool = True


@lru_cache(2)
def text_of(told: Told) -> str:
    """The text that tells of a world. Settings that only change what is asked do not change it."""
    return tell(make(told.world), told.wordings, told.shuffled)
