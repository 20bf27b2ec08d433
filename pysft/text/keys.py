"""The keys of rows and turns that no format reads: which of them carry no meaning, and what is said
of the others. A key that could change what a row means is never ignored."""

from dataclasses import dataclass

from pysft.errors import RowError, UsageError

# Names under which people's files keep what is about a row or a turn and is no part of its text.
MEANINGLESS = frozenset(
    """
    id _id idx index uid uuid row_id hash md5 sha256 row_index example_id question_id
    conversation_id conversation_hash prompt_id message_id message_tree_id parent_id turn_id
    source sources dataset data_source dataset_name origin split subset file filename path
    url urls link license licence copyright attribution
    category categories subcategory topic topics domain subject tag tags type task task_name
    task_type task_id skill difficulty level keywords title
    lang language languages language_code locale country state
    date time timestamp created created_at created_date updated updated_at create_time
    author authors user_id annotator annotator_id annotators labeler rater worker_id username
    model model_name model_id generator generation_model engine temperature top_p seed finish_reason
    num_turns turn n_turns num_tokens token_count tokens_count n_tokens tokens length num_words
    word_count
    score scores rating ratings quality rank likes upvotes votes helpfulness correctness coherence
    complexity verbosity toxicity toxic openai_moderation moderation redacted
    is_human is_synthetic is_safe verified valid version revision schema
    meta metadata info extra note notes comment comments remark remarks
    """.split()
)
# Names of the flag of a turn. True or 1: the turn is graded.
FLAGS = ("train", "weight", "loss", "trainable", "training")

_CALLS = 'write each call and each result as a part of "content" (the guide\'s page tools shows it)'
# What is said of keys that are known and cannot be read.
KNOWN = {
    **dict.fromkeys(("tool_calls", "function_call"), ("calls a tool", _CALLS)),
    **dict.fromkeys(("tool_call_id",), ("is the result of a tool", _CALLS)),
    **dict.fromkeys(
        ("tools", "functions"),
        ("describes tools", "describe them in a system turn, or take the key out"),
    ),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "thoughts"),
        (
            "keeps the reasoning apart from the reply",
            'write it into "content" if it should be learnt, or take the key out',
        ),
    ),
    **dict.fromkeys(
        ("mask", "masked"),
        (
            "means that a turn is graded in some programs, and that it is not in others",
            'write "train": true or false instead',
        ),
    ),
    **dict.fromkeys(
        ("label", "chosen", "rejected"),
        (
            "says which reply is the better one",
            "keep rows of good replies alone, and take the key out",
        ),
    ),
    **dict.fromkeys(
        ("images", "image", "image_url", "audio", "input_audio", "audios", "video", "videos"),
        ("holds more than text", "take the row out: the model reads text alone"),
    ),
}


@dataclass(frozen=True)
class Reading:
    """Which rows of a file are read, and which of their keys are left out.

    ignore: names of keys that carry no meaning, besides MEANINGLESS. lang: "" reads rows in any
    language; "en" reads those whose "lang" is en or begins with en- or en_. synthetic: False leaves
    out the messages of a tree that are marked as written by a model."""

    ignore: tuple[str, ...] = ()
    lang: str = ""
    synthetic: bool = True

    def refuse_rest(self, rest: dict, where: str, texts=()) -> None:
        """Raise a RowError that names the first key which a format did not read and which could
        change what is meant. Harmless are the keys of MEANINGLESS and `ignore`, empty values, and a
        text that stands in `texts`, those that were read, already."""
        for key, value in rest.items():
            if is_empty(value) or key in MEANINGLESS or key in self.ignore:
                continue
            if isinstance(value, str) and _repeats(key, value, texts):
                continue
            raise unread(key, where)

    def wants(self, row: dict) -> bool:
        """True if the row is in the chosen language."""
        if not self.lang:
            return True
        lang = next((row[key] for key in ("lang", "language") if row.get(key)), "")
        lang, wanted = str(lang).lower().replace("_", "-"), self.lang.lower().replace("_", "-")
        return lang == wanted or lang.startswith(wanted + "-")


def is_empty(value) -> bool:
    """True for what says nothing: null, a blank text, an empty list or object."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _repeats(key: str, value: str, texts) -> bool:
    """True if a text adds nothing to those that were read: if it is one of them, or, under "text",
    if it is all of them as another program has rendered them."""
    return value in texts or (key == "text" and bool(texts) and all(t in value for t in texts))


def unread(key: str, where: str) -> RowError:
    """The fault of a key that is not read."""
    if key in KNOWN:
        what, remedy = KNOWN[key]
        return RowError(where, f"its key {key!r} {what}, which is not read", remedy, "unread key")
    what = f"its key {key!r} is not read, so the row would lose its meaning"
    remedy = 'write it into "messages", take it out, or, if it means nothing, name it by --ignore'
    return RowError(where, what, remedy, "unread key")


def take_flag(turn: dict, where: str, is_reply: bool) -> tuple[str, bool] | None:
    """Remove the flags from a turn. Return (the key, True if it asks to grade the turn), or None
    without a flag. A RowError if a flag is neither true nor false, if two differ, or if it asks to
    grade a turn that is no reply."""
    given = {name: turn.pop(name) for name in FLAGS if name in turn}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if value not in (0, 1) or not isinstance(value, (bool, int, float)):
            what = f"the flag {name!r} is {value!r}"
            raise RowError(where, what, "it is true or false, or 1 or 0", "flags")
        if value and not is_reply:
            what = f"the flag {name!r} asks to grade a turn that is no reply"
            remedy = "only assistant turns are graded: take the flag out (or --grade everything)"
            raise RowError(where, what, remedy, "flags")
    if len({bool(value) for value in given.values()}) > 1:
        what = f"the flags {' and '.join(map(repr, given))} contradict each other"
        raise RowError(where, what, "keep one of them", "flags")
    return next(((name, bool(value)) for name, value in given.items()), None)


def checked_ignore(names) -> tuple[str, ...]:
    """The names of --ignore. A UsageError for a key that has a meaning of its own."""
    for name in names:
        if name in ("role", "content", "messages", *FLAGS):
            raise UsageError(f"--ignore {name}: this key is read, so it cannot be ignored")
    return tuple(names)
