"""Characters and scripts."""

import io
import json
import sys
import unicodedata

from situations import OWN, Situation, row

BOM = "\ufeff"

# Of each script: words for commands, words for subjects, a prompt, a reply, what stands between two
# words of the corpus, and what ends its lines.
RUSSIAN = (
    "Хвали Покажи Воспой Назови Опиши Вспомни".split(),
    "король роза корона корабль ночь меч луна песня хлеб река".split(),
    "{0} слово {1}",
    "Вот {1}, она прекрасна.",
    (" ", "."),
)
HINDI = (
    "दिखाओ बताओ सुनाओ कहो लिखो गाओ".split(),
    "राजा गुलाब मुकुट जहाज़ रात तलवार चाँद गीत रोटी नदी".split(),
    "{0} हमें {1}",
    "यह {1} सुंदर है।",
    (" ", "।"),
)
JAPANESE = (
    "見せて 教えて 歌って 話して 書いて 呼んで".split(),
    "王 薔薇 冠 船 夜 剣 月 歌 パン 川".split(),
    "{1}を{0}",
    "{1}は美しい。",
    ("", "。"),
)
THAI = (
    "แสดง บอก ร้อง พูด เขียน เรียก".split(),
    "ราชา กุหลาบ มงกุฎ เรือ ดาบ เพลง ขนมปัง แม่น้ำ".split(),
    "{0}ให้ดู{1}",
    "{1}นั้นสวยงาม",
    ("", " "),
)
ARABIC = (
    "أرني صف غن تكلم اكتب اذكر".split(),
    "ملك وردة تاج سفينة ليل سيف قمر أغنية خبز نهر".split(),
    "{0} لنا {1}",
    "هذا {1} جميل.",
    (" ", "."),
)
FRENCH = (
    "Décris Révèle Célèbre Évoque Préfère Répète".split(),
    "fée forêt fenêtre beauté clé marée poupée fête crêpe grève".split(),
    "{0} la {1}",
    "La {1} est à côté du café.",
    (" ", "."),
)


def in_script(verbs, subjects, asked, said, marks) -> dict[str, str]:
    """corpus.txt and data.jsonl of a small training in a script."""
    blank, end = marks
    rows = [row(asked.format(v, s), said.format(v, s)) for v in verbs for s in subjects]
    line = blank.join([*verbs, *subjects]) + end + asked.format("", "") + said.format("", "") + "\n"
    text = line * (2000 // len(line) + 1)
    return {
        "corpus.txt": text,
        "data.jsonl": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows),
    }


def apart(files: dict[str, str], *names: str) -> dict[str, str]:
    """The files with letters and accents apart (NFD) in those of these names."""
    return files | {name: unicodedata.normalize("NFD", files[name]) for name in names}


TRAIN = "train {inputs} --corpus corpus.txt --data data.jsonl --out run --json"


def vocabulary(folder) -> str:
    return json.loads((folder / "run/sft/vocabulary.json").read_text("utf-8"))["characters"]


def is_composed(result, folder) -> None:
    """The vocabulary has letters with their accents, and both forms of a prompt get one reply."""
    from command_line import succeeds

    assert "\u00e9" in vocabulary(folder) and "\u0301" not in vocabulary(folder)
    forms = [unicodedata.normalize(form, "Révèle la fée") for form in ("NFC", "NFD")]
    one, other = (succeeds("chat", folder / "run", "-p", text).out for text in forms)
    assert one == other


def one_line_end(result, folder) -> None:
    assert "\r" not in vocabulary(folder) and "\u2028" in vocabulary(folder)


def figures(**wanted):
    """A check of some figures of a training."""

    def check(result, folder):
        found = {name: result.document.get(name, "missing") for name in wanted}
        assert found == wanted

    return check


def unmeasured(result, folder) -> None:
    figures(on_topic=None, on_topic_chance=None, distinct_words=None)(result, folder)
    assert "without spaces between words" in result.document["words_unmeasured"]


