// Ray marching through an occupancy grid to packed samples, and their compositing with its gradient. The result is
// that of renderers/backends/torch_volume.py. Each ray is computed by one thread, so that the result does not depend
// on the number of threads.
//
// Positions are computed in double precision in the same order of operations as there, so that a sample is in the
// same cell.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace {

constexpr int64_t kRaysPerTask = 256;

using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using DoublesOut = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using LongsOut = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;

void require_size(size_t got, int64_t expected, const char *name) {
    if (int64_t(got) != expected)
        throw std::invalid_argument(std::string("raymarch: ") + name + " has " + std::to_string(got) +
                                    " numbers, expected " + std::to_string(expected));
}

// Offsets that do not rise from 0 to `total` would lead to reads out of bounds.
void require_offsets(const Longs &offsets, int64_t rays, int64_t total) {
    require_size(offsets.size(), rays + 1, "offsets");
    const int64_t *o = offsets.data();
    bool rising = o[0] == 0 && o[rays] == total;
    for (int64_t r = 0; r < rays; ++r) rising = rising && o[r] <= o[r + 1];
    if (!rising) throw std::invalid_argument("raymarch: offsets must rise from 0 to the number of samples");
}

struct Grid {
    double low[3], size[3];
    const uint8_t *occupied;  // null: every cell is
    int64_t cells;
};

struct March {
    const double *origins, *directions, *starts, *ends, *fractions;
    int64_t rays, limit;
    double step;
    Grid grid;
};

int64_t cell_of(double place, double low, double size, int64_t cells) {
    const double cell = std::floor((place - low) / size * double(cells));
    return cell >= 0.0 ? std::min(int64_t(std::min(cell, double(cells))), cells - 1) : 0;
}

// Calls visit(distance, length, point) for each sample of ray r.
template <class Visit> void march_ray(const March &m, int64_t r, Visit visit) {
    const double *origin = m.origins + 3 * r, *direction = m.directions + 3 * r;
    for (int64_t k = 0; k < m.limit; ++k) {
        const double start = m.starts[r] + double(k) * m.step;
        const double length = std::min(m.ends[r] - start, m.step);
        if (!(length > 0.0)) return;
        const double distance = start + m.fractions[r] * length;
        double point[3];
        for (int a = 0; a < 3; ++a) point[a] = origin[a] + distance * direction[a];
        if (m.grid.occupied != nullptr) {
            int64_t cell = 0;
            for (int a = 0; a < 3; ++a)
                cell = cell * m.grid.cells + cell_of(point[a], m.grid.low[a], m.grid.size[a], m.grid.cells);
            if (!m.grid.occupied[cell]) continue;
        }
        visit(distance, length, point);
    }
}

March march_of(const Doubles &origins, const Doubles &directions, const Doubles &starts, const Doubles &ends,
               const Doubles &fractions, const Doubles &bounds, const Bytes &occupied, double step, int64_t limit) {
    March m{origins.data(), directions.data(), starts.data(), ends.data(), fractions.data(),
            int64_t(starts.size()), limit, step, {}};
    require_size(origins.size(), 3 * m.rays, "origins");
    require_size(directions.size(), 3 * m.rays, "directions");
    require_size(ends.size(), m.rays, "ends");
    require_size(fractions.size(), m.rays, "fractions");
    require_size(bounds.size(), 6, "bounds");
    if (!(step > 0.0) || limit < 0) throw std::invalid_argument("raymarch: step must be positive, limit not negative");
    for (int a = 0; a < 3; ++a) {
        m.grid.low[a] = bounds.data()[a];
        m.grid.size[a] = bounds.data()[3 + a] - bounds.data()[a];
        if (!(m.grid.size[a] > 0.0)) throw std::invalid_argument("raymarch: bounds must have the lower corner first");
    }
    if (occupied.size() > 0) {
        m.grid.cells = int64_t(occupied.shape(0));
        require_size(occupied.size(), m.grid.cells * m.grid.cells * m.grid.cells, "occupied");
        m.grid.occupied = occupied.data();
    }
    return m;
}

void march_count(Doubles origins, Doubles directions, Doubles starts, Doubles ends, Doubles fractions, Doubles bounds,
                 Bytes occupied, double step, int64_t limit, int threads, LongsOut counts) {
    const March m = march_of(origins, directions, starts, ends, fractions, bounds, occupied, step, limit);
    require_size(counts.size(), m.rays, "counts");
    int64_t *out = counts.data();
    nb::gil_scoped_release release;
#pragma omp parallel for schedule(dynamic, kRaysPerTask) num_threads(std::max(1, threads))
    for (int64_t r = 0; r < m.rays; ++r) {
        int64_t count = 0;
        march_ray(m, r, [&](double, double, const double *) { ++count; });
        out[r] = count;
    }
}

