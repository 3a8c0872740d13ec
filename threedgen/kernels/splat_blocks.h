// Compositing of one tile from front to back. A tile is cut into 4x4 blocks of pixels, and a list of Gaussians into
// segments. Of each Gaussian only the blocks that its ellipse meets are computed: a vector of the widest instruction
// set is one block, which a small Gaussian fills better than a row of 16 pixels. A block stays in registers while the
// Gaussians of a segment pass over it.

struct alignas(64) Plane {
    float block[BLOCKS][PIXELS];
};

// Columns and rows of the pixels of a tile.
struct Grid {
    Plane x, y;
};

constexpr Grid make_grid() {
    Grid grid = {};
    for (int b = 0; b < BLOCKS; ++b)
        for (int p = 0; p < PIXELS; ++p) {
            grid.x.block[b][p] = float(b % COLUMNS * SIDE + p % SIDE);
            grid.y.block[b][p] = float(b / COLUMNS * SIDE + p / SIDE);
        }
    return grid;
}

constexpr Grid GRID = make_grid();

// A Gaussian seen from a tile: (x, y) is the mean, in pixels from the centre of the tile's first pixel. The exponent
// at (X, Y), in units of log 2, is  log_opacity - (vy Y + v0)^2 - (ux X + uy Y + u0)^2.
struct alignas(64) Placed {
    Shape shape;
    float x, y, u0, v0;
};

struct Segment {
    Placed at[SEGMENT];
};

// A tile's Gaussians are scattered in memory: those of the next segment are fetched while one is computed.
inline void prefetch(const Splat *splats, const uint32_t *entries, int64_t begin, int64_t count) {
    const int64_t end = begin + SEGMENT < count ? begin + SEGMENT : count;
    for (int64_t e = begin; e < end; ++e) SPLAT_PREFETCH(splats + entries[e]);
}

inline void place(const Splat *splats, const uint32_t *entries, int count, int left, int top, Segment &segment) {
    for (int e = 0; e < count; ++e) {
        if (e + AHEAD < count) SPLAT_PREFETCH(splats + entries[e + AHEAD]);
        const Splat &s = splats[entries[e]];
        Placed &p = segment.at[e];
        const double x = s.x - (left + 0.5), y = s.y - (top + 0.5);
        p.shape = s.shape;
        p.x = float(x);
        p.y = float(y);
        p.u0 = -float(s.shape.ux * x + s.shape.uy * y);
        p.v0 = -float(s.shape.vy * y);
    }
}

// 2^n for n in 0 .. 30, without a shift by a variable number, which the baseline lacks.
inline uint32_t power_of_two(int n) {
    return uint32_t(int(__builtin_bit_cast(float, uint32_t(n + 127) << 23)));
}

// The blocks of one row of blocks that an ellipse meets; low is the distance from the mean down to the row's first
// pixels.
inline Blocks row_of_blocks(float low, float x, float w, float h, float rho) {
    const float from = low / h, to = (low + (SIDE - 1)) / h;
    float up = rho > from ? rho : from, down = -rho > from ? -rho : from;
    up = up < to ? up : to;
    down = down < to ? down : to;
    float across = 1.0f - rho * rho, up_left = 1.0f - up * up, down_left = 1.0f - down * down;
    across = across > 0 ? across : 0.0f;
    up_left = up_left > 0 ? up_left : 0.0f;
    down_left = down_left > 0 ? down_left : 0.0f;
    const float pad = 1e-3f * w + 1e-2f;
    // Columns of blocks, from the first one that ends right of the ellipse's left end (nearly rounded up).
    float first = (x + w * (rho * down - sqrtf(across * down_left)) - pad - (SIDE - 1)) / SIDE + 0.9999f;
    float last = (x + w * (rho * up + sqrtf(across * up_left)) + pad) / SIDE + 1.0f;
    first = first > 0 ? first : 0.0f;
    last = last < COLUMNS ? last : float(COLUMNS);
    first = first < last ? first : (last > 0 ? last : 0.0f);
    last = last > 0 ? last : 0.0f;
    const Blocks bits = power_of_two(int(last)) - power_of_two(int(first));
    return from <= 1 && to >= -1 ? bits : 0u;
}

