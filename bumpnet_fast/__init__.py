"""BumpNet (arXiv:2512.17198) as a kernel-accelerated PyTorch extension."""

from .core.functional import backend, bump_basis, bump_combine, bump_compact, bump_design, bump_jet, use_backend
from .core.jet import Jet
from .nets.bumpnet import BumpNet
from .nets.deeponet import BumpDeepONet
from .nets.step import compile_step

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
