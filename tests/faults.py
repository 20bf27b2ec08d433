"""Tests with teeth: plant faults in csrc/ and pysft/, one at a time, and see that a test fails.

    python tests/faults.py [WORD ...]     all faults, or those whose file or text holds one of the
                                          words

Each is planted in a copy of the project, the C part built anew where it must be (for this machine's
processor alone), and the tests that should notice are run until the first fails. First the control:
without a fault they all pass. A fault that every one of them lets pass survives and is named; the
exit status is 1 if fewer than 95 in a hundred are killed. About an hour on two cores."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.95  # of the faults are to be killed
LONGEST = 400  # seconds of one file of tests: what takes longer hangs, and somebody would notice

# File: (the tests that should notice, [(what stands there, once; what is planted in its place)]).
FAULTS = {
    "csrc/tile.h": (
        "kernels",
        [
            ("c[i][j] += x * row[j];", "c[i][j] -= x * row[j];"),
            ("load_part(plus + i * plus_row + j * VL, lanes)", "load_part(plus + j * VL, lanes)"),
            ("int nv = (int)((columns + VL - 1) / VL)", "int nv = (int)((columns + VL) / VL)"),
            ("row[j] = load(b + p * b_row + j * VL);", "row[j] = load(b + j * VL);"),
        ],
    ),
    "csrc/matmul.c": (
        "kernels model guard",
        [
            ("bias && c == 0 ? bias + k : 0", "bias ? bias + k : 0"),
            (
                "c > 0 ? y : residual ? residual + n * K + k : 0",
                "residual ? residual + n * K + k : c > 0 ? y : 0",
            ),
            ("C - c < DEPTH ? C - c : DEPTH", "C - c < DEPTH ? C - c - 1 : DEPTH"),
            ("out, C, 0, 0, out, C, depth", "out, C, 0, 0, 0, C, depth"),
            ("product(dx, dy, w, C, 1, 0, 0,", "product(dx, dy, w, 1, K, 0, 0,"),
            ("product(y, x, w, 1, C, b,", "product(y, x, w, K, 1, b,"),
            ("load_part(db + j * VL, columns - j * VL) + block[j]", "block[j]"),
            ("i < N && i < n + ROWS; i++", "i < N && i < n + ROWS - 1; i++"),
            ("c < C && c < s + LONG", "c < C && c <= s + LONG"),
            (
                "store(panel + p * NR + j, load_part(b + p * b_row + j, columns - j))",
                "store(panel + p * NR + j, load(b + p * b_row + j))",
            ),
            ("if (to > wide * panels) to = wide * panels;", ""),
            ("int64_t from = first > g * panels ? first - g * panels : 0,", "int64_t from = 0,"),
            ("t < g + t1; t++", "t < g + t1 - (t1 > 1); t++"),
        ],
    ),
    "csrc/attention.c": (
        "kernels gate model",
        [
            ("b.count, D, (real)(1 / sqrt((double)D)));", "b.count, D, 1);"),
            ("b->sees[w] >= (lane_int)j", "b->sees[w] > (lane_int)j"),
            ("e * (load(dsj + at) - delta[w])", "e * load(dsj + at)"),
            ("product(dv + j * kv_row, kv_row, 1, pj", "product(dv + j * kv_row, kv_row, 0, pj"),
            ("product(dk + j * kv_row, kv_row, 1, dsj", "product(dk + j * kv_row, kv_row, 0, dsj"),
            ("q_row, k0 > 0, ds + n", "q_row, 0, ds + n"),
            ("pack_rows(kp, k, kv_row, T, D, scale);", "pack_rows(kp, k, kv_row, T, D, 1);"),
            (
                "pack_rows(qp, q + m * q_row, q_row, b.count, D, scale);",
                "pack_rows(qp, q + m * q_row, q_row, b.count, D, 1);",
            ),
            ("= max[i / VL][i % VL] + log(sum);", "= log(sum);"),
            ("load_part(row + d, D - d) * (1 / sum)", "load_part(row + d, D - d)"),
            ("if (j + r >= b.free[w])", "if (j + r > b.free[w])"),
            ("b.free[w] = b.sees[w][0] + 1;", "b.free[w] = b.sees[w][0] + 2;"),
            ("vexp(load(s + j * NR) - top)", "vexp(load(s + j * NR))"),
            ("rows[m] >= N) return S + 1 + m;", "rows[m] > N) return S + 1 + m;"),
            ("if (rows[middle] < row)", "if (rows[middle] <= row)"),
            ("if (owner <= thread) *last = i + 1;", "if (owner < thread) *last = i + 1;"),
            (
                "clear_row(dk + t * kv_row, D), clear_row(dv + t * kv_row, D);",
                "clear_row(dk + t * kv_row, D);",
            ),
            ("if (cu_seqlens[0] != 0) return 0;", ""),
            (
                "k, k + C, kv_row, rows ? rows + m : 0, start, count",
                "k, k + C, kv_row, rows ? rows + m : 0, 0, count",
            ),
            ("seen_by(&b, n + mr - 1) + 1 - k0", "seen_by(&b, n + mr - 1) - k0"),
        ],
    ),
    "csrc/cross_entropy.c": (
        "kernels gate",
        [
            ("nll[n] = lse[n] - row[labels[n]];", "nll[n] = row[labels[n]] - lse[n];"),
            ("out[labels[n]] -= dnll[n];", "out[labels[n]] -= 1;"),
            ("IGNORE = -100", "IGNORE = -1"),
            ("memset(out, 0, (size_t)V * sizeof(real));", ""),
            ("dnll[n] * vexp(load(row + v) - lse[n])", "vexp(load(row + v) - lse[n])"),
            (
                "load_tail(row + whole, V - whole, -INFINITY)",
                "load_tail(row + whole, V - whole, 0)",
            ),
            ("vec top = tail, total;", "vec top = vmax(tail, splat(0)), total;"),
            ("labels[n] < 0 || labels[n] >= V", "labels[n] < 0 || labels[n] > V"),
            ("nll[n] = lse[n] = 0;", ""),
        ],
    ),
    "csrc/layernorm.c": (
        "kernels",
        [
            ("(g - mean_g - norm * mean_gn)", "(g - mean_g + norm * mean_gn)"),
            ("(g - mean_g - norm * mean_gn)", "(g - norm * mean_gn)"),
            ("load_part(out, C - i) + rs *", "rs *"),
            ("dw ? load_part(dw + i, last - i) : splat(0)", "splat(0)"),
            ("n < N && n < n0 + BLOCK", "n < N && n < n0 + BLOCK - 1"),
            ("- mean[n]) * rstd[n]);", "- mean[n]));"),
            ("block_b += g;", "block_b = g;"),
        ],
    ),
    "csrc/rows.h": (
        "kernels model",
        [
            ("/ (real)C + eps", "/ (real)(C - 1) + eps"),
            ("/ (real)C + eps", "/ (real)C"),
            ("load_tail(x + i, C - i, mu)", "load_tail(x + i, C - i, 0)"),
            ("* load_part(w + i, C - i) + load_part(b + i, C - i)", "* load_part(w + i, C - i)"),
            ("CUBIC * x * x * x", "CUBIC * x * x"),
            ("CUBIC = 0.044715", "CUBIC = 0.0447"),
        ],
    ),
    "csrc/gelu.c": (
        "kernels",
        [
            ("6 * ROOT * CUBIC", "2 * ROOT * CUBIC"),
            ("x * s * (1 - s)", "x * s * (1 + s)"),
            ("load_part(dy + i, n - i) * slope", "slope"),
            (
                "if (dydx) store_part(dydx + i, derivative(s, here), n - i);",
                "if (dydx) store_part(dydx + i, s, n - i);",
            ),
        ],
    ),
    "csrc/embedding.c": (
        "kernels gate",
        [
            ("*place = wpe + (n - cu_seqlens[s]) * C;", "*place = wpe;"),
            ("word[c] += row[c]", "word[c] = row[c]"),
            ("place[c] += row[c]", "place[c] = row[c]"),
            ("tokens[n] < 0 || tokens[n] >= V", "tokens[n] < 0 || tokens[n] > V"),
            ("cu_seqlens[s + 1] - cu_seqlens[s] > T", "cu_seqlens[s + 1] - cu_seqlens[s] > T + 1"),
            ("row[c] = word[c] + place[c]", "row[c] = word[c] - place[c]"),
        ],
    ),
    "csrc/take_rows.c": (
        "kernels gate",
        [
            ("row[c] += dy[m * C + c]", "row[c] = dy[m * C + c]"),
            ("(m ? rows[m - 1] + 1 : 0)", "(m ? rows[m - 1] : 0)"),
        ],
    ),
    "csrc/adamw.c": (
        "kernels training",
        [
            ("b1 * m[i] + c1 * g[i]", "b1 * m[i] + g[i]"),
            ("c2 * g[i] * g[i]", "c2 * g[i]"),
            (
                "rate * m[i] / (sqrt(v[i]) * root + small)",
                "rate * v[i] / (sqrt(m[i]) * root + small)",
            ),
            ("1 - lr * decay", "1 - decay"),
            ("(sqrt(v[i]) * root + small)", "((sqrt(v[i]) + small) * root)"),
            ("(real)(lr / correction1)", "(real)lr"),
            ("keep * w[i] - rate", "w[i] - rate"),
            ("b1 = (real)beta1, b2 = (real)beta2", "b1 = (real)beta2, b2 = (real)beta1"),
            ("lane[i % 8] += (double)x[i]", "lane[i % 8] = (double)x[i]"),
            ("w[i] = keep * w[i] - rate", "w[i] = keep * w[i] + rate"),
        ],
    ),
    "csrc/decode.c": (
        "decode gate",
        [
            ("panel[c * NR] = qkv[C + c], qkv[c] *= scale;", "panel[c * NR] = qkv[C + c];"),
            (
                "for (int64_t j = 0; j <= t; j++)\n            UNROLL",
                "for (int64_t j = 0; j < t; j++)\n            UNROLL",
            ),
            ("t / NR * NR * C + t % NR", "t / NR * NR * C + t % VL"),
            ("places[positions[i] * C + c]", "places[c]"),
            (
                "product(x, W, att, W, &weights, 1, x, rows",
                "product(x, W, att, W, &weights, 1, 0, rows",
            ),
            ("here * gelu_gate(here)", "gelu_gate(here)"),
            ("slots[i] <= slots[i - 1]", "slots[i] < slots[i - 1]"),
            ("positions[i] >= T", "positions[i] > T"),
            ("sum[k] * (1 / total[k])", "sum[k]"),
            ("qkv + 2 * C, (size_t)C", "qkv + C, (size_t)C"),
            ("slots[i] * one + l * block_cache(T, C)", "l * block_cache(T, C)"),
            ("last - i < MR ? (int)(last - i) : MR", "MR"),
        ],
    ),
    "csrc/simd.h": (
        "kernels decode guard",
        [
            ("if (*last > n) *last = n;", ""),
            ("8.368716575205326e-3f", "8.36e-3f"),
            ("vmax(splat(-88.0f), x)", "vmax(splat(-80.0f), x)"),
            ("vmin(splat(89.0f),", "vmin(splat(80.0f),"),
            ("x[(i + r) * x_row + j + c] * scale : 0", "x[(i + r) * x_row + j + c] : 0"),
            (
                "half > 0; half /= 2) x += swap_lanes(x, half);",
                "half > 1; half /= 2) x += swap_lanes(x, half);",
            ),
            (
                "half > 0; half /= 2) x = vmax(x, swap_lanes(x, half));",
                "half > 1; half /= 2) x = vmax(x, swap_lanes(x, half));",
            ),
            ("return n >= VL ? load(p) : load_tail(p, n, 0);", "return load(p);"),
        ],
    ),
    "pysft/nn/ops.py": (
        "gate kernels decode build",
        [
            (
                "start < other_end and other_start < end:",
                "start < other_end and other_start == start:",
            ),
            ("if written and not flags.writeable:", "if False:"),
            ("if not flags.c_contiguous:", "if not flags.forc:"),
            ("elif size != factor * value + plus:", "elif size < factor * value + plus:"),
            ("if dtype != np.int32:", "if dtype.kind != 'i':"),
            ("elif dtype != real:", "elif dtype.kind != 'f':"),
            ("1 - beta1 ** step, 1 - beta2 ** step", "1 - beta1 ** step, 1 - beta1 ** step"),
            ("        if size != expected:\n", "        if size < expected:\n"),
            (
                '<= most:\n                raise GateError(f"{name} =',
                '<= 10**9:\n                raise GateError(f"{name} =',
            ),
            ("if _forked and threads > 1:", "if _forked and threads > 99:"),
            ("if not flags.aligned:", "if False:"),
            ("dw!K,C? db!K?", "dw!K,C? db!C?"),
            ("if rest or value < 1:", "if rest:"),
            ("if 0 in shape:", "if False:"),
            ("if not 0 < S <= most:", "if not 0 < S:"),
            (
                (
                    "if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <="
                    " threads <= 1024:"
                ),
                "if False:",
            ),
        ],
    ),
    "pysft/nn/model.py": (
        "model training lora",
        [
            ("INIT_STD / np.sqrt(2 * config.layers)", "INIT_STD / np.sqrt(config.layers)"),
            ('self.params.offsets["h0.ln1.w"]', 'self.params.offsets["h0.ln1.b"]'),
            ('p["attproj.b"], x)', 'p["attproj.b"])'),
            (
                'a["mid"], p["ln2.w"], a["mean2"], a["rstd2"])',
                'a["mid"], p["ln2.w"], a["rstd2"], a["mean2"])',
            ),
            ("    every.take_rows_backward(dx, dx_wanted, rows)\n", ""),
            ("    every.take_rows_backward(dbranch, dln1, rows)\n", ""),
            ("if len(chunks) > 1:", "if len(chunks) > 2:"),
            ('a["dx"][:N] = 0', "pass"),
            ('a["dx_wanted"][:M] = 0', "pass"),
            ("source.mean(axis=0)", "source.sum(axis=0)"),
            ("w[:len(source)] = source", "w[:len(source)] = source * 1.0001"),
            (
                "(batch, rows, labels), self._last = self._last, None",
                "batch, rows, labels = self._last",
            ),
            (
                "self.params[self._head()])\n            self._run",
                'self.params["wte"])\n            self._run',
            ),
            ("for i in reversed(range(last)):", "for i in range(last):"),
            ("ops.gelu_backward(dwide, dwide, None", "ops.gelu_backward(dwide, dx, None"),
        ],
    ),
    "pysft/nn/optim.py": (
        "training model",
        [
            ("(slice(self.split, None), 0.0)", "(slice(self.split, None), self.decay)"),
            ("type(limit / norm)", "type(norm / limit)"),
            ("norm > limit:", "norm < limit:"),
            ("self.m.flat[part], self.v.flat[part]", "self.v.flat[part], self.m.flat[part]"),
            ("self.steps += 1", "self.steps += 2"),
        ],
    ),
    "pysft/nn/lora.py": (
        "lora",
        [
            ("[:] += self.scale * dsB", "[:] += dsB"),
            ('w[name + ".w"], self.scale * p[name + ".B"]', 'w[name + ".w"], p[name + ".B"]'),
            ("        dw.clear()  #", "        #"),
            ("w[name][self.old_vocab:] = p", "w[name][:1] = p"),
            ("return alpha / rank", "return alpha"),
        ],
    ),
    "pysft/nn/safetensors.py": (
        "safetensors checkpoints",
        [
            ("if first != end:", "if first < end:"),
            ("if 8 + length + end != size:", "if 8 + length + end > size:"),
            ("if name in sums and _sha256(piece) != sums[name]:", "if False:"),
            ("length > min(HEADER_LIMIT, size - 8)", "length > size - 8"),
            ("if len(found) != len(pairs):", "if False:"),
            ('to_bytes(8, "little")', 'to_bytes(8, "big")'),
            ("if last - first != math", "if last - first < math"),
            ("math.prod(n or 1 for n", "math.prod(n for n"),
            ("if name not in sums and summed:", "if False:"),
        ],
    ),
    "pysft/nn/decode.py": (
        "decode",
        [
            ("            self.lengths[slot] += 1\n", "            self.lengths[0] += 1\n"),
            ("if position == context:", "if position > context:"),
            ("if not 0 <= length <= self.lengths[slot]:", "if not 0 <= length:"),
        ],
    ),
    "pysft/training/loop.py": (
        "training run",
        [
            ("lr * (step + 1) / warmup", "lr * step / warmup"),
            ("    model.grads.clear()\n", ""),
            (
                "objective(batch, nll, value, total)",
                "objective(batch, nll, value, objective.count(batch))",
            ),
            ("(1 + math.cos(math.pi * done)) / 2", "math.cos(math.pi * done)"),
            ("(math.isfinite(loss) and math.isfinite(norm))", "math.isfinite(loss)"),
            ("            adam.steps += 1\n", ""),
            ("            skipped = 0\n", ""),
            ("1.4826 *", "1.0 *"),
            ("floor + (1 - floor) * shape", "floor + shape"),
            (
                "if skip is None or error.lasting or skipped > SKIPS:",
                "if skip is None or skipped > SKIPS:",
            ),
        ],
    ),
    "pysft/training/objectives.py": (
        "training",
        [
            ("(batch.counts / total).astype", "batch.counts.astype"),
            ("np.dot(batch.counts,", "-np.dot(batch.counts,"),
        ],
    ),
    "pysft/training/stages.py": (
        "training checkpoints data run",
        [
            (
                "[first - epoch * total, last - epoch * total]",
                "[first - epoch * total, last - epoch * total - 1]",
            ),
            ("order(i // n)[i % n]", "order(0)[i % n]"),
            ('"base", "windows", step)', '"base", "windows")'),
            ("[settings.sft_window_weight] * len(text)", "[1.0] * len(text)"),
            (
                'rng(seed, "sft", purpose, epoch).permutation',
                'rng(seed, "sft", purpose).permutation',
            ),
            ("(marks | {plan.steps}) - {0}", "marks - {0}"),
            ('self.base_decay if stage == "base" else self.sft_decay', "self.base_decay"),
        ],
    ),
    "pysft/rng.py": (
        "training run",
        [("zlib.crc32(purpose.encode()), step]", "zlib.crc32(purpose.encode())]")],
    ),
    "pysft/text/dataset.py": (
        "data text training",
        [
            ("np.where(trained[1:],", "np.where(trained[:-1],"),
            ("np.where(trained[1:], tokens[1:],", "np.where(trained[1:], tokens[:-1],"),
            ("keys[every - 1::every]", "keys[every::every]"),
            ("lengths.max() <= context", "lengths.max() <= context + 1"),
            ("corpus[start + 1:start + length + 1]", "corpus[start:start + length]"),
            ("min(length, len(corpus) - 1 - s)", "min(length, len(corpus) - 2 - s)"),
            (
                "np.where(self.labels != IGNORE, self.per_row(self.weight), 0.0)",
                "self.per_row(self.weight)",
            ),
            ("(self.cu_seqlens[first:last + 1] - a)", "(self.cu_seqlens[first:last + 1])"),
            (
                "rng.integers(0, len(corpus) - length, count)",
                "rng.integers(0, len(corpus) - length + 1, count)",
            ),
            ("if len(input_ids) > context:", "if len(input_ids) > context + 1:"),
        ],
    ),
    "pysft/text/template.py": (
        "text data",
        [
            ('(grade == "last" and turn < last)', '(grade == "last" and turn > 1)'),
            ("if marker in (content if", "if marker == (content if"),
            (
                "out.words(inner.closes, grades[2], here)",
                "out.words(inner.closes, grades[1] and turn > 2, here)",
            ),
            ("at, read = at + n, read + n", "at, read = at + n, read + max(n, 1)"),
            ("        if not joined:\n", "        if True:\n"),
            ("wanted = not (flag is False or", "wanted = not ("),
        ],
    ),
    "pysft/text/tokenizer.py": (
        "text",
        [
            ("int(codes.max()) + 2", "int(codes.max()) + 1"),
            ("[*self.specials, *names]", "[*names, *self.specials]"),
            ("if ids.min(initial=0) < 0:", "if ids.min(initial=0) < -1:"),
        ],
    ),
    "pysft/inference/generate.py": (
        "generate chat tools",
        [
            ("sampling.top_p * (1 - 1e-12))) + 1)", "sampling.top_p * (1 - 1e-12))))"),
            ("logits[seen] > 0, logits", "logits[seen] < 0, logits"),
            ("one.own == max_new", "one.own > max_new"),
            ("default_rng([sampling.seed, i])", "default_rng([sampling.seed, slot])"),
            ("            decoder.reset(slot)\n", ""),
            ("np.argsort(-logits,", "np.argsort(logits,"),
            ("/ sampling.temperature)", "* sampling.temperature)"),
            ("one.unread = [*reversed(more), *one.unread]", "one.unread = [*more, *one.unread]"),
        ],
    ),
    "pysft/inference/session.py": (
        "generate chat tools",
        [
            ("del self.messages[:2 * dropped]", "del self.messages[:dropped]"),
            ("made >= calls", "made > calls"),
            ("self.closes = closes", "self.closes = opens"),
            ("del self.messages[-2:]", "del self.messages[-1:]"),
            ("if len(ids) + (room", "if len(ids) - (room"),
            ("if i < characters:", "if i <= characters:"),
        ],
    ),
    "pysft/inference/tools.py": (
        "tools",
        [
            ("if abs(found) > LARGEST or", "if"),
            ('text[:room + 1].rpartition(" ")[0]', "text[:room]"),
            ("ORDER BY bm25(docs, 4.0, 1.0), rowid LIMIT", "ORDER BY rowid LIMIT"),
            ("except Exception as error:  # a fault", "except ValueError as error:  # a fault"),
            ("if len(expression) > LONGEST:", "if len(expression) > 10**9:"),
            ("for c in text if c in known", "for c in text"),
        ],
    ),
    "pysft/disk.py": (
        "disk resume checkpoints",
        [
            (
                "            f.flush()\n            os.fsync(f.fileno())\n        os.replace",
                "            f.flush()\n        os.replace",
            ),
            ("        raise\n    sync_folder(path.parent)\n", "        raise\n"),
            (
                "        f.write(text)\n        f.flush()\n        os.fsync(f.fileno())\n",
                "        f.write(text)\n",
            ),
            ("fcntl.LOCK_EX", "fcntl.LOCK_SH"),
            ("            sync_folder(part.parent)\n", ""),
            ("        yield False\n        return\n", "        raise\n"),
            ("    if new:\n        sync_folder(path.parent)\n", ""),
            ("            temporary.unlink(missing_ok=True)\n", "            pass\n"),
            (
                'with open(temporary, "xb") as f:',
                'with open(path, "wb") as f, open(temporary, "xb"):',
            ),
        ],
    ),
    "pysft/run.py": (
        "run disk resume checkpoints",
        [
            ("        if not np.isfinite(arena.flat).all():\n", "        if False:\n"),
            ("KEPT = 2", "KEPT = 1"),
            (
                (
                    'parts = (("w", model.params), ("m", adam.m), ("v", adam.v))\n    for part,'
                    " arena in parts:\n        if not"
                ),
                (
                    'parts = (("w", model.params), ("m", adam.v), ("v", adam.m))\n    for part,'
                    " arena in parts:\n        if not"
                ),
            ),
            ("for path in reversed(_whole(folder)):", "for path in _whole(folder):"),
            ('if row["step"] <= step]', 'if row["step"] < step]'),
            ('json.loads(line)["step"] > step', 'json.loads(line)["step"] >= step'),
            ("            whole = False\n", ""),
            ('if skipped or not row.get("skipped"):', "if True:"),
            ('return int(metadata["steps"])', 'return int(metadata["steps"]) - 1'),
            ("if not cut_log(folder, adam.steps):", "if False:"),
            ("        if not _is_step(row):", "        if not isinstance(row, dict):"),
            (
                (
                    'any(p.name != disk.LOCK and not p.match("run.json.*.tmp") for p in'
                    " folder.iterdir()):"
                ),
                "False:",
            ),
            ("        if not np.isfinite(a).all():\n", "        if False:\n"),
            (
                (
                    'if metadata.get("weights_sha256", weights_sha256(model)) !='
                    " weights_sha256(model):"
                ),
                "if False:",
            ),
            (
                "if a.shape != tuple(shape) or a.dtype != np.float32:",
                "if a.size != np.prod(shape):",
            ),
            ('fill(arena, tensors, path, part + ".")', 'fill(arena, tensors, path, "w.")'),
        ],
    ),
    "pysft/recipe.py": (
        "run resume checkpoints cli",
        [
            ("        journal.flush()  # first:", "        #"),
            ("self.exit_code = 128 + signum", "self.exit_code = 1"),
            ("digest if name.startswith(SHIPPED) else None) != digest:", "digest) != digest:"),
            (
                (
                    "    if not cut_measurements(folder, adam.steps if adam.steps else -1) and"
                    " adam.steps:"
                ),
                "    if False:",
            ),
            ("for row in rows[-self.outliers.window:]:", "for row in []:"),
            ('if row["step"] > measured]', "]"),
            (
                "            if signals.caught is not None:  # while",
                "            if False:  # while",
            ),
            (
                (
                    '            interrupt(signals.caught, f"stopped, since what it says cannot be'
                    ' written any more ({error.strerror}),")'
                ),
                "            raise",
            ),
            ("raise BrokenPipeError(error.errno, error.strerror) from error", "raise"),
            ("if self.caught is not None and kind is None:", "if False:"),
            (
                "            with suppress(OSError):  # a full disk",
                "            if True:  # a full disk",
            ),
            (
                "            journal.flush()\n            if signals.caught",
                "            if signals.caught",
            ),
            (
                "        save_stage(tuned)\n    drop_checkpoints(tuned.folder)",
                "        drop_checkpoints(tuned.folder)\n        save_stage(tuned)",
            ),
            ("        if not whole_log(tuned.folder, plan.steps):", "        if False:"),
            (", journal.skipped):", "):"),
            ("        if locked:\n", "        if True:\n"),
            ("isa if isa.endswith(here) else", "here or"),
            ('        shutil.rmtree(folder / "sft", ignore_errors=True)\n', ""),
            ("        if not there:\n", "        if True:\n"),
            ("if found.verb != verb:", "if False:"),
            (
                "ops_name, settings, corpus, data, base = begun.ops,",
                "_, settings, corpus, data, base = begun.ops,",
            ),
        ],
    ),
    "pysft/lab/evaluate.py": (
        "evaluate",
        [
            ("float(nll.sum(dtype=np.float64))", "float(nll.mean(dtype=np.float64))"),
            ("if len(ids) <= model.config.context and", "if"),
        ],
    ),
}


def rows(words):
    """[(file, tests, old, new)] of the faults that hold one of the words (all, if there are
    none)."""
    return [
        (file, tests.split(), old, new)
        for file, (tests, planted) in FAULTS.items()
        for old, new in planted
        if not words or any(word in text for word in words for text in (file, old, new))
    ]


class Copy:
    """The project in a folder of its own, in which faults are planted."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in (
            "csrc",
            "pysft",
            "tests",
            "bench",
            "setup.py",
            "pyproject.toml",
            "README.md",
            "LICENSE",
            "Makefile",
        ):
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    folder / name,
                    ignore=shutil.ignore_patterns("*.so", "*.o", "__pycache__"),
                )
            else:
                shutil.copy(ROOT / name, folder / name)
        if (ROOT.parent / "shared").is_dir():
            os.symlink(ROOT.parent / "shared", folder.parent / "shared")
        with open(folder / "pysft/nn/_build.py", "a") as f:
            f.write("\nISAS = {'base': ['-march=native']}\n")  # one module instead of three
        self.build()

    def _run(self, command, **more):
        env = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **more,
        )

    def build(self):
        done = self._run(["setup.py", "-q", "build_ext", "--inplace"])
        if done.returncode:
            raise RuntimeError(
                f"not a fault but a text that does not compile:\n{done.stdout[-3000:]}"
            )
        self.stale = False  # whether the C part is built from other sources than stand here

    def failing(self, tests) -> str | None:
        """The first test that fails, "hangs", or None."""
        for name in tests:
            try:
                done = self._run(
                    ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/test_{name}.py"],
                    timeout=LONGEST,
                )
            except subprocess.TimeoutExpired:
                return f"test_{name} hangs"
            if done.returncode:
                found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
                return (
                    found[1].removeprefix("tests/")
                    if found
                    else f"test_{name} (exit status {done.returncode})"
                )
        return None

    def planted(self, file, tests, old, new) -> str | None:
        """Which test notices."""
        path = self.folder / file
        whole = path.read_text()
        if self.stale and not file.startswith("csrc"):
            self.build()
        path.write_text(whole.replace(old, new, 1))
        try:
            if file.startswith("csrc"):
                self.build()
            return self.failing(tests)
        finally:
            path.write_text(whole)
            self.stale = file.startswith("csrc")


