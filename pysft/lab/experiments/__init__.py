"""The source text's claims as experiments.

Each claim is an Experiment: arms, columns of figures read from their records, checks and charts.
Each file holds a family of experiments. In checks, `r` maps the arms' names to records of one seed;
in charts, it maps them to lists of records by seed.

A claim is *reproduced* if every check holds in every seed, *not reproduced* if no check holds in
more than half of them, else *partly reproduced*."""

from pysft.lab.experiments.constitution import CONSTITUTION
from pysft.lab.experiments.curating import EXPANSION, PRUNING
from pysft.lab.experiments.data_content import CONTRADICTION, DIVERSITY, LENGTH
from pysft.lab.experiments.data_size import DATA_SCALING, DATA_SIZE, EPOCHS
from pysft.lab.experiments.experiment import Experiment
from pysft.lab.experiments.forgetting import FORGETTING
from pysft.lab.experiments.masking import FIRST_TOKEN, MASKING, MISSING_END
from pysft.lab.experiments.plain_run import LOSS_CURVE, WEIGHTS_MOVED
from pysft.lab.experiments.policies import DPO_OR_PPO, DRIFT, HACKING
from pysft.lab.experiments.policy_updates import BASELINES, PROXIMAL, PTX
from pysft.lab.experiments.precision import PRECISION
from pysft.lab.experiments.preferences import COMPARING, DISPLACEMENT, PAST_THE_MINIMUM
from pysft.lab.experiments.probing import OWN_MAPS, RECALLING
from pysft.lab.experiments.rates import FIND_LR, LEARNING_RATE
from pysft.lab.experiments.rewards import BATCHES, COMPARISONS, OVEROPTIMISATION, TIES
from pysft.lab.experiments.sums import SUMS
from pysft.lab.experiments.traces import OWN_TRACES, TRACED
from pysft.lab.experiments.turns import TURNS_OF
from pysft.lab.experiments.vocabulary import NEW_ROWS, ONE_TOKEN
from pysft.lab.experiments.world import HALLUCINATION, HOPS, KNOWLEDGE, WORDINGS

# In the order of lists, pages and `lab all`.
_ALL = (
    MASKING,
    FIRST_TOKEN,
    LOSS_CURVE,
    FORGETTING,
    LEARNING_RATE,
    FIND_LR,
    NEW_ROWS,
    ONE_TOKEN,
    DATA_SIZE,
    DATA_SCALING,
    EPOCHS,
    DIVERSITY,
    LENGTH,
    CONTRADICTION,
    MISSING_END,
    KNOWLEDGE,
    HALLUCINATION,
    WORDINGS,
    HOPS,
    COMPARISONS,
    BATCHES,
    TIES,
    OVEROPTIMISATION,
    DISPLACEMENT,
    COMPARING,
    PAST_THE_MINIMUM,
    HACKING,
    DRIFT,
    PROXIMAL,
    PTX,
    BASELINES,
    DPO_OR_PPO,
    TRACED,
    SUMS,
    OWN_TRACES,
    CONSTITUTION,
    TURNS_OF,
    EXPANSION,
    PRUNING,
    OWN_MAPS,
    RECALLING,
    WEIGHTS_MOVED,
    PRECISION,
)
EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in _ALL}

# The order in which processes that run side by side take them. Neighbours near the top share no
# trial and no base, long experiments come before short ones, and those whose trials all belong to
# others come last.
COSTLY_FIRST = (
    PROXIMAL,
    TRACED,
    HACKING,
    EXPANSION,
    RECALLING,
    OWN_MAPS,
    WORDINGS,
    KNOWLEDGE,
    COMPARISONS,
    PTX,
    CONSTITUTION,
    MASKING,
    OWN_TRACES,
    DISPLACEMENT,
    DATA_SIZE,
    SUMS,
    BASELINES,
    COMPARING,
    DPO_OR_PPO,
    TURNS_OF,
    FORGETTING,
    BATCHES,
    PRUNING,
    PRECISION,
    HOPS,
    PAST_THE_MINIMUM,
    DATA_SCALING,
    TIES,
    EPOCHS,
    LEARNING_RATE,
    LENGTH,
    ONE_TOKEN,
    CONTRADICTION,
    FIND_LR,
    MISSING_END,
    HALLUCINATION,
    DIVERSITY,
    NEW_ROWS,
    FIRST_TOKEN,
    LOSS_CURVE,
    WEIGHTS_MOVED,
    OVEROPTIMISATION,
    DRIFT,
)
