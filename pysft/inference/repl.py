"""A chat in a terminal. It shows replies while they are written, with calls of tools and their
results in brackets, and carries out the commands of the prompt line. Thoughts are hidden, or stand
in brackets too."""

import json
import sys
from pathlib import Path

import numpy as np

from pysft.console import columns, padded
from pysft.errors import PysftError, UsageError
from pysft.inference.engine import Event
from pysft.inference.generate import Reply
from pysft.inference.session import Session
from pysft.inference.thoughts import Thoughts
from pysft.text.conversation import THOUGHT

HELP = """/help            show this list
/clear           forget the whole conversation
/undo            forget your last message and the reply to it
/save FILE       append the conversation to FILE as JSON lines, which train and audit can read;
                 exchanges that were dropped to make room are not in it
/tokens          show each token of the next replies, how likely it was before the penalty on
                 repeated words, and the alternatives; the same command again switches this off
/quit, Ctrl-D    leave; Ctrl-C stops a reply, and that exchange is not kept"""
CUT_SHORT = {  # the note after a reply that did not end with the end token, by its stop
    "length": "  [cut off: no end token within the length limit]",
    "tool": "  [stopped: this call of a tool gets no result]",
}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
CANDIDATES = 5  # most likely tokens shown for each step


class Repl:
    """A session in a terminal.

    read(prompt): returns the next line, or raises EOFError at the end of the input.
    out: where the conversation is shown; standard output by default. Errors go to standard error.
    colour: True to dim calls and results with ANSI codes.
    show_tokens: True to show the prompt and each step of a reply instead of its text.
    show_thoughts: True to show thoughts, in brackets. Else nothing of one is shown."""

    def __init__(
        self,
        session: Session,
        read=input,
        out=None,
        colour: bool = False,
        show_tokens: bool = False,
        show_thoughts: bool = False,
    ):
        self.session, self.read, self.out = session, read, out or sys.stdout
        self.colour, self.show_tokens, self.show_thoughts = colour, show_tokens, show_thoughts
        special, parts = session.tokenizer.special, session.template.parts
        self._openers = {
            special[s.opens[0]]: kind for kind, s in parts.items() if s.opens[0] in special
        }
        self._closers = {
            special[s.closes[-1]]: kind for kind, s in parts.items() if s.closes[-1] in special
        }
        self._begin_reply()

    def show(self, text: str = "", end: str = "\n") -> None:
        print(text, end=end, file=self.out, flush=True)

    def run(self) -> None:
        """Read and handle lines until /quit or the end of the input."""
        while True:
            try:
                line = self.read("you> ").removeprefix("\ufeff")  # a file may begin with it
            except (EOFError, RuntimeError):  # RuntimeError: there is no standard input at all
                self.show()
                return
            except KeyboardInterrupt:
                self.show("\n(Ctrl-D leaves)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            if line.strip():
                self.handle(line)

    def handle(self, line: str) -> None:
        """Handle a message or a command. A PysftError is shown, and the chat goes on."""
        try:
            if line.startswith("/"):
                self.command(*line.strip().split(None, 1))
            else:
                self.answer(line)
        except PysftError as error:
            print(f"pysft: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            self.show(self._close_bracket() + self._dim("\n(stopped; this exchange is not kept)"))

    def command(self, name: str, argument: str = "") -> None:
        if name == "/help":
            self.show(HELP)
        elif name == "/clear":
            self.session.messages.clear()
            self.show("(the conversation is forgotten)")
        elif name == "/undo":
            if self.session.undo():
                self.show("(the last exchange is forgotten)")
            else:
                self.show("(there is no exchange to forget)")
        elif name == "/tokens":
            if self.session.best_of:
                raise UsageError("/tokens shows one reply as it is written, and not the best of n")
            self.show_tokens = not self.show_tokens
            self.show(f"(the next replies show their {'tokens' if self.show_tokens else 'text'})")
        elif name == "/save":
            self.save(argument.strip())
        else:
            raise UsageError(f"{name} is not a command; /help lists them")

    def save(self, name: str) -> None:
        """Append the conversation to the file `name`, as one JSON line."""
        if not name:
            raise UsageError("/save needs the name of a file: /save FILE")
        if not self.session.messages:
            raise UsageError(f"/save {name}: there is no conversation yet; say something first")
        try:
            with open(Path(name), "a", encoding="utf-8") as f:
                f.write(json.dumps({"messages": self.session.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UsageError(
                f"/save {name}: cannot be written ({error.strerror}); choose another place"
            ) from None
        count = len(self.session.messages) // 2
        self.show(f"(saved: {count} exchange{'s' * (count > 1)}, appended to {name})")

    def answer(self, text: str) -> None:
        """Answer a message, and show the reply while it is written."""
        events = self.session.stream(text)
        ids, dropped = next(events)
        if dropped:
            oldest = f"{dropped} oldest exchanges were" if dropped > 1 else "oldest exchange was"
            self.show(f"(the {oldest} dropped to make room for a reply)")
        if self.show_tokens:
            self.show(self._prompt_drawing(ids))
            for event in events:
                self.show("" if isinstance(event, Reply) else self._step(event))
            return
        self._begin_reply()
        self.show("bot> ", end="")
        for event in events:
            if isinstance(event, Reply):
                if self.session.best_of:
                    self.show(self.text_of(event), end="")
                self.show(self._close_bracket() + CUT_SHORT.get(event.stop, ""))
                if self.session.dropped > dropped:
                    self.show("(earlier exchanges were dropped to make room for the result)")
                if self.session.best_of:
                    self.show(self._dim(f"({self.session.best.line()})"))
            elif event.token is not None and event.stop is None:
                self.show(self._text(event.token, event.logits is None), end="")

    def _begin_reply(self) -> None:
        """Forget what is open: the kind of part in brackets, and a thought."""
        self._bracket = ""
        self._thoughts = Thoughts(self.session.tokenizer, self.session.template)

    def text_of(self, reply: Reply) -> str:
        """Return a whole reply as answer() shows it."""
        self._begin_reply()
        pieces = [self._text(int(i), bool(inj)) for i, inj in zip(reply.ids, reply.injected)]
        return "".join(pieces) + self._close_bracket()

    def _text(self, token: int, injected: bool) -> str:
        """A token as it is shown. A call, an injected result or a thought that is not hidden stands
        in brackets: "[search: ...]". If the model made up a result, it gets no brackets, and its
        tokens are shown by name."""
        in_thought = self._thoughts.hold(token)
        if in_thought and not self.show_thoughts:
            return ""
        kind = self._openers.get(token)
        if kind and not self._bracket and (kind != "result" or injected):
            if in_thought or kind != THOUGHT:
                self._bracket = kind
                return (DIM if self.colour else "") + f"[{kind}: "
        if self._bracket and self._closers.get(token) == self._bracket:
            return self._close_bracket() + " "
        return self.session.tokenizer.decode([token])

    def _close_bracket(self) -> str:
        """The closing bracket if one is open, else ""."""
        was_open, self._bracket = self._bracket, ""
        return ("]" + (PLAIN if self.colour else "")) if was_open else ""

    def _dim(self, text: str) -> str:
        return DIM + text + PLAIN if self.colour else text

    def _prompt_drawing(self, ids) -> str:
        """The prompt as the model reads it, with an arrow at its last token, after which the reply
        begins. The source text draws it in this way."""
        text = self.session.tokenizer.decode(ids)
        last = self.session.tokenizer.decode(ids[-1:])
        indent = " " * max(0, columns(text.split("\n")[-1]) - columns(last))
        return f"{text}\n{indent}{'^' * columns(last)} the model answers from here"

    def _step(self, event: Event) -> str:
        """One step as a line: the token, its probability, and the most likely ones with theirs."""
        if event.token is None:
            return f"{'(no end token)':>16} {CUT_SHORT[event.stop]}"
        name = self._name(event.token)
        if event.logits is None:
            return f"{padded(name, 16, right=True)}   injected"
        p = np.exp(event.logits - event.logits.max(), dtype=np.float64)
        p /= p.sum()
        best = np.argsort(-p, kind="stable")[:CANDIDATES]
        candidates = "  ".join(f"{self._name(i)} {p[i]:.1%}" for i in best)
        return f"{padded(name, 16, right=True)} {p[event.token]:>7.1%}   of {candidates}"

    def _name(self, token) -> str:
        """A token of text in quotes, or the name of a special token."""
        text = self.session.tokenizer.decode([int(token)])
        return text if self.session.tokenizer.is_special(token) else repr(text)
