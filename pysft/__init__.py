"""pysft turns a language model that only completes text into a chatbot that answers, on an ordinary
CPU, with nothing hidden. Begin with `python -m pysft --help`."""

__version__ = "0.1.0"

IGNORE = -100  # the label of a token that is not graded: it has no loss and no gradient
