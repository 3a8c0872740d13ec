// Rays of decoded radiance fields with a gradient, for the training of what decodes them: features of points on planes,
// a small network and the rendering integral in one pass. The result is that of guidance/priors/radiance_field.py.
//
// The backward pass computes again what the forward pass knew of the points of a ray, which is cheaper than to write
// it to memory and to read it. All rays of a field are one thread's, in order, so that the sums over them do not depend
// on the number of threads.
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
#include "network_rows.h"

namespace nb = nanobind;

namespace {

struct Batch {  // T fields and B views of them
    const float *planes, *first;               // [T, 3, P, P, H], premultiplied as in Part, and [T, H]
    const float *outer, *last;                 // [4, H] and [4]
    const float *between, *turned, *second;    // [H, H] by rows of the output and of the input, and the bias; or null
    const float *points, *lengths, *added;     // [B, N, S, 3], [B, N], and [B, N, S, H] or null
    const float *picture, *pixels;             // [T, h, w, H], premultiplied, and [B, N, S, 2]; or null
    const int64_t *owner;                      // [B], the field of each view
    int64_t fields, views, rays, samples, side, hidden, height, width;
    float blob[2], density;
};

struct Gradients {  // the layers that all fields share have a gradient of each field
    float *planes, *picture, *first, *outer, *last, *between, *second, *added;
};

// The points of a ray. Rows are padded to whole groups, with zeros.
struct Ray {
    int64_t samples, padded;
    std::vector<Corners> corners;                                          // [S, 4], the last in the picture
    std::vector<float> hidden, shown, second, last_shown, d_hidden, d_second;  // [S, H], before and behind SiLU
    std::vector<float> raw, color, d_raw;                                  // [4, S]
    std::vector<float> blob, alpha, passed;                                // [S]

