"""Fusion: layers that can be one become one. One pass, one file; importing this package registers them."""

from graphopt.passes.fuse.fuse_affine import FuseAffine
from graphopt.passes.fuse.fuse_bn_chain import FuseBatchNormChain
from graphopt.passes.fuse.fuse_bn_conv import FuseBatchNormConv
from graphopt.passes.fuse.fuse_branches import FuseBranches
from graphopt.passes.fuse.fuse_conv_bn import FuseConvBatchNorm
from graphopt.passes.fuse.fuse_conv_conv import FuseConvConv
from graphopt.passes.fuse.fuse_gemm import FuseGemm
from graphopt.passes.fuse.fuse_linear import FuseLinear
from graphopt.passes.fuse.fuse_pad import FusePad
from graphopt.passes.fuse.fuse_parallel import FuseParallel
from graphopt.passes.fuse.merge_affine import MergeAffine
from graphopt.passes.fuse.move_scales import MoveScales
from graphopt.passes.fuse.recognise_activations import RecogniseActivations
from graphopt.passes.fuse.recognise_attention import RecogniseAttention
from graphopt.passes.fuse.recognise_norms import RecogniseNorms
from graphopt.passes.fuse.recognise_pools import RecognisePools
from graphopt.passes.fuse.recognise_recurrent import RecogniseRecurrent
from graphopt.passes.fuse.recognise_rotary import RecogniseRotary
from graphopt.pipeline import register_alias

register_alias(
    "fuse",
    "recognise-recurrent,recognise-activations,recognise-norms,recognise-pools,recognise-rotary,recognise-attention,"
    "fuse-pad,fuse-conv-bn,fuse-branches,fuse-conv-conv,move-scales,fuse-affine,fuse-bn-conv,fuse-bn-chain,"
    "merge-affine,fuse-linear,fuse-gemm,fuse-parallel",
    repeat=4,
    doc="Fold normalisations, constants and paddings into the layers beside them, and layers into one another.",
)

__all__ = [
    "FuseAffine", "FuseBatchNormChain", "FuseBatchNormConv", "FuseBranches", "FuseConvBatchNorm", "FuseConvConv",
    "FuseGemm", "FuseLinear", "FusePad", "FuseParallel", "MergeAffine", "MoveScales", "RecogniseActivations",
    "RecogniseAttention", "RecogniseNorms", "RecognisePools", "RecogniseRecurrent",
    "RecogniseRotary",
]  # fmt: skip
