// Sums over Gaussians on a lattice: their density, and the optical depth of their parallel projections. The same as
// export/density.py and export/silhouettes.py in numpy.
//
// Each thread writes its own planes of the lattice or rows of a picture, and adds the Gaussians in their order, so
// that the result does not depend on the number of threads.
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

constexpr int64_t kPlanesPerTask = 8;  // of the lattice: those of 128^2 numbers fit into the second-level cache
constexpr int64_t kRowsPerTask = 16;
constexpr int64_t kFloats = 16;  // in one AVX-512 register

using Doubles1 = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles2 = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Doubles3 = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using DoublesOut2 = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// The lattice points in [low, high] along one axis: begin <= i < end, within [0, size).
struct Span {
    int64_t begin, end;
};

int64_t clipped(double x, int64_t size) { return x > 0.0 ? (x < double(size) ? int64_t(x) : size) : 0; }

Span span(double low, double high, int64_t size) {
    return {clipped(std::ceil(low), size), clipped(std::floor(high) + 1.0, size)};
}

struct Blob {
    Span box[3];
    double mean[3];
    double xx, yy, zz, xy, xz, yz;  // of the exponent: the factors 1/2 and -1 are included
    double log_opacity;
};

struct Lattice {
    int64_t size[3];
    double origin[3], spacing;
};

// Adds a Gaussian to the planes [begin, end) of the lattice. z, along: room for one row and kFloats numbers more.
// Rows are short, and what vectors leave over would take as long one by one as the rest. So the exponentials are
// those of whole vectors, and only the ones inside of the box are added.
CLONED void add_blob(const Blob &blob, const Lattice &lattice, int64_t begin, int64_t end, float *z, float *along,
                     float *values) {
    const int64_t first = blob.box[2].begin, count = blob.box[2].end - first;
    const int64_t padded = (count + kFloats - 1) / kFloats * kFloats;
    for (int64_t k = 0; k < padded; ++k) {
        const double place = lattice.origin[2] + lattice.spacing * double(first + k) - blob.mean[2];
        z[k] = float(place);
        along[k] = float(blob.zz * place * place + blob.log_opacity);
    }
    for (int64_t i = std::max(begin, blob.box[0].begin); i < std::min(end, blob.box[0].end); ++i) {
        const double x = lattice.origin[0] + lattice.spacing * double(i) - blob.mean[0];
        for (int64_t j = blob.box[1].begin; j < blob.box[1].end; ++j) {
            const double y = lattice.origin[1] + lattice.spacing * double(j) - blob.mean[1];
            const float across = float(blob.xx * x * x + blob.yy * y * y + blob.xy * x * y);
            const float slope = float(blob.xz * x + blob.yz * y);
            float *row = values + (i * lattice.size[1] + j) * lattice.size[2] + first;
            for (int64_t from = 0; from < count; from += kFloats) {
                float block[kFloats];
#pragma omp simd
                for (int k = 0; k < kFloats; ++k)
                    block[k] = exponential(slope * z[from + k] + along[from + k] + across);
                const int64_t inside = std::min(count - from, kFloats);
                for (int64_t k = 0; k < inside; ++k) row[from + k] += block[k];
            }
        }
    }
}

