"""Random torch modules: small networks of layers that fit each other, decided by a seed.

A module is a program. Each step is a layer or function on values made earlier; which steps are possible is found by
looking at the shapes of the values that a sample input gives. Operators that decide by the contents of a tensor
(comparisons, sorting, rounding) are only applied to values that are exact copies of inputs, since elsewhere a rounding
error of another runtime may decide differently.
"""

from tests.random_torch.network import RandomModule

__all__ = ["RandomModule"]
