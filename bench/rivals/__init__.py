"""Other ways to solve the problems of the library, each as well tuned as its authors advise, and docs/rivals.md.

``python bench/rivals list`` says what there is.  A method is a module with a ``NAME`` and a function ``ladder``, which
gives the sizes at which it solves a problem, small ones first: see :mod:`rivals.rungs`.
"""
