// Triangle visibility: for each pixel the nearest face, its perspective-correct barycentrics and 1/z.
//
// Triangles are clipped at the near plane, projected, binned to bands of rows, and rasterised. Each thread writes a
// band of rows of one image and takes its triangles in the order of the faces, so that no pixel is written by two
// threads and the result does not depend on their number.
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
constexpr int64_t kFacesPerChunk = 2048;

struct Corner {
    float x, y, z;      // camera space
    float bary[3];      // barycentric coordinates in the original face
};

// A projected triangle: screen positions, 1/z, and barycentrics divided by z at each corner.
struct ScreenTriangle {
    float x[3], y[3], inverse_z[3];
    float bary_over_z[3][3];
    float inverse_area;
    int32_t face;
    int row_begin, row_end, column_begin, column_end;
};

// The triangles of some consecutive faces, and those that overlap each band.
struct Chunk {
    std::vector<ScreenTriangle> triangles;
    std::vector<std::vector<int32_t>> bands;
};

struct Image {
    float fx, fy, cx, cy, near_plane, far_plane;
    int height, width;
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

// Counter-clockwise as the camera sees it: the camera is on the side that the normal (b - a) x (c - a) points to.
bool faces_camera(const Corner corner[3]) {
    const float ux = corner[1].x - corner[0].x, uy = corner[1].y - corner[0].y, uz = corner[1].z - corner[0].z;
    const float vx = corner[2].x - corner[0].x, vy = corner[2].y - corner[0].y, vz = corner[2].z - corner[0].z;
    return (uy * vz - uz * vy) * corner[0].x + (uz * vx - ux * vz) * corner[0].y +
               (ux * vy - uy * vx) * corner[0].z < 0.0f;
}

// The pixels whose centres may be between two coordinates; empty (begin >= end) outside the image.
void span(float low, float high, int size, int &begin, int &end) {
    const float limit = static_cast<float>(size);
    begin = end = 0;
    if (!(high >= 0.0f) || !(low <= limit)) return;
    begin = std::max(0, static_cast<int>(std::floor(std::max(low, 0.0f) - 0.5f)));
    end = std::min(size, static_cast<int>(std::ceil(std::min(high, limit) + 0.5f)));
}

void add_triangle(const Corner &a, const Corner &b, const Corner &c, const Image &image, int32_t face, Chunk &out) {
    const Corner *corners[3] = {&a, &b, &c};
    ScreenTriangle t;
    for (int i = 0; i < 3; ++i) {
        const float inverse_z = 1.0f / corners[i]->z;
        t.x[i] = image.fx * corners[i]->x * inverse_z + image.cx;
        t.y[i] = image.fy * corners[i]->y * inverse_z + image.cy;
        t.inverse_z[i] = inverse_z;
        for (int k = 0; k < 3; ++k) t.bary_over_z[i][k] = corners[i]->bary[k] * inverse_z;
    }
    const float area = (t.x[1] - t.x[0]) * (t.y[2] - t.y[0]) - (t.x[2] - t.x[0]) * (t.y[1] - t.y[0]);
    if (area == 0.0f || !std::isfinite(area)) return;
    t.inverse_area = 1.0f / area;
    t.face = face;
    span(std::min({t.y[0], t.y[1], t.y[2]}), std::max({t.y[0], t.y[1], t.y[2]}), image.height, t.row_begin,
         t.row_end);
    span(std::min({t.x[0], t.x[1], t.x[2]}), std::max({t.x[0], t.x[1], t.x[2]}), image.width, t.column_begin,
         t.column_end);
    if (t.row_begin >= t.row_end || t.column_begin >= t.column_end) return;
    const int32_t index = static_cast<int32_t>(out.triangles.size());
    out.triangles.push_back(t);
    for (int band = t.row_begin / kRowsPerBand; band <= (t.row_end - 1) / kRowsPerBand; ++band)
        out.bands[band].push_back(index);
}

void project(const float *points, const int64_t *faces, int64_t begin, int64_t end, const Image &image, bool cull,
             Chunk &out) {
    out.triangles.clear();
    for (auto &band : out.bands) band.clear();
    for (int64_t f = begin; f < end; ++f) {
        Corner corners[3], clipped[4];
        for (int i = 0; i < 3; ++i) {
            const float *p = points + 3 * faces[3 * f + i];
            corners[i] = {p[0], p[1], p[2], {0.0f, 0.0f, 0.0f}};
            corners[i].bary[i] = 1.0f;
        }
        if (cull && !faces_camera(corners)) continue;
        const int count = clip_near(corners, image.near_plane, clipped);
        for (int i = 2; i < count; ++i)
            add_triangle(clipped[0], clipped[i - 1], clipped[i], image, static_cast<int32_t>(f), out);
    }
}

void rasterise(const ScreenTriangle &t, int row_begin, int row_end, const Image &image, int32_t *face_id, float *bary,
               float *inverse_z) {
    const float least = 1.0f / image.far_plane;
    for (int row = std::max(row_begin, t.row_begin); row < std::min(row_end, t.row_end); ++row) {
        const float py = row + 0.5f;
        for (int column = t.column_begin; column < t.column_end; ++column) {
            const float px = column + 0.5f;
            // The sign of the area makes both orientations positive inside: both are drawn.
            const float w0 =
                ((t.x[1] - px) * (t.y[2] - py) - (t.x[2] - px) * (t.y[1] - py)) * t.inverse_area;
            const float w1 =
                ((t.x[2] - px) * (t.y[0] - py) - (t.x[0] - px) * (t.y[2] - py)) * t.inverse_area;
            const float w2 = 1.0f - w0 - w1;
            if (!(w0 >= 0.0f && w1 >= 0.0f && w2 >= 0.0f)) continue;
            const float iz = w0 * t.inverse_z[0] + w1 * t.inverse_z[1] + w2 * t.inverse_z[2];
            const int64_t pixel = static_cast<int64_t>(row) * image.width + column;
            if (iz <= inverse_z[pixel] || iz < least) continue;
            inverse_z[pixel] = iz;
            face_id[pixel] = t.face;
            for (int k = 0; k < 3; ++k)
                bary[3 * pixel + k] = (w0 * t.bary_over_z[0][k] + w1 * t.bary_over_z[1][k] +
                                       w2 * t.bary_over_z[2][k]) / iz;
        }
    }
}

using FloatIn3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using IntIn2 = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IntOut3 = nb::ndarray<int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatOut4 = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

void zbuffer(FloatIn3 points, IntIn2 faces, FloatIn3 intrinsics, float near_plane, float far_plane, bool cull,
             int threads, IntOut3 face_id, FloatOut4 bary, FloatOut3 inverse_z) {
    const size_t views = face_id.shape(0), height = face_id.shape(1), width = face_id.shape(2);
    if (points.shape(0) != views || points.shape(2) != 3 || faces.shape(1) != 3 || intrinsics.shape(0) != views ||
        intrinsics.shape(1) != 3 || intrinsics.shape(2) != 3 || inverse_z.shape(0) != views ||
        inverse_z.shape(1) != height || inverse_z.shape(2) != width || bary.shape(0) != views ||
        bary.shape(1) != height || bary.shape(2) != width || bary.shape(3) != 3)
        throw nb::value_error("zbuffer: the arrays' shapes do not fit together");
    if (height > (1u << 20) || width > (1u << 20) || faces.shape(0) > (size_t{1} << 30) || threads < 1)
        throw nb::value_error("zbuffer: image or mesh too large, or no thread");
    const int64_t face_count = static_cast<int64_t>(faces.shape(0));
    const int64_t vertex_count = static_cast<int64_t>(points.shape(1));
    const int64_t pixels = static_cast<int64_t>(height * width);
    for (int64_t i = 0; i < 3 * face_count; ++i)
        if (faces.data()[i] < 0 || faces.data()[i] >= vertex_count)
            throw nb::index_error("a face names a vertex that does not exist");

    nb::gil_scoped_release release;
    std::fill_n(face_id.data(), views * pixels, -1);
    std::fill_n(bary.data(), 3 * views * pixels, 0.0f);
    std::fill_n(inverse_z.data(), views * pixels, 0.0f);
    const int bands = static_cast<int>((height + kRowsPerBand - 1) / kRowsPerBand);
    const int64_t chunk_count = (face_count + kFacesPerChunk - 1) / kFacesPerChunk;
    std::vector<Chunk> chunks(chunk_count);
    for (Chunk &chunk : chunks) chunk.bands.resize(bands);
    for (size_t v = 0; v < views; ++v) {
        const float *k = intrinsics.data() + 9 * v;
        const Image image = {k[0], k[4], k[2], k[5], near_plane, far_plane, static_cast<int>(height),
                             static_cast<int>(width)};
        const float *view_points = points.data() + 3 * vertex_count * v;
        int32_t *view_ids = face_id.data() + v * pixels;
        float *view_bary = bary.data() + 3 * v * pixels, *view_inverse_z = inverse_z.data() + v * pixels;
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(dynamic)
            for (int64_t chunk = 0; chunk < chunk_count; ++chunk)
                project(view_points, faces.data(), chunk * kFacesPerChunk,
                        std::min(face_count, (chunk + 1) * kFacesPerChunk), image, cull, chunks[chunk]);
#pragma omp for schedule(dynamic)
            for (int band = 0; band < bands; ++band) {
                const int begin = band * kRowsPerBand, end = std::min(image.height, begin + kRowsPerBand);
                for (const Chunk &chunk : chunks)
                    for (const int32_t index : chunk.bands[band])
                        rasterise(chunk.triangles[index], begin, end, image, view_ids, view_bary, view_inverse_z);
            }
        }
    }
}

}  // namespace

void bind_zbuffer(nb::module_ &module) {
    module.def("zbuffer", &zbuffer, nb::arg("points"), nb::arg("faces"), nb::arg("intrinsics"), nb::arg("near"),
               nb::arg("far"), nb::arg("cull"), nb::arg("threads"), nb::arg("face_id"), nb::arg("bary"),
               nb::arg("inverse_z"),
               "Nearest face, barycentrics and 1/z of each pixel; -1 and zeros where nothing is seen.");
}