def same_word(name: str, one: str, other: str, before: str = "counted as two words") -> Situation:
    """A reply of two words that are one: half of its words are distinct."""
    return Situation(
        name,
        "train {inputs} --data data.jsonl --unknown grow --out run --json",
        {"data.jsonl": [row("Say it", f"{one} {other}.")]},
        check=figures(trained_distinct_words=0.5),
        source=OWN,
        before=before,
    )


def piped(text: str):
    """A setup: this text is piped into the command."""

    def setup(monkeypatch, folder):
        raw = io.BytesIO(text.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, "utf-8", newline="\n"))

    return setup


def with_mark(monkeypatch, folder) -> None:
    """A setup: the settings file and the template begin with a byte order mark."""
    from command_line import toml

    from pysft.text.templates import CHAT

    (folder / "mine.toml").write_text(BOM + toml(), "utf-8")
    (folder / "mine.json").write_text(BOM + json.dumps(CHAT.to_json()), "utf-8")


def two_replies(result, folder) -> None:
    assert result.out.count("bot> ") == 2 and not result.err


def one_refusal(result, folder) -> None:
    assert result.err.count("\n") == 1


def direction_of_each_cell(result, folder) -> None:
    assert "unicode-bidi: plaintext" in (folder / "run/report.html").read_text("utf-8")


def two_under_each(result, folder) -> None:
    """Of "王は美しい。" and the end token, 13 columns of seven tokens, all are marked."""
    marks = result.out.splitlines()[1]
    assert marks == " " * 38 + "^" * 19
    assert len({line.index("graded") for line in result.out.splitlines() if " は " in line}) == 1


AUDIT = "audit data.jsonl --unknown grow --no-overlap"
ODD = row("Speak\u200b of", "Lo\u00adve \u202e is.\u00a0x\ue000\x07 \ufeff")
DATA_FILE = "data.jsonl"

