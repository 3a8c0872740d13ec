// Layers of a small network for rows of points, and their gradients.
#pragma once

#include <cstdint>

#include "clones.h"
#include "field_network.h"

namespace {

// Turns the gradient behind a SiLU into the one before it.
INLINED void through_silu(const float *values, int64_t count, float *gradient) {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) {
        const float share = sigmoid(values[k]);
        gradient[k] *= share * (1.0f + values[k] * (1.0f - share));
    }
}

// multiply_add for `rows_out` rows of `out`, a multiple of kGroup. Eight sums at a time, because one that waits for the
// last addition to itself leaves half of the units idle.
template <int FIXED>
INLINED void multiply_rows(const float *rows, int64_t count, const float *factors, int64_t along, int64_t across,
                           int64_t rows_out, int64_t hidden, float *out) {
    const int64_t units = FIXED > 0 ? FIXED : hidden;
    for (int64_t first = 0; first < rows_out; first += kGroup, factors += kGroup * across, out += kGroup * units) {
        if (FIXED == 0) {
            multiply_add<FIXED>(rows, count, factors, along, across, units, out);
            continue;
        }
        for (int64_t h = 0; h < units; h += 2 * kLanes) {
            Lanes low[kGroup], high[kGroup];
            for (int j = 0; j < kGroup; ++j) {
                low[j] = *lanes(out + j * units + h);
                high[j] = *lanes(out + j * units + h + kLanes);
            }
            for (int64_t k = 0; k < count; ++k) {
                const Lanes left = *lanes(rows + k * units + h), right = *lanes(rows + k * units + h + kLanes);
                for (int j = 0; j < kGroup; ++j) {
                    low[j] += factors[k * along + j * across] * left;
                    high[j] += factors[k * along + j * across] * right;
                }
            }
            for (int j = 0; j < kGroup; ++j) {
                *lanes(out + j * units + h) = low[j];
                *lanes(out + j * units + h + kLanes) = high[j];
            }
        }
    }
}

INLINED void add_rows(const float *rows, int64_t count, int64_t units, float *out) {
    for (int64_t h = 0; h < units; h += kLanes) {
        Lanes sum = *lanes(out + h);
        for (int64_t j = 0; j < count; ++j) sum += *lanes(rows + j * units + h);
        *lanes(out + h) = sum;
    }
}

}  // namespace
