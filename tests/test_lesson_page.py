"""The page of the lessons: what is in it, that it loads and runs nothing else, and, where a browser
is installed, what it shows and computes."""

import base64
import hashlib
import html
import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest
from conftest import distance

from pysft.batch import Batch, Example
from pysft.errors import UsageError
from pysft.inference.generate import generate
from pysft.lessons import book, graph, listing, own_model, walk
from pysft.lessons.page import lesson_page, write_page
from pysft.nn import reference
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.run.stage import Stage
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT, CHATML, HUMAN, LLAMA2
from pysft.text.tokenizer import CharTokenizer

LESSONS = [
    (6, "Layer norm", [("", "One *idea*."), ("By hand", "Text."), ("Derivation", "dx = 0")]),
    (8, "Attention <b>", [("", "`P`"), ("Answers", "1. Zero.\n2. <script>alert(1)</script>")]),
]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
# Of numbers that were both computed in double precision: sums have another order, and tanh and exp
# may differ in the last bit.
TOLERANCE = 1e-9


def stage(template=CHAT, **changes):
    """A stage with random weights, large enough that its numbers differ."""
    letters = "\n ',.:HASTabcdehlmnoprstuvwyé" + template.characters
    tokenizer = CharTokenizer("".join(sorted(set(letters))), template.tokens)
    sizes = {"context": 40, "layers": 2, "heads": 2, "channels": 8} | changes
    config = GPTConfig(len(tokenizer), **sizes)
    model = GPT(config, reference, np.random.default_rng(3))
    model.params.flat *= 8
    return Stage(Path("runs/mine/sft"), model, tokenizer, template, {})


def exchange(user, assistant):
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


@pytest.fixture(scope="module")
def step():
    return graph.small_step()


@pytest.fixture(scope="module")
def page():
    return lesson_page(stage(), 'a "tame" bee', lessons=LESSONS)


