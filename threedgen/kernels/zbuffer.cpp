// Triangle visibility: for each pixel the nearest face, its perspective-correct barycentrics and 1/z.
//
// Triangles are clipped against the near plane (not dropped), projected, and rasterised in row bands:
// each thread owns a band of rows of one image, so no pixel is written by two threads and the result
// does not depend on their number.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace {

constexpr int kRowsPerBand = 16;

struct Corner {
    float x, y, z;      // camera space
    float bary[3];      // with respect to the original face
};

// A projected triangle: screen positions, 1/z, and barycentrics divided by z at each corner.
struct ScreenTriangle {
    float x[3], y[3], inverse_z[3];
    float bary_over_z[3][3];
    int32_t face;
    int row_begin, row_end;
};

int clip_near(const Corner in[3], float near_plane, Corner out[4]) {
    int count = 0;
    for (int i = 0; i < 3; ++i) {
        const Corner &a = in[i];
        const Corner &b = in[(i + 1) % 3];
        const bool a_inside = a.z >= near_plane, b_inside = b.z >= near_plane;
        if (a_inside) out[count++] = a;
        if (a_inside != b_inside) {
            const float t = (near_plane - a.z) / (b.z - a.z);
            Corner &c = out[count++];
            c.x = a.x + t * (b.x - a.x);
            c.y = a.y + t * (b.y - a.y);
            c.z = near_plane;
            for (int k = 0; k < 3; ++k) c.bary[k] = a.bary[k] + t * (b.bary[k] - a.bary[k]);
        }
    }
    return count;
}

struct View {
    float rotation[9], translation[3];
    float fx, fy, cx, cy;
};

View load_view(const float *camera_from_world, const float *intrinsics) {
    View view;
    for (int r = 0; r < 3; ++r) {
        for (int c = 0; c < 3; ++c) view.rotation[3 * r + c] = camera_from_world[4 * r + c];
        view.translation[r] = camera_from_world[4 * r + 3];
    }
    view.fx = intrinsics[0];
    view.cx = intrinsics[2];
    view.fy = intrinsics[4];
    view.cy = intrinsics[5];
    return view;
}

void add_triangle(const Corner &a, const Corner &b, const Corner &c, const View &view, int32_t face, int height,
                  std::vector<ScreenTriangle> &out) {
    const Corner *corners[3] = {&a, &b, &c};
    ScreenTriangle triangle;
    float y_min = std::numeric_limits<float>::infinity(), y_max = -y_min;
    for (int i = 0; i < 3; ++i) {
        const float inverse_z = 1.0f / corners[i]->z;
        triangle.x[i] = view.fx * corners[i]->x * inverse_z + view.cx;
        triangle.y[i] = view.fy * corners[i]->y * inverse_z + view.cy;
        triangle.inverse_z[i] = inverse_z;
        for (int k = 0; k < 3; ++k) triangle.bary_over_z[i][k] = corners[i]->bary[k] * inverse_z;
        y_min = std::min(y_min, triangle.y[i]);
        y_max = std::max(y_max, triangle.y[i]);
    }
    if (!(y_max >= 0.0f) || !(y_min <= static_cast<float>(height))) return;
    triangle.row_begin = std::max(0, static_cast<int>(std::floor(std::max(y_min, 0.0f) - 0.5f)));
    triangle.row_end =
        std::min(height, static_cast<int>(std::ceil(std::min(y_max, static_cast<float>(height)) + 0.5f)));
    triangle.face = face;
    if (triangle.row_begin < triangle.row_end) out.push_back(triangle);
}

void rasterise(const ScreenTriangle &t, int row_begin, int row_end, int width, int32_t *face_id, float *bary,
               float *inverse_z) {
    const float area = (t.x[1] - t.x[0]) * (t.y[2] - t.y[0]) - (t.x[2] - t.x[0]) * (t.y[1] - t.y[0]);
    if (area == 0.0f || !std::isfinite(area)) return;
    const float inverse_area = 1.0f / area;
    const float x_min = std::min({t.x[0], t.x[1], t.x[2]}), x_max = std::max({t.x[0], t.x[1], t.x[2]});
    if (!(x_max >= 0.0f) || !(x_min <= static_cast<float>(width))) return;
    const int column_begin = std::max(0, static_cast<int>(std::floor(std::max(x_min, 0.0f) - 0.5f)));
    const int column_end =
        std::min(width, static_cast<int>(std::ceil(std::min(x_max, static_cast<float>(width)) + 0.5f)));
    for (int row = std::max(row_begin, t.row_begin); row < std::min(row_end, t.row_end); ++row) {
        const float py = row + 0.5f;
        for (int column = column_begin; column < column_end; ++column) {
            const float px = column + 0.5f;
            // Signed by the area, so both windings are drawn (back faces are the caller's business).
            const float w0 =
                ((t.x[1] - px) * (t.y[2] - py) - (t.x[2] - px) * (t.y[1] - py)) * inverse_area;
            const float w1 =
                ((t.x[2] - px) * (t.y[0] - py) - (t.x[0] - px) * (t.y[2] - py)) * inverse_area;
            const float w2 = 1.0f - w0 - w1;
            if (w0 < 0.0f || w1 < 0.0f || w2 < 0.0f) continue;
            const float iz = w0 * t.inverse_z[0] + w1 * t.inverse_z[1] + w2 * t.inverse_z[2];
            const int64_t pixel = static_cast<int64_t>(row) * width + column;
            if (iz <= inverse_z[pixel]) continue;
            inverse_z[pixel] = iz;
            face_id[pixel] = t.face;
            for (int k = 0; k < 3; ++k)
                bary[3 * pixel + k] = (w0 * t.bary_over_z[0][k] + w1 * t.bary_over_z[1][k] +
                                       w2 * t.bary_over_z[2][k]) / iz;
        }
    }
}

