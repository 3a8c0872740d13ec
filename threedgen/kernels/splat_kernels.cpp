// The numeric kernels of one instruction set: this file is compiled once for each, with its name in SPLAT_VARIANT.
// Only plain functions with internal linkage are used, see splat.h.
#include "exponential.h"
#include "splat.h"

#include <math.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#ifndef SPLAT_VARIANT
#define SPLAT_VARIANT baseline
#endif

#define SPLAT_JOIN2(a, b) a##b
#define SPLAT_JOIN(a, b) SPLAT_JOIN2(a, b)

namespace splat {
namespace {
#include "splat_lanes.h"
#include "splat_harmonics.h"
#include "splat_project.h"
#include "splat_blocks.h"
#include "splat_tiles.h"
}  // namespace

#define SPLAT_STRING2(name) #name
#define SPLAT_STRING(name) SPLAT_STRING2(name)
extern const Kernels SPLAT_JOIN(kernels_, SPLAT_VARIANT) = {
    SPLAT_STRING(SPLAT_VARIANT), project, forward_tile, backward_tile, backward_project, exercise_blocks,
};
}  // namespace splat
