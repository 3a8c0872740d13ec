// The light that short rays around surface points get from Gaussians, composited front to back: the same as
// export/surface_color.py in numpy.
//
// The points come in blocks of neighbours, so that a few of the Gaussians are tested for each ray. A block is
// computed by one thread, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "checks.h"
#include "exponential.h"

namespace nb = nanobind;

namespace {

constexpr int64_t kMostToCount = 512;

using Doubles1 = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles2 = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Doubles3 = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Longs1 = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using DoublesOut1 = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using DoublesOut2 = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// The Gaussians that the rays of a block may meet, one array for each quantity.
enum { X, Y, Z, XX, YY, ZZ, XY, XZ, YZ, RADIUS2, OPACITY, QUANTITIES };

struct Candidates {
    std::vector<double> of[QUANTITIES];
    std::vector<int64_t> number;
    std::vector<uint8_t> overlaps;  // of all Gaussians, whether they are candidates
    // What a ray makes of each: how far the centre lies towards the eye; alpha, or a negative number for a miss.
    std::vector<double> height, alpha;

    void clear() {
        for (auto &values : of) values.clear();
        number.clear();
    }
    void prepare() {
        height.resize(number.size());
        alpha.resize(number.size());
    }
};

// A ray from `point` away from the eye. With the precision P, d = p - mu and n towards the eye, the squared
// Mahalanobis distance along p + t n is d'Pd + 2 t n'Pd + t^2 n'Pn; alpha is that of the nearest point of the whole
// line, as in a splatting renderer, and a Gaussian is met if the ray's part -reach <= t <= 0 enters its ellipsoid.
CLONED void meet(Candidates &c, const double *point, const double *towards_eye, double reach, double max_alpha) {
    const double px = point[0], py = point[1], pz = point[2];
    const double nx = towards_eye[0], ny = towards_eye[1], nz = towards_eye[2];
    const double *x = c.of[X].data(), *y = c.of[Y].data(), *z = c.of[Z].data(), *xx = c.of[XX].data(),
                 *yy = c.of[YY].data(), *zz = c.of[ZZ].data(), *xy = c.of[XY].data(), *xz = c.of[XZ].data(),
                 *yz = c.of[YZ].data(), *radius2 = c.of[RADIUS2].data(), *opacity = c.of[OPACITY].data();
    double *height = c.height.data(), *alpha = c.alpha.data();
    const int64_t count = int64_t(c.number.size());
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const double dx = px - x[i], dy = py - y[i], dz = pz - z[i];
        const double ax = xx[i] * dx + xy[i] * dy + xz[i] * dz, ay = xy[i] * dx + yy[i] * dy + yz[i] * dz,
                     az = xz[i] * dx + yz[i] * dy + zz[i] * dz;
        const double bx = xx[i] * nx + xy[i] * ny + xz[i] * nz, by = xy[i] * nx + yy[i] * ny + yz[i] * nz,
                     bz = xz[i] * nx + yz[i] * ny + zz[i] * nz;
        const double start = dx * ax + dy * ay + dz * az, slope = nx * ax + ny * ay + nz * az,
                     bend = nx * bx + ny * by + nz * bz;
        const double peak = -slope / bend;
        const double above = peak > -reach ? peak : -reach, inside = above < 0.0 ? above : 0.0;
        const double nearest = start + inside * (2.0 * slope + inside * bend), least = start + slope * peak;
        const double a = opacity[i] * exponential(-0.5 * (least > 0.0 ? least : 0.0));
        height[i] = -(nx * dx + ny * dy + nz * dz);
        alpha[i] = nearest <= radius2[i] ? (a < max_alpha ? a : max_alpha) : -1.0;
    }
}

struct Gaussians {
    const double *means, *precisions, *radii, *opacities, *sh;
    int64_t count, harmonics;
    std::vector<double> low[3], high[3];  // the box of each, by axis

    void set_boxes(const double *extents) {
        for (int axis = 0; axis < 3; ++axis) {
            low[axis].resize(size_t(count));
            high[axis].resize(size_t(count));
            for (int64_t n = 0; n < count; ++n) {
                low[axis][size_t(n)] = means[3 * n + axis] - extents[3 * n + axis];
                high[axis][size_t(n)] = means[3 * n + axis] + extents[3 * n + axis];
            }
        }
    }
};