# -------------------------------------------------------------------------------- the document


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page):
    addresses = re.findall(r'\b(?:href|src|action|srcset|data)="([^"]*)"', page)
    assert addresses and all(address.startswith("#") for address in addresses)
    assert not re.search(r"url\((?!#)|@import|\bfetch\(|XMLHttp|import\(", page)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    [script] = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_every_link_leads_to_a_place_in_the_page(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    links = set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#(\w+)\)", page))
    assert links <= {*ids}
    assert {"lesson-6", "lesson-8"} <= links  # from the nodes
    assert "lesson-5" not in links  # it is not on the page


def test_lessons_are_folded_and_so_is_in_them_what_gives_the_solution_away(page):
    assert '<details class="lesson" id="lesson-6"><summary><b>6</b> Layer norm</summary>' in page
    assert "<p>One <em>idea</em>.</p>\n<h3>By hand</h3>\n<p>Text.</p>" in page
    assert "<details><summary>Derivation</summary>\n<p>dx = 0</p>\n</details>" in page
    assert "<details><summary>Answers</summary>" in page
    assert "Attention &lt;b&gt;" in page and "<script>alert" not in page


def test_all_lessons_are_on_the_page_with_their_derivations():
    made = lesson_page()
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", made)).split())
    for lesson in book.lessons():
        assert f'id="lesson-{lesson.number}"' in made and lesson.title in text
        for name in lesson.sections:
            is_folded = f"<summary>{name}</summary>" in made
            assert is_folded == (name in book.HIDDEN)
    assert "{derivation" not in text and "lesson 6 --start mine.py" in text
    assert "as d variance / d x[j] = 2 (x[j] - mean) / C" in text


def test_a_text_cannot_end_the_data_of_the_page():
    made = lesson_page(stage(), "</script><script>alert(1)</script>", lessons=[])
    assert "</script><script>alert" not in made
    [first] = re.findall(r'id="first">(.*?)</script>', made)
    assert json.loads(first)["prompt"] == "</script><script>alert(1)</script>"


def test_the_page_is_written_once_and_under_a_name_that_a_browser_knows(tmp_path):
    path = write_page(tmp_path / "lessons.html", lessons=LESSONS)
    assert 'id="model"' not in path.read_text()
    for place, words in (
        (path, "exists already"),
        (tmp_path / "lessons.md", "ends with .html"),
        (tmp_path / "none" / "lessons.html", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=words):
            write_page(place)


# ----------------------------------------------------------------------------------- the graph


def test_the_arrays_of_the_nodes_are_those_of_a_training_step(step):
    model, batch = walk.small_model(reference), walk.small_batch()
    nll = model.forward(batch).nll
    model.backward(step.dnll)
    assert np.array_equal(step.node("loss").forward.arrays["nll"], nll)
    assert step.loss == pytest.approx(nll[1:].mean())
    for node in step.nodes:
        if node.part not in (*graph.SUMS.values(), "embedding", "head", "loss"):
            prefix = node.name if node.block is None else f"h{node.block}.{node.part}"
            for name in {"dw", "db"} & node.backward.arrays.keys():
                expected = model.grads[f"{prefix}.{name[1]}"]
                assert np.array_equal(node.backward.arrays[name], expected), node.name
    assert np.array_equal(step.node("embedding").backward.arrays["dwte"], model.grads["wte"])


def test_each_node_has_the_backward_of_its_own_forward(step):
    for node in step.nodes:
        if not node.is_sum:
            kernel = node.forward.kernel.removesuffix("_forward")
            assert node.backward.kernel == f"{kernel}_backward"
        shapes = {a.name.removesuffix(" before"): a.values.shape for a in node.forward.reads}
        shapes |= {a.name: a.values.shape for a in node.forward.writes}
        for a in node.backward.writes:  # a gradient has the shape of what it is by
            of = a.name.removeprefix("d")
            if of in shapes and of != "score":
                assert a.values.shape == shapes[of], (node.name, a.name)


def test_a_sum_hands_its_gradient_on_and_the_stream_gets_both(step):
    for name, start in (("add1.0", "ln1.0"), ("add2.1", "ln2.1")):
        node, norm = step.node(name), step.node(start).backward
        [dy] = node.backward.reads
        branch, bypass, dx = (a.values for a in node.backward.writes)
        assert np.array_equal(branch, dy.values) and np.array_equal(bypass, dy.values)
        assert np.array_equal(dx, norm.arrays["dx"])
        before = next(a.values for a in norm.reads if a.name == "dx before")
        assert np.array_equal(before, dy.values)
        x, added = (a.values for a in node.forward.reads)
        assert np.allclose(x + added, node.forward.writes[0].values)


def test_a_panel_has_arrays_words_and_lines_of_its_node(page, step):
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for node in step.nodes:
        assert f'<section class="node" id="{node.name}">' in page
        for call in (node.forward, node.backward):
            lines = listing.in_numpy(call.lined), listing.in_c(call.kernel)
            assert all(part in text for part in (*lines, call.text))
    for name in ("layernorm", "matmul", "attention", "gelu", "cross_entropy", "embedding"):
        doc = inspect.getdoc(getattr(reference, f"{name}_backward"))
        assert " ".join(doc.split()) in " ".join(text.split())
    softmax = next(a for a in step.node("loss").forward.writes if a.name == "softmax").values
    assert f"{softmax[1, 2]:.2f}" in page


def test_the_lines_in_c_are_the_function_and_what_it_calls():
    lines = listing.in_c("layernorm_backward")
    assert lines.startswith("/* Add to rows first..last-1 of dx.")
    assert "void FN(layernorm_backward)(" in lines and "static void backward_columns(" in lines
    assert "layernorm_forward" not in lines
    assert "INLINE void layernorm_row(" in listing.in_c("layernorm_forward")  # of rows.h
    assert "c[i][j] = add_product(" in listing.in_c("matmul_forward")  # of tile.h


def test_the_lines_in_numpy_have_no_docstring_of_their_own_but_their_helpers_lines():
    lines = listing.in_numpy(reference.gelu_backward)
    assert lines.startswith("def gelu_backward(dx, dy, x, dydx=None):\n    dx[:] = dy")
    assert "def _gelu_slope(x):" in lines
    assert "ds/dx" in listing.words(reference.gelu_backward)


def test_without_the_sources_of_c_a_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(listing, "CSRC", tmp_path)
    made = lesson_page(lessons=LESSONS)
    assert made.count("The C sources are not on this machine.") == 2 * len(graph.small_step().nodes)


# ----------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("template", [CHAT, CHATML, LLAMA2, HUMAN], ids=lambda t: t.name)
def test_the_data_render_a_conversation_as_training_does(template):
    given = stage(template)
    data = own_model.model_data(given)
    ids = {symbol: i for i, symbol in enumerate(data["symbols"]) if symbol is not None}
    tokens, trained = [], []
    for kind, text in (("user", "Hallo"), ("assistant", "a bee")):
        turn = data[kind]
        for piece, graded in zip(
            (turn["opens"], [ids[c] for c in text], turn["closes"]), turn["graded"]
        ):
            tokens += piece
            trained += [graded] * len(piece)
    expected = render(exchange("Hallo", "a bee"), given.tokenizer, template)
    assert tokens == expected[0].tolist() and trained == expected[1].tolist()
    assert data["end"] == given.tokenizer.special[template.end]


def test_the_data_hold_every_weight():
    given = stage(tied=True)
    data = own_model.model_data(given)
    flat, first = np.frombuffer(base64.b64decode(data["weights"]), "<f4"), 0
    for name, size in data["tensors"]:
        assert np.array_equal(flat[first : first + size], given.model.params[name].ravel())
        first += size
    assert first == len(flat) and data["head"] == "wte"


def test_a_model_that_no_page_can_hold_is_named_in_a_sentence(monkeypatch):
    reward = stage(outputs="value")
    assert "no loss of a token" in lesson_page(reward, lessons=[])
    monkeypatch.setattr(own_model, "MOST", 100)
    made = lesson_page(stage(), lessons=[])
    assert "a page computes with at most 100" in made and 'id="weights"' not in made


# --------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A function (page, address after #) -> the document when the page's script has run. The test
    is skipped where there is no browser, or none that works."""
    if BROWSER is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("browser")

    def opened(made: str, place: str, *options: str) -> str:
        path = folder / "page.html"
        path.write_text(made, encoding="utf-8")
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--virtual-time-budget=3000"]  # so that what waits runs before the dump
        command += [f"--user-data-dir={folder / 'profile'}", *options]
        command.append(f"{path.as_uri()}#{place}")
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    if "<p>works</p>" not in opened("<!DOCTYPE html><p>works</p>", ""):
        pytest.skip(f"{BROWSER} shows no page here")
    return opened


def inside(document: str, name: str) -> str:
    """The text of the element with an id."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</(?:p|pre|div|section)>', document, flags=re.S)
    return html.unescape(re.sub(r"<[^>]*>", "", found[1]))


def typed(prompt, reply="", **more):
    return "model?" + urlencode({"prompt": prompt, "reply": reply, **more})


def expected_numbers(given, tokens, trained, alone=None):
    """(nll (N,), norms (L+1,N)) by the reference in float64: the lengths of the gradient of the
    residual stream at the input of each block and of the last layer norm. alone: the position of a
    token whose loss alone is taken; None is the mean."""
    tokens, labels = np.array(tokens, np.int32), np.where(trained, tokens, -100).astype(np.int32)
    norms = []

    def layernorm_backward(dx, *arguments):
        reference.layernorm_backward(dx, *arguments)
        norms.append(np.linalg.norm(dx, axis=1))

    ops = SimpleNamespace(**vars(reference) | {"layernorm_backward": layernorm_backward})
    config = given.model.config
    model = GPT(config, ops, dtype=np.float64)
    model.params.fill(dict(given.model.params.items()))
    N = len(tokens) - 1
    example = Example(tokens[:-1], labels[1:], wanted=np.ones(N, bool))
    nll = model.forward(Batch.of([example], config.vocab, config.context)).nll
    graded = labels[1:] >= 0
    model.backward(graded / graded.sum() if alone is None else 1.0 * (np.arange(1, N + 1) == alone))
    # In the order of the backward: lnf, then ln2 and ln1 of each block.
    return nll, np.array([norms[0], *norms[2::2]])[::-1]


@pytest.mark.parametrize("tied, alone", [(False, None), (True, 30)])
def test_the_page_computes_the_losses_and_gradients_of_the_reference(browser, tied, alone):
    """alone: the position of a token whose loss alone is taken, without the mask."""
    given, texts = stage(tied=tied), ("Hast é, a bee.", "A mouse: 'a bee.'\nAh")
    tokens, trained = render(exchange(*texts), given.tokenizer, CHAT)
    more = {} if alone is None else {"token": alone, "all": 1}
    shown = browser(lesson_page(given, lessons=[]), typed(*texts, **more))
    found = json.loads(inside(shown, "numbers"))
    assert found["tokens"] == tokens.tolist()
    if alone is None:
        assert found["trained"] == trained.tolist()
        # What the mask does: at the top, a row has a gradient if and only if it is graded.
        assert all((n > 0) == t for n, t in zip(found["norms"][-1], trained[1:]))
    else:
        trained = np.arange(len(tokens)) > 0
        assert f"at position {alone} is graded" in shown
        assert not np.any(np.array(found["norms"])[:, alone:])  # nothing flows to later rows
    nll, norms = expected_numbers(given, tokens, trained, alone)
    assert distance(found["nll"], nll) < TOLERANCE and distance(found["norms"], norms) < TOLERANCE


@pytest.mark.parametrize("template", [CHAT, None], ids=["chat", "base"])
def test_without_a_reply_the_page_writes_what_the_engine_writes(browser, template):
    given = stage()
    if template is None:
        given.tokenizer = CharTokenizer(given.tokenizer.characters)
        config = GPTConfig(len(given.tokenizer), context=40, layers=2, heads=2, channels=8)
        given.model = GPT(config, reference, np.random.default_rng(3))
        prompt, end = given.tokenizer.encode("Hast"), None
    else:
        messages = [{"role": "user", "content": "Hast"}]
        prompt, end = (
            render_prompt(messages, given.tokenizer, CHAT),
            given.tokenizer.special["<|end|>"],
        )
    found = json.loads(inside(browser(lesson_page(given, lessons=[]), typed("Hast")), "numbers"))
    [reply] = generate(given.model, [prompt], 100, end)
    written = found["tokens"][len(prompt) :]
    assert written[: len(reply.ids)] == reply.ids.tolist()
    assert written[len(reply.ids) :] in ([], [end])
    assert all(found["trained"][len(prompt) :])


def test_the_address_opens_a_node_or_a_lesson(browser, page):
    shown = browser(page, "attention.1")
    assert '<section class="node" id="attention.1">' in shown
    assert '<section class="node" id="embedding" hidden="">' in shown
    assert re.search(r'href="#attention.1"[^>]* aria-current="true"', shown)
    assert 'id="lesson-8" open=""' in browser(page, "lesson-8")


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("Hast % é", "This vocabulary lacks “%”."),
        ("a" * 60, "These are 65 tokens, and the model reads 41. Shorten them."),
    ],
)
def test_a_text_that_cannot_be_read_is_one_sentence(browser, page, prompt, words):
    shown = browser(page, typed(prompt, "a"))
    assert inside(shown, "message") == words and inside(shown, "picture") == ""


