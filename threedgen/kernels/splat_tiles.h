// The compositing of one tile and its adjoint, segment by segment.

// The slot of one Gaussian in one tile: each of its sums added up over the lanes. Compilers turn ten sums of sixteen
// numbers into hundreds of moves, so that the tree of additions is written out: quarters first, then transposes of
// 4x4.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SPLAT_SHUFFLE
#endif
#endif

#ifdef SPLAT_SHUFFLE
typedef float Four __attribute__((vector_size(16)));

inline Four quarters(Wide lanes) {
#if defined(__AVX512F__)
    typedef float Eight __attribute__((vector_size(32)));
    const Eight half = __builtin_shufflevector(lanes, lanes, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(lanes, lanes, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX__)
    const Wide half = lanes;
#else
    return lanes;
#endif
#if defined(__AVX__)
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#endif
}

// The quarters of two vectors: [a0 + a2, b0 + b2, a1 + a3, b1 + b3].
inline Four pair_up(Four a, Four b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

inline Four add_pairs(Four ab, Four cd) {
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

inline void store_moments(const Sums &sums, float *slot) {
    const Four colors = pair_up(quarters(sums.red), quarters(sums.green));
    const Four others = pair_up(quarters(sums.blue), quarters(sums.depth));
    const Four first = pair_up(quarters(sums.v0), quarters(sums.dx));
    const Four second = pair_up(quarters(sums.dy), quarters(sums.dxx));
    const Four third = pair_up(quarters(sums.dxy), quarters(sums.dyy));
    const Four low = add_pairs(colors, others), middle = add_pairs(first, second), high = add_pairs(third, third);
    memcpy(slot, &low, sizeof(low));
    memcpy(slot + 4, &middle, sizeof(middle));
    memcpy(slot + 8, &high, 2 * sizeof(float));
}
#else
inline float sum(Wide value) {
    float lanes[WIDTH], total = 0.0f;
    store_wide(lanes, value);
    for (float lane : lanes) total += lane;
    return total;
}

inline void store_moments(const Sums &sums, float *slot) {
    const Wide lanes[MOMENTS] = {sums.red, sums.green, sums.blue, sums.depth, sums.v0,
                                 sums.dx,  sums.dy,    sums.dxx,  sums.dxy,   sums.dyy};
    for (int k = 0; k < MOMENTS; ++k) slot[k] = sum(lanes[k]);
}
#endif

// Part of a tile that is inside of the picture.
struct Window {
    int columns, rows;
};

inline Window window_of(const View &view, int left, int top) {
    const int columns = view.width - left, rows = view.height - top;
    return {columns < TILE_WIDTH ? columns : TILE_WIDTH, rows < TILE_HEIGHT ? rows : TILE_HEIGHT};
}

// A row of pixels of a plane, to and from TILE_WIDTH numbers.
inline void get_row(const Plane &plane, int y, float *row) {
    for (int c = 0; c < COLUMNS; ++c)
        memcpy(row + c * SIDE, plane.block[y / SIDE * COLUMNS + c] + y % SIDE * SIDE, SIDE * sizeof(float));
}

inline void set_row(Plane &plane, int y, const float *row) {
    for (int c = 0; c < COLUMNS; ++c)
        memcpy(plane.block[y / SIDE * COLUMNS + c] + y % SIDE * SIDE, row + c * SIDE, SIDE * sizeof(float));
}

int64_t forward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const uint32_t *entries,
                     int64_t count, Blocks *masks, float *kept, float *rgb, float *alpha, float *depth,
                     int64_t *blocks_drawn) {
    const int left = tile_x * TILE_WIDTH, top = tile_y * TILE_HEIGHT;
    Plane T, R, G, B, D;
    Segment segment;
    Members members;
    uint32_t list[SEGMENT + 16];
    start(view, left, top, T);
    clear(R);
    clear(G);
    clear(B);
    clear(D);
    int64_t begin = 0;
    *blocks_drawn = 0;
    for (; begin < count; begin += SEGMENT) {
        const Blocks alive = alive_blocks(T);
        if (alive == 0) break;
        if (begin > 0) memcpy(kept + (begin / SEGMENT - 1) * BLOCKS * PIXELS, &T, sizeof(Plane));
        const int size = int(count - begin < SEGMENT ? count - begin : SEGMENT);
        place(splats, entries + begin, size, left, top, segment);
        find_blocks(segment, size, alive, masks + begin);
        collect(masks + begin, size, members);
        prefetch(splats, entries, begin + SEGMENT, count);
        for (int b = 0; b < BLOCKS; ++b) {
            const int n = list_members(members, b, list);
            for (int p = 0; p < PIXELS; p += WIDTH)
                blend(segment, list, n, GRID.x.block[b] + p, GRID.y.block[b] + p, T.block[b] + p, R.block[b] + p,
                      G.block[b] + p, B.block[b] + p, D.block[b] + p);
            *blocks_drawn += n;
        }
    }
    const int64_t visited = begin < count ? begin : count;
    memset(masks + visited, 0, size_t(count - visited) * sizeof(Blocks));
    const Window window = window_of(view, left, top);
    for (int y = 0; y < window.rows; ++y) {
        float t[TILE_WIDTH], r[TILE_WIDTH], g[TILE_WIDTH], b[TILE_WIDTH], d[TILE_WIDTH];
        get_row(T, y, t);
        get_row(R, y, r);
        get_row(G, y, g);
        get_row(B, y, b);
        get_row(D, y, d);
        const int64_t pixel = int64_t(top + y) * view.width + left;
        for (int x = 0; x < window.columns; ++x) {
            rgb[3 * (pixel + x) + 0] = r[x] + t[x] * view.background[0];
            rgb[3 * (pixel + x) + 1] = g[x] + t[x] * view.background[1];
            rgb[3 * (pixel + x) + 2] = b[x] + t[x] * view.background[2];
            alpha[pixel + x] = 1.0f - t[x];
            depth[pixel + x] = d[x];
        }
    }
    return visited;
}

inline void load_target(const View &view, const ImageGradient &gradient, int left, int top, Target &target) {
    memset(&target, 0, sizeof(target));
    const Window window = window_of(view, left, top);
    for (int y = 0; y < window.rows; ++y) {
        float r[TILE_WIDTH] = {}, g[TILE_WIDTH] = {}, b[TILE_WIDTH] = {}, d[TILE_WIDTH] = {}, behind[TILE_WIDTH] = {};
        const int64_t pixel = int64_t(top + y) * view.width + left;
        for (int x = 0; x < window.columns; ++x) {
            r[x] = gradient.rgb[3 * (pixel + x)];
            g[x] = gradient.rgb[3 * (pixel + x) + 1];
            b[x] = gradient.rgb[3 * (pixel + x) + 2];
            d[x] = gradient.depth[pixel + x];
            behind[x] = r[x] * view.background[0] + g[x] * view.background[1] + b[x] * view.background[2] -
                        gradient.alpha[pixel + x];
        }
        set_row(target.red, y, r);
        set_row(target.green, y, g);
        set_row(target.blue, y, b);
        set_row(target.depth, y, d);
        set_row(target.behind, y, behind);
    }
}

inline float dot(const Plane &a, const Plane &b) {
    float total = 0.0f;
    const float *x = a.block[0], *y = b.block[0];
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < BLOCKS * PIXELS; ++i) total += x[i] * y[i];
    return total;
}

// Where the alphas of each Gaussian of a segment begin in scratch; returns their number.
inline uint32_t number_places(const Blocks *masks, int count, uint32_t *places) {
#pragma omp simd
    for (int e = 0; e < count; ++e) {
        const uint32_t mask = masks[e], pairs = mask - (mask >> 1 & 0x55555555u);
        const uint32_t fours = (pairs & 0x33333333u) + (pairs >> 2 & 0x33333333u);
        const uint32_t bytes = (fours + (fours >> 4)) & 0x0f0f0f0fu, halves = bytes + (bytes >> 8);
        places[e] = (halves + (halves >> 16)) & 63;
    }
    uint32_t total = 0;
    for (int e = 0; e < count; ++e) {
        const uint32_t blocks = places[e];
        places[e] = total;
        total += blocks;
    }
    return total;
}

// Passes over a segment from back to front. next: the end of each Gaussian's alphas in scratch.
inline void gather_moments(const Segment &segment, const Blocks *masks, const uint32_t *next, int count,
                           const Scratch &scratch, Target &target, float *slots) {
    for (int e = count - 1; e >= 0; --e) {
        Blocks blocks = masks[e];
        if (blocks == 0) continue;
        const Placed &g = segment.at[e];
        const Wide mean_x = wide(g.x), mean_y = wide(g.y);
        Sums sums = {};
        for (uint32_t at = e > 0 ? next[e - 1] : 0; blocks != 0; blocks &= blocks - 1, ++at) {
            const int b = lowest_bit(blocks);
            for (int p = 0; p < PIXELS; p += WIDTH)
                accumulate(load_wide(scratch.alpha[at] + p), load_wide(scratch.weight[at] + p),
                           load_wide(GRID.x.block[b] + p) - mean_x, load_wide(GRID.y.block[b] + p) - mean_y, g.shape,
                           target, b, p, sums);
        }
        store_moments(sums, slots + e * MOMENTS);
    }
}

// With f_i the derivative of the loss along Gaussian i's colour and depth, and B_i that along what is visible behind
// it,
//   B_{i-1} = a_i f_i + (1 - a_i) B_i,   dL/da_i = T_i (f_i - B_i).
// B is a mixture, so that nothing cancels, however opaque the Gaussians are. T is computed from front to back and B
// from back to front; the alphas and weights of a segment fit into the cache, and the forward pass has kept T between
// the segments. A slot holds, with v = a dL/da (0 if a is capped) and (dx, dy) from the mean to the pixel,
//   sum of w dL/d(r, g, b, depth), then sum of v (1, dx, dy, dx^2, dx dy, dy^2).
void backward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const uint32_t *entries,
                   int64_t count, const Blocks *masks, const float *kept, const ImageGradient &gradient,
                   Scratch &scratch, float *slots, float *background) {
    const int left = tile_x * TILE_WIDTH, top = tile_y * TILE_HEIGHT;
    Plane T;
    Target target;
    Segment segment;
    Members members;
    uint32_t list[SEGMENT + 16], places[SEGMENT], next[SEGMENT];
    load_target(view, gradient, left, top, target);
    background[0] = background[1] = background[2] = 0.0f;
    const int64_t segments = count > 0 ? (count - 1) / SEGMENT + 1 : 1;
    for (int64_t index = segments - 1; index >= 0; --index) {
        const int64_t begin = index * SEGMENT;
        const int size = int(count - begin < SEGMENT ? count - begin : SEGMENT);
        if (index > 0)
            memcpy(&T, kept + (index - 1) * BLOCKS * PIXELS, sizeof(Plane));
        else
            start(view, left, top, T);
        place(splats, entries + begin, size, left, top, segment);
        collect(masks + begin, size, members);
        number_places(masks + begin, size, next);
        if (index > 0) prefetch(splats, entries, begin - SEGMENT, begin);
        for (int b = 0; b < BLOCKS; ++b) {
            const int n = list_members(members, b, list);
            for (int i = 0; i < n; ++i) places[i] = next[list[i]]++;
            for (int p = 0; p < PIXELS; p += WIDTH)
                unroll(segment, list, places, n, GRID.x.block[b] + p, GRID.y.block[b] + p, T.block[b] + p, scratch,
                       p);
        }
        if (index == segments - 1) {
            background[0] = dot(T, target.red);
            background[1] = dot(T, target.green);
            background[2] = dot(T, target.blue);
        }
        gather_moments(segment, masks + begin, next, size, scratch, target, slots + begin * MOMENTS);
    }
}

