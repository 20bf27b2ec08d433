"""How a trained chatbot writes at each setting of the sampling: one table.

    python bench/sampling.py RUN

Needs a run whose fine-tuning is finished. On topic, real words, distinct words and pairs are over
the unseen in-domain prompts, recall is over the trained pairs, and facts, unknown names and second
questions are those of the tool test (one draw). `chat` uses the row that is marked."""

import argparse

from pysft.inference.sampling import CHAT, Sampling
from pysft.measure.evaluate import answer, on_subject, spoken
from pysft.measure.probe import before_reply, stored_probe
from pysft.measure.tooltest import tool_test
from pysft.measure.words import distinct, real_words
from pysft.nn.computing import computing_ops
from pysft.run.stage import load_stage, measured_stage
from pysft.text.formats import last_text

ROWS = [Sampling(repetition=r) for r in (1.0, 1.5, 2.0, 3.0)]
ROWS += [Sampling(temperature=t, repetition=r) for t in (0.3, 0.5, 0.7) for r in (1.0, 2.0)]
ROWS += [Sampling(temperature=0.7, top_p=p, repetition=2.0) for p in (0.5, 0.8)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    stage = load_stage(parser.parse_args().run, computing_ops("kernels", None))
    probe = stored_probe(measured_stage(stage.folder), stage.template)
    talk = stage.model, stage.tokenizer, stage.template
    prompts = [p["prompt"] for p in probe.prompts if p["domain"] == "in"]
    prompts += [before_reply(c) for c in probe.heldout]
    asked = list(map(last_text, prompts))

    def said(questions, sampling):
        return [spoken(reply, *talk[1:]) for _, reply in answer(*talk, questions, sampling)]

    print("| T | top-p | repetition | on topic | real words | distinct words | pairs | recall |"
          " facts | refused | second questions |")  # fmt: skip
    print("|---" * 11 + "|")
    for s in ROWS:
        replies = said(prompts, s)
        pairs = zip(answer(*talk, [prompt for prompt, _ in probe.pairs], s), probe.pairs)
        recalled = sum(r.stop == "end" and text == reply for (text, r), (_, reply) in pairs)
        figures = [on_subject(asked, replies)[0], real_words(replies, set(probe.known_words))]
        figures += [distinct(replies), distinct(replies, 2)]
        tools = ["-"] * 3
        if stage.setting("transcripts", 0):
            t = tool_test(*talk, probe, (0,), s)
            tools = [f"{t[name]:.0%}" for name in ("answered", "refused", "followed")]
        mark = " (chat)" if s == CHAT else ""
        cells = [f"{s.temperature:g}", f"{s.top_p:g}", f"{s.repetition:g}{mark}"]
        cells += [f"{f:.1%}" for f in figures] + [f"{recalled} of {len(probe.pairs)}"] + tools
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
