"""The bump itself: rows of parameters, the formulas, the kernels that evaluate them, and the operators on top."""
