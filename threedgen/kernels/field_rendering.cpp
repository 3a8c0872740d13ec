// Pictures of decoded radiance fields: points on rays, features of planes and of a picture, a small network, and the
// rendering integral, in one pass without a gradient. The result is that of guidance/priors/radiance_field.py.
//
// Bilinear features and the first layer after them are both linear, so the texels are given as already multiplied by
// the weights of that layer: a point adds twelve rows of `hidden` numbers instead of multiplying a matrix. A ray is
// followed from the camera until nothing behind can be seen, and by one thread, so that the result does not depend on
// the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "clones.h"

namespace nb = nanobind;

namespace {

constexpr int64_t kRaysPerTask = 64;
constexpr float kHidden = 1e-4f;  // share of light from behind that is not looked for
constexpr int kGroup = 4;  // points that a ray takes at a time
constexpr int kMostHidden = 128, kMostWaves = 8, kMostParts = 8, kMostPictures = 2, kMostCells = 512;
constexpr int kAxis[3][2] = {{0, 1}, {0, 2}, {1, 2}};  // the coordinates along the width and the height of each plane

struct Texels {
    const float *values;  // [H, W, hidden]
    int64_t height, width;
};

struct Projection {  // of the camera of the picture that a field is decoded from
    const float *rotation, *position;  // world from camera
    float focal[2], distance;          // focal lengths in half widths of the picture
};

struct Part {
    Texels planes[3], pictures[kMostPictures];
    int picture_count;  // 0: it is decoded from no picture, and what follows up to `waves` is not there
    Projection projection;
    const float *place;  // [6 + 2 waves, hidden]: x y z, pixel, depth, sines and cosines of the depth
    const float *waves;  // radians a world unit
    int wave_count;
    const float *first;             // [hidden], the bias of the first layer
    const float *between, *second;  // [hidden, hidden] by rows of the input, and its bias; null: there is no such layer
    const float *outer, *last;      // [hidden, 4] and its bias
    std::vector<uint32_t> occupied;  // a bit a cell: of cells x cells columns of `words` numbers; empty: all are
    int64_t cells = 1, hidden;
    int32_t words = 1;
    float blob[2], density;
    float size, shift[3];
};

// e^x to 3e-7. A polynomial, because with a call of the C library compilers do not vectorise a loop.
INLINED float exponential(float x) {
    const float t = std::min(std::max(x * 1.4426950409f, -126.0f), 126.0f);
    const float shifted = t + 12582912.0f, f = t - (shifted - 12582912.0f);
    float p = 1.340043217e-3f;
    p = p * f + 9.676037098e-3f;
    p = p * f + 5.550327214e-2f;
    p = p * f + 2.402210736e-1f;
    p = p * f + 6.931472067e-1f;
    p = p * f + 1.000000075f;
    return __builtin_bit_cast(float,
                              __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

// log(1 + u) for u in [0, 1], to 2e-7.
INLINED float log_one_plus(float u) {
    float p = -8.574676205e-3f;
    p = p * u + 4.421419234e-2f;
    p = p * u - 1.078536792e-1f;
    p = p * u + 1.775702399e-1f;
    p = p * u - 2.449961172e-1f;
    p = p * u + 3.327617657e-1f;
    p = p * u - 4.999744938e-1f;
    p = p * u + 9.999998102e-1f;
    return p * u;
}

template <int FIXED> INLINED void silu(float *values, int64_t hidden) {
    const int64_t count = FIXED > 0 ? FIXED : hidden;
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) values[k] = values[k] / (1.0f + exponential(-values[k]));
}

// Adds the bilinear value at a place in texels, where the outermost centres are the border.
template <int FIXED> INLINED void add_bilinear(const Texels &texels, float x, float y, int64_t hidden, float *out) {
    const int64_t count = FIXED > 0 ? FIXED : hidden;
    const float right = float(texels.width - 1), bottom = float(texels.height - 1);
    x = std::min(std::max(0.0f, x), right);  // in this order NaN becomes 0, and nothing is read out of bounds
    y = std::min(std::max(0.0f, y), bottom);
    const int64_t x0 = std::min(int64_t(x), std::max(texels.width - 2, int64_t(0)));
    const int64_t y0 = std::min(int64_t(y), std::max(texels.height - 2, int64_t(0)));
    const int64_t step = x0 + 1 < texels.width ? count : 0, row = texels.width * count;
    const float u = x - float(x0), v = y - float(y0);
    const float *a = texels.values + y0 * row + x0 * count, *b = a + step;
    const float *c = y0 + 1 < texels.height ? a + row : a, *d = c + step;
    const float wa = (1.0f - u) * (1.0f - v), wb = u * (1.0f - v), wc = (1.0f - u) * v, wd = u * v;
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) out[k] += (wa * a[k] + wb * b[k]) + (wc * c[k] + wd * d[k]);
}

template <int FIXED> INLINED void add_scaled(const float *row, float factor, int64_t hidden, float *out) {
    const int64_t count = FIXED > 0 ? FIXED : hidden;
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) out[k] += factor * row[k];
}

