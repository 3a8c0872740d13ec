// Connected pieces of meshes and of voxels, and the smoothing of meshes along their edges (Taubin 1995).
//
// Pieces are found by union-find on one thread. Each vertex is smoothed by one thread, with its neighbours in
// ascending order, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "checks.h"

namespace nb = nanobind;

namespace {

using Faces = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Voxels = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Doubles2 = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using LongsOut1 = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LongsOut3 = nb::ndarray<int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using DoublesOut2 = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A forest in which the root of each tree is its least member.
class Forest {
  public:
    explicit Forest(int64_t size) : parent_(size_t(size)) { std::iota(parent_.begin(), parent_.end(), int64_t(0)); }

    int64_t root(int64_t i) {
        while (parent_[size_t(i)] != i) i = parent_[size_t(i)] = parent_[size_t(parent_[size_t(i)])];
        return i;
    }
    void join(int64_t i, int64_t j) {
        i = root(i);
        j = root(j);
        if (i != j) parent_[size_t(std::max(i, j))] = std::min(i, j);
    }

  private:
    std::vector<int64_t> parent_;
};

void require_vertices(const Faces &faces, int64_t vertices) {
    require(faces.shape(1) == 3, "faces must be [F, 3]");
    for (size_t i = 0; i < faces.size(); ++i)
        if (faces.data()[i] < 0 || faces.data()[i] >= vertices)
            throw nb::index_error("a face names a vertex that does not exist");
}

int64_t mesh_pieces(Faces faces, LongsOut1 pieces) {
    const int64_t vertices = int64_t(pieces.shape(0)), count = int64_t(faces.shape(0));
    require_vertices(faces, vertices);
    nb::gil_scoped_release release;
    Forest forest(vertices);
    for (int64_t f = 0; f < count; ++f) {
        const int64_t *face = faces.data() + 3 * f;
        forest.join(face[0], face[1]);
        forest.join(face[1], face[2]);
    }
    int64_t found = 0;
    for (int64_t v = 0; v < vertices; ++v) {
        const int64_t root = forest.root(v);  // at most v, so that it has its number
        pieces.data()[v] = root == v ? found++ : pieces.data()[root];
    }
    return found;
}

int64_t voxel_pieces(Voxels solid, LongsOut3 pieces) {
    const int64_t size[3] = {int64_t(solid.shape(0)), int64_t(solid.shape(1)), int64_t(solid.shape(2))};
    for (int axis = 0; axis < 3; ++axis)
        require(pieces.shape(axis) == solid.shape(axis), "voxel_pieces: the two volumes do not have one shape");
    const uint8_t *set = solid.data();
    int64_t *labels = pieces.data();
    nb::gil_scoped_release release;
    Forest forest(size[0] * size[1] * size[2]);
    for (int64_t x = 0; x < size[0]; ++x)
        for (int64_t y = 0; y < size[1]; ++y)
            for (int64_t z = 0; z < size[2]; ++z) {
                const int64_t here = (x * size[1] + y) * size[2] + z;
                if (!set[here]) continue;
                // The thirteen neighbours that come before.
                for (int64_t i = std::max(x - 1, int64_t(0)); i <= x; ++i)
                    for (int64_t j = std::max(y - 1, int64_t(0)); j < std::min(y + 2, size[1]); ++j)
                        for (int64_t k = std::max(z - 1, int64_t(0)); k < std::min(z + 2, size[2]); ++k) {
                            const int64_t there = (i * size[1] + j) * size[2] + k;
                            if (there < here && set[there]) forest.join(here, there);
                        }
            }
    int64_t found = 0;
    for (int64_t i = 0; i < int64_t(solid.size()); ++i) {
        const int64_t root = forest.root(i);
        labels[i] = !set[i] ? 0 : (root == i ? ++found : labels[root]);
    }
    return found;
}

// The neighbours of each vertex: those of v are list[starts[v]] to list[starts[v + 1] - 1].
struct Neighbours {
    std::vector<int64_t> starts, list;

    Neighbours(const int64_t *faces, int64_t count, int64_t vertices)
        : starts(size_t(vertices) + 1, 0), list(size_t(6 * count)) {
        std::vector<int64_t> ends(size_t(vertices) + 1, 0);
        for (int64_t i = 0; i < 3 * count; ++i) ends[size_t(faces[i]) + 1] += 2;
        std::partial_sum(ends.begin(), ends.end(), ends.begin());
        const std::vector<int64_t> rows = ends;
        for (int64_t f = 0; f < count; ++f)
            for (int corner = 0; corner < 3; ++corner)
                for (int other = 1; other < 3; ++other)
                    list[size_t(ends[size_t(faces[3 * f + corner])]++)] = faces[3 * f + (corner + other) % 3];
        // An edge of two faces was counted twice.
        int64_t kept = 0;
        for (int64_t v = 0; v < vertices; ++v) {
            const auto begin = list.begin() + rows[size_t(v)], end = list.begin() + rows[size_t(v) + 1];
            std::sort(begin, end);
            kept = std::copy(begin, std::unique(begin, end), list.begin() + kept) - list.begin();
            starts[size_t(v) + 1] = kept;
        }
    }
};

void taubin(Doubles2 vertices, Faces faces, int passes, double shrink, double swell, int threads, DoublesOut2 out) {
    const int64_t count = int64_t(vertices.shape(0));
    require(vertices.shape(1) == 3, "taubin: vertices must be [V, 3]");
    require(int64_t(out.shape(0)) == count && out.shape(1) == 3, "taubin: the result must be [V, 3]");
    require(threads >= 1, "taubin: needs at least one thread");
    require_vertices(faces, count);
    nb::gil_scoped_release release;
    const Neighbours neighbours(faces.data(), int64_t(faces.shape(0)), count);
    std::vector<double> from(vertices.data(), vertices.data() + vertices.size()), to(from.size());
    for (int half = 0; half < 2 * passes; ++half) {
        const double step = half % 2 ? swell : shrink;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t v = 0; v < count; ++v) {
            const int64_t begin = neighbours.starts[size_t(v)], end = neighbours.starts[size_t(v) + 1];
            double sum[3] = {};
            for (int64_t i = begin; i < end; ++i) {
                const double *other = from.data() + 3 * neighbours.list[size_t(i)];
                for (int axis = 0; axis < 3; ++axis) sum[axis] += other[axis];
            }
            const double number = double(std::max(end - begin, int64_t(1)));
            for (int axis = 0; axis < 3; ++axis) {
                const double own = from[size_t(3 * v + axis)];
                to[size_t(3 * v + axis)] = own + step * (sum[axis] / number - own);
            }
        }
        std::swap(from, to);
    }
    std::copy(from.begin(), from.end(), out.data());
}

}  // namespace

void bind_connected(nb::module_ &module) {
    module.def("mesh_pieces", &mesh_pieces, nb::arg("faces"), nb::arg("pieces"),
               "The number, from 0, of the connected piece of each vertex (overwritten); returns their count.");
    module.def("voxel_pieces", &voxel_pieces, nb::arg("solid"), nb::arg("pieces"),
               "The number, from 1, of the piece of each solid voxel, with diagonal neighbours joined, and 0 for "
               "the others (overwritten); returns the count of pieces.");
    module.def("taubin", &taubin, nb::arg("vertices"), nb::arg("faces"), nb::arg("passes"), nb::arg("shrink"),
               nb::arg("swell"), nb::arg("threads"), nb::arg("out"),
               "Vertices after passes of a step to the mean of their neighbours and one away (overwritten).");
}
