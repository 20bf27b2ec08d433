"""The probe: all the texts that a model is measured with. It is made once, before training, and
stored in the run folder as evaluation.json, so later measurements use the same texts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.measure.words import words
from pysft.run.stage import read_json
from pysft.text.conversation import (
    Conversation,
    check_messages,
    is_call,
    plain,
    visible_text,
)
from pysft.text.corpora import shipped
from pysft.text.formats import last_text, read_prompts
from pysft.text.template import Template

RECALLED = 40  # maximum number of replies that recall is measured on


def before_reply(messages, turn: int | None = None):
    """The prompt of the reply messages[turn] (default: the first reply): the user's text if no
    other turn comes before the reply, else the list of turns."""
    if turn is None:
        turn = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    return messages[0]["content"] if turn == 1 else messages[:turn]


def plain_prompt(prompt: str | list) -> str:
    """All that is said in a prompt, as one text."""
    return prompt if isinstance(prompt, str) else "".join(turn["content"] for turn in prompt)


@dataclass
class Probe:
    """The texts that a model is measured with.

    heldout_text      the corpus's held-out tail
    pairs             [prompt, reply] that should be recalled; a prompt is a text, or the list of
                      turns before the reply if there is more than one
    prompts           [{"prompt", "domain"}] that no training conversation asks
    sealed            the same, of a list that no recipe was chosen by. There a prompt can be a list
                      of turns
    heldout           messages of conversations that were never trained on
    known_words       words of the corpus and of the training conversations, sorted
    training_replies  the replies trained on, to find those given word for word
    corpus_text       the part of the corpus that was trained on, to find stretches that replies
                      share with it ("": not kept)
    """

    heldout_text: str
    pairs: list
    prompts: list
    heldout: list
    known_words: list
    training_replies: list
    corpus_text: str = ""
    sealed: list = field(default_factory=list)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict, where: str, template: Template) -> "Probe":
        """The probe of a run folder's evaluation.json. A DataError that names `where` if the
        document is not as to_json gives it."""
        if not _is_probe(data, where, template):
            raise DataError(f"{where}: not as this program writes it")
        for messages in data["heldout"]:
            check_messages(messages, where, template)
        probe = cls(**data)
        texts = [probe.heldout_text, probe.corpus_text, *probe.training_replies]
        if not all(map(str.isascii, texts)):  # an earlier version knew words of ASCII alone
            probe.known_words = sorted({*probe.known_words, *words("\n".join(texts))})
        return probe


def stored_probe(folder: Path, template: Template) -> Probe:
    """The probe that a training left in the folder of its stage. MissingInput without one."""
    path = folder / "evaluation.json"
    if not path.is_file():
        raise MissingInput(
            f"{path}: missing, so there is nothing to measure with. Training writes it, and merging"
            " does not. Name the run that was trained"
        )
    return Probe.from_json(read_json(path), str(path), template)


def _is_probe(data, where: str, template: Template) -> bool:
    """True if every field of the document is there and has the right type."""

    def texts(x):
        return isinstance(x, list) and all(isinstance(t, str) for t in x)

    def is_prompt(x):
        if not isinstance(x, list) or not x:
            return isinstance(x, str)
        check_messages([*x, {"role": "assistant", "content": "x"}], where, template)
        return True

    def is_pair(x):
        return isinstance(x, list) and len(x) == 2 and is_prompt(x[0]) and isinstance(x[1], str)

    fields = set(Probe.__dataclass_fields__)
    return (
        isinstance(data, dict)
        and fields - {"corpus_text", "sealed"} <= set(data) <= fields
        and isinstance(data["heldout_text"], str)
        and len(data["heldout_text"]) > 1
        and isinstance(data.get("corpus_text", ""), str)
        and all(isinstance(data[f], list) for f in set(data) - {"heldout_text", "corpus_text"})
        and all(is_pair(pair) for pair in data["pairs"])
        and all(
            isinstance(p, dict) and texts([p.get("prompt"), p.get("domain")])
            for p in data["prompts"]
        )
        and all(
            isinstance(p, dict) and is_prompt(p.get("prompt")) and isinstance(p.get("domain"), str)
            for p in data.get("sealed", [])
        )
        and texts(data["known_words"])
        and texts(data["training_replies"])
    )


def _calls(content) -> bool:
    """True if a content holds a call of a tool, or a result."""
    kinds = () if isinstance(content, str) else [part["type"] for part in content]
    return any(kind == "result" or is_call(kind) for kind in kinds)


def make_probe(
    train_text: str,
    heldout_text: str,
    *,
    trained: list[Conversation],
    recalled: list[Conversation],
    heldout: list[Conversation],
    can_ask: Callable[[str], bool],
    grade: str = "all",
    own_data: bool = False,
) -> Probe:
    """The probe of a training.

    train_text, heldout_text: the two parts of the corpus. trained: all conversations of the
    training. recalled: conversations whose graded reply should be recalled (the first one, or with
    grade "last" the last); those without one are skipped, as are replies that call a tool, because
    the text after a call depends on the tool. Of a reply with a thought the rest should be
    recalled. heldout: conversations that are not trained on.
    can_ask(prompt): False for a shipped prompt that this vocabulary or context cannot take. grade:
    what the training grades. own_data: the training is not on the shipped conversations, so all
    shipped prompts are out of its domain."""
    # Made transcripts do not count: their names are invented, and their replies repeat what was
    # found.
    chats = [c for c in trained if not c.is_text and not c.last_only]
    known = set(words(train_text + heldout_text))
    known |= {w for c in chats for m in c.messages for w in words(plain(m["content"]))}
    asked = {m["content"] for c in chats for m in c.messages if m["role"] == "user"}
    turns = [(c.messages, c.graded_turn(grade)) for c in recalled]
    pairs = [
        [before_reply(messages, turn), visible_text(messages[turn]["content"])]
        for messages, turn in turns
        if turn > 0 and not _calls(messages[turn]["content"])
    ]

    def unseen(name):
        rows = read_prompts(shipped(name))
        return [
            {**p, "domain": "out"} if own_data else p
            for p in rows
            if last_text(p["prompt"]) not in asked and can_ask(plain_prompt(p["prompt"]))
        ]

    return Probe(
        heldout_text=heldout_text,
        pairs=pairs[:RECALLED],
        prompts=unseen("heldout_prompts.jsonl"),
        heldout=[c.messages for c in heldout if not c.is_text],
        known_words=sorted(known),
        training_replies=[r for c in chats for r in c.replies()],
        corpus_text=train_text,
        sealed=unseen("sealed_prompts.jsonl"),
    )
