"""Random networks for pruning: a program of small instructions, which hypothesis can shrink, builds a graph."""

import math

import numpy as np
import torch

from graphopt.analysis import propagate
from graphopt.ir import DType, Graph, Node, TensorType

SIZE = 4  # height and width of images
CHANNELS = (4, 6, 8, 12)


class Builder:
    """Keeps the images [2, C, 4, 4] and sequences [2, L, C] made so far; instructions take and add values."""

    def __init__(self, seed: int, batch: int | str = 2) -> None:
        self.graph = Graph()
        self.generator = torch.Generator().manual_seed(seed)
        x = self.graph.add_input("x", TensorType.make(DType.FLOAT32, (batch, 4, SIZE, SIZE)))
        self.images = [x]
        self.sequences = []
        self.conv([0, 2, 0])

    def weight(self, *shape: int, fan: int = 0):
        data = torch.randn(shape, generator=self.generator)
        return self.graph.add_constant(data / math.sqrt(fan) if fan else 0.5 + data.abs() / 2, f"w{len(self.graph)}")

    def ints(self, *numbers: int):
        return self.graph.add_constant(torch.tensor(numbers))

    def add(self, op: str, *inputs, outputs: int = 1, **attributes):
        node = self.graph.append(Node(op, inputs, attributes, outputs))
        propagate(self.graph)
        return node.output if outputs == 1 else list(node.outputs)

    def image(self, number: int):
        return self.images[-1 - number % min(len(self.images), 4)]

    def sequence(self, number: int):
        if not self.sequences:
            self.to_sequence([0, 0, 0])
        return self.sequences[-1 - number % min(len(self.sequences), 3)]

    def channels(self, value) -> int:
        return value.shape[1 if value in self.images else -1]

    # -- images

    def conv(self, p):
        x = self.image(p[0])
        c, o = self.channels(x), CHANNELS[p[1] % 4]
        k = 1 + 2 * (p[2] % 2)
        bias = self.weight(o, fan=1) if p[2] % 3 else None
        self.images.append(
            self.add("Conv", x, self.weight(o, c, k, k, fan=c * k * k), bias, kernel_shape=(k, k), pads=(k // 2,) * 4)
        )

    def grouped(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        group = next(g for g in (4, 3, 2, 1)[p[1] % 2 :] if c % g == 0)
        o = group * (1 + p[2] % 3)
        self.images.append(self.add("Conv", x, self.weight(o, c // group, 1, 1, fan=c // group), group=group))

    def depthwise(self, p):
        x = self.image(p[0])
        c, times = self.channels(x), 1 + p[1] % 2
        w = self.weight(c * times, 1, 3, 3, fan=9)
        self.images.append(self.add("Conv", x, w, self.weight(c * times), group=c, pads=(1,) * 4))

    def transposed(self, p):
        x = self.image(p[0])
        c, o = self.channels(x), CHANNELS[p[1] % 4]
        group = 2 if p[2] % 2 and c % 2 == 0 else 1
        self.images.append(self.add("ConvTranspose", x, self.weight(c, o // group, 1, 1, fan=c), group=group))

    def batch_norm(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        self.images.append(self.add("BatchNormalization", x, *(self.weight(c) for _ in range(4))))

    def group_norm(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        group = next(g for g in (3, 2, 1)[p[1] % 2 :] if c % g == 0)
        self.images.append(self.add("GroupNormalization", x, self.weight(c), self.weight(c), num_groups=group))

    def instance_norm(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        self.images.append(self.add("InstanceNormalization", x, self.weight(c), self.weight(c)))

    def activation(self, p):
        x = self.image(p[0])
        self.images.append(self.add(("Relu", "Sigmoid", "HardSwish", "LeakyRelu")[p[1] % 4], x))

    def prelu(self, p):
        x = self.image(p[0])
        self.images.append(self.add("PRelu", x, self.weight(self.channels(x), 1, 1)))

    def pool(self, p):
        op = ("MaxPool", "AveragePool")[p[1] % 2]
        self.images.append(self.add(op, self.image(p[0]), kernel_shape=(3, 3), pads=(1,) * 4))

    def merge(self, p):
        x, y = self.image(p[0]), self.image(p[1])
        if self.channels(x) != self.channels(y):
            y = x  # the same value twice
        self.images.append(self.add(("Add", "Mul", "Sub")[p[2] % 3], x, y))

    def shift(self, p):
        x = self.image(p[0])
        shape = ((self.channels(x), 1, 1), (1, self.channels(x), 1, 1), (1,))[p[1] % 3]
        self.images.append(self.add(("Add", "Mul")[p[2] % 2], self.weight(*shape), x))

    def gate(self, p):
        x = self.image(p[0])
        c, o = self.channels(x), CHANNELS[p[1] % 2]
        pooled = self.add("GlobalAveragePool", x)
        hidden = self.add("Relu", self.add("Conv", pooled, self.weight(o, c, 1, 1, fan=c)))
        scale = self.add("Sigmoid", self.add("Conv", hidden, self.weight(c, o, 1, 1, fan=o), self.weight(c, fan=1)))
        self.images.append(self.add("Mul", x, scale))

    def concat(self, p):
        parts = [self.image(n) for n in p[: 2 + p[2] % 2]]
        if sum(map(self.channels, parts)) <= 24:
            self.images.append(self.add("Concat", *parts, axis=1))

    def split(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        first = (c // 2, c // 3, 1)[p[1] % 3] or 1
        if c - first > 1:
            self.images += self.add("Split", x, self.ints(first, c - first), outputs=2, axis=1)

    def slice(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        start, step = p[1] % 2, 1 + p[2] % 2
        if (c - start + step - 1) // step > 1:
            self.images.append(self.add("Slice", x, *(self.ints(n) for n in (start, c, 1, step))))

    def gather(self, p):
        x = self.image(p[0])
        order = np.random.default_rng(p[1]).permutation(self.channels(x))
        self.images.append(self.add("Gather", x, self.ints(*order.tolist()), axis=1))

    def pad(self, p):
        x = self.image(p[0])
        if self.channels(x) <= 12:
            self.images.append(self.add("Pad", x, self.ints(0, p[1] % 2, 0, 0, 0, p[2] % 2, 0, 0)))

    def shuffle(self, p):
        x = self.image(p[0])
        c = self.channels(x)
        group = next(g for g in (3, 2, 1)[p[1] % 2 :] if c % g == 0)
        y = self.add("Reshape", x, self.ints(0, group, c // group, SIZE, SIZE))
        y = self.add("Transpose", y, perm=(0, 2, 1, 3, 4))
        self.images.append(self.add("Reshape", y, self.ints(0, c, SIZE, SIZE)))

    def resample(self, p):
        x = self.image(p[0])
        if self.channels(x) % 4 == 0 and p[1] % 2:
            y = self.add("DepthToSpace", x, blocksize=2)
            self.images.append(self.add("SpaceToDepth", y, blocksize=2))
            return
        y = self.add("Resize", x, None, self.graph.add_constant(torch.tensor([1.0, 1.0, 2.0, 2.0])))
        self.images.append(self.add("MaxPool", y, kernel_shape=(2, 2), strides=(2, 2)))

    # -- sequences

    def to_sequence(self, p):
        x = self.image(p[0])
        y = self.add("Reshape", x, self.ints(0, self.channels(x), SIZE * SIZE))
        self.sequences.append(self.add("Transpose", y, perm=(0, 2, 1)))

    def to_image(self, p):
        x = self.sequence(p[0])
        y = self.add("Transpose", x, perm=(0, 2, 1))
        self.images.append(self.add("Reshape", y, self.ints(0, x.shape[-1], SIZE, SIZE)))

    def linear_of(self, x, width: int, bias: bool = True):
        y = self.add("MatMul", x, self.weight(x.shape[-1], width, fan=x.shape[-1]))
        return self.add("Add", y, self.weight(width, fan=1)) if bias else y

    def linear(self, p):
        self.sequences.append(self.linear_of(self.sequence(p[0]), CHANNELS[p[1] % 4], bool(p[2] % 2)))

    def layer_norm(self, p):
        x = self.sequence(p[0])
        c = x.shape[-1]
        if p[1] % 2:
            self.sequences.append(self.add("LayerNormalization", x, self.weight(c), self.weight(c), axis=-1))
        else:
            self.sequences.append(self.add("RMSNormalization", x, self.weight(c), axis=-1))

    def merge_sequences(self, p):
        x, y = self.sequence(p[0]), self.sequence(p[1])
        if x.shape[-1] == y.shape[-1]:
            self.sequences.append(self.add("Add", x, y))
        elif x.shape[-1] + y.shape[-1] <= 24:
            self.sequences.append(self.add("Concat", x, y, axis=-1))

    def attention(self, p):
        x = self.sequence(p[0])
        c, heads = x.shape[-1], 2 + p[1] % 2
        width = heads * (2 + p[2] % 3)
        if p[2] % 2:
            q, k, v = (self.linear_of(x, width) for _ in range(3))
        else:
            q, k, v = self.add("Split", self.linear_of(x, 3 * width), outputs=3, axis=-1, num_outputs=3)
        q, k, v = (
            self.add("Transpose", self.add("Reshape", y, self.ints(0, SIZE * SIZE, heads, -1)), perm=(0, 2, 1, 3))
            for y in (q, k, v)
        )
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=(0, 1, 3, 2)))
        y = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        y = self.add("Reshape", self.add("Transpose", y, perm=(0, 2, 1, 3)), self.ints(0, SIZE * SIZE, -1))
        self.sequences.append(self.add("Add", x, self.linear_of(y, c)))

    def feed_forward(self, p):
        x = self.sequence(p[0])
        hidden = self.add("Gelu", self.linear_of(x, CHANNELS[p[1] % 4]))
        self.sequences.append(self.add("Add", self.linear_of(hidden, x.shape[-1]), x))

    # -- the end

    def finish(self, extra: int) -> Graph:
        """Adds heads; with `extra` an intermediate value is returned as well."""
        heads = []
        if self.sequences:
            mean = self.add("ReduceMean", self.sequence(0), self.ints(1), keepdims=0)
            heads.append(self.add("Gemm", mean, self.weight(3, mean.shape[-1], fan=mean.shape[-1]), transB=1))
        flat = self.add("Flatten", self.image(0))
        heads.append(self.linear_of(flat, 3))
        for number, head in enumerate(heads):
            self.graph.add_output(head, f"y{number}")
        if extra % 4 == 3:
            self.graph.add_output(self.image(extra), "extra")
        return self.graph


INSTRUCTIONS = [
    "conv", "conv", "conv", "grouped", "depthwise", "transposed", "batch_norm", "group_norm", "instance_norm",
    "activation", "prelu", "pool", "merge", "merge", "shift", "gate", "concat", "concat", "split", "slice", "gather",
    "pad", "shuffle", "resample", "to_sequence", "to_image", "linear", "linear", "layer_norm", "merge_sequences",
    "attention", "feed_forward",
]  # fmt: skip


def build(program: list[tuple[str, int, int, int]], seed: int, extra: int = 0, batch: int | str = 2) -> Graph:
    """The network that a program describes."""
    builder = Builder(seed, batch)
    for name, *parameters in program:
        getattr(builder, name)(parameters)
    return builder.finish(extra)