void march_fill(Doubles origins, Doubles directions, Doubles starts, Doubles ends, Doubles fractions, Doubles slopes,
                Doubles bounds, Bytes occupied, double step, int64_t limit, int threads, Longs offsets,
                FloatsOut points, FloatsOut sights, FloatsOut z, FloatsOut lengths) {
    const March m = march_of(origins, directions, starts, ends, fractions, bounds, occupied, step, limit);
    const int64_t total = int64_t(z.size());
    require_offsets(offsets, m.rays, total);
    require_size(slopes.size(), m.rays, "slopes");
    require_size(points.size(), 3 * total, "points");
    require_size(sights.size(), 3 * total, "sights");
    require_size(lengths.size(), total, "lengths");
    const int64_t *first = offsets.data();
    const double *slope = slopes.data();
    float *point_out = points.data(), *sight_out = sights.data(), *z_out = z.data(), *length_out = lengths.data();
    nb::gil_scoped_release release;
#pragma omp parallel for schedule(dynamic, kRaysPerTask) num_threads(std::max(1, threads))
    for (int64_t r = 0; r < m.rays; ++r) {
        int64_t i = first[r];
        march_ray(m, r, [&](double distance, double length, const double *point) {
            if (i >= first[r + 1]) return;
            for (int a = 0; a < 3; ++a) {
                point_out[3 * i + a] = float(point[a]);
                sight_out[3 * i + a] = float(m.directions[3 * r + a]);
            }
            z_out[i] = float(distance * slope[r]);
            length_out[i] = float(length);
            ++i;
        });
    }
}

// The samples of the next wave: the next `size` samples of each ray whose transmittance is still at least `least`.
// The number of a sample in the order of evaluation is written to slots (from `asked` on). Returns how many samples
// they are.
int64_t next_wave(Longs offsets, Doubles thickness, int64_t first, int64_t size, double least, int64_t asked,
                  LongsOut chosen, LongsOut slots) {
    const int64_t rays = int64_t(thickness.size()), total = int64_t(slots.size());
    require_offsets(offsets, rays, total);
    if (first < 0 || size < 1) throw std::invalid_argument("raymarch: a wave needs first >= 0 and size >= 1");
    require_size(chosen.size(), total, "chosen");
    const int64_t *o = offsets.data();
    int64_t *out = chosen.data(), *slot = slots.data(), count = 0;
    for (int64_t r = 0; r < rays; ++r) {
        const int64_t begin = o[r] + first, end = std::min(o[r + 1], begin + size);
        if (begin >= end || !(std::exp(-thickness.data()[r]) >= least)) continue;
        for (int64_t i = begin; i < end; ++i) {
            slot[i] = asked + count;
            out[count++] = i;
        }
    }
    return count;
}

struct Packed {
    const int64_t *offsets, *slots;
    const float *density, *features, *lengths, *z;
    int64_t rays, width;  // of the features
    double least;
};

// Adds the optical thickness of a wave to that of its rays.
void add_thickness(Longs offsets, Longs slots, Floats lengths, Floats density, int64_t first, int64_t size,
                   int64_t asked, DoublesOut thickness) {
    const int64_t rays = int64_t(thickness.size()), total = int64_t(slots.size()), count = int64_t(density.size());
    require_offsets(offsets, rays, total);
    require_size(lengths.size(), total, "lengths");
    if (first < 0 || size < 1) throw std::invalid_argument("raymarch: a wave needs first >= 0 and size >= 1");
    const int64_t *o = offsets.data();
    for (int64_t r = 0; r < rays; ++r) {
        const int64_t begin = o[r] + first, end = std::min(o[r + 1], begin + size);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t s = slots.data()[i] - asked;
            if (s >= 0 && s < count)
                thickness.data()[r] += double(density.data()[s]) * double(lengths.data()[i]);
        }
    }
}

Packed packed_of(const Longs &offsets, const Longs &slots, const Floats &density, const Floats &features,
                 const Floats &lengths, const Floats &z, int64_t rays, double least) {
    const int64_t total = int64_t(slots.size()), asked = int64_t(density.size());
    require_offsets(offsets, rays, total);
    require_size(lengths.size(), total, "lengths");
    require_size(z.size(), total, "z");
    if (features.ndim() != 2) throw std::invalid_argument("raymarch: features must be [E, F]");
    const int64_t width = int64_t(features.shape(1));
    require_size(features.size(), asked * width, "features");
    for (int64_t i = 0; i < total; ++i)
        if (slots.data()[i] >= asked) throw std::invalid_argument("raymarch: a slot names no sample that was asked");
    return {offsets.data(), slots.data(), density.data(), features.data(), lengths.data(), z.data(), rays, width, least};
}