CLONED void mark_overlaps(const Gaussians &g, const double low[3], const double high[3], uint8_t *overlaps) {
    const double *x0 = g.low[0].data(), *y0 = g.low[1].data(), *z0 = g.low[2].data();
    const double *x1 = g.high[0].data(), *y1 = g.high[1].data(), *z1 = g.high[2].data();
    const double lx = low[0], ly = low[1], lz = low[2], hx = high[0], hy = high[1], hz = high[2];
#pragma omp simd
    for (int64_t n = 0; n < g.count; ++n)
        overlaps[n] = (x0[n] <= hx) & (y0[n] <= hy) & (z0[n] <= hz) & (x1[n] >= lx) & (y1[n] >= ly) & (z1[n] >= lz);
}

// The Gaussians whose boxes overlap that of the rays.
void gather(const Gaussians &g, const double low[3], const double high[3], Candidates &c) {
    c.clear();
    c.overlaps.resize(size_t(g.count));
    mark_overlaps(g, low, high, c.overlaps.data());
    for (int64_t n = 0; n < g.count; ++n) {
        if (!c.overlaps[size_t(n)]) continue;
        const double *m = g.means + 3 * n, *p = g.precisions + 9 * n;
        const double values[QUANTITIES] = {m[0], m[1], m[2], p[0], p[4], p[8],
                                           p[1], p[2], p[5], g.radii[n] * g.radii[n], g.opacities[n]};
        for (int k = 0; k < QUANTITIES; ++k) c.of[k].push_back(values[k]);
        c.number.push_back(n);
    }
    c.prepare();
}

// What a ray meets, as it comes; `order` names it front to back.
struct Met {
    std::vector<double> depth, alpha;
    std::vector<int64_t> number, order;
    int64_t count;

    void take(const Candidates &c) {
        const size_t most = c.number.size();
        depth.resize(most);
        alpha.resize(most);
        number.resize(most);
        count = 0;
        // Without a branch, because no processor can predict it.
        for (size_t i = 0; i < most; ++i) {
            depth[size_t(count)] = -c.height[i];
            alpha[size_t(count)] = c.alpha[i];
            number[size_t(count)] = c.number[i];
            count += c.alpha[i] >= 0.0;
        }
        order.assign(size_t(count), -1);
    }
};

// A ray meets some dozens of Gaussians. The place of each in the order is the number of those before it, and to
// count them is faster than to sort them, where a processor guesses the outcome of every comparison. `order` is -1
// everywhere at first; of equal depths, the first one takes the first place.
CLONED void count_places(const double *depth, int64_t count, int64_t *order) {
    constexpr int kWidth = 8;
    for (int64_t begin = 0; begin < count; begin += kWidth) {
        double own[kWidth];
        int64_t before[kWidth] = {};
        for (int k = 0; k < kWidth; ++k) own[k] = depth[std::min(begin + k, count - 1)];
        for (int64_t j = 0; j < count; ++j) {
            const double other = depth[j];
#pragma omp simd
            for (int k = 0; k < kWidth; ++k) before[k] += other < own[k];
        }
        for (int k = 0; k < kWidth && begin + k < count; ++k) {
            int64_t place = before[k];
            while (order[place] >= 0) ++place;
            order[place] = begin + k;
        }
    }
}

void put_in_order(Met &met) {
    if (met.count <= kMostToCount) return count_places(met.depth.data(), met.count, met.order.data());
    for (int64_t i = 0; i < met.count; ++i) met.order[size_t(i)] = i;
    const double *depth = met.depth.data();
    std::stable_sort(met.order.begin(), met.order.end(), [&](int64_t i, int64_t j) { return depth[i] < depth[j]; });
}

// Adds the light of one ray: color [3] and opacity.
void composite(const Met &met, const Gaussians &g, const double *basis, double *color, double *opacity) {
    double left = 1.0;
    for (const int64_t i : met.order) {
        const double weight = left * met.alpha[size_t(i)];
        left -= weight;
        const double *sh = g.sh + 3 * g.harmonics * met.number[size_t(i)];
        double shade[3] = {0.5, 0.5, 0.5};
        for (int64_t k = 0; k < g.harmonics; ++k)
            for (int channel = 0; channel < 3; ++channel) shade[channel] += basis[k] * sh[3 * k + channel];
        for (int channel = 0; channel < 3; ++channel) color[channel] += weight * std::max(shade[channel], 0.0);
        *opacity += weight;
    }
}