// What the picture shows where a point is, and where that is in the world and behind its pixel.
template <int FIXED> INLINED void add_seen(const Part &part, const float *p, float *hidden) {
    const Projection &camera = part.projection;
    float local[3] = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k) local[k] += (p[i] - camera.position[i]) * camera.rotation[3 * i + k];
    const float depth = std::max(local[2], 1e-3f), behind = depth - camera.distance;
    const float x = local[0] / depth * camera.focal[0], y = local[1] / depth * camera.focal[1];
    float place[6 + 2 * kMostWaves] = {p[0], p[1], p[2], x, y, behind};
    for (int w = 0; w < part.wave_count; ++w) {
        place[6 + w] = std::sin(behind * part.waves[w]);
        place[6 + part.wave_count + w] = std::cos(behind * part.waves[w]);
    }
    for (int k = 0; k < 6 + 2 * part.wave_count; ++k)
        add_scaled<FIXED>(part.place + k * part.hidden, place[k], part.hidden, hidden);
    for (int i = 0; i < part.picture_count; ++i) {
        const Texels &picture = part.pictures[i];
        add_bilinear<FIXED>(picture, (x + 1.0f) * 0.5f * float(picture.width) - 0.5f,
                            (y + 1.0f) * 0.5f * float(picture.height) - 0.5f, part.hidden, hidden);
    }
}

// Raw colours and the raw density of a point of a part, kGroup numbers apart.
template <int FIXED> INLINED void query(const Part &part, const float *p, float *raw) {
    const int64_t count = FIXED > 0 ? FIXED : part.hidden;
    float hidden[FIXED > 0 ? FIXED : kMostHidden];
    for (int64_t k = 0; k < count; ++k) hidden[k] = part.first[k];
    for (int i = 0; i < 3; ++i) {
        const Texels &plane = part.planes[i];
        add_bilinear<FIXED>(plane, (p[kAxis[i][0]] + 1.0f) * (0.5f * float(plane.width - 1)),
                            (p[kAxis[i][1]] + 1.0f) * (0.5f * float(plane.height - 1)), count, hidden);
    }
    if (part.picture_count) add_seen<FIXED>(part, p, hidden);
    silu<FIXED>(hidden, count);
    if (part.between) {
        float next[FIXED > 0 ? FIXED : kMostHidden];
        for (int64_t k = 0; k < count; ++k) next[k] = part.second[k];
        for (int64_t k = 0; k < count; ++k) add_scaled<FIXED>(part.between + k * count, hidden[k], count, next);
        silu<FIXED>(next, count);
        for (int64_t k = 0; k < count; ++k) hidden[k] = next[k];
    }
    // Four sums of every fourth unit, so that an addition need not wait for the one before.
    float sums[4][4] = {};
    for (int64_t k = 0; k + 4 <= count; k += 4)
        for (int u = 0; u < 4; ++u)
            for (int c = 0; c < 4; ++c) sums[u][c] += part.outer[4 * (k + u) + c] * hidden[k + u];
    for (int64_t k = count / 4 * 4; k < count; ++k)
        for (int c = 0; c < 4; ++c) sums[0][c] += part.outer[4 * k + c] * hidden[k];
    for (int c = 0; c < 4; ++c)
        raw[c * kGroup] = (sums[0][c] + sums[1][c]) + (sums[2][c] + sums[3][c]) + part.last[c];
}

INLINED void query_any(const Part &part, const float *p, float *raw) {
    switch (part.hidden) {
    case 32: return query<32>(part, p, raw);
    case 64: return query<64>(part, p, raw);
    default: return query<0>(part, p, raw);
    }
}

struct Rays {
    const float *nearest, *direction, *half;  // see radiance_field.py
    int64_t count;
    int samples;
};

// kGroup points of a ray that follow each other: the sum of the densities of all parts, and that of the densities
// times the colours.
struct Group {
    float density[kGroup], color[3][kGroup];
};

