// How far the distances between neighbours are from those at rest, at some moments, and the gradient of that: the sums
// of `rigidity` in threedgen/representations/motion_terms.py.
//
// The moments are processed in blocks, whose positions lie side by side, so that each pair of neighbours is a few
// vectors. A thread writes the gradient of whole blocks, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include "checks.h"
#include "clones.h"

namespace nb = nanobind;

namespace {

constexpr int64_t kMoments = 8;  // of a block: those of thousands of points fit into the second-level cache

using Points = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Moments = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Gradient = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

struct Pairs {
    int64_t points, each;  // each point has so many neighbours
    const int64_t *neighbours;
    const float *rest;  // distances at rest
};

// The sum of the squared changes of all distances at the first `used` moments of a block. places, gradient:
// [N, 3, kMoments]; what is added to the latter is that sum's. smallest: of a squared distance.
CLONED double add_block(const Pairs &pairs, const float *places, int64_t used, float smallest, float *gradient) {
    float counts[kMoments];
    for (int64_t m = 0; m < kMoments; ++m) counts[m] = m < used ? 1.0f : 0.0f;
    double total = 0.0;
    for (int64_t i = 0; i < pairs.points; ++i) {
        const float *from = places + 3 * kMoments * i;
        float sums[kMoments] = {}, x[kMoments] = {}, y[kMoments] = {}, z[kMoments] = {};
        for (int64_t k = pairs.each * i; k < pairs.each * (i + 1); ++k) {
            const float *to = places + 3 * kMoments * pairs.neighbours[k];
            float *back = gradient + 3 * kMoments * pairs.neighbours[k];
            const float rest = pairs.rest[k];
#pragma omp simd
            for (int64_t m = 0; m < kMoments; ++m) {
                const float dx = to[m] - from[m], dy = to[kMoments + m] - from[kMoments + m];
                const float dz = to[2 * kMoments + m] - from[2 * kMoments + m];
                const float far = std::sqrt(dx * dx + dy * dy + dz * dz + smallest);
                const float change = counts[m] * (far - rest), pull = 2.0f * change / far;
                sums[m] += change * change;
                x[m] -= pull * dx;
                y[m] -= pull * dy;
                z[m] -= pull * dz;
                back[m] += pull * dx;
                back[kMoments + m] += pull * dy;
                back[2 * kMoments + m] += pull * dz;
            }
        }
        float *own = gradient + 3 * kMoments * i;
        for (int64_t m = 0; m < kMoments; ++m) {
            own[m] += x[m];
            own[kMoments + m] += y[m];
            own[2 * kMoments + m] += z[m];
            total += double(sums[m]);
        }
    }
    return total;
}

std::pair<double, double> rigidity(Points rest, Moments moved, Indices neighbours, float smallest, int threads,
                                   Gradient gradient) {
    const int64_t moments = int64_t(moved.shape(0)), count = int64_t(moved.shape(1));
    require(moved.shape(2) == 3, "rigidity: the moved points must be [T, N, 3]");
    require(int64_t(rest.shape(0)) == count && rest.shape(1) == 3, "rigidity: the points at rest must be [N, 3]");
    require(int64_t(neighbours.shape(0)) == count, "rigidity: the neighbours must be [N, K]");
    for (size_t axis = 0; axis < 3; ++axis)
        require(gradient.shape(axis) == moved.shape(axis), "rigidity: the gradient must be [T, N, 3]");
    require(threads >= 1, "rigidity: needs at least one thread");
    const int64_t each = int64_t(neighbours.shape(1));
    const int64_t *indices = neighbours.data();
    for (int64_t k = 0; k < count * each; ++k)
        require(indices[k] >= 0 && indices[k] < count, "rigidity: there is no such neighbour");
    nb::gil_scoped_release release;
    std::vector<float> distances(size_t(count * each));
    double squares = 0.0;
    for (int64_t k = 0; k < count * each; ++k) {
        const float *from = rest.data() + 3 * (k / each), *to = rest.data() + 3 * indices[k];
        const float dx = to[0] - from[0], dy = to[1] - from[1], dz = to[2] - from[2];
        const float square = dx * dx + dy * dy + dz * dz;
        distances[size_t(k)] = std::sqrt(square);
        squares += double(square);
    }
    const Pairs pairs{count, each, indices, distances.data()};
    const int64_t blocks = (moments + kMoments - 1) / kMoments, row = 3 * count;
    std::vector<double> totals(size_t(blocks), 0.0);
#pragma omp parallel num_threads(int(std::min<int64_t>(threads, std::max<int64_t>(blocks, 1))))
    {
        std::vector<float> places(size_t(row * kMoments), 0.0f), own(size_t(row * kMoments));
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = block * kMoments, used = std::min(kMoments, moments - first);
            for (int64_t m = 0; m < used; ++m)
                for (int64_t a = 0; a < row; ++a)
                    places[size_t(a * kMoments + m)] = moved.data()[(first + m) * row + a];
            std::fill(own.begin(), own.end(), 0.0f);
            totals[size_t(block)] = add_block(pairs, places.data(), used, smallest, own.data());
            for (int64_t m = 0; m < used; ++m)
                for (int64_t a = 0; a < row; ++a)
                    gradient.data()[(first + m) * row + a] = own[size_t(a * kMoments + m)];
        }
    }
    double total = 0.0;
    for (const double part : totals) total += part;
    return {total, squares};
}

}  // namespace

void bind_rigidity(nb::module_ &module) {
    module.def("rigidity", &rigidity, nb::arg("rest"), nb::arg("moved"), nb::arg("neighbours"), nb::arg("smallest"),
               nb::arg("threads"), nb::arg("gradient"),
               "The sum of the squared changes of the distances to neighbours [N, K] between points at rest [N, 3] "
               "and moved ones [T, N, 3], whose gradient is written, and the sum of the squared distances at rest. "
               "smallest: is added to squared distances of moved points.");
}
