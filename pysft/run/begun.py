"""RUN/run.json: the record of what a run was begun with. Resuming reads it, and refuses inputs that
have changed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pysft.console import command
from pysft.errors import DataError, PysftError, UsageError
from pysft.run.stage import read_json
from pysft.text.template import Template

SHIPPED = "shipped "  # in `sha256`, the prefix of the names of the package's own files
VERBS = ("train", "pretrain", "reward", "dpo", "ppo")  # those that begin runs
READ = "what is trained on"  # in `sha256`, the name of the digest of what was read from the files


def resume_command(folder: Path) -> str:
    """Return the command that goes on with the run in `folder`: with the verb that began it."""
    try:
        verb = read_json(folder / "run.json").get("verb")
    except PysftError:
        verb = None
    verb = verb if verb in VERBS else "train"
    return command(verb, "--resume", "--out", folder)


@dataclass(frozen=True)
class Begun:
    """What a run was begun with.

    verb: one of VERBS. settings: as JSON. data, base, rankings, reward, prompts: None if not given.
    ops: "kernels" or "reference". isa: the instruction set. Both are kept because others give other
    bits. A run that was resumed with another instruction set has both, as in "avx512, base".
    sha256: the digest of every file that the run reads, by name, and under READ that of what was
    read from them."""

    verb: str
    settings: dict
    corpus: str
    data: list | None
    base: str | None
    template: Template
    ops: str
    isa: str
    sha256: dict[str, str]
    rankings: list | None = None
    reward: str | None = None
    prompts: str | None = None

    def to_json(self) -> dict:
        names = ("verb", "corpus", "data", "base", "ops", "isa", "sha256", "settings")
        document = {name: getattr(self, name) for name in names}
        others = {name: getattr(self, name) for name in ("rankings", "reward", "prompts")}
        document |= {name: value for name, value in others.items() if value is not None}
        return document | {"template": self.template.to_json()}

    @classmethod
    def of(cls, folder: Path, verb: str) -> "Begun":
        """Return the record of the run in `folder`, which `verb` is to resume.

        A UsageError if there is no record, or if another verb began the run. A DataError if the
        record is damaged."""
        record = folder / "run.json"
        if not record.is_file():
            is_inside_run = (folder.parent / "run.json").is_file()  # as with --out RUN/sft
            run = folder.parent if is_inside_run else "the right folder"
            raise UsageError(
                f"--resume: {folder} holds no run. Name {run} by --out, or leave --resume out"
            )
        kept = read_json(record)
        try:
            found = cls(
                kept.get("verb", verb),
                dict(kept["settings"]),
                kept["corpus"],
                kept["data"],
                kept["base"],
                Template.from_json(kept["template"]),
                kept.get("ops", "kernels"),
                kept.get("isa", ""),
                dict(kept["sha256"]),
                kept.get("rankings"),
                kept.get("reward"),
                kept.get("prompts"),
            )
            named = [found.corpus, found.ops, found.isa, *(found.data or [])]
            named += [
                x
                for x in (*(found.rankings or []), found.base, found.reward, found.prompts)
                if x is not None
            ]
            if not all(isinstance(name, str) for name in named):
                raise TypeError("corpus, base, ops, isa and data must be text")
            if found.ops not in ("kernels", "reference"):
                raise ValueError(f"ops is {found.ops!r}")
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{record}: not as this program writes it ({error})") from None
        if found.verb != verb:
            raise UsageError(
                f"--resume: {folder} was begun by 'pysft {found.verb}'. Resume it with:"
                f" {resume_command(folder)}"
            )
        return found

    def refuse_changes(self, sha256: dict[str, str]) -> None:
        """Raise a DataError unless the files have the digests that the run was begun with."""
        for name, digest in sha256.items():
            # Older records lack the digests of shipped files: do not refuse them for that.
            if_missing = digest if name.startswith(SHIPPED) else None
            if (before := self.sha256.get(name, if_missing)) != digest:
                if name == self.corpus and before == _digest_of_earlier_versions(name):
                    raise self._other_reading([name])
                raise DataError(
                    f"{name}: changed since this run was begun (its SHA-256 differs). Put the old "
                    "content back, or begin a new run"
                )

    def refuse_other_reading(self, digest: str, is_altered: bool) -> None:
        """Raise a DataError if other data were read from the same files when the run was begun: the
        data decide the bits of the weights.

        digest: that of what was read now. is_altered: conversations were composed or left out. The
        record of an earlier version has no digest, and that version did neither."""
        before = self.sha256.get(READ)
        if is_altered if before is None else before != digest:
            shipped = [name for name in self.sha256 if name.startswith(SHIPPED)]
            raise self._other_reading([self.corpus, *(self.data or shipped)])

    def _other_reading(self, names: list[str]) -> DataError:
        have = "has" if len(names) == 1 else "have"
        return DataError(
            f"{', '.join(names)}: what is read from {'it' if len(names) == 1 else 'them'} has"
            f" changed since this run was begun, though the file{'s' * (len(names) > 1)} {have}"
            " not; resume with the version of pysft that began it, or begin a new run"
        )


def _digest_of_earlier_versions(corpus: str) -> str | None:
    """Return the SHA-256 of a corpus as versions read it that did not compose letters and accents.
    None if it is no file of text."""
    try:
        text = Path(corpus).read_bytes().decode("utf-8")
    except (OSError, ValueError):
        return None
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    return hashlib.sha256(text.encode()).hexdigest()
