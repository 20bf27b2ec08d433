"""Which prompts are held out or kept apart, so that what is measured on them was never trained
on."""

import hashlib

from pysft.errors import DataError, RowError
from pysft.rng import rng
from pysft.text.conversation import Conversation, short
from pysft.text.formats import first_text, last_text, read_conversations, read_prompts
from pysft.text.keys import Reading
from pysft.text.preferences import holds_preferences, read_rankings
from pysft.text.scripts import compose
from pysft.text.template import Template
from pysft.text.templates import CHATML

# Of the prompts of preference training. InstructGPT used about as many for the reward model as for
# the policy (33,000 and 31,000).
SHARES = {"reward": 0.45, "rollouts": 0.45, "judging": 0.1}


def prompt_key(text: str) -> str:
    """The same key for prompts that differ only in case, blanks, the marks at their end, and in
    whether accents are composed with their letters."""
    return " ".join(compose(text).casefold().split()).rstrip(" .!?,;:-")


def split_heldout(
    conversations: list[Conversation], every: int = 10, shuffled: bool = False
) -> tuple[list, list]:
    """(kept, held out). Of the different prompts that conversations begin with, every tenth is held
    out, with all conversations that begin so. Rows of plain text are kept.

    The tenth is counted in the order of the file (every tenth line, if no prompt comes twice), or
    if `shuffled` in an order by hash, for files whose order has a pattern."""
    keys = list(dict.fromkeys(prompt_key(c.prompt) for c in conversations if not c.is_text))
    if shuffled:
        keys.sort(key=lambda key: hashlib.sha256(key.encode()).digest())
    chosen = set(keys[every - 1 :: every])
    kept, heldout = [], []
    for c in conversations:
        is_chosen = not c.is_text and prompt_key(c.prompt) in chosen
        (heldout if is_chosen else kept).append(c)
    return kept, heldout


def split_by_prompt(items: list, seed: int) -> dict[str, list]:
    """The items in three parts that share no prompt: {"reward": those that a reward model is
    trained on, "rollouts": those whose prompts a policy answers while it is trained, "judging":
    those that only measure}.

    items: rankings, conversations or rows of read_prompts(), also mixed. Two items belong together
    if the user's first text is the same by prompt_key(), so all branches of a message tree do. The
    parts have SHARES of the different prompts, each at least one, and keep the order of the items.
    The same prompts and seed give the same parts, in whatever order the items come. To split
    several files alike, pass them as one list. A DataError if there are fewer prompts than
    parts."""
    keys = [prompt_key(_first_text(item)) for item in items]
    different = sorted(set(keys))
    if len(different) < len(SHARES):
        raise DataError(
            f"{len(different)} different prompt{'s' * (len(different) != 1)}, which cannot be split"
            f" into {', '.join(SHARES)}; give {len(SHARES)} or more"
        )
    order = rng(seed, "preferences", "split").permutation(len(different))
    first, *others = SHARES
    part_of, begin = dict.fromkeys(different, first), 0  # the first gets what the others leave
    for name in others:
        end = begin + max(1, round(SHARES[name] * len(different)))
        part_of |= {different[i]: name for i in order[begin:end]}
        begin = end
    parts = {name: [] for name in SHARES}
    for key, item in zip(keys, items):
        parts[part_of[key]].append(item)
    return parts


def _first_text(item) -> str:
    """What the user says first in a conversation, a ranking or a row of read_prompts()."""
    return first_text(item["prompt"] if isinstance(item, dict) else item.prompt)


def overlap_with(heldout: dict[str, str], prompt: str) -> tuple[str, str] | None:
    """(what is wrong, the remedy) if a prompt is among those that heldout_prompts() gave."""
    where = heldout.get(prompt_key(prompt))
    if where is None:
        return None
    remedy = "remove one of the two: a prompt that was trained on measures nothing"
    return f"the prompt {short(prompt)} is held out at {where}", remedy


def heldout_prompts(path: str, template: Template, reading: Reading) -> dict[str, str]:
    """{prompt_key: where} of a file of {"prompt": ...}, or of conversations or preferences in any
    format. A DataError if it is none of them."""
    # ChatML has a system role, which these conversations may have and `template` may lack.
    reader = CHATML if set(template.turns) <= set(CHATML.turns) else template
    try:
        found = {
            prompt_key(text): f"{path} ({short(text)})"
            for text in (last_text(p["prompt"]) for p in read_prompts(path, reading))
        }
    except RowError:
        read = read_rankings if holds_preferences(path, reading) else read_conversations
        items = read(path, reader, reading)
        found = {prompt_key(text): item.where for item in items if (text := _first_text(item))}
    if not found:
        raise DataError(f"{path}: no prompt in it")
    return found
