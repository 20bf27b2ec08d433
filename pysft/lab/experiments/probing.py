"""What a model knows, and refusing the rest: whose map says what is refused, and how a model learns
to refuse names that no row had."""

import tomllib

from pysft.jobs.probe import RECIPE
from pysft.lab.experiments.charts import dots, times
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.preferring import TaskArm
from pysft.lab.probing_tasks import (
    COMPARED,
    GUESSED,
    OTHER,
    OWN,
    PLAIN,
    RECALLED,
    TELLINGS,
    prepare_maps,
    prepare_names,
    probed_world,
    refuse_by_map,
    refuse_new_names,
)
from pysft.measure import figures

FORGOT = Column("forgetting of base text", finished("forgetting"), "{:+.1%}")
BALANCED = Column("balanced accuracy of the map", finished("balanced_accuracy"), "{:.1%}")


def share(heading: str, name: str, form: str = "{:.0%}") -> Column:
    """A column of a figure of the finished model."""
    return Column(heading, finished(name), form)


# ------------------------------------------------------------------------------------- own-map

NOTHING, OWN_MAP, GUESS = "no refusals", "its own map", "a guess"
OTHERS = "another model's map"
STEPS = 400


def own_map(lab, seed):
    for name, whose in ((NOTHING, None), (OWN_MAP, OWN), (GUESS, GUESSED), (OTHERS, OTHER)):
        options = {"refusals": whose, "steps": STEPS}
        yield TaskArm(name, refuse_by_map, options, told=probed_world)


map_wrong, sealed_wrong = finished("map_wrong"), finished("wrong")
map_known_refused = finished("map_known_refused")
map_unknown_refused = finished("map_unknown_refused")
MAP_WRONG = share("map: wrong", "map_wrong")
KNOWN_REFUSED = share("map, known: refused", "map_known_refused")


def _by_tellings(results) -> tuple[str, str]:
    """The two maps, which the records of every arm have."""
    [records, *_] = results.values()
    lines = {
        "right replies": "right_share",
        "called known": "known_share",
        "the other model: right replies": "other_right_share",
        "the other model: called known": "other_known_share",
    }
    series = []
    for name, figure in lines.items():
        ys = [[times(finished(f"{figure}_{n}")(r), 100) for n in TELLINGS] for r in records]
        series.append(figures.Series(name, list(TELLINGS), ys))
    title = "What two models know, by how often it was told"
    return title, figures.curves(title, series, "tellings", "%")


OWN_MAPS = Experiment(
    name="own-map",
    title="A map of one's own",
    claim="You cannot guess which questions a model should refuse: another model knows other facts,"
    " and the same refusals do not work for both. Ask the model itself several times, and let a"
    " judge who knows the truth say what it knows.",
    arms=own_map,
    columns=[
        MAP_WRONG,
        share("map: right", "map_right"),
        share("map, unknown: refused", "map_unknown_refused"),
        KNOWN_REFUSED,
        share("sealed: wrong", "wrong"),
        share("sealed, told 600 times: right", "known_right"),
        share("sealed, told 600 times: refused", "known_refused"),
        share("sealed, never told: refused", "unknown_refused"),
        share("answers trained", "answers", "{:.0f}"),
        share("refusals trained", "refusals", "{:.0f}"),
        share("their share of the rows", "refusals_share", "{:.1%}"),
        BALANCED,
        share("of the other's", "other_balanced_accuracy", "{:.1%}"),
        share("agreement of the two", "agreement", "{:.1%}"),
        share("agreement by chance", "chance", "{:.1%}"),
        share("known, but unknown to the other", "known_to_own_alone", "{:.1%}"),
        FORGOT,
    ],
    checks=[
        Check(
            "the balanced accuracy of its own map is at least 85 %",
            lambda r: finished("balanced_accuracy")(r[OWN_MAP]) >= 0.85,
        ),
        Check(
            "of what its own map calls known, the other one calls at least a tenth unknown",
            lambda r: finished("known_to_own_alone")(r[OWN_MAP]) >= 0.1,
        ),
        Check(
            "by its own map at least 80 % of the map's unknown questions are refused, and at most"
            " 5 % of the known ones",
            lambda r: (
                map_unknown_refused(r[OWN_MAP]) >= 0.8 and map_known_refused(r[OWN_MAP]) <= 0.05
            ),
        ),
        Check(
            "by a guess at least 10 points more of the known ones are refused",
            lambda r: map_known_refused(r[GUESS]) - map_known_refused(r[OWN_MAP]) >= 0.1,
        ),
        Check(
            "by another model's map at least 5 points more",
            lambda r: map_known_refused(r[OTHERS]) - map_known_refused(r[OWN_MAP]) >= 0.05,
        ),
        Check(
            "by both of these at least twice as many of the map's questions are answered wrong",
            lambda r: min(map_wrong(r[n]) for n in (GUESS, OTHERS)) >= 2 * map_wrong(r[OWN_MAP]),
        ),
        Check(
            "on sealed questions its own map, too, leaves the fewest wrong answers",
            lambda r: all(sealed_wrong(r[OWN_MAP]) < sealed_wrong(r[n]) for n in r if n != OWN_MAP),
        ),
    ],
    figures=lambda r: [
        _by_tellings(r),
        dots(r, "Wrong answers to the map's questions", MAP_WRONG, "%", 100),
        dots(r, "Known questions of the map that are refused", KNOWN_REFUSED, "%", 100),
    ],
    note="The other model's base read the same text for half of the steps. The map's questions are"
    " about 60 people of whom no question was trained before. All arms begin from the same model,"
    " and train on its old questions, on its own right answers, and on as many refusals. They"
    " differ in the questions that are refused, and whose answers are therefore left out. In one of"
    " the four wordings of a question no row asks about these people: the figures of the map's"
    " questions are of that one. The sealed questions are about other people and names of nobody."
    " Of the 60 people, and of the sealed ones, a sixth is told never, a sixth 100 times and the"
    " others 600 times. Agreement is of the questions about the 60.",
    on_world=True,
    prepare=prepare_maps,
)

