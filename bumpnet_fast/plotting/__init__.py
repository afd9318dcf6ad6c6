"""Pictures of solutions, fields, evolutions and learned operators, and animations."""

from .evolution import evolution_figure, write_animation
from .operators import operator_figure
from .planes import fields_figure
from .solution import solution_figure
from .training import write_training

__all__ = [
    "evolution_figure", "fields_figure", "operator_figure", "solution_figure", "write_animation", "write_training",
]  # fmt: skip
