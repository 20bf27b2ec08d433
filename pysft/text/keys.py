"""The keys of rows and turns that no format reads: which of them carry no meaning, and what is said
of the others. A key that could change what a row means is never ignored."""

from dataclasses import dataclass

from pysft.errors import RowError, UsageError

# Names under which people's files keep what is about a turn or a row and is no part of its text.
MEANINGLESS = frozenset(
    """
    id _id idx index uid uuid hash md5 sha256 message_id parent_id turn_id turn turn_identifier
    source license licence url urls link links lang language languages language_code
    date time timestamp created created_at created_date updated updated_at create_time
    author authors user_id annotator annotator_id annotators labeler rater worker_id username
    hashed_ip header country state avatarUrl
    model model_name model_id generator generation_model engine temperature top_p seed finish_reason
    num_tokens token_count tokens_count n_tokens tokens length num_words word_count
    score scores rating ratings quality rank likes upvotes votes views helpfulness correctness
    coherence complexity verbosity toxicity toxic redacted openai_moderation moderation
    detoxify_moderation meta metadata
    """.split()
)
# The same for rows alone: in a turn they could say what the turn is.
OF_ROWS = (
    MEANINGLESS
    | frozenset(
        """
    row_id row_index example_id question_id conversation_id conversation_hash prompt_id
    message_tree_id __index_level_0__ sources dataset data_source dataset_name origin split subset
    file filename path copyright attribution category categories subcategory topic topics domain
    subject title tag tags type task task_name task_type task_id skill difficulty level keywords
    locale num_turns n_turns skip_prompt_formatting version revision schema info extra note notes
    comment comments remark remarks
    """.split()
    )
    | {"Unnamed: 0"}
)
# Keys by which a row or a message of a tree may be left out. Each is true or false.
MARKS = ("deleted", "review_result", "synthetic")
# The sets of keys by which a row is known as one of preferences.
PREFERENCES = (("chosen", "rejected"), ("replies", "ranks"), ("instruction", "completions"))
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
            "says which rows or replies are good, or of which kind they are",
            "keep the good ones alone, and take the key out",
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

    ignore: names of keys that mean nothing, besides those that are known here. lang: "" reads rows
    in any language; "en" reads those whose "lang" or "language" is en, or begins with en- or en_,
    and those that name none. synthetic: False leaves out what is marked as written by a model."""

    ignore: tuple[str, ...] = ()
    lang: str = ""
    synthetic: bool = True

    def without_ignored(self, owner: dict) -> dict:
        """A copy of a row, a turn or a part without the keys that the user ignores."""
        return {key: value for key, value in owner.items() if key not in self.ignore}

    def refuse_rest(
        self, rest: dict, where: str, known=MEANINGLESS, texts=(), place: str = '"messages"'
    ) -> None:
        """Raise a RowError that names the keys which a format did not read and which could change
        what is meant. Harmless are the keys in `known` and in `ignore`, empty values, and a text
        that stands in `texts`, those that were read, already. place: where the remedy says that the
        value of such a key belongs."""
        unread = [
            key
            for key, value in rest.items()
            if not (is_empty(value) or key in known or key in self.ignore)
            and not (isinstance(value, str) and _repeats(key, value, texts))
        ]
        if unread:
            raise _unread(unread, where, place)

    def left_out(self, row: dict, where: str) -> str:
        """Why a row or a message of a tree is left out; "" if it is read. A RowError if one of
        MARKS is neither true nor false."""
        marks = {key: row.get(key) for key in MARKS}
        for key, value in marks.items():
            if value is not None and not isinstance(value, bool):
                what = f"its mark {key!r} is {value!r}"
                raise RowError(where, what, "write true or false", "format")
        if marks["deleted"]:
            return "deleted"
        if marks["review_result"] is False:
            return "that failed the review"
        if marks["synthetic"] and not self.synthetic:
            return "synthetic"
        named = next((row[key] for key in ("lang", "language") if row.get(key)), None)
        if not self.lang or named is None:
            return ""
        lang, wanted = (str(text).lower().replace("_", "-") for text in (named, self.lang))
        is_wanted = lang == wanted or lang.startswith(wanted + "-")
        return "" if is_wanted else f"in another language ({named})"


def preference_keys(row: dict) -> tuple[str, ...]:
    """The set of PREFERENCES by which a row is known; () if it is a row of something else."""
    has = {key for key, value in row.items() if not is_empty(value)}
    pair, *others = PREFERENCES
    if has.intersection(pair):  # one of the two is enough
        return pair
    return next((keys for keys in others if has.issuperset(keys)), ())


def is_empty(value) -> bool:
    """True for what says nothing: null, a blank text, an empty list or object."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _repeats(key: str, value: str, texts) -> bool:
    """True if a text adds nothing to those that were read: if it is one of them, or, under "text",
    if it holds all their paragraphs in their order, as another program renders them."""
    if any(value.strip() == text.strip() for text in texts):
        return True
    if key != "text" or not texts:
        return False
    at = 0
    for piece in (piece.strip() for text in texts for piece in text.split("\n\n")):
        at = value.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def _unread(keys: list[str], where: str, place: str) -> RowError:
    """The fault of keys that are not read. One that is known goes before others."""
    key = next((key for key in keys if key in KNOWN), None)
    if key is not None:
        what, remedy = KNOWN[key]
        return RowError(where, f"its key {key!r} {what}, which is not read", remedy, "unread key")
    named = ", ".join(map(repr, keys))
    are = f"key {named} is" if len(keys) == 1 else f"keys {named} are"
    what = f"its {are} not read, so the row could lose its meaning"
    remedy = f"write it into {place}, take it out, or, if it means nothing, give --ignore "
    # A name with a line break would make two lines of the message.
    names = ",".join(key if key.isprintable() else repr(key) for key in keys)
    return RowError(where, what, remedy + names, "unread key")


def take_flag(turn: dict, where: str, is_reply: bool) -> tuple[str, bool] | None:
    """Remove the flags from a turn. Return (the key, True if it asks to grade the turn), or None
    without a flag. A RowError if a flag is neither true nor false, if two differ, or if it asks to
    grade a turn that is no reply."""
    given = {name: turn.pop(name) for name in FLAGS if name in turn}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if value not in (0, 1) or not isinstance(value, (bool, int, float)):
            what = f"the flag {name!r} is {value!r}"
            remedy = f"it is true or false, or 1 or 0; if it is no flag, give --ignore {name}"
            raise RowError(where, what, remedy, "flags")
        if value and not is_reply:
            what = f"the flag {name!r} asks to grade a turn that is no reply"
            remedy = "only assistant turns are graded: take the flag out"
            raise RowError(where, what, remedy, "flags")
    if len({bool(value) for value in given.values()}) > 1:
        what = f"the flags {' and '.join(map(repr, given))} contradict each other"
        raise RowError(where, what, "keep one of them", "flags")
    return next(((name, bool(value)) for name, value in given.items()), None)


def checked_ignore(names) -> tuple[str, ...]:
    """The names of --ignore. A UsageError for a key that has a meaning of its own."""
    for name in names:
        if name in ("role", "content", "messages"):
            raise UsageError(f"--ignore {name}: this key is read, so it cannot be ignored")
    return tuple(names)
