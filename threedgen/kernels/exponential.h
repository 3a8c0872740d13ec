// e^x by arithmetic only, so that a compiler turns the loops around it into vector instructions.
//
// x = n log 2 + f with |f| <= log(2) / 2; e^f is its Taylor polynomial, of which the first term that is left out is
// below the rounding of the type, and 2^n is added to the exponent bits. Below the least x that is named, where the
// exponent bits would end, the value stays at that of the least x.
#pragma once

#include <cstdint>

#include "clones.h"

INLINED float exponential(float x) {
    x = x > -80.0f ? x : -80.0f;
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are n
    const float n = shifted - 12582912.0f;
    const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts: the first has few digits
    float p = 1.0f / 5040;
    p = p * f + 1.0f / 720;
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    // A bit cast, because compilers do not vectorise loops with a copy through memory.
    return __builtin_bit_cast(float,
                              __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

INLINED double exponential(double x) {
    x = x > -700.0 ? x : -700.0;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
    const double n = shifted - 6755399441055744.0;
    const double f = (x - n * 0.693145751953125) - n * 1.42860682030941723e-6;
    double p = 1.0 / 479001600;
    p = p * f + 1.0 / 39916800;
    p = p * f + 1.0 / 3628800;
    p = p * f + 1.0 / 362880;
    p = p * f + 1.0 / 40320;
    p = p * f + 1.0 / 5040;
    p = p * f + 1.0 / 720;
    p = p * f + 1.0 / 120;
    p = p * f + 1.0 / 24;
    p = p * f + 1.0 / 6;
    p = p * f + 0.5;
    p = p * f + 1.0;
    p = p * f + 1.0;
    return __builtin_bit_cast(double,
                              __builtin_bit_cast(uint64_t, p) + (__builtin_bit_cast(uint64_t, shifted) << 52));
}