INLINED bool is_occupied(const Part &part, int32_t x, int32_t y, int32_t z) {
    return (part.occupied[size_t((x * part.cells + y) * part.words + z / 32)] >> (z % 32)) & 1u;
}

INLINED void add_part(const Part &part, const float (*world)[kGroup], Group &group) {
    float p[3][kGroup], square[kGroup];
    int32_t cell[3][kGroup], full[kGroup];
    const float shrink = 1.0f / part.size, scale = 0.5f * float(part.cells);
    const int32_t last = int32_t(part.cells) - 1;
    for (int i = 0; i < 3; ++i) {
#pragma omp simd
        for (int j = 0; j < kGroup; ++j) {
            p[i][j] = (world[i][j] - part.shift[i]) * shrink;
            const float inside = std::min(std::max(-1.0f, p[i][j]), 1.0f);
            cell[i][j] = std::min(int32_t((inside + 1.0f) * scale), last);
        }
    }
    int any = 0;
    for (int j = 0; j < kGroup; ++j) {
        square[j] = p[0][j] * p[0][j] + p[1][j] * p[1][j] + p[2][j] * p[2][j];
        full[j] = square[j] < 1.0f && (part.occupied.empty() || is_occupied(part, cell[0][j], cell[1][j], cell[2][j]));
        any |= full[j];
    }
    if (!any) return;
    float raw[4][kGroup] = {};
    for (int j = 0; j < kGroup; ++j) {
        const float point[3] = {p[0][j], p[1][j], p[2][j]};
        if (full[j]) query_any(part, point, &raw[0][j]);
    }
    float density[kGroup];
#pragma omp simd
    for (int j = 0; j < kGroup; ++j) {
        const float x = raw[3][j] + part.blob[0] - part.blob[1] * std::sqrt(square[j]);
        const float softplus = std::max(x, 0.0f) + log_one_plus(exponential(-std::fabs(x)));
        density[j] = full[j] ? part.density * shrink * softplus : 0.0f;
        group.density[j] += density[j];
    }
    for (int c = 0; c < 3; ++c) {
#pragma omp simd
        for (int j = 0; j < kGroup; ++j) group.color[c][j] += density[j] / (1.0f + exponential(-raw[c][j]));
    }
}

CLONED void follow(const Rays &rays, const Part *parts, int part_count, int64_t begin, int64_t end, float *out) {
    for (int64_t r = begin; r < end; ++r) {
        const float *middle = rays.nearest + 3 * r, *direction = rays.direction + 3 * r;
        const float half = rays.half[r], length = 2.0f * half / float(rays.samples);
        float *pixel = out + 4 * r, passed = 1.0f;
        for (int c = 0; c < 4; ++c) pixel[c] = 0.0f;
        for (int s = 0; s < rays.samples && half > 0.0f && passed > kHidden; s += kGroup) {
            float world[3][kGroup];
            for (int i = 0; i < 3; ++i)
                for (int j = 0; j < kGroup; ++j) {
                    const float along = ((float(s + j) + 0.5f) / float(rays.samples) * 2.0f - 1.0f) * half;
                    world[i][j] = middle[i] + along * direction[i];
                }
            Group group{};
            for (int i = 0; i < part_count; ++i) add_part(parts[i], world, group);
            float alpha[kGroup];
#pragma omp simd
            for (int j = 0; j < kGroup; ++j) alpha[j] = 1.0f - exponential(-group.density[j] * length);
            for (int j = 0; j < kGroup && s + j < rays.samples; ++j) {
                if (group.density[j] > 0.0f) {
                    const float weight = alpha[j] * passed, share = weight / group.density[j];
                    for (int c = 0; c < 3; ++c) pixel[c] += share * group.color[c][j];
                    pixel[3] += weight;
                }
                passed *= 1.0f - alpha[j] + 1e-6f;
            }
        }
    }
}

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char *what) {
    if (!fits) throw std::invalid_argument(std::string("render_fields: ") + what);
}

const float *numbers(const nb::dict &from, const char *name, int64_t count) {
    const auto values = nb::cast<Floats>(from[name], false);
    require(int64_t(values.size()) == count, name);
    return values.data();
}

Texels texels_of(const nb::object &given, int64_t hidden) {
    const auto values = nb::cast<Floats>(given, false);
    require(values.ndim() == 3 && int64_t(values.shape(2)) == hidden && values.size() > 0, "texels");
    return {values.data(), int64_t(values.shape(0)), int64_t(values.shape(1))};
}

