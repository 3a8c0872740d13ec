"""Several assets that move, in one scene, as a file says."""

from threedgen.composition.composition import Composition

__all__ = ["Composition"]
