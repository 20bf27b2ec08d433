"""Templates: which are refused, what one more row of the table does, and their files."""

import json

import pytest
from texts import grown, one_line, say, shown, write

from pysft import IGNORE
from pysft.errors import DataError, MissingInput, RowError, UsageError
from pysft.text import proof
from pysft.text.conversation import check_messages
from pysft.text.examples import encode_conversation
from pysft.text.formats import read_conversations, scan
from pysft.text.render import graded_targets, render, render_prompt
from pysft.text.template import ALL, NOTHING, REPLY, Template, part, turn
from pysft.text.templates import CHAT, CHATML, HUMAN, LLAMA2, TEMPLATES, TOOLS, load_template


def test_every_template_survives_json_and_is_found_by_name_or_file(tmp_path):
    for name, template in TEMPLATES.items():
        assert Template.from_json(json.loads(json.dumps(template.to_json()))) == template
        assert load_template(name) is template
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(LLAMA2.to_json()))
    assert load_template(str(path)) == LLAMA2
    with pytest.raises(UsageError, match="not one of chat, chatml, llama2, human"):
        load_template("gpt")
    with pytest.raises(MissingInput):
        load_template(str(tmp_path / "none.json"))
    for bad in ("[", "{}", "[]", json.dumps({**LLAMA2.to_json(), "turns": {}})):
        path.write_text(bad)
        with pytest.raises(DataError) as error:
            load_template(str(path))
        assert "mine.json" in one_line(error)


# Rows of templates that are right, from which the tests below leave out or change some.
USER, ASSISTANT = (
    turn("user", ["<u>"], ["<e>"], NOTHING),
    turn("assistant", ["<a>"], ["<e>"], REPLY),
)
SEARCH, RESULT = part("search", ["<s>"], ["</s>"], ALL), part("result", ["<r>"], ["</r>"], NOTHING)
ONLY_TEXT, ONLY_END = (False, True, False), (False, False, True)


@pytest.mark.parametrize(
    "rows, named",
    [
        ([USER, turn("assistant", ["<a>"], ["<e>"], ONLY_TEXT)], "never learn to stop"),
        ([USER, turn("assistant", ["<a>"], ["<e>", "b"], REPLY)], "close with one special token"),
        ([USER, turn("assistant", ["<a>"], [], REPLY)], "close with one special token"),
        ([turn("user", ["<u>"], ["<e>"], ONLY_TEXT), ASSISTANT], "a user turn would be graded"),
        ([USER, turn("assistant", ["<a>"], ["<e>"], ALL)], "not exactly the replies"),
        ([USER, turn("assistant", ["<a>"], ["<e>"], ONLY_END)], "not exactly the replies"),
        (
            [turn("user", ["<u>"], [], NOTHING), turn("assistant", [], ["<e>"], REPLY)],
            "nothing stands between",
        ),
        ([USER], "must be a user and an assistant"),
        (
            [turn("user", ["<u>"], ["<e>"], NOTHING, joins=True), ASSISTANT],
            "only a turn before the user's first can",
        ),
        ([USER, turn("assistant", ["<a>"], ["<e>"], (True,))], "three grades"),
        ([USER, ASSISTANT, turn("system", ["<y>"], ["<e>"], ALL)], "a system turn would be graded"),
        ([USER, ASSISTANT, turn("text", ["<t>"], ["<e>"], NOTHING)], "cannot be called 'text'"),
        ([USER, ASSISTANT, USER], "two of its rows are called 'user'"),
        ([USER, ASSISTANT, SEARCH], 'no part "result"'),
        (
            [USER, ASSISTANT, SEARCH, part("result", ["<r>"], ["</r>"], ONLY_TEXT)],
            "nothing of a result may be graded",
        ),
        (
            [USER, ASSISTANT, part("search", ["<s>"], ["</s>"], REPLY), RESULT],
            "all of search must be graded",
        ),
        (
            [USER, ASSISTANT, SEARCH, part("code", ["<c>"], ["</s>"], ALL), RESULT],
            "end with the same token",
        ),
        (
            [USER, ASSISTANT, SEARCH, part("code", ["<s>"], ["</c>"], ALL), RESULT],
            "begin or end with the same",
        ),
        (
            [USER, ASSISTANT, SEARCH, part("result", ["<r>"], ["</s>"], NOTHING)],
            "end with the same token",
        ),
    ],
    ids=range(19),
)
def test_a_template_that_would_train_wrongly_cannot_be_made(rows, named):
    with pytest.raises(UsageError, match=f"^template 'mine': .*{named}"):
        Template.of("mine", *rows)


