"""Questions that a model learns to answer with the search, by a reward: facts that nobody has told
it, and names that no document is about. The tool test (tooltest.py) asks about others, in other
words."""

from dataclasses import dataclass

from pysft.inference.search import Document, Search
from pysft.inference.tools import Tool, tools
from pysft.measure.calltest import Answer
from pysft.measure.tooltest import strangers
from pysft.rng import rng
from pysft.text.characters import replaced
from pysft.text.tokenizer import Tokenizer
from pysft.world.ask import refusal
from pysft.world.labelers import ANSWERABLE
from pysft.world.town import Words, invent, one, town
from pysft.world.transcripts import ASKED, FOLLOWED

FACTS = 300  # that are made up, beside the trained half of the town's
# Draws of strangers, as of the tool test. Those for whom the search finds nothing are easy to
# refuse: each draw gives as many of them as share their last word with a known name.
ROUNDS = 8


@dataclass(frozen=True)
class ToolTask:
    """questions: what is asked. expected: question -> what is right to say: a fact, or a refusal.
    tools: those that the replies may call."""

    questions: list[str]
    expected: dict[str, str]
    tools: dict[str, Tool]

    def golds(self, prompts, replies, ended) -> list[int]:
        """The points of each reply, as world/labelers.py counts them. A reply is right if it is one
        call of the search, its result and the fact, word for word, or the refusal, if no document
        is about the name; otherwise it is wrong or, without its end or words, malformed. To refuse
        what a document tells is wrong: the search leaves no doubt.

        prompts: messages. replies: the parts of each (tool_calls.content_parts)."""
        found = []
        for prompt, parts, end in zip(prompts, replies, ended):
            right = self.expected[prompt[-1]["content"]]
            words = [part["text"] for part in parts if part["type"] == "text"]
            if not end or not any(text.strip() for text in words):
                verdict = "malformed"
            else:
                verdict = "right" if Answer(parts, end, True).is_fact(right) else "wrong"
            found.append(ANSWERABLE[verdict])
        return found


def tool_task(text: str, tokenizer: Tokenizer, seed: int, name: str) -> ToolTask:
    """Make the questions of a training. text: of the corpus, whose words the names and facts are
    made of. seed, name: of the run and of its stage, for the draws."""
    g, source = rng(seed, name, "tool task"), Words(text)
    facts = [f for f in town(trained=True) if f.kind not in FOLLOWED]
    facts += [invent(g, source) for _ in range(FACTS)]
    search = Search([Document(f.title, f.text) for f in facts])
    asked = [(one(g, ASKED[f.kind]).format(f.title), f.text) for f in facts]
    for _ in range(ROUNDS):
        first, last, far = strangers(g, facts, search, source)
        for title in [*first, *last, *far[: len(last)]]:
            asked.append((one(g, ASKED["person"]).format(title), refusal(title)))
    expected = {replaced(q, tokenizer): replaced(right, tokenizer) for q, right in asked}
    return ToolTask([*expected], expected, tools(search))