def also_running(made, more):
    """The page with more JavaScript at the end of its script."""
    [script] = re.findall(r"<script>(.*?)</script>", made, flags=re.S)
    digest = base64.b64encode(hashlib.sha256((script + more).encode()).digest()).decode()
    made = re.sub(r"script-src 'sha256-[^']*'", f"script-src 'sha256-{digest}'", made)
    return made.replace("</script>\n</body>", f"{more}</script>\n</body>")


def test_typing_choosing_and_keys_work(browser, page):
    """Somebody types a reply, chooses its third letter, goes on to the next column by a key, and
    then to a node of the graph and the node below."""
    steps = """
    const press = (element, key) => element.dispatchEvent(
      new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
    $("prompt").value = "Hast";
    $("reply").value = "abe";
    $("reply").dispatchEvent(new Event("input", {bubbles: true}));
    setTimeout(() => {
      const third = $("picture").querySelectorAll("button")[9];
      third.focus();
      third.click();
    }, 1000);
    setTimeout(() => {
      press(document.activeElement, "ArrowRight");
      document.title = document.activeElement.getAttribute("aria-label");
      drawn[0].focus();
      press(drawn[0], "ArrowDown");
      location.hash = document.activeElement.getAttribute("href");
    }, 2000);
    """
    shown = browser(also_running(page, steps), "")
    found = json.loads(inside(shown, "numbers"))
    assert len(found["tokens"]) == 11 and found["chosen"] == 9
    assert re.search(r"<title>position 10, end: graded, loss [\d.]+ nats</title>", shown)
    assert '<section class="node" id="ln1.0">' in shown


def test_nothing_is_wider_than_a_narrow_screen(browser, page):
    steps = """
    setTimeout(() => {
      const widths = nodes.map(node => {
        showNode(node.id);
        return document.documentElement.scrollWidth;
      });
      document.title = `${innerWidth}: ${Math.max(...widths)}`;
    }, 1000);
    """
    made = also_running(page.replace("<details", "<details open"), steps)
    shown = browser(made, "", "--window-size=360,800", "--hide-scrollbars")
    width, widest = map(int, re.search(r"<title>(\d+): (\d+)</title>", shown).groups())
    assert widest <= width <= 500
