"""Write an experiment's document as text for a terminal. overview.py uses parts for its page."""


def text(d: dict) -> str:
    """Title, claim, table, checks and verdict. Columns are numbered, because headings are long."""
    forms = list(d["forms"].values())
    numbers = [str(i) for i in range(1, len(forms) + 1)]
    rows = {
        name: [cell(figure, form) for figure, form in zip(arm.values(), forms)]
        for name, arm in d["arms"].items()
    }
    first = max(map(len, rows))
    widths = [max(map(len, column)) for column in zip(numbers, *rows.values())]

    def line(name, cells):
        return f"{name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths))

    out = [d["title"], "", f"Claim: {d['claim']}", ""]
    out += [f"  {number}  {heading}" for number, heading in zip(numbers, d["forms"])]
    out += ["", line("", numbers), *(line(name, cells) for name, cells in rows.items())]
    out += ["", *(f"  {_held(c['holds']):>7}  {c['text']}" for c in d["checks"])]
    out += ["", f"Verdict: {d['verdict']} ({seeds(d)}; {bases(d)})"]
    if d["diverged"]:
        out.append(diverged(d))
    if d["note"]:
        out.append(f"Note: {d['note']}")
    return "\n".join(out)


def cell(figure: dict, form: str) -> str:
    """A figure over the seeds: its mean, and the range if the seeds differ in this form. Words are
    listed. "-" stands for a figure that was not measured."""
    if any(isinstance(y, str) for y in figure["values"]):
        return ", ".join(dict.fromkeys(str(y) for y in figure["values"]))
    if figure["mean"] is None:
        return "-"
    mean, least, most = (form.format(figure[k]) for k in ("mean", "min", "max"))
    return mean if least == most else f"{mean} ({least}..{most})"


def _held(holds: list[bool]) -> str:
    """The seeds in which a check held: "yes" (all), "no" (none), or a number like "1 of 3"."""
    return "yes" if all(holds) else "no" if not any(holds) else f"{sum(holds)} of {len(holds)}"


def seeds(d: dict) -> str:
    """The number of seeds, with a warning if there is only one, or if the steps are scaled."""
    hint = ", which is only a hint" if d["seeds"] == 1 else ""
    scaled = f", scaled to {d['scale']:g}: the verdict means nothing" if d["scale"] != 1 else ""
    return f"{d['seeds']} seed{'s' * (d['seeds'] != 1)}{hint}{scaled}"


def bases(d: dict) -> str:
    """The corpus, and the bases with their losses, unless they are the experiment's own."""
    if not d["base_loss"]:
        return f"corpus {d['corpus']}, and for each seed a world and bases of its own"
    losses = (f"{name} {loss:.3f} nats/char" for name, loss in d["base_loss"].items())
    retrained = ", one for each seed" if d["retrain_base"] else ""
    return f"corpus {d['corpus']}, base {', '.join(losses)}{retrained}"


def diverged(d: dict) -> str:
    """The sentence that names the arms that diverged."""
    return f"Diverged, so the figures are from before that: {', '.join(d['diverged'])}"
