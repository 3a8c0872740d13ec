"""Objectives of score distillation: SDS and its relatives, one module for each family."""