    explicit Ray(const Batch &batch)
        : samples(batch.samples), padded((batch.samples + kGroup - 1) / kGroup * kGroup),
          corners(size_t(4 * batch.samples)) {
        for (auto *rows : {&hidden, &shown, &second, &last_shown, &d_hidden, &d_second})
            rows->assign(size_t(padded * batch.hidden), 0.0f);
        for (auto *numbers : {&raw, &color, &d_raw, &blob, &alpha, &passed}) numbers->assign(size_t(4 * padded), 0.0f);
    }
};

// Adds a point's gradient to the texels around it, which may be the same: so one after the other.
template <int FIXED>
INLINED void spread(const Corners &at, const float *from, const float *texels, int64_t hidden, float *gradient) {
    const int64_t units = FIXED > 0 ? FIXED : hidden;
    float *a = gradient + (at.a - texels), *b = gradient + (at.b - texels);
    float *c = gradient + (at.c - texels), *d = gradient + (at.d - texels);
    for (int64_t h = 0; h < units; h += kLanes) {
        const Lanes value = *lanes(from + h);
        *lanes(a + h) += at.wa * value;
        *lanes(b + h) += at.wb * value;
        *lanes(c + h) += at.wc * value;
        *lanes(d + h) += at.wd * value;
    }
}

// The hidden units of the first layer at the points of a ray.
template <int FIXED> INLINED void find_hidden(const Batch &batch, int64_t field, int64_t number, Ray &ray) {
    const int64_t units = FIXED > 0 ? FIXED : batch.hidden, texels = batch.side * batch.side * units;
    const float *first = batch.first + field * units, *points = batch.points + 3 * number * ray.samples;
    const float scale = 0.5f * float(batch.side - 1);
    const Texels picture{batch.picture + field * batch.height * batch.width * units, batch.height, batch.width};
    for (int64_t j = 0; j < ray.samples; ++j) {
        Corners *at = ray.corners.data() + 4 * j;
        for (int i = 0; i < 3; ++i) {
            const Texels plane{batch.planes + (3 * field + i) * texels, batch.side, batch.side};
            const float x = points[3 * j + kAxis[i][0]], y = points[3 * j + kAxis[i][1]];
            at[i] = corners(plane, (x + 1.0f) * scale, (y + 1.0f) * scale, units);
        }
        float *out = ray.hidden.data() + j * units;
        for (int64_t h = 0; h < units; h += kLanes) {
            Lanes sum = *lanes(first + h);
            for (int i = 0; i < 3; ++i)
                sum += (at[i].wa * *lanes(at[i].a + h) + at[i].wb * *lanes(at[i].b + h)) +
                       (at[i].wc * *lanes(at[i].c + h) + at[i].wd * *lanes(at[i].d + h));
            *lanes(out + h) = sum;
        }
        if (batch.picture) {
            const float *pixel = batch.pixels + 2 * (number * ray.samples + j);
            at[3] = corners(picture, (pixel[0] + 1.0f) * 0.5f * float(batch.width) - 0.5f,
                            (pixel[1] + 1.0f) * 0.5f * float(batch.height) - 0.5f, units);
            for (int64_t h = 0; h < units; h += kLanes)
                *lanes(out + h) += (at[3].wa * *lanes(at[3].a + h) + at[3].wb * *lanes(at[3].b + h)) +
                                   (at[3].wc * *lanes(at[3].c + h) + at[3].wd * *lanes(at[3].d + h));
        }
    }
    if (batch.added) {
        const float *added = batch.added + number * ray.samples * units;
#pragma omp simd
        for (int64_t k = 0; k < ray.samples * units; ++k) ray.hidden[size_t(k)] += added[k];
    }
}

// All that is known of the points of a ray.
template <int FIXED> INLINED void look(const Batch &batch, int64_t field, int64_t number, Ray &ray) {
    const int64_t units = FIXED > 0 ? FIXED : batch.hidden, samples = ray.samples, padded = ray.padded;
    find_hidden<FIXED>(batch, field, number, ray);
    silu(ray.hidden.data(), samples * units, ray.shown.data());
    const float *shown = ray.shown.data();
    if (batch.between) {
        for (int64_t j = 0; j < samples; ++j)
            std::copy(batch.second, batch.second + units, ray.second.data() + j * units);
        multiply_rows<FIXED>(batch.turned, units, shown, 1, units, padded, units, ray.second.data());
        silu(ray.second.data(), samples * units, ray.last_shown.data());
        shown = ray.last_shown.data();
    }
    float *raw = ray.raw.data(), *blob = ray.blob.data(), *alpha = ray.alpha.data(), *color = ray.color.data();
    for (int64_t j = 0; j < samples; ++j)
        for (int64_t c = 0; c < 4; ++c)
            raw[c * padded + j] = batch.last[c] + product<FIXED>(batch.outer + c * units, shown + j * units, units);
    const float *points = batch.points + 3 * number * samples, length = batch.lengths[number];
#pragma omp simd
    for (int64_t j = 0; j < samples; ++j) {
        const float x = points[3 * j], y = points[3 * j + 1], z = points[3 * j + 2];
        blob[j] = raw[3 * padded + j] + batch.blob[0] - batch.blob[1] * std::sqrt(x * x + y * y + z * z);
        // A NaN must stay one, which no comparison in the functions would keep.
        alpha[j] = blob[j] == blob[j] ? 1.0f - exponential(-batch.density * softplus(blob[j]) * length) : blob[j];
    }
#pragma omp simd
    for (int64_t k = 0; k < 3 * padded; ++k) color[k] = raw[k] == raw[k] ? sigmoid(raw[k]) : raw[k];
    float light = 1.0f;
    for (int64_t j = 0; j < samples; ++j) {
        ray.passed[size_t(j)] = light;
        light *= 1.0f - alpha[j] + 1e-6f;
    }
}

// The gradient of the raw colours and densities, from that of the pixel.
INLINED void through_pixel(const Batch &batch, int64_t number, const float *d_pixel, Ray &ray) {
    const int64_t padded = ray.padded;
    const float length = batch.lengths[number];
    float behind = 0.0f, *d_raw = ray.d_raw.data();
    for (int64_t j = ray.samples - 1; j >= 0; --j) {
        const float alpha = ray.alpha[size_t(j)], passed = ray.passed[size_t(j)], weight = alpha * passed;
        float gain = d_pixel[3];
        for (int64_t c = 0; c < 3; ++c) {
            const float color = ray.color[size_t(c * padded + j)];
            gain += d_pixel[c] * color;
            d_raw[c * padded + j] = weight * d_pixel[c] * color * (1.0f - color);
        }
        const float d_alpha = gain * passed - behind / (1.0f - alpha + 1e-6f);
        d_raw[3 * padded + j] = d_alpha * length * (1.0f - alpha);
        behind += gain * weight;
    }
#pragma omp simd
    for (int64_t j = 0; j < ray.samples; ++j) d_raw[3 * padded + j] *= batch.density * sigmoid(ray.blob[size_t(j)]);
}

template <int FIXED>
INLINED void through_network(const Batch &batch, int64_t field, int64_t number, Ray &ray, const Gradients &to) {
    const int64_t units = FIXED > 0 ? FIXED : batch.hidden, samples = ray.samples, padded = ray.padded;
    const float *d_raw = ray.d_raw.data(), *shown = (batch.between ? ray.last_shown : ray.shown).data();
    multiply_add<FIXED>(shown, samples, d_raw, 1, padded, units, to.outer + 4 * field * units);
    for (int64_t c = 0; c < 4; ++c)
        for (int64_t j = 0; j < samples; ++j) to.last[4 * field + c] += d_raw[c * padded + j];
    float *d_hidden = ray.d_hidden.data();
    if (batch.between) {
        float *d_second = ray.d_second.data();
        std::fill(d_second, d_second + padded * units, 0.0f);
        multiply_rows<FIXED>(batch.outer, 4, d_raw, padded, 1, padded, units, d_second);
        through_silu(ray.second.data(), samples * units, d_second);
        add_rows(d_second, samples, units, to.second + field * units);
        multiply_rows<FIXED>(ray.shown.data(), samples, d_second, units, 1, units, units,
                             to.between + field * units * units);
        std::fill(d_hidden, d_hidden + padded * units, 0.0f);
        multiply_rows<FIXED>(batch.between, units, d_second, 1, units, padded, units, d_hidden);
    } else {
        std::fill(d_hidden, d_hidden + padded * units, 0.0f);
        multiply_rows<FIXED>(batch.outer, 4, d_raw, padded, 1, padded, units, d_hidden);
    }
    through_silu(ray.hidden.data(), samples * units, d_hidden);
    add_rows(d_hidden, samples, units, to.first + field * units);
    if (to.added) std::copy(d_hidden, d_hidden + samples * units, to.added + number * samples * units);
    for (int64_t j = 0; j < samples; ++j) {
        const Corners *at = ray.corners.data() + 4 * j;
        const float *from = d_hidden + j * units;
        for (int i = 0; i < 3; ++i) spread<FIXED>(at[i], from, batch.planes, units, to.planes);
        if (batch.picture) spread<FIXED>(at[3], from, batch.picture, units, to.picture);
    }
}

template <int FIXED> INLINED void show_view(const Batch &batch, int64_t view, Ray &ray, float *pixels) {
    for (int64_t number = view * batch.rays; number < (view + 1) * batch.rays; ++number) {
        float *pixel = pixels + 4 * number;
        for (int c = 0; c < 4; ++c) pixel[c] = 0.0f;
        if (!(batch.lengths[number] > 0.0f)) continue;
        look<FIXED>(batch, batch.owner[view], number, ray);
        for (int64_t j = 0; j < ray.samples; ++j) {
            const float weight = ray.alpha[size_t(j)] * ray.passed[size_t(j)];
            for (int64_t c = 0; c < 3; ++c) pixel[c] += weight * ray.color[size_t(c * ray.padded + j)];
            pixel[3] += weight;
        }
    }
}

template <int FIXED>
INLINED void learn_field(const Batch &batch, int64_t field, Ray &ray, const float *d_pixels, const Gradients &to) {
    const int64_t units = FIXED > 0 ? FIXED : batch.hidden, points = batch.samples * units;
    const auto clear = [field](float *all, int64_t each) {
        if (all) std::fill(all + field * each, all + (field + 1) * each, 0.0f);
    };
    clear(to.planes, 3 * batch.side * batch.side * units);
    clear(to.picture, batch.height * batch.width * units);
    clear(to.first, units);
    clear(to.outer, 4 * units);
    clear(to.last, 4);
    clear(to.between, units * units);
    clear(to.second, units);
    for (int64_t view = 0; view < batch.views; ++view) {
        if (batch.owner[view] != field) continue;
        for (int64_t number = view * batch.rays; number < (view + 1) * batch.rays; ++number) {
            if (!(batch.lengths[number] > 0.0f)) {
                if (to.added) std::fill(to.added + number * points, to.added + (number + 1) * points, 0.0f);
                continue;
            }
            look<FIXED>(batch, field, number, ray);
            through_pixel(batch, number, d_pixels + 4 * number, ray);
            through_network<FIXED>(batch, field, number, ray, to);
        }
    }
}

CLONED void show_any(const Batch &batch, int64_t view, Ray &ray, float *pixels) {
    switch (batch.hidden) {
    case 32: return show_view<32>(batch, view, ray, pixels);
    case 64: return show_view<64>(batch, view, ray, pixels);
    default: return show_view<0>(batch, view, ray, pixels);
    }
}

CLONED void learn_any(const Batch &batch, int64_t field, Ray &ray, const float *d_pixels, const Gradients &to) {
    switch (batch.hidden) {
    case 32: return learn_field<32>(batch, field, ray, d_pixels, to);
    case 64: return learn_field<64>(batch, field, ray, d_pixels, to);
    default: return learn_field<0>(batch, field, ray, d_pixels, to);
    }
}

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char *what) {
    if (!fits) throw std::invalid_argument(std::string("train_fields: ") + what);
}

