// The functions of a small network, by arithmetic only: compilers do not vectorise loops with calls of the C library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "clones.h"
#include "exponential.h"

// 1 / (1 + e^-x)
INLINED float sigmoid(float x) { return 1.0f / (1.0f + exponential(std::min(-x, 80.0f))); }

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

// log(1 + e^x)
INLINED float softplus(float x) { return std::max(x, 0.0f) + log_one_plus(exponential(-std::fabs(x))); }

// sin(x) for x of a few turns, to 2e-6.
INLINED float sine(float x) {
    const float turns = x * 0.3183098862f, shifted = turns + 12582912.0f, whole = shifted - 12582912.0f;
    const float r = (turns - whole) * 3.1415926536f, square = r * r;
    float p = 2.6083159810e-6f;
    p = p * square - 1.9810690719e-4f;
    p = p * square + 8.3330785856e-3f;
    p = p * square - 1.6666659712e-1f;
    const float value = r + r * square * p;
    return __builtin_bit_cast(uint32_t, shifted) & 1u ? -value : value;
}

// Some numbers that follow each other, in one register. They may stand anywhere in memory.
#if defined(__GNUC__) || defined(__clang__)
constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
#else
constexpr int kLanes = 1;
typedef float Lanes;
#endif

INLINED Lanes *lanes(float *from) { return reinterpret_cast<Lanes *>(from); }
INLINED const Lanes *lanes(const float *from) { return reinterpret_cast<const Lanes *>(from); }
