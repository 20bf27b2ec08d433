"""A short chat about the shipped town, as `chat` would write it, for the end of a training."""

from pysft.inference.sampling import CHAT
from pysft.inference.search import Search
from pysft.inference.session import Session
from pysft.inference.tool_calls import content_parts
from pysft.inference.tools import tools
from pysft.run.stage import Stage
from pysft.world.lexicon import STRANGER
from pysft.world.town import TOWN, town


def town_chat(stage: Stage) -> list[dict]:
    """A chat of three questions, [{"about", "question", "parts", "stop"}]: about a person whose
    fact was held out from training, a second question that needs the first, and about a name that
    nobody has. It is [] for a stage that was not trained on transcripts. parts: those of the reply,
    [{"type", "text"}]. stop: why it ended (generate.Reply)."""
    if not stage.setting("transcripts", 0):
        return []
    person = next(fact.title for fact in town(trained=False) if fact.kind == "person")
    session = Session(
        stage.model,
        stage.tokenizer,
        stage.template,
        CHAT,
        replace_unknown=True,
        tools=tools(Search.of([str(TOWN)])),
        text_history=True,
    )
    questions = {
        "a fact that was held out": f"Who is {person}?",
        "needs the name before it": "And where does she live?",
        "a name that nobody has": f"Who is {STRANGER}?",
    }
    rows = []
    for about, question in questions.items():
        _, reply, _ = session.say(question)
        parts = content_parts(reply.ids, stage.tokenizer, stage.template)
        rows.append({"about": about, "question": question, "parts": parts, "stop": reply.stop})
    return rows