void composite(Longs offsets, Longs slots, Floats density, Floats features, Floats lengths, Floats z, double least,
               int threads, FloatsOut sums, FloatsOut alpha, FloatsOut depth) {
    const Packed p = packed_of(offsets, slots, density, features, lengths, z, int64_t(alpha.size()), least);
    require_size(sums.size(), p.rays * p.width, "sums");
    require_size(depth.size(), p.rays, "depth");
    float *sum_out = sums.data(), *alpha_out = alpha.data(), *depth_out = depth.data();
    nb::gil_scoped_release release;
#pragma omp parallel num_threads(std::max(1, threads))
    {
        std::vector<double> sum(size_t(p.width + 2));
#pragma omp for schedule(dynamic, kRaysPerTask)
        for (int64_t r = 0; r < p.rays; ++r) {
            std::fill(sum.begin(), sum.end(), 0.0);
            double thickness = 0.0;
            for (int64_t i = p.offsets[r]; i < p.offsets[r + 1]; ++i) {
                const int64_t s = p.slots[i];
                const double transmittance = std::exp(-thickness);
                if (s < 0 || !(transmittance >= p.least)) break;
                const double here = double(p.density[s]) * double(p.lengths[i]);
                const double weight = transmittance * -std::expm1(-here);
                for (int64_t f = 0; f < p.width; ++f) sum[size_t(f)] += weight * double(p.features[s * p.width + f]);
                sum[size_t(p.width)] += weight;
                sum[size_t(p.width + 1)] += weight * double(p.z[i]);
                thickness += here;
            }
            for (int64_t f = 0; f < p.width; ++f) sum_out[r * p.width + f] = float(sum[size_t(f)]);
            alpha_out[r] = float(sum[size_t(p.width)]);
            depth_out[r] = float(sum[size_t(p.width + 1)]);
        }
    }
}

// With g_i the derivative of the loss with respect to weight_i: d thickness_i = T_(i+1) g_i - sum_j>i weight_j g_j.
void composite_backward(Longs offsets, Longs slots, Floats density, Floats features, Floats lengths, Floats z,
                        double least, int threads, Floats d_sums, Floats d_alpha, Floats d_depth, FloatsOut d_density,
                        FloatsOut d_features) {
    const Packed p = packed_of(offsets, slots, density, features, lengths, z, int64_t(d_alpha.size()), least);
    require_size(d_sums.size(), p.rays * p.width, "d_sums");
    require_size(d_depth.size(), p.rays, "d_depth");
    require_size(d_density.size(), int64_t(density.size()), "d_density");
    require_size(d_features.size(), int64_t(features.size()), "d_features");
    const float *by_sum = d_sums.data(), *by_alpha = d_alpha.data(), *by_depth = d_depth.data();
    float *to_density = d_density.data(), *to_features = d_features.data();
    nb::gil_scoped_release release;
    std::fill_n(to_density, d_density.size(), 0.0f);
    std::fill_n(to_features, d_features.size(), 0.0f);
#pragma omp parallel num_threads(std::max(1, threads))
    {
        std::vector<double> before;  // optical thickness before each sample of a ray
#pragma omp for schedule(dynamic, kRaysPerTask)
        for (int64_t r = 0; r < p.rays; ++r) {
            before.clear();
            double thickness = 0.0;
            const int64_t begin = p.offsets[r];
            for (int64_t i = begin; i < p.offsets[r + 1]; ++i) {
                if (p.slots[i] < 0 || !(std::exp(-thickness) >= p.least)) break;
                before.push_back(thickness);
                thickness += double(p.density[p.slots[i]]) * double(p.lengths[i]);
            }
            double behind = 0.0;
            for (int64_t i = begin + int64_t(before.size()) - 1; i >= begin; --i) {
                const int64_t s = p.slots[i];
                const double here = double(p.density[s]) * double(p.lengths[i]);
                const double transmittance = std::exp(-before[size_t(i - begin)]);
                const double weight = transmittance * -std::expm1(-here);
                double gain = double(by_alpha[r]) + double(by_depth[r]) * double(p.z[i]);
                for (int64_t f = 0; f < p.width; ++f) {
                    gain += double(by_sum[r * p.width + f]) * double(p.features[s * p.width + f]);
                    to_features[s * p.width + f] = float(weight * double(by_sum[r * p.width + f]));
                }
                to_density[s] = float(double(p.lengths[i]) * ((transmittance - weight) * gain - behind));
                behind += weight * gain;
            }
        }
    }
}

}  // namespace

void bind_raymarch(nb::module_ &module) {
    module.def("march_count", &march_count, "How many samples each ray has.");
    module.def("march_fill", &march_fill, "The samples: points, directions, camera z and interval lengths.");
    module.def("next_wave", &next_wave, "Samples to ask for next, of rays that are not yet opaque.");
    module.def("add_thickness", &add_thickness, "Adds a wave's optical thickness to its rays'.");
    module.def("composite", &composite, "Weighted sums of features, weights (alpha) and camera z (depth) along rays.");
    module.def("composite_backward", &composite_backward, "Gradients of the samples' densities and features.");
}
