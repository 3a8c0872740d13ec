// Bilinear features of points on three axis-aligned planes, and the gradient of the planes. The channels of a texel
// are contiguous, so that it is a few vectors, and a point reads twelve texels.
//
// In the backward pass each thread writes a plane or a band of its rows and goes through all points in order: no two
// threads write to one texel, and each texel sums its points in the same order for any number of threads.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "clones.h"

namespace nb = nanobind;

namespace {

constexpr int kAxis[3][2] = {{0, 1}, {0, 2}, {1, 2}};  // the coordinates along the width and the height of each plane

struct Shape {
    int64_t height, width, channels, points;
};

struct Place {
    int64_t first, second;  // neighbouring texels along one axis
    float weight;           // of the second one
};

// From [-1, 1] to texels, with the outermost centres on the border. A NaN coordinate makes the weight NaN, and with
// it the features, so that nothing is read out of bounds and the NaN stays visible.
INLINED Place locate(float coordinate, int64_t size) {
    const float last = float(size - 1), x = (coordinate + 1.0f) * (0.5f * last);
    const float inside = x < 0.0f ? 0.0f : (x > last ? last : x);
    const int64_t first = inside >= 0.0f ? std::min(int64_t(inside), std::max(size - 2, int64_t(0))) : 0;
    return {first, std::min(first + 1, size - 1), inside - float(first)};
}

template <int FIXED>
INLINED void blend(const float *a, const float *b, const float *c, const float *d, const float *w, int64_t channels,
                   float *out) {
    const int64_t count = FIXED > 0 ? FIXED : channels;
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) out[k] = (w0 * a[k] + w1 * b[k]) + (w2 * c[k] + w3 * d[k]);
}

template <int FIXED>
INLINED void sample_range(const float *planes, const float *points, const Shape &shape, int64_t begin, int64_t end,
                          float *out) {
    const int64_t channels = FIXED > 0 ? FIXED : shape.channels;
    const int64_t row = shape.width * channels, plane_size = shape.height * row;
    for (int64_t m = begin; m < end; ++m) {
        for (int p = 0; p < 3; ++p) {
            const Place x = locate(points[3 * m + kAxis[p][0]], shape.width);
            const Place y = locate(points[3 * m + kAxis[p][1]], shape.height);
            const float *upper = planes + p * plane_size + y.first * row, *lower = upper + (y.second - y.first) * row;
            const float w[4] = {(1.0f - x.weight) * (1.0f - y.weight), x.weight * (1.0f - y.weight),
                                (1.0f - x.weight) * y.weight, x.weight * y.weight};
            blend<FIXED>(upper + x.first * channels, upper + x.second * channels, lower + x.first * channels,
                         lower + x.second * channels, w, channels, out + (3 * m + p) * channels);
        }
    }
}

template <int FIXED>
INLINED void spread(float *left, float *right, const float *gradient, float weight_left, float weight_right,
                    int64_t channels) {
    const int64_t count = FIXED > 0 ? FIXED : channels;
    // One addition after the other, because on a plane that is one texel wide left and right are the same texel.
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) left[k] += weight_left * gradient[k];
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) right[k] += weight_right * gradient[k];
}

// The gradient from all points in rows [begin, end) of plane p.
template <int FIXED>
INLINED void gather_band(const float *points, const float *gradients, const Shape &shape, int p, int64_t begin,
                         int64_t end, float *plane) {
    const int64_t channels = FIXED > 0 ? FIXED : shape.channels, row = shape.width * channels;
    std::fill(plane + begin * row, plane + end * row, 0.0f);
    for (int64_t m = 0; m < shape.points; ++m) {
        const Place y = locate(points[3 * m + kAxis[p][1]], shape.height);
        const bool upper = y.first >= begin && y.first < end, lower = y.second >= begin && y.second < end;
        if (!upper && !lower) continue;
        const Place x = locate(points[3 * m + kAxis[p][0]], shape.width);
        const float *gradient = gradients + (3 * m + p) * channels;
        const float weights[2] = {1.0f - y.weight, y.weight};
        const int64_t rows[2] = {y.first, y.second};
        const bool owned[2] = {upper, lower};
        for (int i = 0; i < 2; ++i) {
            if (!owned[i]) continue;
            float *texels = plane + rows[i] * row;
            spread<FIXED>(texels + x.first * channels, texels + x.second * channels, gradient,
                          (1.0f - x.weight) * weights[i], x.weight * weights[i], channels);
        }
    }
}

CLONED void forward_points(const float *planes, const float *points, const Shape &shape, int64_t begin, int64_t end,
                           float *out) {
    switch (shape.channels) {
    case 8: return sample_range<8>(planes, points, shape, begin, end, out);
    case 16: return sample_range<16>(planes, points, shape, begin, end, out);
    case 24: return sample_range<24>(planes, points, shape, begin, end, out);
    case 32: return sample_range<32>(planes, points, shape, begin, end, out);
    default: return sample_range<0>(planes, points, shape, begin, end, out);
    }
}