void surface_light(Doubles2 means, Doubles3 precisions, Doubles1 radii, Doubles2 extents, Doubles1 opacities,
                   Doubles3 sh, Doubles2 points, Doubles3 directions, Doubles2 basis, Longs1 order, Longs1 starts,
                   double reach, double max_alpha, int threads, DoublesOut2 color, DoublesOut1 opacity) {
    const size_t count = means.shape(0), vertices = points.shape(0), blocks = starts.shape(0);
    require(means.shape(1) == 3, "surface_light: means must be [N, 3]");
    require(precisions.shape(0) == count && precisions.shape(1) == 3 && precisions.shape(2) == 3,
            "surface_light: precisions must be [N, 3, 3]");
    require(extents.shape(0) == count && extents.shape(1) == 3, "surface_light: extents must be [N, 3]");
    require(radii.shape(0) == count && opacities.shape(0) == count, "surface_light: radii, opacities must be [N]");
    require(sh.shape(0) == count && sh.shape(2) == 3, "surface_light: sh must be [N, K, 3]");
    require(points.shape(1) == 3, "surface_light: points must be [V, 3]");
    require(directions.shape(1) == vertices && directions.shape(2) == 3,
            "surface_light: directions must be [R, V, 3]");
    require(basis.shape(0) == vertices && basis.shape(1) == sh.shape(1), "surface_light: basis must be [V, K]");
    require(color.shape(0) == vertices && color.shape(1) == 3, "surface_light: color must be [V, 3]");
    require(opacity.shape(0) == vertices, "surface_light: opacity must be [V]");
    require(threads >= 1, "surface_light: needs at least one thread");
    require(order.shape(0) == vertices, "surface_light: order must be [V]");
    const int64_t size = int64_t(vertices);
    std::vector<bool> seen(vertices, false);
    for (size_t i = 0; i < vertices; ++i) {
        const int64_t v = order.data()[i];
        require(v >= 0 && v < size && !seen[size_t(v)], "surface_light: order must name every point once");
        seen[size_t(v)] = true;
    }
    require(blocks > 0 ? starts.data()[0] == 0 : size == 0, "surface_light: starts must begin with 0");
    for (size_t b = 0; b < blocks; ++b)
        require(starts.data()[b] <= (b + 1 < blocks ? starts.data()[b + 1] : size),
                "surface_light: starts must rise to the number of points");
    Gaussians gaussians;
    gaussians.means = means.data();
    gaussians.precisions = precisions.data();
    gaussians.radii = radii.data();
    gaussians.opacities = opacities.data();
    gaussians.sh = sh.data();
    gaussians.count = int64_t(count);
    gaussians.harmonics = int64_t(sh.shape(1));
    nb::gil_scoped_release release;
    gaussians.set_boxes(extents.data());
    std::fill_n(color.data(), color.size(), 0.0);
    std::fill_n(opacity.data(), opacity.size(), 0.0);
    const int64_t rays = int64_t(directions.shape(0));
#pragma omp parallel num_threads(threads)
    {
        Candidates candidates;
        Met met;
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < int64_t(blocks); ++block) {
            const int64_t begin = starts.data()[block];
            const int64_t end = block + 1 < int64_t(blocks) ? starts.data()[block + 1] : size;
            if (begin == end) continue;
            double low[3], high[3];
            for (int axis = 0; axis < 3; ++axis) {
                low[axis] = HUGE_VAL;
                high[axis] = -HUGE_VAL;
                for (int64_t i = begin; i < end; ++i) {
                    const int64_t entry = 3 * order.data()[i] + axis;
                    for (int64_t r = 0; r < rays; ++r) {
                        const double near = points.data()[entry];
                        const double far = near - reach * directions.data()[3 * r * size + entry];
                        low[axis] = std::min({low[axis], near, far});
                        high[axis] = std::max({high[axis], near, far});
                    }
                }
            }
            gather(gaussians, low, high, candidates);
            for (int64_t i = begin; i < end; ++i) {
                const int64_t v = order.data()[i];
                for (int64_t r = 0; r < rays; ++r) {
                    const double *towards_eye = directions.data() + 3 * (r * size + v);
                    meet(candidates, points.data() + 3 * v, towards_eye, reach, max_alpha);
                    met.take(candidates);
                    put_in_order(met);
                    composite(met, gaussians, basis.data() + v * gaussians.harmonics, color.data() + 3 * v,
                              opacity.data() + v);
                }
            }
        }
    }
}

}  // namespace

void bind_surface_color(nb::module_ &module) {
    module.def("surface_light", &surface_light, nb::arg("means"), nb::arg("precisions"), nb::arg("radii"),
               nb::arg("extents"), nb::arg("opacities"), nb::arg("sh"), nb::arg("points"), nb::arg("directions"),
               nb::arg("basis"), nb::arg("order"), nb::arg("starts"), nb::arg("reach"), nb::arg("max_alpha"),
               nb::arg("threads"), nb::arg("color"), nb::arg("opacity"),
               "Colour and opacity that rays around each point sum up (overwritten).");
}
