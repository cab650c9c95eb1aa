"""Test-time scaling for language models: every method, one generation layer, one budget.

import reasoning
reasoning.solve("Use 3, 7, 25, 50 to make 79", strategy="best_of_n",
                budget=reasoning.Budget(tokens=4000))
"""

from __future__ import annotations

from reasoning.budget import Budget, Usage
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import ReasoningError
from reasoning.problem import Problem, Solution
from reasoning.solver import Solver, solve

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Engine",
    "Problem",
    "ReasoningError",
    "Sampling",
    "Solution",
    "Solver",
    "Usage",
    "__version__",
    "solve",
]
