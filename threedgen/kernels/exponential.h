// e^x by arithmetic only, and 2^x in float, so that a compiler turns loops around them into vector instructions.
//
// x is n log 2 and a rest of at most half of that; the power of the rest is a polynomial, and 2^n is added to its
// exponent bits. Below the least x that is named, where these would end, the value stays at that of the least x.
#pragma once

#include <cstdint>

#include "clones.h"

namespace {  // because splat_kernels.cpp is compiled once for each instruction set

constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: its sum with a number has it rounded in its low bits

// 2^(n + f) with n in the low bits of `shifted`. Floats: float, or a vector of them; Bits: as many uint32_t.
template <typename Bits, typename Floats> INLINED Floats two_to_the(Floats shifted, Floats f) {
    Floats p = f * 1.3264726838e-3f + 9.6715126653e-3f;  // minimax on [-1/2, 1/2], to a relative 1e-7
    p = p * f + 5.5507337444e-2f;
    p = p * f + 2.4022242085e-1f;
    p = p * f + 6.9314697760e-1f;
    p = p * f + 1.0f;
    // A bit cast, because compilers do not vectorise loops with a copy through memory; of unsigned numbers, because
    // their shifts may overflow.
    return __builtin_bit_cast(Floats, __builtin_bit_cast(Bits, p) + (__builtin_bit_cast(Bits, shifted) << 23));
}

INLINED float exponential(float x) {
    x = x > -80.0f ? x : -80.0f;
    const float shifted = x * 1.44269504f + kRounding, n = shifted - kRounding;
    const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts: the first has few digits
    return two_to_the<uint32_t>(shifted, f * 1.44269504f);
}

INLINED double exponential(double x) {
    x = x > -700.0 ? x : -700.0;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
    const double n = shifted - 6755399441055744.0;
    const double f = (x - n * 0.693145751953125) - n * 1.42860682030941723e-6;
    double p = 1.0 / 479001600;  // Taylor: the next term is below the rounding
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

}  // namespace
