"""Talking in a terminal: a reply as it comes, tools' calls and results marked, and the commands of
the prompt line."""

import json
import sys
from pathlib import Path

import numpy as np

from pysft.errors import PysftError, UsageError
from pysft.inference.generate import Reply
from pysft.inference.session import Session

HELP = """/help            this
/clear           forget the conversation
/undo            forget the last exchange
/save FILE       write what is still remembered of the conversation as JSON lines, which train and audit can read
/tokens          show of each token of the next replies how likely it was, and what else was; again: no more
/quit, Ctrl-D    leave; Ctrl-C stops a reply, which is then not kept"""
DIM, PLAIN, BOLD = "\x1b[2m", "\x1b[0m", "\x1b[1m"
CANDIDATES = 5


class Talk:
    """A session in a terminal. read(prompt): a line, or EOFError; out: where it is shown; colour:
    whether it may be."""

    def __init__(
        self,
        session: Session,
        read=input,
        out=None,
        colour: bool = False,
        show_tokens: bool = False,
    ):
        self.session, self.read, self.out, self.colour, self.show = (
            session,
            read,
            out or sys.stdout,
            colour,
            show_tokens,
        )
        t, special = session.template, session.tokenizer.special
        self._opens = {
            special[s.opens[0]]: kind for kind, s in t.parts.items() if s.opens[0] in special
        }
        self._open = False
        self._closes = {special[s.closes[-1]] for s in t.parts.values() if s.closes[-1] in special}

    def say(self, text: str = "", end: str = "\n") -> None:
        print(text, end=end, file=self.out, flush=True)

    def run(self) -> None:
        """Until the end of the input or /quit."""
        while True:
            try:
                line = self.read("you> ")
            except (EOFError, RuntimeError):  # RuntimeError: there is no standard input at all
                self.say()
                return
            except KeyboardInterrupt:
                self.say("\n(Ctrl-D leaves)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            if line.strip():
                self.turn(line)

    def turn(self, line: str) -> None:
        """A message or a command; an error is said and the chat goes on."""
        try:
            if line.startswith("/"):
                self.command(*line.strip().split(None, 1))
            else:
                self.answer(line)
        except PysftError as error:
            print(f"pysft: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            self.say(self._shut() + self._dim("\n(stopped; this exchange is not kept)"))

    def command(self, name: str, rest: str = "") -> None:
        if name == "/help":
            self.say(HELP)
        elif name == "/clear":
            self.session.messages.clear()
            self.say("(forgotten)")
        elif name == "/undo":
            self.say(
                "(the last exchange is forgotten)" if self.session.undo() else "(there is none)"
            )
        elif name == "/tokens":
            self.show = not self.show
            self.say(f"(tokens are {'shown' if self.show else 'no longer shown'})")
        elif name == "/save":
            self.save(rest.strip())
        else:
            raise UsageError(f"{name} is no command; /help lists them")

    def save(self, name: str) -> None:
        """Append the conversation to a file of JSON lines."""
        if not name or not self.session.messages:
            raise UsageError(
                "/save FILE writes the conversation"
                + ("; name a file" if not name else ", and there is none yet")
            )
        try:
            with open(Path(name), "a", encoding="utf-8") as f:
                f.write(json.dumps({"messages": self.session.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UsageError(
                f"/save {name}: cannot be written ({error.strerror}); choose another place"
            ) from None
        count = len(self.session.messages) // 2
        self.say(f"(saved: {count} exchange{'s' * (count > 1)}, appended to {name})")

    def answer(self, text: str) -> None:
        """One exchange, shown as it comes."""
        events = self.session.stream(text)
        ids, dropped = next(events)
        if dropped:
            self.say(
                "(to make room for a reply, the"
                f" {f'{dropped} oldest exchanges are' if dropped > 1 else 'oldest exchange is'}"
                " left out)"
            )
        if self.show:
            self.say(self._prompt(ids))
        else:
            self.say("bot> ", end="")
        for event in events:
            if isinstance(event, Reply):
                if not self.show:
                    self.say(self._shut(), end="")
                ends = {
                    "length": "  [cut: no end token within the room]",
                    "tool": "  [a call that no tool answers]",
                }
                self.say("" if self.show else ends.get(event.stop, ""))
            elif self.show:
                self.say(self._step(event))
            elif event.token is not None and event.stop is None:
                self.say(self._piece(event.token, event.logits is None), end="")

    def said(self, reply: Reply) -> str:
        """A whole reply as it would have been shown."""
        return (
            "".join(
                self._piece(int(token), bool(injected))
                for token, injected in zip(reply.ids, reply.injected)
            )
            + self._shut()
        )

    def _dim(self, text):
        return DIM + text + PLAIN if self.colour else text

    def _piece(self, token: int, injected: bool) -> str:
        """A token as the reader sees it: a call in brackets, what a tool gave in brackets of its
        own. A result that the model only made up is no result, and shown by its token's name."""
        if token in self._opens and not self._open and (self._opens[token] != "result" or injected):
            self._open = True
            return (DIM if self.colour else "") + f"[{self._opens[token]}: "
        if token in self._closes and self._open:
            return self._shut() + " "
        return self.session.tokenizer.decode([token])

    def _shut(self) -> str:
        """What closes a bracket that is open."""
        was, self._open = self._open, False
        return ("]" + (PLAIN if self.colour else "")) if was else ""

    def _prompt(self, ids) -> str:
        """What the model reads, its last token, at which it answers, pointed at: the source text's
        drawing."""
        text = self.session.tokenizer.decode(ids)
        last = self.session.tokenizer.decode(ids[-1:])
        return (
            f"{text}\n{' ' * max(0, len(text.splitlines()[-1]) - len(last))}{'^' * len(last)} the"
            " model answers from here"
        )

    def _step(self, event) -> str:
        """One step: the token, its probability, the likeliest others."""
        name = "(full)" if event.token is None else self._name(event.token)
        if event.logits is None:
            return f"{name:>16}   " + ("no room is left" if event.token is None else "injected")
        p = np.exp(event.logits - event.logits.max(), dtype=np.float64)
        p /= p.sum()
        best = np.argsort(-p, kind="stable")[:CANDIDATES]
        return f"{name:>16} {p[event.token]:>7.1%}   of " + "  ".join(
            f"{self._name(i)} {p[i]:.1%}" for i in best
        )

    def _name(self, token) -> str:
        text = self.session.tokenizer.decode([int(token)])
        return repr(text) if len(text) == 1 else text
