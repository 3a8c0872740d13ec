// The mean distance of each point to its nearest others, by a k-d tree (Bentley 1975) whose nodes are ranges of one
// array: the middle of a range is its root, and the two halves are its subtrees.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace {

constexpr int kMost = 16;         // neighbours that a query may ask for
constexpr int64_t kLeaf = 12;     // points of a range that are compared one by one
constexpr int64_t kTask = 1024;   // points

struct Point {
    double place[3];
    int64_t index;
};

class Tree {
  public:
    Tree(const double *points, int64_t count) : points_(size_t(count)), axis_(size_t(count)) {
        for (int64_t i = 0; i < count; ++i)
            points_[size_t(i)] = {{points[3 * i], points[3 * i + 1], points[3 * i + 2]}, i};
        build(0, count);
    }

    // Squared distances to the `wanted` nearest other points, in rising order, infinite where there are none.
    void nearest(const Point &from, int wanted, double *best) const {
        std::fill(best, best + wanted, INFINITY);
        search(0, int64_t(points_.size()), from, wanted, best);
    }

    const Point &operator[](int64_t i) const { return points_[size_t(i)]; }

  private:
    void build(int64_t begin, int64_t end) {
        if (end - begin <= kLeaf) return;
        double low[3], high[3];
        for (int k = 0; k < 3; ++k) {
            low[k] = INFINITY;
            high[k] = -INFINITY;
            for (int64_t i = begin; i < end; ++i) {
                low[k] = std::min(low[k], points_[size_t(i)].place[k]);
                high[k] = std::max(high[k], points_[size_t(i)].place[k]);
            }
        }
        int axis = 0;
        for (int k = 1; k < 3; ++k)
            if (high[k] - low[k] > high[axis] - low[axis]) axis = k;
        const int64_t middle = begin + (end - begin) / 2;
        std::nth_element(points_.begin() + begin, points_.begin() + middle, points_.begin() + end,
                         [axis](const Point &a, const Point &b) { return a.place[axis] < b.place[axis]; });
        axis_[size_t(middle)] = axis;
        build(begin, middle);
        build(middle + 1, end);
    }

    static void compare(const Point &from, const Point &to, int wanted, double *best) {
        if (from.index == to.index) return;
        double square = 0.0;
        for (int k = 0; k < 3; ++k) square += (from.place[k] - to.place[k]) * (from.place[k] - to.place[k]);
        if (!(square < best[wanted - 1])) return;
        int at = wanted - 1;
        for (; at > 0 && best[at - 1] > square; --at) best[at] = best[at - 1];
        best[at] = square;
    }

    void search(int64_t begin, int64_t end, const Point &from, int wanted, double *best) const {
        if (end - begin <= kLeaf) {
            for (int64_t i = begin; i < end; ++i) compare(from, points_[size_t(i)], wanted, best);
            return;
        }
        const int64_t middle = begin + (end - begin) / 2;
        const Point &root = points_[size_t(middle)];
        compare(from, root, wanted, best);
        const int axis = axis_[size_t(middle)];
        const double beyond = from.place[axis] - root.place[axis];
        const bool lower = beyond < 0.0;
        search(lower ? begin : middle + 1, lower ? middle : end, from, wanted, best);
        if (beyond * beyond < best[wanted - 1])
            search(lower ? middle + 1 : begin, lower ? end : middle, from, wanted, best);
    }

    std::vector<Point> points_;
    std::vector<int> axis_;
};

using Points = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Distances = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void neighbour_distances(Points points, int neighbours, int threads, Distances out) {
    const int64_t count = int64_t(points.shape(0));
    if (points.shape(1) != 3 || int64_t(out.shape(0)) != count)
        throw std::invalid_argument("neighbour_distances: points must be [N, 3] and distances [N]");
    if (neighbours < 1 || neighbours > kMost || neighbours >= count)
        throw std::invalid_argument("neighbour_distances: there are not as many neighbours");
    const double *places = points.data();
    for (int64_t i = 0; i < 3 * count; ++i)
        if (!std::isfinite(places[i])) throw std::invalid_argument("neighbour_distances: points must be finite");
    double *means = out.data();
    nb::gil_scoped_release release;
    const Tree tree(places, count);
    const int64_t tasks = (count + kTask - 1) / kTask;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
    for (int64_t t = 0; t < tasks; ++t)
        for (int64_t i = t * kTask; i < std::min(count, (t + 1) * kTask); ++i) {
            double best[kMost], sum = 0.0;
            tree.nearest(tree[i], neighbours, best);
            for (int k = 0; k < neighbours; ++k) sum += std::sqrt(best[k]);
            means[tree[i].index] = sum / neighbours;
        }
}

}  // namespace

void bind_neighbours(nb::module_ &module) {
    module.def("neighbour_distances", &neighbour_distances, nb::arg("points"), nb::arg("neighbours"),
               nb::arg("threads"), nb::arg("distances"),
               "The mean distance [N] of each of the points [N, 3] to its nearest others.");
}