CLONED void backward_band(const float *points, const float *gradients, const Shape &shape, int p, int64_t begin,
                          int64_t end, float *plane) {
    switch (shape.channels) {
    case 8: return gather_band<8>(points, gradients, shape, p, begin, end, plane);
    case 16: return gather_band<16>(points, gradients, shape, p, begin, end, plane);
    case 24: return gather_band<24>(points, gradients, shape, p, begin, end, plane);
    case 32: return gather_band<32>(points, gradients, shape, p, begin, end, plane);
    default: return gather_band<0>(points, gradients, shape, p, begin, end, plane);
    }
}

// Rows of plane p, cut into bands with about the same number of points, of which most are in the middle.
std::vector<int64_t> bands(const float *points, const Shape &shape, int p, int threads) {
    const int64_t count = std::min(int64_t(threads), shape.height);
    std::vector<int64_t> cuts{0};
    if (count > 1) {
        std::vector<int64_t> load(size_t(shape.height), 1);
        for (int64_t m = 0; m < shape.points; ++m)
            ++load[size_t(locate(points[3 * m + kAxis[p][1]], shape.height).first)];
        const int64_t total = shape.points + shape.height;
        int64_t sum = 0;
        for (int64_t y = 0; y < shape.height - 1; ++y) {
            sum += load[size_t(y)];
            if (sum * count >= total * int64_t(cuts.size()) && int64_t(cuts.size()) < count) cuts.push_back(y + 1);
        }
    }
    cuts.push_back(shape.height);
    return cuts;
}

using Planes = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using PlanesOut = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Points = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Features = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FeaturesOut = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class P, class F> Shape shape_of(const P &planes, const Points &points, const F &features) {
    const Shape shape{int64_t(planes.shape(1)), int64_t(planes.shape(2)), int64_t(planes.shape(3)),
                      int64_t(points.shape(0))};
    if (planes.shape(0) != 3 || shape.height < 1 || shape.width < 1 || shape.channels < 1)
        throw std::invalid_argument("planes must be [3, H, W, C] with no empty side");
    if (points.shape(1) != 3) throw std::invalid_argument("points must be [M, 3]");
    if (int64_t(features.shape(0)) != shape.points || features.shape(1) != 3 ||
        int64_t(features.shape(2)) != shape.channels)
        throw std::invalid_argument("features must be [M, 3, C]");
    return shape;
}

void sample_planes(Planes planes, Points points, int threads, FeaturesOut out) {
    const Shape shape = shape_of(planes, points, out);
    const float *texels = planes.data(), *places = points.data();
    float *features = out.data();
    nb::gil_scoped_release release;
    constexpr int64_t kBlock = 4096;
    const int64_t blocks = (shape.points + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
    for (int64_t b = 0; b < blocks; ++b)
        forward_points(texels, places, shape, b * kBlock, std::min(shape.points, (b + 1) * kBlock), features);
}

void sample_planes_backward(Points points, Features gradients, int threads, PlanesOut out) {
    const Shape shape = shape_of(out, points, gradients);
    const float *places = points.data(), *from = gradients.data();
    float *planes = out.data();
    nb::gil_scoped_release release;
    struct Task {
        int plane;
        int64_t begin, end;
    };
    std::vector<Task> tasks;
    // Whole planes while each thread gets the same number of them, because for a band a thread reads all points, too.
    const int whole = 3 / std::max(1, threads) * std::max(1, threads);
    for (int p = 0; p < 3; ++p) {
        const std::vector<int64_t> cuts = bands(places, shape, p, p < whole ? 1 : threads);
        for (size_t i = 0; i + 1 < cuts.size(); ++i) tasks.push_back({p, cuts[i], cuts[i + 1]});
    }
    const int64_t plane_size = shape.height * shape.width * shape.channels;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
    for (int64_t i = 0; i < int64_t(tasks.size()); ++i) {
        const Task &task = tasks[size_t(i)];
        backward_band(places, from, shape, task.plane, task.begin, task.end, planes + task.plane * plane_size);
    }
}

}  // namespace

void bind_triplane(nb::module_ &module) {
    module.def("sample_planes", &sample_planes, nb::arg("planes"), nb::arg("points"), nb::arg("threads"),
               nb::arg("features"), "Features [M, 3, C] of points in [-1, 1]^3 on the planes [3, H, W, C].");
    module.def("sample_planes_backward", &sample_planes_backward, nb::arg("points"), nb::arg("d_features"),
               nb::arg("threads"), nb::arg("d_planes"), "The planes' gradient (overwritten).");
}
