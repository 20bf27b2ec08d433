"""Arms that several experiments share: the source text's recipe on its pairs, and a plain recipe on
conversations. Equal arms have equal names and share their trials on disk."""

from pysft.lab.arm import Arm
from pysft.lab.lab import Lab

# Presets. SMALL has the source text's model and recipe (context 64). WIDE has the tiny preset's
# model (context 256), for conversations that need the room.
SMALL, WIDE = "seed", "tiny"
CONTEXT = {SMALL: 64, WIDE: 256}
# Steps to measure after, besides step 0 and the last.
ALONG = (10, 25, 50, 100, 200, 400)
EARLY = (50, 100, 200, 300, 500, 700)
# On WIDE, a plain recipe for conversations.
TALK = {"steps": 600, "pairs": 0, "windows": (), "lr": 3e-3, "warmup": 30}
PLAIN = "the source's recipe"


def pairs_arm(lab: Lab, name: str, at=EARLY, settings=None, **more) -> Arm:
    """The source's recipe on its 40 pairs, with changes."""
    return Arm(
        name,
        SMALL,
        lab.probe(lab.pairs, lab.pairs, CONTEXT[SMALL], heldout=()),
        settings or {},
        pairs=lab.pairs,
        at=at,
        by_kind=True,
        **more,
    )


def plain(lab: Lab) -> Arm:
    """The source's recipe as it is."""
    return pairs_arm(lab, PLAIN)


def only_plain(lab: Lab, seed: int):
    """The arms of an experiment that has the source's recipe alone."""
    yield plain(lab)


def conversations_arm(
    lab: Lab, name: str, conversations, at=(), recalled=None, settings=None, **more
) -> Arm:
    """The plain recipe on conversations. recalled: those whose reply should be recalled (default:
    the first forty that are one question and one answer)."""
    recalled = recalled or single(conversations)[:40]
    # A prompt that occurs twice is asked once, and its first reply should be recalled.
    asked = list({c.prompt: c for c in reversed(recalled)}.values())[::-1]
    return Arm(
        name,
        WIDE,
        lab.probe(conversations, asked, CONTEXT[WIDE]),
        TALK | (settings or {}),
        tuple(conversations),
        at=at,
        **more,
    )


def single(conversations) -> list:
    """The conversations of one question and one answer."""
    return [c for c in conversations if len(c.messages) == 2]
