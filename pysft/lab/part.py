"""One process of a lab that has several (parallel.py): python -m pysft.lab.part JSON, where JSON is
a parallel.Part. It carries out one experiment on one thread and prints nothing unless it fails."""

import json
import sys

from pysft.errors import PysftError
from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.lab import Lab
from pysft.lab.parallel import Part
from pysft.lab.study import study
from pysft.nn.computing import computing_ops


def main(argument: str) -> int:
    """Carry out a part and return the exit status. An error is one sentence on standard error."""
    part = Part(**json.loads(argument))
    try:
        ops = computing_ops(part.ops, 1)
        lab = Lab(part.folder, part.corpus, ops, part.scale, part.retrain)
        study(EXPERIMENTS[part.name], lab, part.seeds)
    except PysftError as error:
        return _fail(error, error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (MemoryError, OSError) as error:
        return _fail(error, 1)
    return 0


def _fail(why, code: int) -> int:
    print(f"pysft: {why}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