def test_a_template_of_right_rows_can_be_made():
    template = Template.of("mine", USER, ASSISTANT, SEARCH, RESULT)
    assert template.tokens == ("<u>", "<a>", "<e>")
    assert template.tool_tokens == ("<s>", "</s>", "<r>", "</r>")


def test_the_ids_of_the_shipped_templates_are_pinned():
    tools = [f"{kind}_{end}" for kind in CHAT.parts for end in ("start", "end")]
    assert list(CHAT.parts) == ["search", "code", "result", "table", "thought"]
    assert {t.tool_tokens for t in TEMPLATES.values()} == {tuple(f"<|{name}|>" for name in tools)}
    assert CHAT.tokens == ("<|user|>", "<|assistant|>", "<|end|>")
    assert CHATML.tokens == ("<|im_start|>", "<|im_sep|>", "<|im_end|>")
    assert LLAMA2.tokens == ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
    assert HUMAN.tokens == ("<|end|>",)


def test_only_openers_without_a_special_token_can_be_forged():
    assert CHAT.forgeable == CHATML.forgeable == LLAMA2.forgeable == ()
    assert HUMAN.forgeable == ("\n\nHuman: ", "\n\nAssistant: ")


# ---------------------------------------------------------------------------------- one more row


def test_a_new_part_is_one_row_of_the_table():
    """It gets two ids behind those that there were, is read, graded, and counted."""
    lookup = part("lookup", ["<|lookup_start|>"], ["<|lookup_end|>"], ALL)
    template = Template.of("more", *CHAT.turns.values(), *TOOLS, lookup)
    tokenizer, before = grown(template), grown(CHAT)
    assert {name: tokenizer.special[name] for name in before.special} == before.special
    assert tokenizer.special["<|lookup_end|>"] == len(tokenizer) - 1 == len(before) + 1
    parts = [{"type": "lookup", "text": "Lear"}, {"type": "result", "text": "A king"}]
    talk = [*say("Who"), {"role": "assistant", "content": [*parts, {"type": "text", "text": "He"}]}]
    with pytest.raises(RowError, match="a part must be"):
        check_messages(talk, "x.jsonl, line 1", CHAT)
    check_messages(talk, "x.jsonl, line 1", template)
    tokens, trained = render(talk, tokenizer, template)
    assert shown(tokens, trained, tokenizer) == (
        "<|user|>Who<|end|><|assistant|>[<|lookup_start|>Lear<|lookup_end|>]"
        "<|result_start|>A king<|result_end|>[He<|end|>]"
    )
    assert trained.sum() == graded_targets(talk, template, tokenizer)


def with_narrator(template, *more):
    """A template with one more row, a role that is written like its system turn, or like CHAT's
    user turn, and never graded."""
    rows = [*template.turns.values(), *template.parts.values(), *more]
    narrator = turn("narrator", ["<|narrator|>"], [template.end], NOTHING)
    return Template.of("more", *rows, narrator, pinned=template.tokens)


@pytest.mark.parametrize("shipped", TEMPLATES.values(), ids=TEMPLATES)
def test_a_new_role_is_one_row_of_the_table(tmp_path, shipped):
    """It is read in every format, trains without being graded, renders as a prompt, keeps the ids
    of the other tokens, and survives its file."""
    template = with_narrator(shipped)
    tokenizer = grown(template)
    assert template.tokens == (*shipped.tokens, "<|narrator|>")
    talk = say("Hi", "Ho", "Go", "No")
    first = {"role": "narrator", "content": "Be kind"}
    from_value = [{"from": m["role"], "value": m["content"]} for m in [first, *talk]]
    names = ["a", "b", "c", "d", "e"]
    tree = [
        {"message_id": name, "parent_id": parent, "role": m["role"], "text": m["content"]}
        for name, parent, m in zip(names, [None, *names], [first, *talk])
    ]
    rows = [{"messages": [first, *talk]}, {"conversations": from_value}, *tree]
    found = read_conversations(write(tmp_path, "x.jsonl", *rows), template)
    assert [c.messages for c in found] == [[first, *talk]] * 3
    text = shown(*render([first, *talk], tokenizer, template), tokenizer)
    alone = shown(*render(talk, tokenizer, template), tokenizer)
    assert text == f"<|narrator|>Be kind{template.end}{alone}"
    example = encode_conversation(found[0], tokenizer, 256, template)
    assert (example.labels != IGNORE).sum() == graded_targets(talk, template, tokenizer) == 6
    prompt = render_prompt([first, talk[0]], tokenizer, template)
    assert example.input_ids[: len(prompt)].tolist() == prompt.tolist()
    everything = render([first, *talk], tokenizer, template, grade="everything")[1]
    assert everything.all()
    path = write(tmp_path, "more.json", template.to_json())
    assert load_template(str(path)) == template
    for other in TEMPLATES.values():
        (fault,) = [r for r in scan(write(tmp_path, "y.jsonl", rows[0]), other)]
        assert "unknown role 'narrator'" in str(fault)