void gaussian_density(Doubles2 means, Doubles3 precisions, Doubles2 extents, Doubles1 opacities, Doubles1 origin,
                      double spacing, int threads, FloatsOut3 values) {
    const size_t count = means.shape(0);
    require(means.shape(1) == 3, "gaussian_density: means must be [N, 3]");
    require(precisions.shape(0) == count && precisions.shape(1) == 3 && precisions.shape(2) == 3,
            "gaussian_density: precisions must be [N, 3, 3]");
    require(extents.shape(0) == count && extents.shape(1) == 3, "gaussian_density: extents must be [N, 3]");
    require(opacities.shape(0) == count, "gaussian_density: opacities must be [N]");
    require(origin.shape(0) == 3, "gaussian_density: origin must be [3]");
    require(spacing > 0.0, "gaussian_density: the spacing must be positive");
    require(threads >= 1, "gaussian_density: needs at least one thread");
    nb::gil_scoped_release release;
    Lattice lattice;
    for (int axis = 0; axis < 3; ++axis) {
        lattice.size[axis] = int64_t(values.shape(axis));
        lattice.origin[axis] = origin.data()[axis];
    }
    lattice.spacing = spacing;
    std::vector<Blob> blobs;
    blobs.reserve(count);
    for (size_t n = 0; n < count; ++n) {
        Blob blob;
        bool inside = true;
        for (int axis = 0; axis < 3; ++axis) {
            const double mean = means.data()[3 * n + axis], extent = extents.data()[3 * n + axis];
            blob.mean[axis] = mean;
            blob.box[axis] = span((mean - extent - lattice.origin[axis]) / spacing,
                                  (mean + extent - lattice.origin[axis]) / spacing, lattice.size[axis]);
            inside = inside && blob.box[axis].begin < blob.box[axis].end;
        }
        if (!inside) continue;
        const double *p = precisions.data() + 9 * n;
        blob.xx = -0.5 * p[0];
        blob.yy = -0.5 * p[4];
        blob.zz = -0.5 * p[8];
        blob.xy = -p[1];
        blob.xz = -p[2];
        blob.yz = -p[5];
        blob.log_opacity = std::log(opacities.data()[n]);
        blobs.push_back(blob);
    }
    const int64_t plane = lattice.size[1] * lattice.size[2];
    const int64_t tasks = (lattice.size[0] + kPlanesPerTask - 1) / kPlanesPerTask;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> z(size_t(lattice.size[2] + kFloats)), along(size_t(lattice.size[2] + kFloats));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t begin = task * kPlanesPerTask, end = std::min(begin + kPlanesPerTask, lattice.size[0]);
            std::fill(values.data() + begin * plane, values.data() + end * plane, 0.0f);
            for (const Blob &blob : blobs)
                if (blob.box[0].begin < end && blob.box[0].end > begin)
                    add_blob(blob, lattice, begin, end, z.data(), along.data(), values.data());
        }
    }
}

// A Gaussian in a picture, in pixels.
struct Spot {
    Span box[2];
    double centre[2];
    double uu, uv, vv, log_opacity;
};

// Multiplies the rows [begin, end) of a picture by the light that a Gaussian lets through. Where the product gets
// so small that it might underflow, its logarithm is moved to `depth`.
CLONED void dim(const Spot &spot, double max_alpha, int64_t begin, int64_t end, int64_t width, double *light,
                double *depth) {
    const int64_t first = spot.box[1].begin, count = spot.box[1].end - first;
    for (int64_t i = std::max(begin, spot.box[0].begin); i < std::min(end, spot.box[0].end); ++i) {
        const double du = double(i) - spot.centre[0], start = double(first) - spot.centre[1];
        const double across = spot.uu * du * du + spot.log_opacity, slope = spot.uv * du, bend = spot.vv;
        double *row = light + i * width + first;
        double least = 1.0;
#pragma omp simd reduction(min : least)
        for (int64_t k = 0; k < count; ++k) {
            const double dv = start + double(k), alpha = exponential(across + (slope + bend * dv) * dv);
            const double left = row[k] * (1.0 - (alpha < max_alpha ? alpha : max_alpha));
            row[k] = left;
            least = left < least ? left : least;
        }
        if (least > 1e-200) continue;
        for (int64_t k = 0; k < count; ++k) {
            depth[i * width + first + k] -= std::log(row[k]);
            row[k] = 1.0;
        }
    }
}

