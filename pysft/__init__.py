"""pysft: a language model that only completes text becomes a chatbot that answers, on an ordinary
CPU, with nothing hidden. `python -m pysft --help` is where to begin."""

__version__ = "0.1.0"

IGNORE = -100  # the label of a token that is not graded: no loss, no gradient
