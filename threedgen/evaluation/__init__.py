"""Evaluation: pictures against true pictures, models on sets of objects, runs against what they were made from."""

from threedgen.evaluation.benchmark import Predictor, evaluate_objects
from threedgen.evaluation.result import Evaluation, table
from threedgen.evaluation.samples import Generator, evaluate_samples

__all__ = ["Evaluation", "Generator", "Predictor", "evaluate_objects", "evaluate_samples", "table"]
