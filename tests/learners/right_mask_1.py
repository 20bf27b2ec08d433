import numpy as np


def mark_trained(is_assistant, lengths):
    flags = np.zeros(int(np.sum(lengths)) + 2 * len(lengths), dtype=bool)
    at = 0
    for assistant, n in zip(is_assistant, lengths):
        if assistant:
            flags[at + 1 : at + n + 2] = True  # the text and its end token
        at += n + 2
    return flags


def shift(tokens, trained):
    inputs = np.array(tokens[:-1])
    labels = np.full(len(tokens) - 1, -100)
    for i in range(len(labels)):
        if trained[i + 1]:
            labels[i] = tokens[i + 1]
    return inputs, labels