# ----------------------------------------------------------------------------------- recalling

BEFORE_ALL, REFUSALS = "before", "answers and refusals"
NO_PAIRS, RECALL = "with what is recalled", "and rows that compare"
USUAL = tomllib.loads("\n".join(RECIPE))["sft"]


def recalling(lab, seed):
    yield TaskArm(BEFORE_ALL, refuse_new_names, {"rows": None}, told=probed_world)
    for name, rows, mix in (
        (REFUSALS, PLAIN, [1, 1]),
        (NO_PAIRS, RECALLED, [1, 1]),
        (RECALL, COMPARED, [1, 1, 2]),
    ):
        options = {"rows": rows, "mix": mix} | USUAL
        yield TaskArm(name, refuse_new_names, options, told=probed_world)


known_right, unknown_refused = finished("known_right"), finished("unknown_refused")
mean, new_mean = finished("mean"), finished("new_mean")
MEAN = share("mean of the two", "mean", "{:.1%}")
NEW_MEAN = share("in new wordings: mean", "new_mean", "{:.1%}")

RECALLING = Experiment(
    name="recalling",
    title="Refusing new names",
    claim="Conversations that refuse teach a model to refuse what it does not know. (Ours: with"
    " those alone a small model learns by heart whom to refuse. It refuses new names, and only"
    " those that it does not know, if it first writes what it recalls and has learned to compare"
    " whom that is about with whom it is asked about.)",
    arms=recalling,
    columns=[
        share("known: right", "known_right"),
        share("unknown: refused", "unknown_refused"),
        MEAN,
        share("known: refused", "known_refused"),
        share("unknown: wrong", "unknown_wrong"),
        share("in new wordings: known, right", "new_known_right"),
        share("in new wordings: unknown, refused", "new_unknown_refused"),
        NEW_MEAN,
        BALANCED,
        FORGOT,
    ],
    checks=[
        Check(
            "with answers and refusals at least 60 % of the known is answered right, and at least"
            " 60 % of the unknown refused",
            lambda r: min(known_right(r[REFUSALS]), unknown_refused(r[REFUSALS])) >= 0.6,
        ),
        Check(
            "with rows that compare at least 60 % of the known is answered right",
            lambda r: known_right(r[RECALL]) >= 0.6,
        ),
        Check(
            "and at least 60 % of the unknown is refused",
            lambda r: unknown_refused(r[RECALL]) >= 0.6,
        ),
        Check(
            "the mean of the two is at least 70 % then",
            lambda r: mean(r[RECALL]) >= 0.7,
        ),
        Check(
            "and at least 15 points higher than in every other arm",
            lambda r: all(mean(r[RECALL]) - mean(x) >= 0.15 for n, x in r.items() if n != RECALL),
        ),
        Check(
            "in new wordings too",
            lambda r: all(
                new_mean(r[RECALL]) - new_mean(x) >= 0.15 for n, x in r.items() if n != RECALL
            ),
        ),
    ],
    figures=lambda r: [
        dots(r, "Mean of the known answered right and the unknown refused", MEAN, "%", 100),
        dots(r, "The same in new wordings", NEW_MEAN, "%", 100),
    ],
    note="All is about people and names that no row had: known are those that the text tells 600"
    " times, unknown those of whom it tells nothing. New wordings are those that no training has;"
    " in them the model before, too, knows less. All arms but the first have the same steps, which"
    " are those of the command that `probe --recall` prints; in each, a file has the weight 1, and"
    " the rows that compare 2.",
    on_world=True,
    prepare=prepare_names,
)
