// What a decoded radiance field says about points: features of planes and of a picture, and a small network.
//
// Bilinear features and the first layer after them are both linear, so the texels are given as already multiplied by
// the weights of that layer: a point adds twelve rows of `hidden` numbers instead of multiplying a matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "clones.h"
#include "smooth_functions.h"

namespace {

constexpr int kGroup = 4;   // points that a ray takes at a time
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
    const float *outer, *last;      // [4, hidden] and its bias
    std::vector<uint32_t> occupied;  // a bit a cell: of cells x cells columns of `words` numbers; empty: all are
    int64_t cells = 1, hidden;
    int32_t words = 1;
    float blob[2], density;
    float size, shift[3];
};

// out: may be the values themselves.
INLINED void silu(const float *values, int64_t count, float *out) {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) out[k] = values[k] * sigmoid(values[k]);
}

// out[j][h] += the sum over k of factors[k][j] rows[k][h], where factors[k][j] is at k * along + j * across.
template <int FIXED>
INLINED void multiply_add(const float *rows, int64_t count, const float *factors, int64_t along, int64_t across,
                          int64_t hidden, float *out) {
    const int64_t units = FIXED > 0 ? FIXED : hidden;
    int64_t h = 0;
    for (; h + kLanes <= units; h += kLanes) {
        Lanes sums[kGroup];
        for (int j = 0; j < kGroup; ++j) sums[j] = *lanes(out + j * units + h);
        for (int64_t k = 0; k < count; ++k) {
            const Lanes row = *lanes(rows + k * units + h);
            for (int j = 0; j < kGroup; ++j) sums[j] += factors[k * along + j * across] * row;
        }
        for (int j = 0; j < kGroup; ++j) *lanes(out + j * units + h) = sums[j];
    }
    for (; h < units; ++h)
        for (int j = 0; j < kGroup; ++j)
            for (int64_t k = 0; k < count; ++k)
                out[j * units + h] += factors[k * along + j * across] * rows[k * units + h];
}

// The sum of the products of two rows.
template <int FIXED> INLINED float product(const float *a, const float *b, int64_t hidden) {
    const int64_t units = FIXED > 0 ? FIXED : hidden;
    Lanes sums{};
    int64_t h = 0;
    for (; h + kLanes <= units; h += kLanes) sums += *lanes(a + h) * *lanes(b + h);
    float parts[kLanes], sum = 0.0f;
    *lanes(parts) = sums;
    for (int step = kLanes / 2; step > 0; step /= 2)
        for (int l = 0; l < step; ++l) parts[l] += parts[l + step];
    for (; h < units; ++h) sum += a[h] * b[h];
    return parts[0] + sum;
}

// The four texels around a place, and their shares.
struct Corners {
    const float *a, *b, *c, *d;
    float wa, wb, wc, wd;
};

// x, y: in texels, where the outermost centres are the border.
INLINED Corners corners(const Texels &texels, float x, float y, int64_t hidden) {
    x = std::min(std::max(0.0f, x), float(texels.width - 1));  // in this order NaN becomes 0: nothing is read
    y = std::min(std::max(0.0f, y), float(texels.height - 1)); // out of bounds
    const int32_t x0 = std::min(int32_t(x), std::max(int32_t(texels.width) - 2, 0));
    const int32_t y0 = std::min(int32_t(y), std::max(int32_t(texels.height) - 2, 0));
    const int64_t step = x0 + 1 < texels.width ? hidden : 0, row = texels.width * hidden;
    const float u = x - float(x0), v = y - float(y0);
    const float *a = texels.values + y0 * row + x0 * hidden, *c = y0 + 1 < texels.height ? a + row : a;
    return {a, a + step, c, c + step, (1.0f - u) * (1.0f - v), u * (1.0f - v), (1.0f - u) * v, u * v};
}

INLINED float blended(const Corners &at, int64_t h) {
    return (at.wa * at.a[h] + at.wb * at.b[h]) + (at.wc * at.c[h] + at.wd * at.d[h]);
}

