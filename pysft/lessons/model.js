"use strict";
/* A GPT forward and backward in plain JavaScript, in double precision: the steps of
 * pysft/nn/model.py under the same names. pysft/nn/reference.py derives them.
 *
 * A text is computed row by row. Each row of a block is computed by itself, except that attention
 * reads the keys and values of the rows before it, and these never change. So the rows that are
 * there are kept, and one more token costs one more row. The backward stops at the residual stream:
 * the page shows no gradients of weights, so none are computed. */

/* {name: weights (elements)} from base64 of float32. tensors: [[name, number of elements], ...] */
function readWeights(base64, tensors) {
  const text = atob(base64), bytes = new Uint8Array(text.length), weights = {};
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const all = new Float32Array(bytes.buffer);  // little-endian, as every browser's machine is
  let first = 0;
  for (const [name, size] of tensors) weights[name] = all.subarray(first, first += size);
  return weights;
}

/* ---- one row: x and y are vectors, w (K,C) has a row for each output ---- */

function matmul(x, w, b, residual) {
  const C = x.length, K = w.length / C, y = new Float64Array(K);
  for (let k = 0; k < K; k++) {
    let sum = b ? b[k] : 0;
    for (let c = 0; c < C; c++) sum += x[c] * w[k * C + c];
    y[k] = residual ? sum + residual[k] : sum;
  }
  return y;
}

function matmulBackward(dy, w) {  // dx = dy w
  const K = dy.length, C = w.length / K, dx = new Float64Array(C);
  for (let k = 0; k < K; k++) for (let c = 0; c < C; c++) dx[c] += dy[k] * w[k * C + c];
  return dx;
}

function layernorm(x, w, b) {
  const C = x.length, norm = new Float64Array(C), y = new Float64Array(C);
  let mean = 0, variance = 0;
  for (const v of x) mean += v / C;
  for (const v of x) variance += (v - mean) ** 2 / C;
  const rstd = 1 / Math.sqrt(variance + 1e-5);
  for (let c = 0; c < C; c++) {
    norm[c] = (x[c] - mean) * rstd;
    y[c] = norm[c] * w[c] + b[c];
  }
  return {y, norm, rstd};
}

/* Adds to dx. g = dy * w, and dx[c] += rstd (g[c] - mean(g) - norm[c] mean(g norm)). */
function layernormBackward(dx, dy, w, {norm, rstd}) {
  const C = dy.length;
  let meanG = 0, meanGNorm = 0;
  for (let c = 0; c < C; c++) {
    meanG += dy[c] * w[c] / C;
    meanGNorm += dy[c] * w[c] * norm[c] / C;
  }
  for (let c = 0; c < C; c++) dx[c] += rstd * (dy[c] * w[c] - meanG - norm[c] * meanGNorm);
}

function gelu(x) {  // y, and the derivative dydx
  const root = Math.sqrt(2 / Math.PI), y = new Float64Array(x.length), dydx = y.slice();
  for (let i = 0; i < x.length; i++) {
    const v = x[i], t = Math.tanh(root * (v + 0.044715 * v ** 3));
    y[i] = 0.5 * v * (1 + t);
    dydx[i] = 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * root * (1 + 3 * 0.044715 * v * v);
  }
  return {y, dydx};
}

/* ---- attention: the one step that reads other rows ---- */

/* What row t of `qkvs` attends to. qkvs: the queries, keys and values (3C) of rows 0..t. P[h][j] is
 * the weight that head h gives to row j. */
function attention(qkvs, t, H) {
  const C = qkvs[t].length / 3, D = C / H, y = new Float64Array(C), P = [];
  for (let h = 0; h < H; h++) {
    const p = new Float64Array(t + 1);
    let top = -Infinity, total = 0;
    for (let j = 0; j <= t; j++) {
      let score = 0;
      for (let d = h * D; d < (h + 1) * D; d++) score += qkvs[t][d] * qkvs[j][C + d];
      p[j] = score / Math.sqrt(D);
      top = Math.max(top, p[j]);
    }
    for (let j = 0; j <= t; j++) total += p[j] = Math.exp(p[j] - top);
    for (let j = 0; j <= t; j++) {
      p[j] /= total;
      for (let d = h * D; d < (h + 1) * D; d++) y[d] += p[j] * qkvs[j][2 * C + d];
    }
    P.push(p);
  }
  return {y, P};
}

/* dqkvs of rows 0..t are added to: row t gets the gradient of its query, and every row j <= t those
 * of its key and its value. */
