"""Encoders of histories that mind order, times and kinds, as ONNX nodes, no loops.

Histories come newest first; i and j count from 0, the newest. Names and shapes of the
weights, for histories of up to N items, H heads, C kinds besides the unknown one:

    query.pool.position  (N, P)        P = 1, or 2: the long and the short run
    query.pool.time      (TIMES, P)
    query.pool.kind      (C + 1, P)
    query.gate.weight    (2 d, d)      only of "gated", as query.gate.bias (d,) and
    query.gate.recency   (TIMES, d)
    query.recency.most   ()            longer pauses count as unknown
    query.kind           (C + 1, d)    only with blocks, as all that follow
    query.pause          (TIMES, d)
    query.<n>.norm.scale, .bias                      (d,), of block n = 0, 1, ...
    query.<n>.query, .key, .value, .out              (d, d)
    query.<n>.position   (N, H)        by the distance of two items
    query.<n>.time       (TIMES, H)    by the time between them
    query.<n>.mlp.scale, .bias, .w1, .b1, .w2, .b2   only of the transformer
    query.out.scale, .bias, .weight                  (d,), (d,), (d, d)

A pool is a weighted mean of the rows h_j:

    m = sum_j p_j h_j,   p = softmax_j(log w_j + position[j] + time(gap_j) + kind[k_j])

"decay" has one; "gated" two, g m_0 + (1 - g) m_1 with g = sigmoid of a linear map of
both and of the time since the newest event. "attention" and "transformer" add to the
first pool what causal blocks make of x_j = h_j + kind[k_j] + pause(time to the next
event): pre-normalised attention with a bias for distance and time, then a hidden layer.

A table over times holds a value for an unknown time and one for each power of two of
1 + seconds; between them it is linear, so that rounding never jumps.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from recsys.encoder.net import Net

POWERS = 28
"""The last power of two of a table over times: eight years."""
TIMES = POWERS + 2
EPS = 1e-5
HIDDEN_LOGIT = -1e9


class Sequence:
    """Appends the encoder of a sequence to a query tower.

    Args:
        net: The tower under construction.
        history: Name of the history rows, (B, L, d).
        weights: Name of their weights, (B, L).
    """

    def __init__(self, net: Net, history: str, weights: str) -> None:
        self.net = net
        self.graph = net.graph
        self.history = history
        self.weights = weights
        self.gaps = self.graph.input("gaps", TensorProto.FLOAT, ["B", "L"])
        self.recency = self.graph.input("recency", TensorProto.FLOAT, ["B"])
        self.kinds = self.graph.input("kinds", TensorProto.INT64, ["B", "L"])

    def query(self) -> str:
        """Return the name of the queries before features, (B, d)."""
        graph, net = self.graph, self.net
        most = net.weight("query.recency.most", ())
        zero = graph.constant("/zero_f", np.array(0.0, np.float32))
        unknown = graph.constant("/minus_one_f", np.array(-1.0, np.float32))
        late = graph.add("Greater", [self.recency, most], "sequence/late")
        recency = [late, unknown, self.recency]
        self.recency = graph.add("Where", recency, "sequence/recency")
        shape = graph.add("Shape", [self.weights], "sequence/shape")
        last = graph.constant("/axis_1", np.array([1]))
        self.length = graph.add("Gather", [shape, last], "sequence/length")
        tiny = graph.constant("/tiny_f", np.array(1e-30, np.float32))
        some = graph.add("Add", [self.weights, tiny], "sequence/weight")
        self.log_weight = graph.add("Log", [some], "sequence/log_weight")
        padding = graph.add("Equal", [self.weights, zero], "sequence/padding")
        hidden = graph.constant("/hidden_f", np.array(HIDDEN_LOGIT, np.float32))
        self.mask = graph.add(
            "Where", [padding, hidden, zero], "sequence/mask"
        )  # (B, L)
        pools = self._pools()
        if "query.gate.weight" in net.weights:
            return self._gated(pools)
        if "query.out.weight" not in net.weights:
            return pools[0]
        return graph.add("Add", [pools[0], self._blocks()], "sequence/query")

    # times ---------------------------------------------------------------------------

    def _table(self, name: str, seconds: str, width: int | None, at: str) -> str:
        """Look seconds up in a table over times; adds an axis of its width."""
        graph = self.graph
        values = self.net.weights[name]
        self.net.weight(name, (TIMES, width))  # checks it
        zero = graph.constant("/zero_f", np.array(0.0, np.float32))
        one = graph.constant("/one_f", np.array(1.0, np.float32))
        scale = graph.constant("/per_octave", np.array(1 / np.log(2), np.float32))
        # The last step is not reached, so that there is always a next one.
        top = graph.constant("/last_octave", np.array(POWERS - 1e-3, np.float32))
        known = graph.add("Max", [seconds, zero], f"{at}/known")
        shifted = graph.add("Add", [known, one], f"{at}/shifted")
        logs = graph.add("Log", [shifted], f"{at}/log")
        octaves = graph.add("Mul", [logs, scale], f"{at}/octaves")
        place = graph.add("Min", [octaves, top], f"{at}/place")
        floor = graph.add("Floor", [place], f"{at}/floor")
        rest = graph.add("Sub", [place, floor], f"{at}/rest")
        index = graph.add("Cast", [floor], f"{at}/index", to=TensorProto.INT64)
        steps = np.diff(values[1:], axis=0)
        low = graph.constant(f"{name}.low", values[1:-1])
        step = graph.constant(f"{name}.step", steps)
        base = graph.add("Gather", [low, index], f"{at}/base")
        slope = graph.add("Gather", [step, index], f"{at}/slope")
        axis = graph.constant("/axis_last", np.array([-1]))
        part = graph.add("Unsqueeze", [rest, axis], f"{at}/part")
        grown = graph.add("Mul", [slope, part], f"{at}/grown")
        found = graph.add("Add", [base, grown], f"{at}/found")
        unknown = graph.add("Less", [seconds, zero], f"{at}/unknown")
        wide = graph.add("Unsqueeze", [unknown, axis], f"{at}/wide")
        missing = graph.constant(f"{name}.unknown", values[0])
        return graph.add("Where", [wide, missing, found], f"{at}/value")

    # pools ---------------------------------------------------------------------------

    def _pools(self) -> list[str]:
        graph, net = self.graph, self.net
        count = int(net.weights["query.pool.position"].shape[1])
        position = net.weight("query.pool.position", (None, count))
        zero = graph.constant("/zero_i", np.array([0]))
        near = graph.add("Slice", [position, zero, self.length], "pool/position")
        time = self._table("query.pool.time", self.gaps, count, "pool/time")
        kind = net.weight("query.pool.kind", (None, count))
        of_kind = graph.add("Gather", [kind, self.kinds], "pool/kind")  # (B, L, P)
        axis = graph.constant("/axis_last", np.array([-1]))
        base = graph.add("Add", [self.log_weight, self.mask], "pool/base")
        base = graph.add("Unsqueeze", [base, axis], "pool/column")
        logits = graph.add("Sum", [base, near, time, of_kind], "pool/logits")
        share = graph.add("Softmax", [logits], "pool/share", axis=1)
        turned = graph.add("Transpose", [share], "pool/turned", perm=[0, 2, 1])
        means = graph.add("MatMul", [turned, self.history], "pool/means")  # (B, P, d)
        return [
            graph.add(
                "Gather",
                [means, graph.constant(f"/number_{n}", np.array(n))],
                f"pool/{n}",
                axis=1,
            )
            for n in range(count)
        ]

    def _gated(self, pools: list[str]) -> str:
        graph, net, dim = self.graph, self.net, self.net.dim
        both = graph.add("Concat", pools, "gate/both", axis=1)
        weight = net.weight("query.gate.weight", (2 * dim, dim))
        bias = net.weight("query.gate.bias", (dim,))
        linear = graph.add("Gemm", [both, weight, bias], "gate/linear")
        pause = self._table("query.gate.recency", self.recency, dim, "gate/recency")
        logit = graph.add("Add", [linear, pause], "gate/logit")
        gate = graph.add("Sigmoid", [logit], "gate/gate")
        apart = graph.add("Sub", pools, "gate/apart")
        part = graph.add("Mul", [gate, apart], "gate/part")
        return graph.add("Add", [pools[1], part], "gate/query")

    # blocks --------------------------------------------------------------------------

    def _blocks(self) -> str:
        graph, net, dim = self.graph, self.net, self.net.dim
        kind = net.weight("query.kind", (None, dim))
        of_kind = graph.add("Gather", [kind, self.kinds], "sequence/kind")
        pause = self._table("query.pause", self._pauses(), dim, "sequence/pause")
        x = graph.add("Sum", [self.history, of_kind, pause], "sequence/input")
        apart, visible = self._pairs()
        count = 0
        while f"query.{count}.query" in net.weights:
            count += 1
        for number in range(count):
            x = self._block(number, x, apart, visible, last=number == count - 1)
        x = self._norm("query.out", x, "sequence/out")
        first = graph.constant("/number_0", np.array(0))
        newest = graph.add("Gather", [x, first], "sequence/newest", axis=1)
        out = net.weight("query.out.weight", (dim, dim))
        return graph.add("MatMul", [newest, out], "sequence/change")

    def _pauses(self) -> str:
        """Seconds from each event to the next one; to now for the newest, (B, L)."""
        graph = self.graph
        zero = graph.constant("/zero_i", np.array([0]))
        one = graph.constant("/one_i", np.array([1]))
        end = graph.constant("/end_i", np.array([np.iinfo(np.int64).max]))
        last = graph.constant("/last_i", np.array([-1]))
        axis = graph.constant("/axis_1", np.array([1]))
        older = graph.add("Slice", [self.gaps, one, end, axis], "pause/older")
        newer = graph.add("Slice", [self.gaps, zero, last, axis], "pause/newer")
        pause = graph.add("Sub", [older, newer], "pause/between")
        nought = graph.constant("/zero_f", np.array(0.0, np.float32))
        most = self.net.weight("query.recency.most", ())
        late = graph.add("Greater", [pause, most], "pause/late")
        absent = graph.add("Less", [older, nought], "pause/absent")
        unknown = graph.add("Or", [late, absent], "pause/unknown")
        minus = graph.constant("/minus_one_f", np.array(-1.0, np.float32))
        known = graph.add("Where", [unknown, minus, pause], "pause/known")
        now = graph.add("Unsqueeze", [self.recency, axis], "pause/now")
        return graph.add("Concat", [now, known], "pause/all", axis=1)

    def _pairs(self) -> tuple[str, str]:
        """Return seconds between items, (B, L, L), and what sees what, (B, 1, L, L)."""
        graph = self.graph
        middle = graph.constant("/axis_1", np.array([1]))
        last = graph.constant("/axis_2", np.array([2]))
        to = graph.add("Unsqueeze", [self.gaps, middle], "pair/to")  # (B, 1, L)
        own = graph.add("Unsqueeze", [self.gaps, last], "pair/own")  # (B, L, 1)
        apart = graph.add("Sub", [to, own], "pair/apart")
        nought = graph.constant("/zero_f", np.array(0.0, np.float32))
        unknown = graph.add("Less", [to, nought], "pair/unknown")
        minus = graph.constant("/minus_one_f", np.array(-1.0, np.float32))
        # What is newer is hidden; where it is looked up all the same, it counts as 0.
        seconds = graph.add("Max", [apart, nought], "pair/positive")
        known = graph.add("Where", [unknown, minus, seconds], "pair/seconds")
        length = int(self.net.weights["query.pool.position"].shape[0])
        hidden = np.tril(np.full((length, length), HIDDEN_LOGIT, np.float32), -1)
        start = graph.constant("/start_2", np.array([0, 0]))
        end = graph.add("Concat", [self.length] * 2, "pair/end", axis=0)
        every = graph.constant("/later", hidden)
        later = graph.add("Slice", [every, start, end], "pair/later")
        row = graph.add("Unsqueeze", [self.mask, middle], "pair/mask")
        mask = graph.add("Add", [row, later], "pair/hidden")  # (B, L, L)
        return known, graph.add("Unsqueeze", [mask, middle], "pair/visible")

    def _norm(self, name: str, x: str, at: str) -> str:
        dim = self.net.dim
        scale = self.net.weight(f"{name}.scale", (dim,))
        bias = self.net.weight(f"{name}.bias", (dim,))
        return self.graph.add(
            "LayerNormalization", [x, scale, bias], f"{at}/norm", axis=-1, epsilon=EPS
        )

    def _block(self, number: int, x: str, apart: str, visible: str, last: bool) -> str:
        """Append a block; the last one computes the newest place alone."""
        graph, net, dim = self.graph, self.net, self.net.dim
        name, at = f"query.{number}", f"block_{number}"
        heads = int(net.weights[f"{name}.position"].shape[1])
        normal = asking = self._norm(f"{name}.norm", x, at)
        rows = self.length
        if last:
            rows = graph.constant("/one_i", np.array([1]))
            asking = self._first(normal, 1, f"{at}/asking")
            x = self._first(x, 1, f"{at}/newest")
            apart = self._first(apart, 1, f"{at}/apart")
            visible = self._first(visible, 2, f"{at}/visible")
        query = self._heads(f"{name}.query", asking, heads, f"{at}/query")
        key = self._heads(f"{name}.key", normal, heads, f"{at}/key", [0, 2, 3, 1])
        value = self._heads(f"{name}.value", normal, heads, f"{at}/value")
        dot = graph.add("MatMul", [query, key], f"{at}/dot")  # (B, H, rows, L)
        scale = np.array((dim / heads) ** -0.5, np.float32)
        dot = graph.add(
            "Mul", [dot, graph.constant(f"/scale_{heads}", scale)], f"{at}/scaled"
        )
        place = self._distances(f"{name}.position", rows, f"{at}/position")
        time = self._table(f"{name}.time", apart, heads, f"{at}/time")
        time = graph.add("Transpose", [time], f"{at}/turned", perm=[0, 3, 1, 2])
        logit = graph.add("Sum", [dot, place, time, visible], f"{at}/logit")
        share = graph.add("Softmax", [logit], f"{at}/share", axis=-1)
        mixed = graph.add("MatMul", [share, value], f"{at}/mixed")
        mixed = graph.add("Transpose", [mixed], f"{at}/places", perm=[0, 2, 1, 3])
        flat = graph.constant("/flat", np.array([0, 0, dim]))
        mixed = graph.add("Reshape", [mixed, flat], f"{at}/joined")
        weight = net.weight(f"{name}.out", (dim, dim))
        out = graph.add("MatMul", [mixed, weight], f"{at}/out")
        x = graph.add("Add", [x, out], f"{at}/attended")
        return self._mlp(f"{name}.mlp", x, at) if f"{name}.mlp.w1" in net.weights else x

    def _first(self, x: str, axis: int, at: str) -> str:
        """Keep the first place along an axis."""
        graph = self.graph
        start = graph.constant("/zero_i", np.array([0]))
        end = graph.constant("/one_i", np.array([1]))
        along = graph.constant(f"/axis_{axis}", np.array([axis]))
        return graph.add("Slice", [x, start, end, along], at)

    def _heads(
        self, name: str, x: str, heads: int, at: str, order: list[int] | None = None
    ) -> str:
        """Project and cut into heads, (B, H, L, d / H) or in another order."""
        graph, dim = self.graph, self.net.dim
        weight = self.net.weight(name, (dim, dim))
        projected = graph.add("MatMul", [x, weight], f"{at}/projected")
        cut = graph.constant(f"/cut_{heads}", np.array([0, 0, heads, dim // heads]))
        parts = graph.add("Reshape", [projected, cut], f"{at}/parts")
        return graph.add("Transpose", [parts], at, perm=order or [0, 2, 1, 3])

    def _distances(self, name: str, rows: str, at: str) -> str:
        """Return the biases of pairs by their distance, (H, rows, L)."""
        graph = self.graph
        table = self.net.weights[name]
        self.net.weight(name, (None, None))  # checks it
        place = np.arange(len(table))
        pairs = table[np.maximum(place - place[:, None], 0)].transpose(2, 0, 1)
        start = graph.constant("/start_2", np.array([0, 0]))
        end = graph.add("Concat", [rows, self.length], f"{at}/end", axis=0)
        axes = graph.constant("/axes_12", np.array([1, 2]))
        every = graph.constant(f"{name}.pairs", np.ascontiguousarray(pairs))
        return graph.add("Slice", [every, start, end, axes], f"{at}/cut")

    def _mlp(self, name: str, x: str, at: str) -> str:
        """Append x + relu(norm(x) w1 + b1) w2 + b2."""
        graph, net, dim = self.graph, self.net, self.net.dim
        width = int(net.weights[f"{name}.w1"].shape[1])
        normal = self._norm(name, x, f"{at}/mlp")
        w1 = net.weight(f"{name}.w1", (dim, width))
        wide = graph.add("MatMul", [normal, w1], f"{at}/mlp/wide")
        b1 = net.weight(f"{name}.b1", (width,))
        shifted = graph.add("Add", [wide, b1], f"{at}/mlp/shifted")
        active = graph.add("Relu", [shifted], f"{at}/mlp/active")
        w2 = net.weight(f"{name}.w2", (width, dim))
        narrow = graph.add("MatMul", [active, w2], f"{at}/mlp/narrow")
        b2 = net.weight(f"{name}.b2", (dim,))
        return graph.add("Sum", [x, narrow, b2], f"{at}/mlp/out")
