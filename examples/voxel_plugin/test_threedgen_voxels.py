"""Three lines test all that every representation promises."""

from threedgen_voxels import Voxels

from threedgen.testing import check_representation


def test_voxels():
    check_representation(Voxels, config=Voxels.Config(resolution=12))
