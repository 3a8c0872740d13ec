// What the splatting driver (splat.cpp) and its numeric kernels (splat_kernels.cpp, compiled once for each
// instruction set) share. There are only plain structs here: if a library template were instantiated, the linker
// could take an AVX-512 copy of it for a machine without AVX-512.
#pragma once

#include <cstdint>

// A tile's Gaussians are scattered in memory: their cache lines are prefetched AHEAD entries before they are needed.
#if defined(__GNUC__) || defined(__clang__)
#define SPLAT_PREFETCH(address) __builtin_prefetch(address)
#else
#define SPLAT_PREFETCH(address) ((void)0)
#endif

namespace splat {

constexpr int AHEAD = 28;
constexpr int SIDE = 4;                   // pixels on each side of a block
constexpr int PIXELS = SIDE * SIDE;       // of a block: one AVX-512 register
constexpr int COLUMNS = 8, ROWS = 4;      // of blocks in a tile
constexpr int BLOCKS = COLUMNS * ROWS;
constexpr int TILE_WIDTH = COLUMNS * SIDE, TILE_HEIGHT = ROWS * SIDE;
constexpr int SEGMENT = 256;              // Gaussians of a tile that are composited at a time
constexpr float MAX_ALPHA = 0.999f;       // the constants of renderers/backends/torch.py
constexpr float MIN_ALPHA = 1.0f / 255.0f;
constexpr float LOG2_MIN_ALPHA = -7.994353436858858f;
constexpr float MIN_TRANSMITTANCE = 1e-4f;
constexpr double LOW_PASS = 0.3;
constexpr double FRUSTUM_MARGIN = 0.3;
constexpr uint32_t INVISIBLE = 0xffffffffu;
constexpr int MOMENTS = 10;               // floats of one gradient slot, see backward_tile

typedef uint32_t Blocks;  // a set of blocks of a tile, one bit for each

struct Cloud {
    const float *means, *quats, *scales, *opacities, *sh;
    int64_t count;
    int sh_terms;                         // 1, 4, 9 or 16
};

struct View {
    double rotation[9], translation[3];   // camera_from_world
    double center[3];                     // camera position
    double fx, fy, cx, cy, near_z, far_z;   // `near` and `far` are macros on Windows
    double slope_low[2], slope_high[2];   // bounds of x/z and y/z inside the Jacobian
    int width, height;
    float background[3];
};

// A projected Gaussian, one cache line. The exponent, in units of log 2, at (dx, dy) from the mean is
//   log_opacity - (vy dy)^2 - (ux dx + uy dy)^2,
// a sum of squares: rounding cannot make it positive, however thin the Gaussian is.
struct Shape {
    float ux, uy, vy, log_opacity;
    float color[3], z;
    float half_width, half_height;        // bounding box outside which alpha < 1/255
    float correlation;                    // of x and y
    uint32_t unused;
};

struct alignas(64) Splat {
    double x, y;                          // pixels; in float, rounding at x = 500 would change alpha by 1e-4
    Shape shape;
};

constexpr int SPLAT_FLOATS = sizeof(Splat) / sizeof(float);

struct ImageGradient {
    const float *rgb, *alpha, *depth;     // of one image: [H, W, 3], [H, W], [H, W]
};

// What the backward pass computes again for one segment of a tile's list, for each block that each Gaussian meets.
struct alignas(64) Scratch {
    float alpha[SEGMENT * BLOCKS][PIXELS], weight[SEGMENT * BLOCKS][PIXELS];
};

// A view after the backward pass of its tiles: for each Gaussian its key, and if that is not INVISIBLE the sum of its
// slots (moments [count, SPLAT_FLOATS], of which the first MOMENTS count).
struct ViewMoments {
    View view;
    const uint32_t *keys;
    const float *moments;
};

struct CloudGradient {
    float *means, *quats, *scales, *opacities, *sh;
};

struct Kernels {
    const char *name;
    // Projects Gaussians [begin, end) of a cloud; keys are the bits of z (which keep its order) or INVISIBLE.
    // radii may be null.
    void (*project)(const Cloud &, const View &, int64_t begin, int64_t end, Splat *, uint32_t *keys, float *radii);
    // Composites one tile; returns the number of entries that were visited before every pixel was opaque. masks
    // receives one bit for each 4x4 block of the tile in which an entry is composited (0 for entries that are not
    // visited), and kept the transmittance of the tile before each segment but the first.
    int64_t (*forward_tile)(const View &, int tile_x, int tile_y, const Splat *, const uint32_t *entries,
                            int64_t count, Blocks *masks, float *kept, float *rgb, float *alpha, float *depth,
                            int64_t *blocks_drawn);
    // Moments of the loss for each entry with a mask (slots [count, MOMENTS]) and the background's gradient, summed
    // over the tile.
    void (*backward_tile)(const View &, int tile_x, int tile_y, const Splat *, const uint32_t *entries, int64_t count,
                          const Blocks *masks, const float *kept, const ImageGradient &, Scratch &, float *slots,
                          float *background);
    // Gradients of Gaussians [begin, end); means2d is [B, N, 2].
    void (*backward_project)(const Cloud &, const ViewMoments *, int views, int64_t begin, int64_t end,
                             const CloudGradient &, float *means2d);
    // Runs the block operations of one pass `count` times on cached data; returns a checksum.
    float (*exercise_blocks)(int64_t count, Scratch &, bool backward);
};

extern const Kernels kernels_baseline;
#ifdef SPLAT_X86_VARIANTS
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace splat