using FloatIn2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatIn3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using IntIn2 = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IntOut3 = nb::ndarray<int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut4 = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

void zbuffer(FloatIn2 vertices, IntIn2 faces, FloatIn3 camera_from_world, FloatIn3 intrinsics, float near_plane,
             IntOut3 face_id, FloatOut4 bary, FloatOut3 inverse_z) {
    const int views = static_cast<int>(face_id.shape(0));
    const int height = static_cast<int>(face_id.shape(1)), width = static_cast<int>(face_id.shape(2));
    const int64_t face_count = static_cast<int64_t>(faces.shape(0));
    const int64_t vertex_count = static_cast<int64_t>(vertices.shape(0));
    const int64_t pixels = static_cast<int64_t>(height) * width;
    for (int64_t i = 0; i < 3 * face_count; ++i)
        if (faces.data()[i] < 0 || faces.data()[i] >= vertex_count)
            throw nb::index_error("a face names a vertex that does not exist");

    nb::gil_scoped_release release;
    std::fill_n(face_id.data(), views * pixels, -1);
    std::fill_n(bary.data(), 3 * views * pixels, 0.0f);
    std::fill_n(inverse_z.data(), views * pixels, 0.0f);
    std::vector<float> camera_space(3 * vertex_count);
    std::vector<ScreenTriangle> triangles;
    for (int v = 0; v < views; ++v) {
        const View view = load_view(camera_from_world.data() + 16 * v, intrinsics.data() + 9 * v);
        for (int64_t i = 0; i < vertex_count; ++i) {
            const float *p = vertices.data() + 3 * i;
            for (int r = 0; r < 3; ++r)
                camera_space[3 * i + r] = view.rotation[3 * r] * p[0] + view.rotation[3 * r + 1] * p[1] +
                                          view.rotation[3 * r + 2] * p[2] + view.translation[r];
        }
        triangles.clear();
        for (int64_t f = 0; f < face_count; ++f) {
            Corner corners[3], clipped[4];
            for (int i = 0; i < 3; ++i) {
                const float *p = camera_space.data() + 3 * faces.data()[3 * f + i];
                corners[i] = {p[0], p[1], p[2], {0.0f, 0.0f, 0.0f}};
                corners[i].bary[i] = 1.0f;
            }
            const int count = clip_near(corners, near_plane, clipped);
            for (int i = 2; i < count; ++i)
                add_triangle(clipped[0], clipped[i - 1], clipped[i], view, static_cast<int32_t>(f), height,
                             triangles);
        }
        const int bands = (height + kRowsPerBand - 1) / kRowsPerBand;
        int32_t *view_ids = face_id.data() + v * pixels;
        float *view_bary = bary.data() + 3 * v * pixels, *view_inverse_z = inverse_z.data() + v * pixels;
#pragma omp parallel for schedule(dynamic)
        for (int band = 0; band < bands; ++band) {
            const int begin = band * kRowsPerBand, end = std::min(height, begin + kRowsPerBand);
            for (const ScreenTriangle &triangle : triangles)
                if (triangle.row_begin < end && triangle.row_end > begin)
                    rasterise(triangle, begin, end, width, view_ids, view_bary, view_inverse_z);
        }
    }
}

}  // namespace

void bind_zbuffer(nb::module_ &module) {
    module.def("zbuffer", &zbuffer, nb::arg("vertices"), nb::arg("faces"), nb::arg("camera_from_world"),
               nb::arg("intrinsics"), nb::arg("near"), nb::arg("face_id"), nb::arg("bary"), nb::arg("inverse_z"),
               "Nearest face, barycentrics and 1/z of each pixel; -1 and zeros where nothing is seen.");
}