const float *numbers(const nb::dict &from, const char *name, int64_t count) {
    const auto values = nb::cast<Floats>(from[name], false);
    require(int64_t(values.size()) == count, name);
    return values.data();
}

float *numbers_out(const nb::dict &to, const char *name, int64_t count) {
    const auto values = nb::cast<FloatsOut>(to[name], false);
    require(int64_t(values.size()) == count, name);
    return values.data();
}

Batch batch_of(const nb::dict &from) {
    Batch batch{};
    const auto planes = nb::cast<Floats>(from["planes"], false), points = nb::cast<Floats>(from["points"], false);
    require(planes.ndim() == 5 && planes.shape(1) == 3 && planes.shape(2) == planes.shape(3) && planes.size() > 0,
            "planes");
    require(points.ndim() == 4 && points.shape(3) == 3 && points.shape(2) >= 1, "points");
    batch.planes = planes.data();
    batch.points = points.data();
    batch.fields = int64_t(planes.shape(0));
    batch.side = int64_t(planes.shape(2));
    batch.hidden = int64_t(planes.shape(4));
    require(batch.hidden % 8 == 0, "hidden");
    batch.views = int64_t(points.shape(0));
    batch.rays = int64_t(points.shape(1));
    batch.samples = int64_t(points.shape(2));
    batch.first = numbers(from, "first", batch.fields * batch.hidden);
    batch.outer = numbers(from, "outer", 4 * batch.hidden);
    batch.last = numbers(from, "last", 4);
    batch.lengths = numbers(from, "lengths", batch.views * batch.rays);
    if (from.contains("between")) {
        batch.between = numbers(from, "between", batch.hidden * batch.hidden);
        batch.turned = numbers(from, "turned", batch.hidden * batch.hidden);
        batch.second = numbers(from, "second", batch.hidden);
    }
    if (from.contains("added"))
        batch.added = numbers(from, "added", batch.views * batch.rays * batch.samples * batch.hidden);
    if (from.contains("picture")) {
        const auto picture = nb::cast<Floats>(from["picture"], false);
        require(picture.ndim() == 4 && int64_t(picture.shape(0)) == batch.fields && picture.size() > 0 &&
                    int64_t(picture.shape(3)) == batch.hidden,
                "picture");
        batch.picture = picture.data();
        batch.height = int64_t(picture.shape(1));
        batch.width = int64_t(picture.shape(2));
        batch.pixels = numbers(from, "pixels", 2 * batch.views * batch.rays * batch.samples);
    }
    const auto owner = nb::cast<Numbers>(from["owner"], false);
    require(int64_t(owner.size()) == batch.views, "owner");
    batch.owner = owner.data();
    for (int64_t view = 0; view < batch.views; ++view)
        require(batch.owner[view] >= 0 && batch.owner[view] < batch.fields, "owner");
    const float *blob = numbers(from, "blob", 3);
    std::copy(blob, blob + 2, batch.blob);
    batch.density = blob[2];
    return batch;
}