Part part_of(const nb::dict &from) {
    Part part{};
    const auto first = nb::cast<Floats>(from["first"], false);
    part.hidden = int64_t(first.size());
    require(part.hidden >= 1 && part.hidden <= kMostHidden, "hidden");
    part.first = first.data();
    const auto planes = nb::cast<nb::list>(from["planes"]);
    require(planes.size() == 3, "planes");
    for (int i = 0; i < 3; ++i) part.planes[i] = texels_of(nb::object(planes[size_t(i)]), part.hidden);
    if (from.contains("pictures")) {
        const auto pictures = nb::cast<nb::list>(from["pictures"]);
        require(pictures.size() >= 1 && pictures.size() <= size_t(kMostPictures), "pictures");
        for (const auto &picture : pictures)
            part.pictures[part.picture_count++] = texels_of(nb::borrow(picture), part.hidden);
        const auto waves = nb::cast<Floats>(from["waves"], false);
        part.waves = waves.data();
        part.wave_count = int(waves.size());
        require(part.wave_count <= kMostWaves, "waves");
        part.place = numbers(from, "place", (6 + 2 * part.wave_count) * part.hidden);
        part.projection.rotation = numbers(from, "rotation", 9);
        part.projection.position = numbers(from, "position", 3);
        const float *lens = numbers(from, "lens", 3);
        part.projection.focal[0] = lens[0];
        part.projection.focal[1] = lens[1];
        part.projection.distance = lens[2];
    }
    if (from.contains("between")) {
        part.between = numbers(from, "between", part.hidden * part.hidden);
        part.second = numbers(from, "second", part.hidden);
    }
    part.outer = numbers(from, "outer", 4 * part.hidden);
    part.last = numbers(from, "last", 4);
    if (from.contains("occupied")) {
        const auto occupied = nb::cast<Bytes>(from["occupied"], false);
        require(occupied.ndim() == 3 && occupied.shape(0) == occupied.shape(1) &&
                    occupied.shape(0) == occupied.shape(2) && occupied.size() > 0,
                "occupied");
        require(occupied.shape(0) <= kMostCells, "cells");
        part.cells = int64_t(occupied.shape(0));
        part.words = int32_t((part.cells + 31) / 32);
        part.occupied.assign(size_t(part.cells * part.cells * part.words), 0u);
        for (int64_t i = 0; i < part.cells * part.cells; ++i)
            for (int64_t z = 0; z < part.cells; ++z)
                if (occupied.data()[i * part.cells + z])
                    part.occupied[size_t(i * part.words + z / 32)] |= 1u << (z % 32);
    }
    const float *blob = numbers(from, "blob", 3), *placed = numbers(from, "placed", 4);
    part.blob[0] = blob[0];
    part.blob[1] = blob[1];
    part.density = blob[2];
    part.size = placed[0];
    std::copy(placed + 1, placed + 4, part.shift);
    return part;
}

void render_fields(const nb::list &parts, Floats nearest, Floats direction, Floats half, int samples, int threads,
                   FloatsOut out) {
    const int64_t count = int64_t(half.size());
    require(int64_t(nearest.size()) == 3 * count && int64_t(direction.size()) == 3 * count, "rays");
    require(int64_t(out.size()) == 4 * count, "out");
    require(samples >= 1 && parts.size() <= size_t(kMostParts), "samples and parts");
    std::vector<Part> placed;
    for (const auto &part : parts) placed.push_back(part_of(nb::cast<nb::dict>(part)));
    const Rays rays{nearest.data(), direction.data(), half.data(), count, samples};
    float *pixels = out.data();
    nb::gil_scoped_release release;
    const int64_t tasks = (count + kRaysPerTask - 1) / kRaysPerTask;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
    for (int64_t t = 0; t < tasks; ++t)
        follow(rays, placed.data(), int(placed.size()), t * kRaysPerTask, std::min(count, (t + 1) * kRaysPerTask),
               pixels);
}

}  // namespace

void bind_field_rendering(nb::module_ &module) {
    module.def("render_fields", &render_fields, nb::arg("parts"), nb::arg("nearest"), nb::arg("direction"),
               nb::arg("half"), nb::arg("samples"), nb::arg("threads"), nb::arg("out"),
               "Premultiplied RGB and alpha [R, 4] of rays; see threedgen/kernels/field_rendering.py.");
}
