// What parallel projections of a lattice say about its voxels: the same as export/silhouettes.py in numpy.
//
// Volumes are [K, U, V] with the hidden axis first. The voxel (k, u, v) is projected to the pixel (u + shear_u k,
// v + shear_v k), counted from the least of them. Each thread writes its own slabs, or all voxels behind its own
// rows of the picture, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "checks.h"
#include "clones.h"

namespace nb = nanobind;

namespace {

using FloatsIn2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using BytesIn3 = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using BytesOut3 = nb::ndarray<uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

struct Projection {
    int64_t depth, height, width;  // of the volume
    int64_t shear[2];

    template <class Volume> Projection(const Volume &volume, int shear_u, int shear_v)
        : depth(int64_t(volume.shape(0))), height(int64_t(volume.shape(1))), width(int64_t(volume.shape(2))),
          shear{shear_u, shear_v} {}

    // The pixel of the first voxel of slab k along one side of the picture.
    int64_t start(int64_t k, int side) const {
        return shear[side] > 0 ? shear[side] * k : shear[side] * (k - depth + 1);
    }
    int64_t size(int side) const {
        return (side ? width : height) + std::abs(shear[side]) * std::max(depth - 1, int64_t(0));
    }
};

CLONED void lower_row(const float *limit, int64_t count, float *row) {
#pragma omp simd
    for (int64_t v = 0; v < count; ++v) row[v] = limit[v] < row[v] ? limit[v] : row[v];
}

void carve(FloatsOut3 field, FloatsIn2 limit, int shear_u, int shear_v, int threads) {
    const Projection view(field, shear_u, shear_v);
    require(int64_t(limit.shape(0)) == view.size(0) && int64_t(limit.shape(1)) == view.size(1),
            "carve: the limit does not have the size of the picture");
    require(threads >= 1, "carve: needs at least one thread");
    nb::gil_scoped_release release;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < view.depth; ++k) {
        const float *first = limit.data() + view.start(k, 0) * view.size(1) + view.start(k, 1);
        for (int64_t u = 0; u < view.height; ++u)
            lower_row(first + u * view.size(1), view.width, field.data() + (k * view.height + u) * view.width);
    }
}

CLONED void block_row(const uint8_t *solid, int64_t count, uint8_t *blocked, uint8_t *hidden) {
#pragma omp simd
    for (int64_t v = 0; v < count; ++v) {
        const uint8_t now = blocked[v] | solid[v];
        blocked[v] = now;
        hidden[v] &= now;
    }
}

void hide(BytesIn3 solid, int shear_u, int shear_v, int threads, BytesOut3 hidden) {
    const Projection view(solid, shear_u, shear_v);
    for (int axis = 0; axis < 3; ++axis)
        require(hidden.shape(axis) == solid.shape(axis), "hide: the two volumes do not have the same shape");
    require(threads >= 1, "hide: needs at least one thread");
    nb::gil_scoped_release release;
    const int64_t rows = view.size(0);
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint8_t> blocked;
#pragma omp for schedule(dynamic, 8)
        for (int64_t row = 0; row < rows; ++row)
            for (const bool backwards : {false, true}) {
                blocked.assign(size_t(view.size(1)), 0);
                for (int64_t step = 0; step < view.depth; ++step) {
                    const int64_t k = backwards ? view.depth - 1 - step : step, u = row - view.start(k, 0);
                    if (u < 0 || u >= view.height) continue;
                    const int64_t first = (k * view.height + u) * view.width;
                    block_row(solid.data() + first, view.width, blocked.data() + view.start(k, 1),
                              hidden.data() + first);
                }
            }
    }
}

}  // namespace

void bind_visual_hull(nb::module_ &module) {
    module.def("carve", &carve, nb::arg("field"), nb::arg("limit"), nb::arg("shear_u"), nb::arg("shear_v"),
               nb::arg("threads"), "Lowers the field in place to the limit of the pixel of each voxel.");
    module.def("hide", &hide, nb::arg("solid"), nb::arg("shear_u"), nb::arg("shear_v"), nb::arg("threads"),
               nb::arg("hidden"),
               "Sets `hidden` to 0 where nothing solid lies before a voxel, seen from one of the two ends.");
}