function attentionBackward(dqkvs, dy, qkvs, t, P) {
  const C = dy.length, H = P.length, D = C / H, scale = 1 / Math.sqrt(D), q = qkvs[t];
  for (let h = 0; h < H; h++) {
    const p = P[h], dP = new Float64Array(t + 1);
    let delta = 0;  // sum_j P[j] dP[j]
    for (let j = 0; j <= t; j++) {
      for (let d = h * D; d < (h + 1) * D; d++) dP[j] += dy[d] * qkvs[j][2 * C + d];
      delta += p[j] * dP[j];
    }
    for (let j = 0; j <= t; j++) {
      const dscore = p[j] * (dP[j] - delta);
      for (let d = h * D; d < (h + 1) * D; d++) {
        dqkvs[t][d] += dscore * qkvs[j][C + d] * scale;
        dqkvs[j][C + d] += dscore * q[d] * scale;
        dqkvs[j][2 * C + d] += p[j] * dy[d];
      }
    }
  }
}

/* ---- the whole model ---- */

/* Compute one more row, which reads `token`, and append it to rows. model: {sizes, head, w}, with
 * w = readWeights(...). */
function forwardRow(model, rows, token) {
  const {C, H, L} = model.sizes, w = model.w, t = rows.length;
  let x = new Float64Array(C);
  for (let c = 0; c < C; c++) x[c] = w.wte[token * C + c] + w.wpe[t * C + c];
  const row = {token, blocks: []};
  rows.push(row);
  for (let i = 0; i < L; i++) {
    const p = name => w[`h${i}.${name}`], a = {};
    row.blocks.push(a);
    a.ln1 = layernorm(x, p("ln1.w"), p("ln1.b"));
    a.qkv = matmul(a.ln1.y, p("qkv.w"), p("qkv.b"));
    a.att = attention(rows.map(r => r.blocks[i].qkv), t, H);
    const mid = matmul(a.att.y, p("attproj.w"), p("attproj.b"), x);
    a.ln2 = layernorm(mid, p("ln2.w"), p("ln2.b"));
    a.gelu = gelu(matmul(a.ln2.y, p("fc.w"), p("fc.b")));
    x = matmul(a.gelu.y, p("fcproj.w"), p("fcproj.b"), mid);
  }
  row.lnf = layernorm(x, w["lnf.w"], w["lnf.b"]);
  row.logits = matmul(row.lnf.y, w[model.head]);
  const top = Math.max(...row.logits);
  row.lse = top + Math.log(row.logits.reduce((sum, v) => sum + Math.exp(v - top), 0));
  return row;
}

/* The loss of a row in nats: the negative log-likelihood of its label. */
const nllOf = (row, label) => row.lse - row.logits[label];

/* The length of the gradient of the residual stream: norms[i][n] in row n, at the input of block i,
 * or of the last layer norm for i = L. labels: that of each row, null where it is not graded. dnll:
 * the derivative of the loss by the nll of each row. */
function gradientNorms(model, rows, labels, dnll) {
  const {C, L} = model.sizes, w = model.w, norms = [];
  const length = x => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
  const dx = rows.map((row, n) => {
    const d = new Float64Array(C);
    if (labels[n] === null || !dnll[n]) return d;
    const dlogits = row.logits.map(v => dnll[n] * Math.exp(v - row.lse));  // dnll softmax
    dlogits[labels[n]] -= dnll[n];
    layernormBackward(d, matmulBackward(dlogits, w[model.head]), w["lnf.w"], row.lnf);
    return d;
  });
  norms[L] = dx.map(length);
  for (let i = L - 1; i >= 0; i--) {
    const p = name => w[`h${i}.${name}`], qkvs = rows.map(row => row.blocks[i].qkv);
    const dqkvs = qkvs.map(qkv => new Float64Array(qkv.length));
    rows.forEach((row, n) => {
      if (!norms[i + 1][n]) return;  // nothing flows through this row yet
      const a = row.blocks[i], dwide = matmulBackward(dx[n], p("fcproj.w"));
      for (let k = 0; k < dwide.length; k++) dwide[k] *= a.gelu.dydx[k];
      layernormBackward(dx[n], matmulBackward(dwide, p("fc.w")), p("ln2.w"), a.ln2);
      const datt = matmulBackward(dx[n], p("attproj.w"));
      attentionBackward(dqkvs, datt, qkvs, n, a.att.P);
    });
    rows.forEach((row, n) => {
      const dln1 = matmulBackward(dqkvs[n], p("qkv.w"));
      layernormBackward(dx[n], dln1, p("ln1.w"), row.blocks[i].ln1);
    });
    norms[i] = dx.map(length);
  }
  return norms;
}
