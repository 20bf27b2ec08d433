"""The peer of the benchmarks: the same GPT in PyTorch. The model is written for speed, as by
somebody who knows PyTorch; the optimiser is as the source text calls it, or ("tuned") fused.

It has GPT-2's blocks with tanh GELU, learned positions, an untied head without bias and GPT-2's
initialisation. It uses fused attention (scaled_dot_product_attention) and sets gradients to None.
Only workers import this file, because it imports torch."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """x (B,T,C) -> (B,T,C)."""

    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.attproj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.fcproj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def heads(self, x):
        """q, k, v, each (B,H,T,D)."""
        B, T, C = x.shape
        return (
            a.view(B, T, self.H, C // self.H).transpose(1, 2)
            for a in self.qkv(self.ln1(x)).split(C, dim=2)
        )

    def rest(self, x, att):
        """The part of the block after attention; att (B,H,T,D)."""
        x = x + self.attproj(att.transpose(1, 2).reshape(x.shape))
        return x + self.fcproj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))

    def forward(self, x):
        q, k, v = self.heads(x)
        return self.rest(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))


class TorchGPT(nn.Module):
    """GPT of a pysft GPTConfig."""

    def __init__(self, config):
        super().__init__()
        V, T, C, self.config = config.vocab, config.context, config.channels, config
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block(C, config.heads) for _ in range(config.layers))
        self.lnf, self.head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(
                    p, std=0.02 / (2 * config.layers) ** 0.5 if "proj" in name else 0.02
                )
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, labels):
        """The mean nats per graded token of tokens, labels (B,T) int64, -100 where not graded."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(
            self.head(self.lnf(x)).flatten(0, 1), labels.flatten(), ignore_index=-100
        )

    def grown(self, vocab):
        """A copy with a larger vocabulary, its new rows as at initialisation."""
        model = TorchGPT(type(self.config)(**{**vars(self.config), "vocab": vocab}))
        with torch.no_grad():
            for name, p in self.named_parameters():
                model.get_parameter(name)[: len(p)] = p
        return model


def padded(examples, context):
    """tokens, labels (S,T): the examples, padded with 0 and -100."""
    tokens = torch.zeros(len(examples), context, dtype=torch.long)
    labels = torch.full((len(examples), context), -100)
    for s, e in enumerate(examples):
        tokens[s, : len(e.labels)] = torch.from_numpy(e.input_ids.astype(np.int64))
        labels[s, : len(e.labels)] = torch.from_numpy(e.labels.astype(np.int64))
    return tokens, labels


def trainer(model, runner, lr, decay=0.01):
    """step(tokens, labels) -> the loss, a tensor. The model is compiled if `runner` contains
    "compile"; AdamW is fused if it contains "tuned"; with "bf16" it computes under autocast."""
    run = torch.compile(model) if "compile" in runner else model
    bf16 = "bf16" in runner
    adam = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=decay, fused="tuned" in runner or None
    )

    def step(tokens, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = run(tokens, labels)
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        return loss.detach()

    return step


@torch.inference_mode()
def decode(model, cache, token, count):
    """`token` and the `count` tokens after it, by greedy decoding. cache: keys and values,
    (L,2,1,H,T,D)."""
    ids = torch.empty(count + 1, dtype=torch.long)
    ids[0] = token
    for t in range(count):
        x = (model.wte(ids[t : t + 1]) + model.wpe.weight[t : t + 1]).unsqueeze(0)  # (1,1,C)
        for block, (keys, values) in zip(model.blocks, cache):
            q, keys[:, :, t : t + 1], values[:, :, t : t + 1] = block.heads(x)
            x = block.rest(
                x, F.scaled_dot_product_attention(q, keys[:, :, : t + 1], values[:, :, : t + 1])
            )
        ids[t + 1] = model.head(model.lnf(x))[0, 0].argmax()
    return ids


@torch.inference_mode()
def decode_functional(model, cache, token, count):
    """As `decode`, without the calls of modules, which take a third of the time at this size."""
    C, H = model.config.channels, model.config.heads
    blocks = []
    for b in model.blocks:
        layers = (b.ln1, b.qkv, b.attproj, b.ln2, b.fc, b.fcproj)
        blocks.append([p for layer in layers for p in (layer.weight, layer.bias)])
    ids = torch.empty(count + 1, dtype=torch.long)
    ids[0] = token
    for t in range(count):
        x = F.embedding(ids[t : t + 1], model.wte.weight) + model.wpe.weight[t : t + 1]  # (1,C)
        for w, (keys, values) in zip(blocks, cache):
            q, keys[0, :, t : t + 1], values[0, :, t : t + 1] = F.linear(
                F.layer_norm(x, (C,), w[0], w[1]), w[2], w[3]
            ).view(3, H, 1, C // H)
            att = F.scaled_dot_product_attention(
                q.unsqueeze(0), keys[:, :, : t + 1], values[:, :, : t + 1]
            )
            x = x + F.linear(att.view(1, C), w[4], w[5])
            wide = F.linear(F.layer_norm(x, (C,), w[6], w[7]), w[8], w[9])
            x = x + F.linear(F.gelu(wide, approximate="tanh"), w[10], w[11])
        ids[t + 1] = F.linear(
            F.layer_norm(x, (C,), model.lnf.weight, model.lnf.bias), model.head.weight
        )[0].argmax()
    return ids


def decoder(config, functional, bf16=False):
    """A function decode(token, count) with a new model and its cache, both in bf16 if asked."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = TorchGPT(config).eval().to(dtype)
    shape = config.layers, 2, 1, config.heads, config.context, config.channels // config.heads
    cache = torch.zeros(shape, dtype=dtype)
    return lambda token, count: (decode_functional if functional else decode)(
        model, cache, token, count
    )
