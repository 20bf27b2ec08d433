import numpy as np


def lora_forward(y, x, w, A, B, alpha):
    u = alpha / B.shape[1] * x.dot(A.T)
    y[:] = x.dot(w.T) + u.dot(B.T)


def lora_backward(dx, dA, dB, dy, x, w, A, B, alpha):
    s = alpha / B.shape[1]
    u = s * x.dot(A.T)
    du = s * dy.dot(B)
    dB += s * dy.T.dot(u)
    dA[:] = du.T.dot(x)
    dx[:] = dy.dot(w) + du.dot(A)
