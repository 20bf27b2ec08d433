"""Exact duplicates among conversations, and prompts that have several answers."""

import hashlib
import json
import shlex
from array import array

import numpy as np

from pysft.text.conversation import Conversation
from pysft.text.heldout import prompt_key


class Repeats:
    """Takes conversations one after the other. Of each it keeps three 64-bit hashes: of all of it,
    of the first prompt (with the turns before), and of the answer to that."""

    def __init__(self):
        self.whole, self.prompts, self.answers = {}, array("Q"), array("Q")

    def add(self, c: Conversation) -> int | None:
        """Take in a conversation; the number of an earlier one that is the same, counted from 0, or
        None."""
        number = len(self.prompts)
        if c.is_text:
            self.prompts.append(0)
            self.answers.append(0)
        else:
            first = next(i for i, m in enumerate(c.messages) if m["role"] == "user")
            before = [m["content"] for m in c.messages[:first]]
            self.prompts.append(digest(*before, prompt_key(c.prompt)))
            self.answers.append(digest(prompt_key(c.replies()[0])))
        # Parts too, and flags that leave a turn out, under whichever name.
        said = [
            {key: m[key] for key in ("role", "content", "train") if key in m and m[key] is not True}
            for m in c.messages
        ]
        everything = json.dumps(said, sort_keys=True)
        same = self.whole.setdefault(digest(everything), number)
        return None if same == number else same

    def contradictions(self) -> list[tuple[int, int]]:
        """[(number, number of the first conversation with the same prompt)] where the answers
        differ."""
        prompts, answers = np.array(self.prompts, np.uint64), np.array(self.answers, np.uint64)
        _, first, which = np.unique(prompts, return_index=True, return_inverse=True)
        first = first[which]
        different = np.flatnonzero((answers != answers[first]) & (prompts != 0))
        return [(int(i), int(first[i])) for i in different]


def digest(*texts: str) -> int:
    """64 bits, never 0. Among a million texts two have the same digest once in forty million
    runs."""
    h = hashlib.blake2b(digest_size=8)
    for text in texts:
        h.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(h.digest(), "little") or 1


def quick_check(conversations: list[Conversation]) -> list[str]:
    """The part of the audit that is cheap enough for every training: a sentence if something was
    found."""
    repeats = Repeats()
    same = sum(repeats.add(c) is not None for c in conversations)
    other = len(repeats.contradictions())
    found = []
    if same:
        found.append(f"{same:,} exact duplicate{'s' * (same > 1)}")
    if other:
        found.append(f"{other:,} answer{'s' * (other > 1)} to a prompt that has another answer")
    if not found:
        return []
    files = " ".join(dict.fromkeys(shlex.quote(c.path) for c in conversations))
    return [
        f"{' and '.join(found)} among the conversations (python -m pysft audit {files} names them)"
    ]
