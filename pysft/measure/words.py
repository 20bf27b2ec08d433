"""Words of prompts and replies: which of them are real, and which name the subject.

They are words of any script that puts spaces between words (text/scripts.py)."""

from pysft.text.scripts import folded, letters_in, unspaced, words_of

# Words that say nothing about the subject of a text.
COMMON = frozenset(
    """
a about after again all also always am an and another any are art as ask at away aye be because been
before being best better between both but by call came can cannot come could day did didst do does
done dost doth down each else enough even ever every far feel few find first for friend from full
gave get give go goes going gone good got great had has hast hath have he hear help her here hers
him his how i if in into is it its just keep kind know last least left less let like little long
look made make makes man many may me mean might mine more most much must my name nay near need never
new no none nor not nothing now of off often oh old on once one only or other our out over own
people please put quite rather really said same say says see seem shall she should show since so
some something soon speak still such take tell than that the thee their them then there these they
thine thing things think this those thou though through thus thy till time to today together too two
under until up upon us use very want was way we well went were what when where which while who whom
whose why will wilt with without word words work worth would yes yet you your yours""".split()
)


def words(text: str) -> list[str]:
    """The words of a text, with their inner apostrophes, as they are compared: in lower case."""
    return [folded(word) for word in words_of(text)]


def subjects(text: str) -> set[str]:
    """The content words of a text: no word of COMMON, none below three letters. A plural or
    possessive s is removed."""
    return {_stem(w) for w in words(text) if w not in COMMON and letters_in(w) > 2}


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def on_topic(prompts: list[str], replies: list[str]) -> tuple[float, float]:
    """(rate, chance) of n prompts and their replies.

    rate: the share of replies that name a content word of their prompt. chance: the same share,
    averaged over all pairs of a prompt and the reply to another prompt; nan for a single prompt."""
    prompted, replied = [subjects(p) for p in prompts], [subjects(r) for r in replies]
    n = len(prompted)
    hits = sum(bool(p & r) for p, r in zip(prompted, replied))
    chance = float("nan")
    if n > 1:
        chance = (sum(bool(p & r) for p in prompted for r in replied) - hits) / (n * (n - 1))
    return hits / n, chance


def real_words(replies: list[str], known: set[str]) -> float:
    """The share of the words of all replies that are known; nan if there are no words."""
    every = [w for r in replies for w in words(r)]
    return sum(w in known for w in every) / len(every) if every else float("nan")


def distinct(replies: list[str], n: int = 1) -> float:
    """The share of different ones among the words of a reply, over all replies; with n = 2 among
    its pairs of neighbouring words. nan if there are none."""
    each = [words(reply) for reply in replies]
    runs = [list(zip(*(some[i:] for i in range(n)))) for some in each]
    total = sum(map(len, runs))
    return sum(len(set(run)) for run in runs) / total if total else float("nan")


def repeats_prompt(prompt: str, reply: str, n: int = 4) -> bool:
    """True if a reply has n words in a row that its prompt has in a row too."""
    asked, said = (
        [tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in map(words, (prompt, reply))
    )
    return not set(asked).isdisjoint(said)


# The figures of evaluate.py and of its domains that count words.
FIGURES = (
    "on_topic",
    "on_topic_chance",
    "on_topic_chat",
    "repeats_prompt",
    "real_words",
    "real_words_chat",
    "distinct_words",
    "distinct_words_greedy",
    "distinct_pairs",
    "trained_distinct_words",
    "trained_distinct_pairs",
)


def unmeasured(texts: list[str]) -> str:
    """Why figures of words cannot be measured for a model that learned to write these texts: the
    reason as a sentence without its end, or "" if they can."""
    scripts = unspaced(texts)
    if not scripts:
        return ""
    named = ", ".join(scripts[:-1]) + " and " * (len(scripts) > 1) + scripts[-1]
    return (
        f"the training replies are written in {named}, without spaces between words, so figures of"
        " words were not measured"
    )