// The block operations alone, on a tile that stays in the first-level cache: the lower bound in
// benchmarks/splatting.py.
float exercise_blocks(int64_t count, Scratch &scratch, bool backward) {
    constexpr int members = 32;
    Plane T;
    Target target;
    Segment segment;
    Sums sums = {};
    uint32_t list[members];
    clear(target.behind);
    // With constant gradients B converges to their mixture, not to slow denormals.
    for (int b = 0; b < BLOCKS; ++b)
        for (int p = 0; p < PIXELS; ++p)
            target.red.block[b][p] = target.green.block[b][p] = target.blue.block[b][p] =
                target.depth.block[b][p] = 1.0f;
    for (int e = 0; e < members; ++e) {
        list[e] = uint32_t(e);
        segment.at[e] = {{0.1f, 0.01f, 0.14f, -5.0f, {0.5f, 0.5f, 0.5f}, 0.5f, 0, 0, 0, 0}, 6.2f, 7.3f, -0.7f, -1.0f};
    }
    for (int64_t done = 0; done < count; done += members) {
        const int b = int(done / members % BLOCKS);
        for (int p = 0; p < PIXELS; ++p) T.block[b][p] = 1.0f;
        for (int p = 0; p < PIXELS; p += WIDTH)
            if (backward)
                unroll(segment, list, list, members, GRID.x.block[b] + p, GRID.y.block[b] + p, T.block[b] + p,
                       scratch, p);
            else
                blend(segment, list, members, GRID.x.block[b] + p, GRID.y.block[b] + p, T.block[b] + p,
                      target.red.block[b] + p, target.green.block[b] + p, target.blue.block[b] + p,
                      target.depth.block[b] + p);
        for (int e = members - 1; backward && e >= 0; --e)
            for (int p = 0; p < PIXELS; p += WIDTH)
                accumulate(load_wide(scratch.alpha[e] + p), load_wide(scratch.weight[e] + p),
                           load_wide(GRID.x.block[b] + p) - 6.2f, load_wide(GRID.y.block[b] + p) - 7.3f,
                           segment.at[e].shape, target, b, p, sums);
    }
    float slot[MOMENTS], total = 0.0f;
    store_moments(sums, slot);
    for (float moment : slot) total += moment;
    return total + dot(T, target.behind) + dot(target.red, target.blue);
}
