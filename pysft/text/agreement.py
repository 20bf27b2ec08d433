"""What several rankings say of the same two replies: where they contradict each other, and how
often labelers agree."""

from array import array

import numpy as np

from pysft.text.conversation import plain
from pysft.text.ranking import Ranking
from pysft.text.repeats import digest


class Judgements:
    """Every statement of some rankings that one reply is better than another, in little memory.

    A pair is a prompt and two replies to it. Of each statement it keeps the pair (a 64-bit hash),
    whether its first reply in the order of their texts is the better one, the labeler, and the
    number of the ranking. Ties make no statement."""

    def __init__(self):
        self._pairs, self._first_is_better = array("Q"), array("b")
        self._labelers, self._rankings = array("q"), array("q")
        self._names: dict[str, int] = {"": 0}  # of labelers; "" stands for all without a name
        self._best, self._worst = array("Q"), array("Q")
        self._count = 0

    def add(self, ranking: Ranking) -> None:
        """Take in a ranking, whose number is that of rankings before it."""
        prompt = [f"{m['role']}: {plain(m['content'])}" for m in ranking.prompt]
        labeler = self._names.setdefault(ranking.labeler, len(self._names))
        for i, j in ranking.pairs():
            better, worse = ranking.replies[i], ranking.replies[j]
            self._pairs.append(digest(*prompt, *sorted((better, worse))))
            self._first_is_better.append(better < worse)
            self._labelers.append(labeler)
            self._rankings.append(self._count)
        for ends, rank in ((self._best, min(ranking.ranks)), (self._worst, max(ranking.ranks))):
            for reply, own in zip(ranking.replies, ranking.ranks):
                if own == rank:
                    ends.append(digest(*prompt, reply))
        self._count += 1

    def best_and_worst(self) -> int:
        """The number of replies that are the best of one ranking and the worst of another."""
        best, worst = (np.array(ends, np.uint64) for ends in (self._best, self._worst))
        return len(np.intersect1d(best, worst))

    def contradictions(self) -> list[tuple[int, int]]:
        """[(number of a ranking, number of the first one that puts two of its replies in the other
        order)], of the same labeler, or both of labelers without a name. Each ranking comes once at
        most."""
        _, first, which = self._of_labelers()
        first_is_better, rankings = self._arrays()
        differs = np.flatnonzero(first_is_better != first_is_better[first[which]])
        found = {}
        for i in differs.tolist():
            found.setdefault(int(rankings[i]), int(rankings[first[which[i]]]))
        return sorted(found.items())

    def agreement(self) -> dict:
        """How often labelers agree on the order of two replies that both of them put in an order.

        pairs: pairs of replies that two labelers or more judged. comparisons: those of each two
        labelers on each such pair. agreed: in how many of these both prefer the same reply.
        labelers: [{"labeler", "judged": pairs, "comparisons", "agreed"}] of each, with all others.
        Of a labeler who judged a pair twice the first judgement counts. Rows without the name of a
        labeler are not compared."""
        places, first, _ = self._of_labelers()
        first_is_better, _ = self._arrays()
        is_named = places["labeler"] > 0
        pairs, labelers = places["pair"][is_named], places["labeler"][is_named]
        says_first = first_is_better[first[is_named]].astype(np.int64)
        _, which, judges = np.unique(pairs, return_inverse=True, return_counts=True)
        votes = np.bincount(which, says_first, len(judges)).astype(np.int64)
        # Of each judgement: with how many others it is compared, and with how many it agrees.
        compared = judges[which] - 1
        agreed = np.where(says_first, votes[which], judges[which] - votes[which]) - 1
        columns = [
            np.bincount(labelers, weights, len(self._names)).astype(int).tolist()
            for weights in (None, compared, agreed)
        ]
        rows = list(zip(self._names, *columns))[1:]
        return {
            "pairs": int((judges > 1).sum()),
            "comparisons": int(compared.sum()) // 2,
            "agreed": int(agreed.sum()) // 2,
            "labelers": [
                dict(zip(("labeler", "judged", "comparisons", "agreed"), row)) for row in rows
            ],
        }

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(is the first reply better, number of the ranking) of each statement."""
        return np.array(self._first_is_better, bool), np.array(self._rankings, np.int64)

    def _of_labelers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(the different pairs and labelers, the first statement of each, the number of each
        statement's pair and labeler among them)."""
        places = np.empty(len(self._pairs), [("pair", np.uint64), ("labeler", np.int64)])
        places["pair"], places["labeler"] = self._pairs, self._labelers
        return np.unique(places, return_index=True, return_inverse=True)
