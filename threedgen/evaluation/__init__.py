"""How good is it? Pictures against true ones, models on sets of objects, runs against what they were made of."""

from threedgen.evaluation.benchmark import Predictor, evaluate_objects
from threedgen.evaluation.result import Evaluation, table

__all__ = ["Evaluation", "Predictor", "evaluate_objects", "table"]
