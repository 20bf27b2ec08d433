"""Near duplicates among many texts, by MinHash."""

from array import array

import numpy as np

from pysft.text.overlap import grams

NEAR = 0.8  # share of common shingles from which two texts are near duplicates
SHINGLE = 5  # characters
CROWD = 1000  # earlier texts at most, of those that agree in a band, that a text is compared with
CLOSEST = 4  # of these, the ones that agree in most bands are compared character by character


class Texts:
    """Many short texts in one piece of memory."""

    def __init__(self):
        self._data, self._ends = bytearray(), array("q", [0])

    def add(self, text: str) -> None:
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return self._data[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogatepass")

    def lengths(self) -> np.ndarray:
        """(n,) bytes of each text."""
        return np.diff(self._ends)

    def pieces(self, size: int):
        """(first, last) of runs of texts, texts first..last-1, of about `size` bytes together."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self._ends, self._ends[first] + size, side="right")) - 1
            last = min(max(last, first + 1), len(self))
            yield first, last
            first = last

    def codes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(bytes, where each text starts in them) of texts first..last-1."""
        start, end = self._ends[first], self._ends[last]
        codes = np.frombuffer(bytes(self._data[start:end]), np.uint8)
        return codes, np.array(self._ends[first:last], np.int64) - start


def near_duplicates(
    texts: Texts, threshold: float = NEAR, bands: int = 10, rows: int = 4
) -> list[tuple[int, int, float]]:
    """[(first, second, similarity)] of texts that share `threshold` or more of their shingles
    (Jaccard): each text at most once as second, beside one earlier text like it.

    MinHash (Broder 1997): the smallest hash of all shingles is the same in two texts with the
    probability of their similarity. There are bands * rows such hashes. Two texts that agree in a
    whole band are compared character by character. A pair with similarity 0.8 is missed with a
    probability of 0.5 %, one with 0.9 with less than 1e-4. If many texts agree in a band, a text is
    compared with the CLOSEST of the CROWD before it. The same texts give the same pairs."""
    long_enough = np.flatnonzero(texts.lengths() >= SHINGLE)
    hashes = _min_hashes(texts, bands, rows)
    pairs, placed, compared = [], set(), set()  # placed: texts that are second in a pair
    for band in hashes[:, long_enough]:
        for members in _runs_of_equals(band):
            members = long_enough[members]
            for i, second in enumerate(members.tolist()[1:], 1):
                if second in placed:
                    continue
                earlier = members[max(0, i - CROWD) : i]
                if i > CLOSEST:
                    agree = (hashes[:, earlier] == hashes[:, second : second + 1]).sum(axis=0)
                    earlier = earlier[np.argsort(-agree, kind="stable")[:CLOSEST]]
                for first in earlier.tolist():
                    if second not in placed and (first, second) not in compared:
                        compared.add((first, second))
                        similarity = jaccard(texts[first], texts[second])
                        if similarity >= threshold:
                            placed.add(second)
                            pairs.append((first, second, similarity))
    return sorted(pairs)


def jaccard(a: str, b: str) -> float:
    """The share of the shingles of two texts that both have."""
    x, y = ({t[i : i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (a, b))
    return len(x & y) / max(1, len(x | y))


def _min_hashes(texts: Texts, bands: int, rows: int) -> np.ndarray:
    """(bands, n) uint64: for each text and band, `rows` smallest hashes of its shingles mixed into
    one number."""
    random = np.random.default_rng(1).integers(1, 2**63, bands * rows, dtype=np.uint64)
    multipliers = random * np.uint64(2) + np.uint64(1)
    out = np.zeros((bands, len(texts)), np.uint64)
    for first, last in texts.pieces(1 << 20):
        codes, starts = texts.codes(first, last)
        if not len(codes):
            continue
        ends = np.append(starts[1:], len(codes))
        # Shingles that begin in one text and end in another.
        outside = np.arange(len(codes)) + SHINGLE > np.repeat(ends, ends - starts)
        hashes = np.zeros(len(codes), np.uint64)
        hashes[: max(0, len(codes) - SHINGLE + 1)] = grams(codes, SHINGLE)
        for i, multiplier in enumerate(multipliers):
            mixed = hashes * multiplier
            mixed ^= mixed >> np.uint64(32)
            mixed[outside] = np.iinfo(np.uint64).max
            least = np.minimum.reduceat(mixed, np.minimum(starts, len(codes) - 1))
            band = out[i // rows, first:last]
            band[:] = band * np.uint64(0x100000001B3) ^ least
    return out


def _runs_of_equals(values: np.ndarray):
    """For each value that comes more than once, its places, rising."""
    if not len(values):
        return
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    edges = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1], [True]]))
    for k in np.flatnonzero(np.diff(edges) > 1).tolist():
        yield order[edges[k] : edges[k + 1]]