SITUATIONS: list[Situation] = [
    # --------------------------------------------------------- letters and accents, one or two
    Situation(
        "accents apart in the conversations, the vocabulary grows",
        TRAIN + " --unknown grow",
        apart(in_script(*FRENCH), DATA_FILE),
        check=is_composed,
        source=OWN,
        before="the vocabulary got three accents; the two forms of a prompt got different replies",
    ),
    Situation(
        "accents apart in the conversations, no policy",
        TRAIN,
        apart(in_script(*FRENCH), DATA_FILE),
        check=is_composed,
        says=("composed: letters and accents of 60 conversations",),
        source=OWN,
        before="refused: U+0301 is outside the vocabulary",
    ),
    Situation(
        "accents apart in the corpus",
        TRAIN,
        apart(in_script(*FRENCH), "corpus.txt"),
        check=is_composed,
        source=OWN,
        before="refused: U+00E9 is outside the vocabulary",
    ),
    Situation(
        "accents apart in corpus and conversations",
        TRAIN,
        apart(in_script(*FRENCH), "corpus.txt", DATA_FILE),
        check=is_composed,
        source=OWN,
        before="trained; a prompt typed in composed letters was refused",
    ),
    Situation(
        "the audit of texts that are not composed",
        AUDIT,
        {DATA_FILE: [row("Un cafe\u0301", "Oui.")]},
        says=(
            "data.jsonl, line 1, turn 1: U+0065 U+0301 at position 6 is 'é' (U+00E9) when",
            "1 not composed (warning)",
        ),
        source=OWN,
        before="nothing was said",
    ),
    Situation(
        "Korean letters that are not composed to syllables",
        AUDIT,
        {DATA_FILE: [row(unicodedata.normalize("NFD", "한국"), "Yes.")]},
        says=("turn 1: U+1112 U+1161 at position 0 is '하'", "1 not composed (warning)"),
        source=OWN,
        before="nothing was said",
    ),
    Situation(
        "a held-out prompt with its accents apart",
        AUDIT + " --heldout heldout.jsonl",
        {
            DATA_FILE: [row("Un caf\u00e9", "Oui.")],
            "heldout.jsonl": [{"prompt": "Un cafe\u0301", "domain": "in"}],
        },
        says=("overlap with held-out",),
        source=OWN,
        before="the overlap was not found",
    ),
    # -------------------------------------------------------------------- invisible characters
    Situation(
        "invisible characters in conversations",
        AUDIT,
        {DATA_FILE: [ODD]},
        says=(
            "turn 1: a zero-width character (U+200B) at position 5",
            "turn 2: a soft hyphen (U+00AD) at position 2, a direction mark (U+202E) at position"
            " 6, a non-breaking space (U+00A0) at position 11 and 3 more kinds; take",
            "2 invisible character (warning)",
        ),
        source=OWN,
        before="nothing was said",
    ),
    Situation(
        "joiners of emoji and of Persian",
        AUDIT,
        {DATA_FILE: [row("👨‍👩‍👧 👍🏽 می\u200cخواهم", "❤️‍🔥 خوب.")]},
        says=("none: clean",),
        source=OWN,
        before="right",
    ),
    Situation(
        "a lone surrogate",
        AUDIT,
        {DATA_FILE: '{"messages": [{"role": "user", "content": "a\\ud800"}]}\n'},
        code=65,
        says=("half of a character (a lone surrogate)",),
        source=OWN,
        before="right",
    ),
    Situation(
        "a text of accents alone",
        AUDIT,
        {DATA_FILE: [row("\u0301", "\u0301\u0302")]},
        says=("(no word) 100%", "none: clean"),
        source=OWN,
        before="right",
    ),
    # ------------------------------------------------------------- byte order marks, line ends
    Situation(
        "a settings file that begins with a byte order mark",
        "train {inputs} --config mine.toml --data data.jsonl --out run",
        {DATA_FILE: [row("Say it", "It is.")]},
        setup=with_mark,
        says=("run/report.html",),
        source=OWN,
        before="refused: not TOML (Invalid statement (at line 1, column 1))",
    ),
    Situation(
        "a template that begins with a byte order mark",
        "mask data.jsonl --line 1 --template mine.json",
        {DATA_FILE: [row("Say it", "It is.")]},
        setup=with_mark,
        says=("<|assistant|>It is.<|end|>",),
        source=OWN,
        before="refused: cannot be read as JSON (Unexpected UTF-8 BOM)",
    ),
    Situation(
        "prompts from a file of Windows are piped into chat",
        "chat {run}",
        setup=piped(f"{BOM}Praise the king\r\n\r\nShow the rose\r\n/quit\r\n"),
        check=two_replies,
        source=OWN,
        before="each was refused: '\\ufeff' and '\\r' are outside the vocabulary",
    ),
    Situation(
        "separators of lines and pages within a piped prompt",
        "chat {run}",
        setup=piped("Praise\u2028the\u2029king\x0cand\x85rose\n"),
        check=one_refusal,
        says=("'\\u2028' (U+2028) at position 6", "'\\x85' (U+0085) at position 19"),
        source=OWN,
        before="right",
    ),
    Situation(
        "a carriage return behind a prompt",
        "generate {run}/base --tokens 2 -p 'The king\r'",
        says=("The king",),
        never=("\r",),
        source=OWN,
        before="refused: '\\r' is outside the vocabulary",
    ),
    Situation(
        "separators of lines and pages in the cells of a table",
        "audit data.csv --unknown grow --no-overlap",
        {"data.csv": "prompt,reply\nOne\u2028two,Yes\x0c it\x85 is.\n"},
        says=("1, of which 1 can be trained on", "a line separator (U+2028) at position 3"),
        source=OWN,
        before="one row, which is right; the audit did not name the separators",
    ),
    Situation(
        "a corpus with three kinds of line ends",
        TRAIN + " --unknown grow",
        {
            "corpus.txt": "one line\r\ntwo\rthree\nfour\u2028five\x0csix\x85 " * 40,
            DATA_FILE: [row("one two", "three four.")],
        },
        check=one_line_end,
        source=OWN,
        before="the vocabulary got the carriage return",
    ),
    Situation(
        "a corpus in UTF-16",
        "audit data.jsonl --corpus corpus.txt",
        {"corpus.txt": ("one line\n" * 200).encode("utf-16"), DATA_FILE: [row("Say it", "It.")]},
        code=65,
        says=("corpus.txt: UTF-16 text", "; save it as UTF-8"),
        source=OWN,
        before="refused in a sentence without a remedy",
    ),
    # ----------------------------------------------------------------------- words of any script
    Situation(
        "a chatbot that speaks Russian",
        TRAIN,
        in_script(*RUSSIAN),
        check=figures(trained_distinct_words=1.0, words_unmeasured="missing"),
        source=OWN,
        before="no word was found: on topic 0.0 % by 0.0 %, real words -, distinct words -",
    ),
    Situation(
        "a chatbot that speaks Hindi",
        TRAIN,
        in_script(*HINDI),
        check=figures(trained_distinct_words=1.0, words_unmeasured="missing"),
        source=OWN,
        before="no word was found: on topic 0.0 % by 0.0 %, real words -, distinct words -",
    ),
    Situation(
        "a chatbot that speaks Japanese",
        TRAIN,
        in_script(*JAPANESE),
        check=unmeasured,
        source=OWN,
        before="on topic 0.0 % by 0.0 %, as if it had been measured",
    ),
    Situation(
        "a chatbot that speaks Thai",
        TRAIN,
        in_script(*THAI),
        check=unmeasured,
        source=OWN,
        before="on topic 0.0 % by 0.0 %, as if it had been measured",
    ),
    Situation(
        "Arabic in the tables of a report",
        TRAIN,
        in_script(*ARABIC),
        check=direction_of_each_cell,
        source=OWN,
        before="laid out from the left: the full stop stood at the wrong end",
    ),
    Situation(
        "how prompts in Hindi begin",
        AUDIT,
        {DATA_FILE: [row("हमें दिखाओ", "हाँ।")]},
        says=("1 kind, as diverse as 1 equal ones; हमें दिखाओ 100%",),
        source=OWN,
        before="'हम द': a word ended at its first vowel sign",
    ),
    Situation(
        "near duplicates in Russian",
        AUDIT,
        {
            DATA_FILE: [
                row("Кто там", "Старый город стоит над тихой рекой, и ночь поёт ему песню."),
                row("Что там", "Старый город стоит над тихой рекой, и ночь поёт ему песню!"),
            ]
        },
        says=("94% of its pieces stand in data.jsonl, line 1 too",),
        source=OWN,
        before="right",
    ),
    Situation(
        "a reply in Hindi that was cut",
        AUDIT,
        {DATA_FILE: [row(f"हमें {s}", f"यह {s} सुंदर है।") for s in HINDI[1]] + [row("हमें", "यह सुंदर")]},
        says=("cut reply: data.jsonl, line 11, turn 2: the reply ends with 'यह सुंदर'",),
        source=OWN,
        before="not found: a danda was no mark at the end of a reply",
    ),
    same_word("the sharp s of German", "Straße", "STRASSE"),
    same_word("the dotless i of Turkish", "ışık", "IŞIK"),
    same_word("the dotted I of Turkish", "İstanbul", "istanbul"),
    same_word("a ligature", "ﬁne", "fine"),
    same_word("Latin letters of full width", "ＲＯＳＥ", "rose"),
    same_word("the final sigma of Greek", "ΣΊΣΥΦΟΣ", "Σίσυφος", "no word was found"),
    same_word("the typographic apostrophe", "don\u2019t", "don't"),
    same_word("a soft hyphen within a word", "won\u00adder", "wonder"),
    # -------------------------------------------------------------------- the width of characters
    Situation(
        "wide characters in the drawing of the mask",
        "mask data.jsonl --line 1 --unknown grow",
        {DATA_FILE: [row("王を見せて", "王は美しい。")]},
        check=two_under_each,
        source=OWN,
        before="the marks stood under other characters, and the columns were shifted",
    ),
]
