"""From conversations to training examples: the shift, and what is refused."""

import numpy as np

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, Example
from pysft.errors import RowError
from pysft.text.conversation import Conversation, check_messages
from pysft.text.render import render, render_prompt, render_words
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer, Tokenizer


def shift(tokens: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(input_ids, labels), both (L-1,), of tokens and trained (L,). Row i has read tokens[..i] and
    should predict tokens[i+1]. It is graded if that token is one that the model should write;
    otherwise its label is -100."""
    return tokens[:-1], np.where(trained[1:], tokens[1:], IGNORE).astype(np.int32)


def encode_conversation(
    conversation: Conversation,
    tokenizer: Tokenizer,
    context: int,
    template: Template = CHAT,
    grade: str = "all",
) -> Example:
    """The training example of a conversation. A RowError if the context cannot hold it or nothing
    of it is graded. Nothing is ever cut: a reply without its end would teach the model not to
    stop."""
    where = conversation.where
    if conversation.last_only and grade != "everything":
        grade = "last"
    first = conversation.first_turn
    input_ids, labels = shift(
        *render(conversation.messages, tokenizer, template, where, grade, first)
    )
    if len(input_ids) > context:
        raise length_fault(where, len(input_ids), context)
    if not (labels != IGNORE).any():
        what = "no token of it would be graded"
        raise RowError(where, what, "flag a reply, or remove the line", "nothing graded")
    return Example(input_ids, labels, where, BASE if conversation.is_text else CONVERSATION)


def reply_example(
    prompt: np.ndarray, reply: np.ndarray, where: str = "reply", injected: np.ndarray | None = None
) -> Example:
    """The example of a reply that a model wrote, from the ids themselves: all of the reply is
    graded. prompt, reply: ids, the reply with the token that ended it, if one did. injected: True
    for each id of the reply that a tool gave, which is not graded."""
    tokens = np.concatenate([prompt, reply]).astype(np.int32)
    trained = np.arange(len(tokens)) >= len(prompt)
    if injected is not None:
        trained[len(prompt) :][: len(injected)] &= ~injected
    return Example(*shift(tokens, trained), where)


def question_example(prompt: list[dict], tokenizer: Tokenizer, template: Template) -> Example:
    """The example of a prompt of which only the text of the last turn is graded, which is the
    question. What the template writes around it is not, nor are the turns before it.

    The text is found by counting from the end, because each piece is encoded by itself:

        <|user|> W h o ? <|end|> <|assistant|>
                 |-----| |-------------------| the words that close the turn and open a reply
    """
    ids = render_prompt(prompt, tokenizer, template)
    turns, last = template.turns, prompt[-1]
    words = turns[last["role"]].closes + turns["assistant"].opens
    end = len(ids) - len(render_words(words, tokenizer, template))
    place = np.arange(len(ids))
    begin = end - len(tokenizer.encode(last["content"]))
    return Example(*shift(ids, (begin <= place) & (place < end)), "question")


def length_fault(where: str, tokens: int, context: int) -> RowError:
    """The fault of a conversation that the context cannot hold."""
    what = f"{tokens} tokens, the context holds {context}"
    remedy = f"make it {tokens - context} shorter, train with a longer context, or leave such rows"
    remedy += " out (--too-long drop)"
    return RowError(where, what, remedy, "length")


def encode_all(
    conversations: list[Conversation],
    tokenizer: Tokenizer,
    context: int,
    template: Template = CHAT,
    grade: str = "all",
    too_long: str = "refuse",
) -> tuple[list[Conversation], list[Example], list[RowError]]:
    """(kept, their examples, faults). too_long: "refuse" makes a fault of each conversation that
    the context cannot hold; "drop" leaves it out without a word, and the caller counts."""
    kept, examples, faults = [], [], []
    for c in conversations:
        try:
            examples.append(encode_conversation(c, tokenizer, context, template, grade))
        except RowError as error:
            if error.kind != "length" or too_long == "refuse":
                faults.append(error)
        else:
            kept.append(c)
    return kept, examples, faults


def prepare_sft_example(
    user: str, assistant: str, tokenizer: Tokenizer | None = None, off_by_one: bool = False
) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of one question and its answer; the name is the source text's.

    The default vocabulary is the 65 characters of Shakespeare, then <|user|> 65, <|assistant|> 66
    and <|end|> 67. off_by_one: mask the label at the <|assistant|> position too, as the source's
    own code does, so that the first token of the reply is never learnt; for comparison."""
    tokenizer = tokenizer or CharTokenizer(SHAKESPEARE, CHAT.tokens)
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    check_messages(messages, "example", CHAT)
    input_ids, labels = shift(*render(messages, tokenizer, CHAT))
    if off_by_one:
        labels[np.flatnonzero(labels != IGNORE)[0]] = IGNORE
    return input_ids.tolist(), labels.tolist()