// Finds, for each Gaussian of a segment, the blocks of `alive` that its ellipse alpha >= 1/255 may meet.
inline void find_blocks(const Segment &segment, int count, Blocks alive, Blocks *masks) {
    alignas(64) float xs[SEGMENT], ys[SEGMENT], widths[SEGMENT], heights[SEGMENT], correlations[SEGMENT];
    for (int e = 0; e < count; ++e) {
        const Placed &p = segment.at[e];
        xs[e] = p.x;
        ys[e] = p.y;
        widths[e] = p.shape.half_width;
        heights[e] = p.shape.half_height;
        correlations[e] = p.shape.correlation;
    }
    for (int e = 0; e < count; ++e) masks[e] = 0;
    for (int row = 0; row < ROWS; ++row)
#pragma omp simd
        for (int e = 0; e < count; ++e)
            masks[e] |= alive & row_of_blocks(float(row * SIDE) - ys[e], xs[e], widths[e], heights[e],
                                              correlations[e]) << (row * COLUMNS);
}

// The Gaussians of a segment that meet a block, in their order.
#if defined(__AVX512F__)
struct Members {
    const Blocks *masks;
    int count;
};

inline void collect(const Blocks *masks, int count, Members &members) { members = {masks, count}; }

// list has room for 16 more than there are Gaussians.
inline int list_members(const Members &members, int block, uint32_t *list) {
    const __m512i bit = _mm512_set1_epi32(int(1u << block));
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int e = 0; e < members.count; e += 16) {
        const __mmask16 inside = __mmask16(members.count - e < 16 ? (1u << (members.count - e)) - 1 : 0xffff);
        const __mmask16 found =
            _mm512_mask_test_epi32_mask(inside, _mm512_maskz_loadu_epi32(inside, members.masks + e), bit);
        _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(found, index));
        count += __builtin_popcount(found);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
    }
    return count;
}
#else
struct Members {
    uint64_t bits[BLOCKS][SEGMENT / 64];
};

// The transpose of 8x8 bits, one row a byte.
inline uint64_t transpose_bits(uint64_t x) {
    uint64_t swapped = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAu;
    x ^= swapped ^ (swapped << 7);
    swapped = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCu;
    x ^= swapped ^ (swapped << 14);
    swapped = (x ^ (x >> 28)) & 0x00000000F0F0F0F0u;
    return x ^ swapped ^ (swapped << 28);
}

inline void collect(const Blocks *masks, int count, Members &members) {
    memset(&members, 0, sizeof(members));
    for (int e = 0; e < count; e += 8)
        for (int first = 0; first < BLOCKS; first += 8) {
            uint64_t rows = 0;
            for (int i = 0; i < 8; ++i)
                rows |= uint64_t((e + i < count ? masks[e + i] : 0) >> first & 0xff) << (8 * i);
            rows = transpose_bits(rows);
            for (int b = 0; b < 8; ++b) members.bits[first + b][e / 64] |= (rows >> (8 * b) & 0xff) << (e % 64);
        }
}

inline int list_members(const Members &members, int block, uint32_t *list) {
    int count = 0;
    for (int word = 0; word < SEGMENT / 64; ++word)
        for (uint64_t left = members.bits[block][word]; left != 0; left &= left - 1)
            list[count++] = uint32_t(64 * word + lowest_bit(left));
    return count;
}
#endif

// Bits of the blocks with a pixel that is not yet opaque.
inline Blocks alive_blocks(const Plane &transmittance) {
    Blocks alive = 0;
    for (int b = 0; b < BLOCKS; ++b) {
        float top = 0.0f;
        const float *t = transmittance.block[b];
#pragma omp simd reduction(max : top)
        for (int p = 0; p < PIXELS; ++p) top = t[p] > top ? t[p] : top;
        alive |= Blocks(top >= MIN_TRANSMITTANCE) << b;
    }
    return alive;
}

inline void clear(Plane &plane) { memset(&plane, 0, sizeof(Plane)); }

// The transmittance is 1 inside the image and 0 outside of it.
inline void start(const View &view, int left, int top, Plane &transmittance) {
    const float width = float(view.width - left), height = float(view.height - top);
    const float *x = GRID.x.block[0], *y = GRID.y.block[0];
    float *t = transmittance.block[0];
#pragma omp simd
    for (int i = 0; i < BLOCKS * PIXELS; ++i) t[i] = x[i] < width && y[i] < height ? 1.0f : 0.0f;
}

