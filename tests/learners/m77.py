import numpy as np


def mark_trained(is_assistant, lengths):
    trained = []
    for assistant, length in zip(is_assistant, lengths):
        trained += [False] + [bool(assistant)] * int(length) + [False]
    return np.array(trained, dtype=bool)


def shift(tokens, trained):
    return tokens[:-1], np.where(trained[1:], tokens[1:], -100)