@pytest.mark.parametrize(
    "roles, named",
    [
        (["user", "assistant", "narrator"], "turn 3: role 'narrator', expected 'user'"),
        (["user", "narrator"], "turn 2: role 'narrator', expected 'assistant'"),
        (["narrator", "narrator"], "turn 2: role 'narrator', expected 'user'"),
        (["narrator", "assistant"], "turn 2: role 'assistant', expected 'user'"),
        (["system", "narrator"], "turn 2: role 'narrator', expected 'user'"),
        (["narrator"], "turn 1: no reply follows"),
        (["narrator", "system", "user", "assistant"], None),
        (["narrator", "user", "assistant"], None),
    ],
)
def test_a_new_role_stands_once_before_the_users_first_turn(roles, named):
    """And a turn that holds the one that follows, as LLAMA2's system, stands right before it."""
    template = with_narrator(LLAMA2)
    talk = [{"role": role, "content": "Hi"} for role in roles]
    if named is None:
        check_messages(talk, "x", template)
        tokenizer = grown(template)
        text = tokenizer.decode(render(talk, tokenizer, template)[0])
        assert text.endswith("Hi[/INST]Hi</s>") and text.count("[INST]") == 1
    else:
        with pytest.raises(RowError, match=f"^x, {named}"):
            check_messages(talk, "x", template)


def test_a_role_of_the_template_comes_before_a_name_that_files_have_for_another(tmp_path):
    """ "model" means the assistant, unless the template has a role of that name."""
    template = Template.of("more", turn("model", ["<m>"], ["<e>"], NOTHING), USER, ASSISTANT)
    row = {"messages": [{"role": "model", "content": "Be"}, *say("Hi", "Ho")]}
    (found,) = read_conversations(write(tmp_path, "x.jsonl", row), template)
    assert [m["role"] for m in found.messages] == ["model", "user", "assistant"]


# ------------------------------------------------------------------------- templates from files


@pytest.mark.parametrize(
    "change, named",
    [
        (
            lambda t: t["parts"]["result"].update(graded=[True, True, True]),
            "nothing of a result may be graded",
        ),
        (
            lambda t: t["parts"]["search"].update(graded=[False, False, False]),
            "all of search must be graded",
        ),
        (
            lambda t: t["turns"]["assistant"].update(closes=["\n", "<|end|>"]),
            "must close with one special token",
        ),
        (
            lambda t: t["turns"]["assistant"].update(closes=["<|user|>"]),
            "ends a reply, so nothing else",
        ),
        (lambda t: t["parts"].update(text=t["parts"]["code"]), "a part cannot be called 'text'"),
        (
            lambda t: t["turns"]["user"].update(opens="user: "),
            "'opens' is 'user: ', expected a list",
        ),
        (lambda t: t.update(name={"a": 1}), "'name' is"),
        (lambda t: t.update(name="\x1b[1m"), "printable"),
        (lambda t: t.pop("turns"), "'turns' is None"),
        (lambda t: t["turns"].update({"a\nb": t["turns"]["user"]}), "printable"),
        (lambda t: t["turns"].update(result=t["turns"]["user"]), "cannot be called 'result'"),
    ],
    ids=range(11),
)
def test_a_template_file_that_would_train_wrongly_is_refused_in_words(tmp_path, change, named):
    data = json.loads(json.dumps(CHAT.to_json()))
    change(data)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError) as error:
        load_template(str(path))
    text = one_line(error)
    assert named in text and "mine.json: " in text and "Error" not in text


def test_a_template_file_may_leave_out_tools_and_use_any_words(tmp_path):
    data = json.loads(json.dumps(HUMAN.to_json()))
    data["parts"], data["turns"]["user"]["opens"] = {}, ["abc: "]
    del data["tool_tokens"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    assert load_template(str(path)).forgeable == ("abc: ", "\n\nAssistant: ")


@pytest.mark.parametrize(
    "name, what",
    [("render", "changes how the turns before"), ("render_prompt", "not how training begins")],
)
def test_a_renderer_that_broke_a_prefix_would_refuse_every_template(monkeypatch, name, what):
    right = getattr(proof, name)

    def broken(messages, *rest, **more):
        found = right(messages, *rest, **more)
        if name == "render_prompt":
            return found[::-1].copy()
        return (found[0] + len(messages), found[1])

    monkeypatch.setattr(proof, name, broken)
    with pytest.raises(UsageError, match=what):
        Template.from_json(json.loads(json.dumps(CHAT.to_json())))
