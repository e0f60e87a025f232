"""The encoder and the towers once more, in plain numpy, from their formulas.

Slow and written row by row on purpose: it shares no code with the package but the
declarations and the text normalisation, which has golden tests of its own.
"""

import math
import struct

import numpy as np

from recsys.encoder.text import normalise

SEPARATOR = "\x1f"


def murmur3_32(data, seed=0):
    """MurmurHash3 x86 32 bit as a signed number (Appleby, public domain)."""
    mask = 0xFFFFFFFF

    def mixed(k):
        k = k * 0xCC9E2D51 & mask
        return ((k << 15 | k >> 17) & mask) * 0x1B873593 & mask

    h, whole = seed, len(data) // 4 * 4
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        h ^= mixed(k)
        h = ((h << 13 | h >> 19) & mask) * 5 + 0xE6546B64 & mask
    if data[whole:]:
        h ^= mixed(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor & mask
    h ^= h >> 16
    return h - 2**32 if h & 2**31 else h


def rows(item, value):
    """Table rows of one raw cell, without padding."""
    feature = item.feature
    if feature.type == "text":
        tokens = normalise(value or "", feature.ngrams, feature.max_words).split()
        return [2 + murmur3_32(t.encode()) % feature.buckets for t in tokens]
    keys = [value or ""] if feature.type == "category" else (value or "").split("\x1f")
    known = {key: i + 2 for i, key in enumerate(item.vocabulary)}
    return [known.get(key.strip(), 1) for key in keys if key.strip()]


def dense(fitted, row):
    """The dense vector of one row of raw cells."""
    by_type = {
        kind: [f for f in fitted.features if f.feature.type == kind]
        for kind in ("number", "time")
    }
    numbers = [_finite(row[f.feature.name]) for f in by_type["number"]]
    out = [
        0.0 if x is None else _standard(f, _log(x) if f.feature.scale == "log" else x)
        for f, x in zip(by_type["number"], numbers, strict=True)
    ]
    out += [float(x is None) for x in numbers]
    for f in by_type["time"]:
        out += _time(f, _finite(row[f.feature.name]), fitted.reference)
    for f in fitted.features:
        if f.feature.is_vector:
            out += list(_vector(row[f.feature.name], f.feature.dim))
    return np.array(out)


def _vector(value, dim):
    vector = np.zeros(dim) if value is None else np.array(value, float)
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def content(side, fitted, weights, row):
    """content(x) of one row, shape (d,)."""
    fields, bias = [], weights[f"{side}.dense.bias"].astype(np.float64)
    for item in fitted.features:
        if item.table_rows:
            found = rows(item, row[item.feature.name])
            table = weights[f"{side}.{item.feature.name}.table"]
            fields.append(table[found].sum(0) / math.sqrt(max(len(found), 1)))
    total = sum(fields) + bias
    if fitted.dense_width:
        whole = dense(fitted, row)
        fields.append(whole @ weights[f"{side}.dense.weight"] + bias)
        for f in (f for f in fitted.features if f.feature.fine_tune):
            at = f"{side}.{f.feature.name}.adapter"
            inner = _vector(row[f.feature.name], f.feature.dim) @ weights[f"{at}.w1"]
            fields[-1] += (
                np.maximum(inner + weights[f"{at}.b1"], 0) @ weights[f"{at}.w2"]
            )
        total = sum(fields)
    hidden = total @ weights[f"{side}.hidden.w1"] + weights[f"{side}.hidden.b1"]
    out = total + np.maximum(hidden, 0) @ weights[f"{side}.hidden.w2"]
    if f"{side}.cross.out" not in weights:
        return out
    first = value = np.concatenate(fields)
    for layer in range(8):
        at = f"{side}.cross.{layer}"
        if f"{at}.bias" not in weights:
            break
        if f"{at}.weight" in weights:
            matrix = weights[f"{at}.weight"].astype(np.float64)
        else:
            matrix = weights[f"{at}.down"].astype(np.float64) @ weights[f"{at}.up"]
        value = first * (value @ matrix + weights[f"{at}.bias"]) + value
    return out + value @ weights[f"{side}.cross.out"]


def item(fitted, weights, row, id_served, id_history, bias):
    """(vector, history) of one item."""
    x = content("item", fitted, weights, row) if fitted.features else 0.0
    project = weights["item.history.weight"] if fitted.features else 0.0
    history = id_history + (x @ project if fitted.features else 0.0)
    bias = weights["cold_bias"] if math.isnan(bias) else bias
    return np.append(unit(id_served + x), bias), history


def query(users, contexts, weights, history, history_weights, user, context):
    """Query vector of one request."""
    if len(history) and history_weights.sum() > 0:
        mean = history_weights @ history / history_weights.sum()
    else:
        mean = weights["default_query"]
    if users.features:
        mean = mean + content("user", users, weights, user)
    if contexts.features:
        mean = mean + content("context", contexts, weights, context)
    direction = unit(mean)
    last = 1.0
    if "lean.weight" in weights:
        last += direction @ weights["lean.weight"] + weights["lean.constant"]
    return np.append(direction, last)


def unit(vector):
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def random_weights(dim, items, users, contexts, seed=0, hidden=8, cross=0, rank=0):
    """Weights of every layer, scaled so that no part of a sum drowns another."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = {"cold_bias": np.float32(-1.5), "default_query": normal(dim)}
    for side, fitted in (("item", items), ("user", users), ("context", contexts)):
        if not fitted.features:
            continue
        for name, size in fitted.table_sizes.items():
            table = normal(size, dim)
            table[0] = 0
            weights[f"{side}.{name}.table"] = table
        if fitted.dense_width:
            weights[f"{side}.dense.weight"] = normal(fitted.dense_width, dim)
        weights[f"{side}.dense.bias"] = normal(dim)
        for f in (f for f in fitted.declared if f.fine_tune):
            at = f"{side}.{f.name}.adapter"
            weights[f"{at}.w1"] = normal(f.dim, hidden)
            weights[f"{at}.b1"] = normal(hidden)
            weights[f"{at}.w2"] = normal(hidden, dim)
        weights[f"{side}.hidden.w1"] = normal(dim, hidden)
        weights[f"{side}.hidden.b1"] = normal(hidden)
        weights[f"{side}.hidden.w2"] = normal(hidden, dim)
        width = dim * (len(fitted.table_sizes) + bool(fitted.dense_width))
        for layer in range(cross):
            at = f"{side}.cross.{layer}"
            weights[f"{at}.bias"] = normal(width)
            if rank:
                weights[f"{at}.down"] = normal(width, rank) / width
                weights[f"{at}.up"] = normal(rank, width)
            else:
                weights[f"{at}.weight"] = normal(width, width) / width
            weights[f"{side}.cross.out"] = normal(width, dim) / width
    if items.features:
        weights["item.history.weight"] = normal(dim, dim)
    return weights


def _finite(value):
    return value if value is not None and math.isfinite(value) else None


def _log(value):
    return math.copysign(math.log1p(abs(value)), value)


def _standard(item, value):
    return min(8.0, max(-8.0, (value - item.mean) / item.std))


def _time(item, seconds, reference):
    parts = item.feature.parts
    cycles = [part for part in parts if part != "age"]
    if seconds is None:
        return [0.0] * (("age" in parts) + 2 * len(cycles)) + [1.0]
    out = []
    if "age" in parts:
        days = max(0.0, (reference - seconds) / 86400)
        out.append(_standard(item, math.log1p(days)))
    turns = {
        "year": seconds / 86400 / 365.2425,
        "week": math.floor(seconds / 86400) % 7 / 7,
        "day": seconds % 86400 / 86400,
    }
    out += [math.sin(2 * math.pi * turns[part]) for part in cycles]
    out += [math.cos(2 * math.pi * turns[part]) for part in cycles]
    return [*out, 0.0]