def main(words):
    chosen, began = rows(words), time.monotonic()
    if not chosen:
        print(f"no fault holds any of these words: {' '.join(words)}")
        return 2
    for file, _, old, _ in chosen:
        if (ROOT / file).read_text().count(old) != 1:
            print(
                f"{file}: {old!r} stands there {(ROOT / file).read_text().count(old)} times,"
                " expected once"
            )
            return 2
    with tempfile.TemporaryDirectory() as name:
        homes = SimpleQueue()
        for i in range(2):
            (Path(name) / str(i)).mkdir()
            homes.put(Copy(Path(name) / str(i) / "pysft"))

        def at_home(do):
            home = homes.get()
            try:
                return do(home)
            finally:
                homes.put(home)

        with ThreadPoolExecutor(2) as pool:
            everything = sorted({test for _, tests, _, _ in chosen for test in tests})
            if failed := list(
                filter(
                    None,
                    pool.map(lambda test: at_home(lambda home: home.failing([test])), everything),
                )
            ):
                print(
                    f"control: without any fault {', '.join(failed)} fails; the score would mean"
                    " nothing"
                )
                return 2
        print(
            f"control: without a fault the tests pass ({time.monotonic() - began:.0f} s)",
            flush=True,
        )

        def one(row):
            found = at_home(lambda home: home.planted(*row))
            print(
                f"{'killed  ' if found else 'SURVIVED'} {row[0]}: {' '.join(row[2].split())}  -> "
                f" {' '.join(row[3].split()) or 'nothing'}" + (f"   [{found}]" if found else ""),
                flush=True,
            )
            return found

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(one, chosen))
    killed, hung = (
        sum(f is not None for f in found),
        sum(bool(f) and f.endswith("hangs") for f in found),
    )
    print(
        f"{killed} of {len(found)} planted faults killed ({killed / len(found):.1%}), {hung} of"
        f" them because a test did not end within {LONGEST} s; {time.monotonic() - began:.0f} s"
    )
    return int(killed < BAR * len(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
