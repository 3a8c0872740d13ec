// Functions that compilers can vectorise, which they do not do with calls of the C library.
#pragma once

#include <algorithm>
#include <cstdint>

#include "clones.h"

// e^x, to 3e-7.
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
