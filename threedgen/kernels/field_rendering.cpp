// Pictures of decoded radiance fields: points on rays, features of planes and of a picture, a small network, and the
// rendering integral, in one pass without a gradient. The result is that of guidance/priors/radiance_field.py.
//
// A ray is followed from the camera until nothing behind can be seen, and by one thread, so that the result does not
// depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "clones.h"
#include "field_network.h"

namespace nb = nanobind;

namespace {

constexpr int64_t kRaysPerTask = 64;
constexpr float kHidden = 1e-4f;  // share of light from behind that is not looked for
constexpr int kMostSamples = 256;

struct Rays {
    const float *nearest, *direction, *half;  // see radiance_field.py
    int64_t count;
    int samples;
};

INLINED bool is_occupied(const Part &part, int32_t x, int32_t y, int32_t z) {
    return (part.occupied[size_t((x * part.cells + y) * part.words + z / 32)] >> (z % 32)) & 1u;
}

// The samples of a ray, as one part sees them. full: whether the part may have something there.
struct Samples {
    float p[3][kMostSamples], square[kMostSamples];
    int32_t full[kMostSamples];
};

INLINED void find_full(const Part &part, const float (*world)[kMostSamples], int count, Samples &samples) {
    const float shrink = 1.0f / part.size, scale = 0.5f * float(part.cells);
    const int32_t last = int32_t(part.cells) - 1;
    int32_t cell[3][kMostSamples];
    for (int i = 0; i < 3; ++i) {
#pragma omp simd
        for (int j = 0; j < count; ++j) {
            samples.p[i][j] = (world[i][j] - part.shift[i]) * shrink;
            const float inside = std::min(std::max(-1.0f, samples.p[i][j]), 1.0f);
            cell[i][j] = std::min(int32_t((inside + 1.0f) * scale), last);
        }
    }
    for (int j = 0; j < count; ++j) {
        const float x = samples.p[0][j], y = samples.p[1][j], z = samples.p[2][j];
        samples.square[j] = x * x + y * y + z * z;
        samples.full[j] = samples.square[j] < 1.0f &&
                          (part.occupied.empty() || is_occupied(part, cell[0][j], cell[1][j], cell[2][j]));
    }
}

// The sum of the densities of all parts at the points of a group, and that of the densities times the colours.
struct Group {
    float density[kGroup], color[3][kGroup];
};

INLINED void add_part(const Part &part, const Samples &samples, const int *chosen, int count, Group &group) {
    float p[3][kGroup] = {}, square[kGroup] = {};
    int32_t full[kGroup] = {}, any = 0;
    for (int j = 0; j < count; ++j) {
        for (int i = 0; i < 3; ++i) p[i][j] = samples.p[i][chosen[j]];
        square[j] = samples.square[chosen[j]];
        any |= full[j] = samples.full[chosen[j]];
    }
    if (!any) return;
    float raw[4][kGroup] = {}, density[kGroup];
    query_any(part, p, full, raw);
#pragma omp simd
    for (int j = 0; j < kGroup; ++j) {
        const float x = raw[3][j] + part.blob[0] - part.blob[1] * std::sqrt(square[j]);
        density[j] = full[j] ? part.density / part.size * softplus(x) : 0.0f;
        group.density[j] += density[j];
    }
    for (int c = 0; c < 3; ++c) {
#pragma omp simd
        for (int j = 0; j < kGroup; ++j) group.color[c][j] += density[j] * sigmoid(raw[c][j]);
    }
}

CLONED void follow(const Rays &rays, const Part *parts, int part_count, int64_t begin, int64_t end, Samples *samples,
                   float *out) {
    for (int64_t r = begin; r < end; ++r) {
        const float *middle = rays.nearest + 3 * r, *direction = rays.direction + 3 * r;
        const float half = rays.half[r], length = 2.0f * half / float(rays.samples);
        float *pixel = out + 4 * r, passed = 1.0f;
        for (int c = 0; c < 4; ++c) pixel[c] = 0.0f;
        if (!(half > 0.0f)) continue;
        float world[3][kMostSamples];
        for (int i = 0; i < 3; ++i) {
#pragma omp simd
            for (int j = 0; j < rays.samples; ++j)
                world[i][j] =
                    middle[i] + ((float(j) + 0.5f) / float(rays.samples) * 2.0f - 1.0f) * half * direction[i];
        }
        int chosen[kMostSamples], count = 0;
        for (int i = 0; i < part_count; ++i) find_full(parts[i], world, rays.samples, samples[i]);
        for (int j = 0; j < rays.samples; ++j) {
            int32_t full = 0;
            for (int i = 0; i < part_count; ++i) full |= samples[i].full[j];
            if (full) chosen[count++] = j;
        }
        for (int first = 0; first < count && passed > kHidden; first += kGroup) {
            const int members = std::min(kGroup, count - first);
            Group group{};
            for (int i = 0; i < part_count; ++i) add_part(parts[i], samples[i], chosen + first, members, group);
            float alpha[kGroup];
#pragma omp simd
            for (int j = 0; j < kGroup; ++j) alpha[j] = 1.0f - exponential(-group.density[j] * length);
            for (int j = 0; j < members; ++j) {
                if (!(group.density[j] > 0.0f)) continue;
                const float weight = alpha[j] * passed, share = weight / group.density[j];
                for (int c = 0; c < 3; ++c) pixel[c] += share * group.color[c][j];
                pixel[3] += weight;
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
    require(samples >= 1 && samples <= kMostSamples && parts.size() <= size_t(kMostParts), "samples and parts");
    std::vector<Part> placed;
    for (const auto &part : parts) placed.push_back(part_of(nb::cast<nb::dict>(part)));
    const Rays rays{nearest.data(), direction.data(), half.data(), count, samples};
    float *pixels = out.data();
    nb::gil_scoped_release release;
    const int64_t tasks = (count + kRaysPerTask - 1) / kRaysPerTask;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
    for (int64_t t = 0; t < tasks; ++t) {
        Samples seen[kMostParts];
        follow(rays, placed.data(), int(placed.size()), t * kRaysPerTask, std::min(count, (t + 1) * kRaysPerTask),
               seen, pixels);
    }
}

}  // namespace

void bind_field_rendering(nb::module_ &module) {
    module.def("render_fields", &render_fields, nb::arg("parts"), nb::arg("nearest"), nb::arg("direction"),
               nb::arg("half"), nb::arg("samples"), nb::arg("threads"), nb::arg("out"),
               "Premultiplied RGB and alpha [R, 4] of rays; see threedgen/kernels/field_rendering.py.");
}
