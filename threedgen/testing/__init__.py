"""The conformance kit: what each representation, renderer, guidance and objective promises, as checks for pytest.

    from threedgen.testing import check_representation

    def test_it_keeps_the_promises():
        check_representation(MyRepresentation)

Each check raises AssertionError with one sentence that names the law that failed. They run on the CPU, in seconds.
"""

from threedgen.testing.guidances import check_guidance
from threedgen.testing.objectives import check_objective
from threedgen.testing.renderers import check_renderer
from threedgen.testing.representations import check_representation

__all__ = ["check_guidance", "check_objective", "check_renderer", "check_representation"]