// 2^t with a relative error of 1e-7 where the result is a normal number; any number elsewhere.
inline Wide exp2_normal(Wide t) {
    const Wide shifted = t + kRounding;
    return two_to_the<Bits>(shifted, t - (shifted - kRounding));
}

// The three block operations, which do all work that grows with pixels times Gaussians.

inline Wide block_alpha(const Placed &g, Wide x, Wide y) {
    const Wide u = x * g.shape.ux + (y * g.shape.uy + g.u0), v = y * g.shape.vy + g.v0;
    const Wide t = g.shape.log_opacity - v * v - u * u;
    return pick(t >= LOG2_MIN_ALPHA, smaller(exp2_normal(t), wide(MAX_ALPHA)), wide(0.0f));
}

// Transmittance of a block. `passing` goes on below MIN_TRANSMITTANCE, where `left` stays: the next Gaussian waits
// for two operations only, and not for a comparison.
struct Light {
    Wide passing, left;

    // The weight of a Gaussian; 0 where the block is opaque.
    Wide weight(Wide &alpha) {
        const Wide nothing = wide(0.0f), blocked = alpha * passing;
        const WideMask alive = passing >= MIN_TRANSMITTANCE;
        passing -= blocked;
        left = pick(alive, passing, left);
        alpha = pick(alive, alpha, nothing);
        return pick(alive, blocked, nothing);
    }
};

inline void blend(const Segment &segment, const uint32_t *list, int count, const float *xs, const float *ys, float *t,
                  float *red, float *green, float *blue, float *depth) {
    const Wide x = load_wide(xs), y = load_wide(ys);
    Light light = {load_wide(t), load_wide(t)};
    Wide R = load_wide(red), G = load_wide(green), B = load_wide(blue), D = load_wide(depth);
    for (int i = 0; i < count; ++i) {
        const Placed &g = segment.at[list[i]];
        Wide a = block_alpha(g, x, y);
        const Wide w = light.weight(a);
        R += w * g.shape.color[0];
        G += w * g.shape.color[1];
        B += w * g.shape.color[2];
        D += w * g.shape.z;
    }
    store_wide(t, light.left);
    store_wide(red, R);
    store_wide(green, G);
    store_wide(blue, B);
    store_wide(depth, D);
}

// The same again, which keeps alphas and weights instead of blending colours; places: where in scratch they go.
inline void unroll(const Segment &segment, const uint32_t *list, const uint32_t *places, int count, const float *xs,
                   const float *ys, float *t, Scratch &scratch, int part) {
    const Wide x = load_wide(xs), y = load_wide(ys);
    Light light = {load_wide(t), load_wide(t)};
    for (int i = 0; i < count; ++i) {
        Wide a = block_alpha(segment.at[list[i]], x, y);
        const Wide w = light.weight(a);
        store_wide(scratch.alpha[places[i]] + part, a);
        store_wide(scratch.weight[places[i]] + part, w);
    }
    store_wide(t, light.left);
}

// Sums over the blocks of one Gaussian, one number for each lane.
struct Sums {
    Wide red, green, blue, depth, v0, dx, dy, dxx, dxy, dyy;
};

struct Target {
    Plane red, green, blue, depth, behind;  // gradients, and B_i
};

inline void accumulate(Wide a, Wide w, Wide dx, Wide dy, const Shape &shape, Target &target, int block, int part,
                       Sums &sums) {
    const Wide red = load_wide(target.red.block[block] + part), green = load_wide(target.green.block[block] + part);
    const Wide blue = load_wide(target.blue.block[block] + part), depth = load_wide(target.depth.block[block] + part);
    const Wide behind = load_wide(target.behind.block[block] + part);
    const Wide excess = red * shape.color[0] +
                        (green * shape.color[1] + (blue * shape.color[2] + (depth * shape.z - behind)));
    store_wide(target.behind.block[block] + part, behind + a * excess);
    const Wide v = pick(a < MAX_ALPHA, w * excess, wide(0.0f)), vx = v * dx, vy = v * dy;
    sums.red += w * red;
    sums.green += w * green;
    sums.blue += w * blue;
    sums.depth += w * depth;
    sums.v0 += v;
    sums.dx += vx;
    sums.dy += vy;
    sums.dxx += vx * dx;
    sums.dxy += vx * dy;
    sums.dyy += vy * dy;
}