// tau of the projection along the axis `hidden`. A pixel (u, v) shows the two other coordinates of the lattice, in
// ascending order, plus (shear_u, shear_v) times the hidden one, and pixel 0 is the least that the lattice reaches.
void optical_depth(Doubles2 means, Doubles3 covariances, Doubles1 radii, Doubles1 opacities, Doubles1 origin,
                   double spacing, nb::ndarray<const int64_t, nb::shape<3>, nb::c_contig, nb::device::cpu> shape,
                   int hidden, int shear_u, int shear_v, double max_alpha, int threads, DoublesOut2 image) {
    const size_t count = means.shape(0);
    require(means.shape(1) == 3, "optical_depth: means must be [N, 3]");
    require(covariances.shape(0) == count && covariances.shape(1) == 3 && covariances.shape(2) == 3,
            "optical_depth: covariances must be [N, 3, 3]");
    require(radii.shape(0) == count && opacities.shape(0) == count, "optical_depth: radii, opacities must be [N]");
    require(origin.shape(0) == 3, "optical_depth: origin must be [3]");
    require(hidden >= 0 && hidden < 3, "optical_depth: hidden must be 0, 1 or 2");
    require(spacing > 0.0, "optical_depth: the spacing must be positive");
    require(max_alpha > 0.0 && max_alpha < 1.0, "optical_depth: max_alpha must be between 0 and 1");
    require(threads >= 1, "optical_depth: needs at least one thread");
    const int axes[2] = {hidden == 0 ? 1 : 0, hidden == 2 ? 1 : 2};
    const int64_t shears[2] = {shear_u, shear_v}, deep = shape.data()[hidden] - 1;
    int64_t size[2];
    double offset[2], shear[2];
    for (int side = 0; side < 2; ++side) {
        size[side] = shape.data()[axes[side]] + std::abs(shears[side]) * deep;
        offset[side] = shears[side] < 0 ? double(-shears[side] * deep) : 0.0;
        shear[side] = double(shears[side]);
        require(int64_t(image.shape(side)) == size[side], "optical_depth: the image has not the picture's size");
    }
    nb::gil_scoped_release release;
    std::vector<Spot> spots;
    spots.reserve(count);
    for (size_t n = 0; n < count; ++n) {
        const double *c = covariances.data() + 9 * n, *mean = means.data() + 3 * n;
        const double scale = 1.0 / (spacing * spacing), deepest = mean[hidden] - origin.data()[hidden];
        double half[3];  // the covariances of u and u, u and v, v and v
        for (int k = 0; k < 3; ++k) {
            const int a = k == 2, b = k != 0;
            half[k] = scale * (c[3 * axes[a] + axes[b]] + shear[b] * c[3 * axes[a] + hidden] +
                               shear[a] * (c[3 * hidden + axes[b]] + shear[b] * c[4 * hidden]));
        }
        Spot spot;
        for (int side = 0; side < 2; ++side) {
            const double place = mean[axes[side]] - origin.data()[axes[side]] + shear[side] * deepest;
            const double extent = radii.data()[n] * std::sqrt(half[2 * side]);
            spot.centre[side] = place / spacing + offset[side];
            spot.box[side] = span(spot.centre[side] - extent, spot.centre[side] + extent, size[side]);
        }
        if (spot.box[0].begin >= spot.box[0].end || spot.box[1].begin >= spot.box[1].end) continue;
        const double determinant = half[0] * half[2] - half[1] * half[1];
        spot.uu = -0.5 * half[2] / determinant;
        spot.uv = half[1] / determinant;
        spot.vv = -0.5 * half[0] / determinant;
        spot.log_opacity = std::log(opacities.data()[n]);
        spots.push_back(spot);
    }
    std::vector<double> light(size_t(size[0] * size[1]), 1.0);
    const int64_t tasks = (size[0] + kRowsPerTask - 1) / kRowsPerTask;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t begin = task * kRowsPerTask, end = std::min(begin + kRowsPerTask, size[0]);
        std::fill(image.data() + begin * size[1], image.data() + end * size[1], 0.0);
        for (const Spot &spot : spots)
            if (spot.box[0].begin < end && spot.box[0].end > begin)
                dim(spot, max_alpha, begin, end, size[1], light.data(), image.data());
        for (int64_t i = begin * size[1]; i < end * size[1]; ++i) image.data()[i] -= std::log(light[size_t(i)]);
    }
}

}  // namespace

void bind_gaussian_sums(nb::module_ &module) {
    module.def("gaussian_density", &gaussian_density, nb::arg("means"), nb::arg("precisions"), nb::arg("extents"),
               nb::arg("opacities"), nb::arg("origin"), nb::arg("spacing"), nb::arg("threads"), nb::arg("values"),
               "The density of Gaussians at the points of a lattice (overwritten), each in its own box only.");
    module.def("optical_depth", &optical_depth, nb::arg("means"), nb::arg("covariances"), nb::arg("radii"),
               nb::arg("opacities"), nb::arg("origin"), nb::arg("spacing"), nb::arg("shape"), nb::arg("hidden"),
               nb::arg("shear_u"), nb::arg("shear_v"), nb::arg("max_alpha"), nb::arg("threads"), nb::arg("image"),
               "The optical depth of a sheared parallel projection of a lattice (overwritten).");
}
