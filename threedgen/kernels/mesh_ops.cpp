// Attributes of the visible face at each pixel, perspective-correct and differentiable in vertices and attributes.
//
// With corners a, b, c in camera space and the pixel's ray d = (dx, dy, 1), corner weights are proportional to
// d.(b x c), d.(c x a), d.(a x b). They are computed from X - dx Z and Y - dy Z, the corners' offsets from the ray,
// in which no digits cancel, and which need no division by a z that may be negative.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace {

// The rows of an image are divided into this many slabs, each with its own gradient sums, so that the order of
// additions, and with it the result, does not depend on the number of threads.
constexpr int kSlabs = 4;

using FloatIn2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatIn3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatIn4 = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using IntIn2 = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IntIn3 = nb::ndarray<const int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatOut3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut4 = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

struct Weights {
    float x[3], y[3], z[3];  // offsets from the ray, and camera z
    float b[3];              // barycentrics
    float sign, total;       // orientation and sum of the weights; 0 if the face is seen edge-on
    bool kept[3];            // false if rounding had made the weight negative
};

Weights weigh(const float *points, const int64_t *face, float dx, float dy) {
    Weights w;
    for (int i = 0; i < 3; ++i) {
        const float *p = points + 3 * face[i];
        w.x[i] = p[0] - dx * p[2];
        w.y[i] = p[1] - dy * p[2];
        w.z[i] = p[2];
    }
    float e[3];
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        e[i] = w.x[j] * w.y[k] - w.x[k] * w.y[j];
    }
    w.sign = e[0] + e[1] + e[2] < 0.0f ? -1.0f : 1.0f;
    w.total = 0.0f;
    for (int i = 0; i < 3; ++i) {
        w.kept[i] = w.sign * e[i] > 0.0f;
        w.b[i] = w.kept[i] ? w.sign * e[i] : 0.0f;
        w.total += w.b[i];
    }
    for (float &b : w.b) b = w.total > 0.0f ? b / w.total : 1.0f / 3.0f;
    return w;
}

void check(FloatIn3 points, IntIn2 faces, FloatIn3 intrinsics, IntIn3 face_id, FloatIn2 attributes,
           const size_t image[4], int threads) {
    const size_t views = face_id.shape(0);
    if (points.shape(0) != views || points.shape(2) != 3 || faces.shape(1) != 3 || intrinsics.shape(0) != views ||
        intrinsics.shape(1) != 3 || intrinsics.shape(2) != 3 || attributes.shape(0) != points.shape(1) ||
        image[0] != views || image[1] != face_id.shape(1) || image[2] != face_id.shape(2) ||
        image[3] != attributes.shape(1) + 2)
        throw nb::value_error("interpolate: the arrays' shapes do not fit together");
    if (threads < 1) throw nb::value_error("interpolate: needs at least one thread");
    const int64_t face_count = static_cast<int64_t>(faces.shape(0)), pixels = static_cast<int64_t>(face_id.size());
    const int64_t vertex_count = static_cast<int64_t>(points.shape(1));
    for (int64_t i = 0; i < 3 * face_count; ++i)
        if (faces.data()[i] < 0 || faces.data()[i] >= vertex_count)
            throw nb::index_error("a face names a vertex that does not exist");
    for (int64_t i = 0; i < pixels; ++i)
        if (face_id.data()[i] < -1 || face_id.data()[i] >= face_count)
            throw nb::index_error("a pixel names a face that does not exist");
}

// Calls work(pixel, face, dx, dy) for the covered pixels of a slab of rows of one view.
template <class Work>
void each_pixel(const IntIn3 &face_id, const IntIn2 &faces, const FloatIn3 &intrinsics, size_t view, int slab,
                Work work) {
    const int64_t height = static_cast<int64_t>(face_id.shape(1)), width = static_cast<int64_t>(face_id.shape(2));
    const float *k = intrinsics.data() + 9 * view;
    for (int64_t row = height * slab / kSlabs; row < height * (slab + 1) / kSlabs; ++row) {
        const int64_t first = (static_cast<int64_t>(view) * height + row) * width;
        const float dy = (row + 0.5f - k[5]) / k[4];
        for (int64_t column = 0; column < width; ++column) {
            const int32_t face = face_id.data()[first + column];
            if (face >= 0) work(first + column, faces.data() + 3 * face, (column + 0.5f - k[2]) / k[0], dy);
        }
    }
}

// image [B, H, W, C + 2]: the attributes, 1, and camera z; zeros if the pixel sees no face.
void interpolate_forward(FloatIn3 points, IntIn2 faces, FloatIn3 intrinsics, IntIn3 face_id, FloatIn2 attributes,
                         int threads, FloatOut4 image) {
    const size_t shape[4] = {image.shape(0), image.shape(1), image.shape(2), image.shape(3)};
    check(points, faces, intrinsics, face_id, attributes, shape, threads);
    const int channels = static_cast<int>(attributes.shape(1));
    const int64_t vertices = static_cast<int64_t>(points.shape(1));
    nb::gil_scoped_release release;
    std::fill_n(image.data(), image.size(), 0.0f);
    const int64_t slabs = static_cast<int64_t>(face_id.shape(0)) * kSlabs;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < slabs; ++task) {
        const size_t view = task / kSlabs;
        const float *view_points = points.data() + 3 * vertices * view;
        each_pixel(face_id, faces, intrinsics, view, task % kSlabs,
                   [&](int64_t pixel, const int64_t *face, float dx, float dy) {
                       const Weights w = weigh(view_points, face, dx, dy);
                       float *out = image.data() + pixel * (channels + 2);
                       for (int i = 0; i < 3; ++i) {
                           const float *values = attributes.data() + face[i] * channels;
                           for (int c = 0; c < channels; ++c) out[c] += w.b[i] * values[c];
                           out[channels + 1] += w.b[i] * w.z[i];
                       }
                       out[channels] = 1.0f;
                   });
    }
}

