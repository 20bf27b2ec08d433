import numpy as np


def mark_trained(is_assistant, lengths):
    sizes = np.asarray(lengths) + 2
    trained = np.repeat(np.asarray(is_assistant, dtype=bool), sizes)
    trained[np.cumsum(sizes) - sizes] = False
    return trained


def shift(tokens, trained):
    graded = trained[1:].astype(tokens.dtype)
    return tokens[:-1], tokens[1:] * graded - 100 * (1 - graded)
