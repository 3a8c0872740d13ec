"""The conformance kit: the laws of representations, renderers, guidances and objectives, as checks for pytest.

    from threedgen.testing import check_representation

    def test_it_keeps_the_laws():
        check_representation(MyRepresentation)

Each check raises AssertionError with one sentence that names the law that does not hold. The checks run on the
CPU and take seconds.
"""

from threedgen.testing.guidances import check_guidance
from threedgen.testing.objectives import check_objective
from threedgen.testing.renderers import check_renderer
from threedgen.testing.representations import check_representation
from threedgen.testing.settings import check_settings

__all__ = ["check_guidance", "check_objective", "check_renderer", "check_representation", "check_settings"]