// d_image has the shape of `image` above; the coverage is constant, so that its gradient is not used.
void interpolate_backward(FloatIn3 points, IntIn2 faces, FloatIn3 intrinsics, IntIn3 face_id, FloatIn2 attributes,
                          FloatIn4 d_image, int threads, FloatOut3 d_points, FloatOut2 d_attributes) {
    const size_t shape[4] = {d_image.shape(0), d_image.shape(1), d_image.shape(2), d_image.shape(3)};
    check(points, faces, intrinsics, face_id, attributes, shape, threads);
    for (int axis = 0; axis < 3; ++axis)
        if (d_points.shape(axis) != points.shape(axis) ||
            (axis < 2 && d_attributes.shape(axis) != attributes.shape(axis)))
            throw nb::value_error("interpolate: the gradients' shapes do not fit");
    const int channels = static_cast<int>(attributes.shape(1)), stride = channels + 3;
    const int64_t vertices = static_cast<int64_t>(points.shape(1));
    nb::gil_scoped_release release;
    std::fill_n(d_attributes.data(), d_attributes.size(), 0.0f);
    std::vector<float> sums(static_cast<size_t>(kSlabs) * vertices * stride);
    for (size_t view = 0; view < face_id.shape(0); ++view) {
        const float *view_points = points.data() + 3 * vertices * view;
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(dynamic)
            for (int slab = 0; slab < kSlabs; ++slab) {
                float *own = sums.data() + static_cast<size_t>(slab) * vertices * stride;
                std::fill_n(own, vertices * stride, 0.0f);
                each_pixel(face_id, faces, intrinsics, view, slab,
                           [&](int64_t pixel, const int64_t *face, float dx, float dy) {
                               const Weights w = weigh(view_points, face, dx, dy);
                               const float *gradient = d_image.data() + pixel * (channels + 2);
                               const float d_z = gradient[channels + 1];
                               float d_b[3], mean = 0.0f, d_x[3] = {}, d_y[3] = {};
                               for (int i = 0; i < 3; ++i) {
                                   const float *values = attributes.data() + face[i] * channels;
                                   float *sum = own + face[i] * stride + 3;
                                   d_b[i] = d_z * w.z[i];
                                   for (int c = 0; c < channels; ++c) {
                                       d_b[i] += gradient[c] * values[c];
                                       sum[c] += gradient[c] * w.b[i];
                                   }
                                   mean += w.b[i] * d_b[i];
                               }
                               for (int i = 0; i < 3; ++i) {
                                   if (!w.kept[i]) continue;
                                   const int j = (i + 1) % 3, k = (i + 2) % 3;
                                   const float d_e = w.sign * (d_b[i] - mean) / w.total;
                                   d_x[j] += d_e * w.y[k];
                                   d_y[k] += d_e * w.x[j];
                                   d_x[k] -= d_e * w.y[j];
                                   d_y[j] -= d_e * w.x[k];
                               }
                               for (int i = 0; i < 3; ++i) {
                                   float *sum = own + face[i] * stride;
                                   sum[0] += d_x[i];
                                   sum[1] += d_y[i];
                                   sum[2] += d_z * w.b[i] - dx * d_x[i] - dy * d_y[i];
                               }
                           });
            }
#pragma omp for schedule(static)
            for (int64_t vertex = 0; vertex < vertices; ++vertex) {
                float *d_point = d_points.data() + 3 * (vertices * view + vertex);
                float *d_attribute = d_attributes.data() + vertex * channels;
                std::fill_n(d_point, 3, 0.0f);
                for (int slab = 0; slab < kSlabs; ++slab) {
                    const float *sum = sums.data() + (static_cast<size_t>(slab) * vertices + vertex) * stride;
                    for (int axis = 0; axis < 3; ++axis) d_point[axis] += sum[axis];
                    for (int c = 0; c < channels; ++c) d_attribute[c] += sum[3 + c];
                }
            }
        }
    }
}

}  // namespace

void bind_mesh_ops(nb::module_ &module) {
    module.def("interpolate_forward", &interpolate_forward, nb::arg("points"), nb::arg("faces"), nb::arg("intrinsics"),
               nb::arg("face_id"), nb::arg("attributes"), nb::arg("threads"), nb::arg("image"),
               "Attributes, coverage and camera z of the visible face at each pixel.");
    module.def("interpolate_backward", &interpolate_backward, nb::arg("points"), nb::arg("faces"),
               nb::arg("intrinsics"), nb::arg("face_id"), nb::arg("attributes"), nb::arg("d_image"),
               nb::arg("threads"), nb::arg("d_points"), nb::arg("d_attributes"),
               "Gradients of points and attributes from those of interpolate_forward's image.");
}
