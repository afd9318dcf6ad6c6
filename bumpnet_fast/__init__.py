"""BumpNet (arXiv:2512.17198) as a kernel-accelerated PyTorch extension."""

from .deeponet import BumpDeepONet
from .functional import backend, bump_basis, bump_combine, bump_compact, bump_design, bump_jet, use_backend
from .jet import Jet
from .layer import BumpNet
from .step import compile_step

__version__ = "0.1.0"

__all__ = [
    "BumpDeepONet",
    "BumpNet",
    "Jet",
    "__version__",
    "backend",
    "bump_basis",
    "bump_combine",
    "bump_compact",
    "bump_design",
    "bump_jet",
    "compile_step",
    "use_backend",
]
