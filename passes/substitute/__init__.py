"""Substitution: cheaper layers for nearly the same numbers. One pass, one file; importing this registers them."""

from graphopt.passes.substitute.factorise import Factorise
from graphopt.passes.substitute.stack_kernels import StackKernels
from graphopt.passes.substitute.substitute_activations import SubstituteActivations

__all__ = ["Factorise", "StackKernels", "SubstituteActivations"]