void train_fields(const nb::dict &from, int threads, FloatsOut out) {
    const Batch batch = batch_of(from);
    require(int64_t(out.size()) == 4 * batch.views * batch.rays, "out");
    float *pixels = out.data();
    nb::gil_scoped_release release;
#pragma omp parallel num_threads(std::max(1, threads))
    {
        Ray ray(batch);
#pragma omp for schedule(dynamic)
        for (int64_t view = 0; view < batch.views; ++view) show_any(batch, view, ray, pixels);
    }
}

void train_fields_backward(const nb::dict &from, Floats d_out, int threads, const nb::dict &into) {
    const Batch batch = batch_of(from);
    require(int64_t(d_out.size()) == 4 * batch.views * batch.rays, "d_out");
    const int64_t fields = batch.fields, units = batch.hidden;
    Gradients to{};
    to.planes = numbers_out(into, "planes", 3 * fields * batch.side * batch.side * units);
    to.first = numbers_out(into, "first", fields * units);
    to.outer = numbers_out(into, "outer", 4 * fields * units);
    to.last = numbers_out(into, "last", 4 * fields);
    if (batch.between) {
        to.between = numbers_out(into, "between", fields * units * units);
        to.second = numbers_out(into, "second", fields * units);
    }
    if (batch.picture) to.picture = numbers_out(into, "picture", fields * batch.height * batch.width * units);
    if (batch.added) to.added = numbers_out(into, "added", batch.views * batch.rays * batch.samples * units);
    const float *d_pixels = d_out.data();
    nb::gil_scoped_release release;
#pragma omp parallel num_threads(std::max(1, threads))
    {
        Ray ray(batch);
#pragma omp for schedule(dynamic)
        for (int64_t field = 0; field < fields; ++field) learn_any(batch, field, ray, d_pixels, to);
    }
}

}  // namespace

void bind_field_training(nb::module_ &module) {
    module.def("train_fields", &train_fields, nb::arg("batch"), nb::arg("threads"), nb::arg("out"),
               "Premultiplied RGB and alpha [B, N, 4] of rays; see threedgen/kernels/field_training.py.");
    module.def("train_fields_backward", &train_fields_backward, nb::arg("batch"), nb::arg("d_out"),
               nb::arg("threads"), nb::arg("gradients"), "The gradients of all fields, overwritten.");
}