// Adds what the picture shows where points are, and where they are in the world and behind its pixels.
template <int FIXED>
INLINED void add_seen(const Part &part, const float (*p)[kGroup], const int32_t *full, float *hidden) {
    const int64_t units = FIXED > 0 ? FIXED : part.hidden;
    const Projection &camera = part.projection;
    float place[6 + 2 * kMostWaves][kGroup], x[kGroup], y[kGroup];
#pragma omp simd
    for (int j = 0; j < kGroup; ++j) {
        const float a = p[0][j] - camera.position[0], b = p[1][j] - camera.position[1], c = p[2][j] - camera.position[2];
        const float *r = camera.rotation;
        const float depth = std::max(a * r[2] + b * r[5] + c * r[8], 1e-3f);
        x[j] = (a * r[0] + b * r[3] + c * r[6]) / depth * camera.focal[0];
        y[j] = (a * r[1] + b * r[4] + c * r[7]) / depth * camera.focal[1];
        place[0][j] = p[0][j];
        place[1][j] = p[1][j];
        place[2][j] = p[2][j];
        place[3][j] = x[j];
        place[4][j] = y[j];
        place[5][j] = depth - camera.distance;
    }
    for (int w = 0; w < part.wave_count; ++w) {
#pragma omp simd
        for (int j = 0; j < kGroup; ++j) {
            place[6 + w][j] = sine(place[5][j] * part.waves[w]);
            place[6 + part.wave_count + w][j] = sine(place[5][j] * part.waves[w] + 1.5707963268f);
        }
    }
    multiply_add<FIXED>(part.place, 6 + 2 * part.wave_count, &place[0][0], kGroup, 1, part.hidden, hidden);
    for (int i = 0; i < part.picture_count; ++i) {
        const Texels &picture = part.pictures[i];
        for (int j = 0; j < kGroup; ++j) {
            if (!full[j]) continue;
            const Corners at = corners(picture, (x[j] + 1.0f) * 0.5f * float(picture.width) - 0.5f,
                                       (y[j] + 1.0f) * 0.5f * float(picture.height) - 0.5f, units);
            float *out = hidden + j * units;
#pragma omp simd
            for (int64_t h = 0; h < units; ++h) out[h] += blended(at, h);
        }
    }
}

// Raw colours and raw densities of those points of a group at which a part is not empty.
template <int FIXED>
INLINED void query(const Part &part, const float (*p)[kGroup], const int32_t *full, float (*raw)[kGroup]) {
    const int64_t units = FIXED > 0 ? FIXED : part.hidden;
    constexpr int kNumbers = kGroup * (FIXED > 0 ? FIXED : kMostHidden);
    float hidden[kNumbers] = {}, next[kNumbers];
    for (int j = 0; j < kGroup; ++j) {
        if (!full[j]) continue;
        Corners at[3];
        for (int i = 0; i < 3; ++i)
            at[i] = corners(part.planes[i], (p[kAxis[i][0]][j] + 1.0f) * (0.5f * float(part.planes[i].width - 1)),
                            (p[kAxis[i][1]][j] + 1.0f) * (0.5f * float(part.planes[i].height - 1)), units);
        float *out = hidden + j * units;
        // One loop over all planes: three loops were merged by the compiler and not vectorised.
#pragma omp simd
        for (int64_t h = 0; h < units; ++h)
            out[h] = part.first[h] + (blended(at[0], h) + blended(at[1], h)) + blended(at[2], h);
    }
    if (part.picture_count) add_seen<FIXED>(part, p, full, hidden);
    silu(hidden, kGroup * units, hidden);
    const float *last = hidden;
    if (part.between) {
        for (int j = 0; j < kGroup; ++j)
            for (int64_t h = 0; h < units; ++h) next[j * units + h] = part.second[h];
        multiply_add<FIXED>(part.between, units, hidden, 1, units, units, next);
        silu(next, kGroup * units, next);
        last = next;
    }
    for (int j = 0; j < kGroup; ++j) {
        if (!full[j]) continue;
        for (int c = 0; c < 4; ++c)
            raw[c][j] = part.last[c] + product<FIXED>(part.outer + c * units, last + j * units, units);
    }
}

INLINED void query_any(const Part &part, const float (*p)[kGroup], const int32_t *full, float (*raw)[kGroup]) {
    switch (part.hidden) {
    case 32: return query<32>(part, p, full, raw);
    case 64: return query<64>(part, p, full, raw);
    default: return query<0>(part, p, full, raw);
    }
}

}  // namespace
