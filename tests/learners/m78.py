import numpy as np


def mark_trained(is_assistant, lengths):
    turn = np.repeat(np.arange(len(lengths)), np.asarray(lengths) + 2)
    trained = np.asarray(is_assistant, dtype=bool)[turn]
    opening = np.append(True, turn[1:] != turn[:-1])
    return trained & ~opening


def shift(tokens, trained):
    input_ids = tokens[:-1].copy()
    labels = tokens[1:].copy()
    labels[~trained[:-1]] = -100
    return input_ids, labels
