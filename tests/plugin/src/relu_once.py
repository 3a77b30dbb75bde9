from dataclasses import dataclass

from graphopt import RewritePass, Rule, register


class ReluTwice(Rule):
    def pattern(self, op, x):
        return op.Relu(op.Relu(x))

    def rewrite(self, op, m):
        return op.Relu(m["x"])


@register("relu-once")
@dataclass(frozen=True)
class ReluOnce(RewritePass):
    """Drop a Relu that follows a Relu."""

    rules = (ReluTwice,)
