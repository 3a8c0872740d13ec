"""Every kind of input that is damaged."""

from __future__ import annotations

from fuzz.inputs import FILES
from fuzz.models import MODELS

KINDS = FILES | MODELS
