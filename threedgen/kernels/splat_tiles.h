// Compositing of one tile from front to back, one 16-pixel row of one Gaussian at a time. The inner loops are written
// so that a compiler turns each into a few vector instructions.

struct alignas(64) Plane {
    float row[TILE][TILE];
};

// 2^t for t <= 0 with a relative error of 1e-7. Below 2^-60 (far below MIN_ALPHA) it stays at 2^-60, against
// denormals.
inline float exp2_negative(float t) {
    t = t > -60.0f ? t : -60.0f;
    const float shifted = t + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(t)
    const float f = t - (shifted - 12582912.0f);
    float p = 1.3264726838e-3f;  // minimax in relative error on [-1/2, 1/2]
    p = p * f + 9.6715126653e-3f;
    p = p * f + 5.5507337444e-2f;
    p = p * f + 2.4022242085e-1f;
    p = p * f + 6.9314697760e-1f;
    p = p * f + 1.0f;
    // A bit cast, because with a union or memcpy through memory compilers do not vectorise the row loops. Unsigned,
    // because a shift that overflows is defined for unsigned types.
    return __builtin_bit_cast(float,
                              __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

struct Geometry {
    float x, y;  // of the mean, relative to the centre of the tile's first pixel
    int first, last;
};

inline Geometry place(const Splat &s, const Entry &e, int left, int top, int first_alive, int last_alive) {
    Geometry g;
    g.x = float(s.x - (left + 0.5));
    g.y = float(s.y - (top + 0.5));
    g.first = e.first_row > first_alive ? e.first_row : first_alive;
    g.last = e.last_row < last_alive ? e.last_row : last_alive;
    return g;
}

// Rows first..last are those between the first and the last row with a transparent pixel; false if there is none.
inline bool alive_rows(const Plane &transmittance, int &first, int &last) {
    int low = TILE, high = -1;
    for (int r = first; r <= last; ++r) {
        float top = 0.0f;
        const float *t = transmittance.row[r];
#pragma omp simd reduction(max : top)
        for (int x = 0; x < TILE; ++x) top = t[x] > top ? t[x] : top;
        if (top >= MIN_TRANSMITTANCE) {
            low = r < low ? r : low;
            high = r;
        }
    }
    first = low;
    last = high;
    return high >= 0;
}

inline void clear(Plane &plane) { memset(&plane, 0, sizeof(Plane)); }

// The transmittance is 1 inside the image and 0 outside of it.
inline void start(const View &view, int left, int top, Plane &transmittance) {
    for (int r = 0; r < TILE; ++r)
        for (int x = 0; x < TILE; ++x)
            transmittance.row[r][x] = top + r < view.height && left + x < view.width ? 1.0f : 0.0f;
}

// The three row operations, which do all work that grows with pixels times Gaussians.

inline float row_alpha(float d, float peak, float falloff, float before) {
    const float a = exp2_negative(peak - falloff * d * d);
    const float capped = a < MAX_ALPHA ? a : MAX_ALPHA;
    const float alive = before >= MIN_TRANSMITTANCE ? capped : 0.0f;
    return a >= MIN_ALPHA ? alive : 0.0f;
}

inline void forward_row(float middle, float peak, const Splat &s, float *t, float *red, float *green, float *blue,
                        float *depth) {
    const float falloff = s.falloff, cr = s.color[0], cg = s.color[1], cb = s.color[2], cz = s.z;
#pragma omp simd
    for (int x = 0; x < TILE; ++x) {
        const float before = t[x], a = row_alpha(float(x) - middle, peak, falloff, before);
        const float w = a * before;
        t[x] = before - w;
        red[x] += w * cr;
        green[x] += w * cg;
        blue[x] += w * cb;
        depth[x] += w * cz;
    }
}

// The forward row again, which keeps alpha and weight instead of blending colours.
inline void unroll_row(float middle, float peak, const Splat &s, float *t, float *alpha, float *weight) {
    const float falloff = s.falloff;
#pragma omp simd
    for (int x = 0; x < TILE; ++x) {
        const float before = t[x], a = row_alpha(float(x) - middle, peak, falloff, before);
        const float w = a * before;
        t[x] = before - w;
        alpha[x] = a;
        weight[x] = w;
    }
}

// Sums over the rows of one Gaussian in one tile, one number for each column.
struct alignas(64) Columns {
    float red[TILE], green[TILE], blue[TILE], depth[TILE];
    float v0[TILE], dx[TILE], dy[TILE], dxx[TILE], dxy[TILE], dyy[TILE];
};

inline void start_sums(Columns &sums) {
#pragma omp simd
    for (int x = 0; x < TILE; ++x)
        sums.red[x] = sums.green[x] = sums.blue[x] = sums.depth[x] = sums.v0[x] = sums.dy[x] = sums.dyy[x] = 0.0f;
}

inline void backward_row(float dy, const Splat &s, const float *alpha, const float *weight, const float *red,
                         const float *green, const float *blue, const float *depth, float *behind, Columns &sums) {
    const float cr = s.color[0], cg = s.color[1], cb = s.color[2], cz = s.z;
#pragma omp simd
    for (int x = 0; x < TILE; ++x) {
        const float a = alpha[x], w = weight[x];
        const float excess = red[x] * cr + green[x] * cg + blue[x] * cb + depth[x] * cz - behind[x];
        behind[x] += a * excess;
        const float v = a < MAX_ALPHA ? w * excess : 0.0f;
        sums.red[x] += w * red[x];
        sums.green[x] += w * green[x];
        sums.blue[x] += w * blue[x];
        sums.depth[x] += w * depth[x];
        sums.v0[x] += v;
        sums.dy[x] += v * dy;
        sums.dyy[x] += v * (dy * dy);
    }
}

inline float dot(const float *a, const float *b) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int x = 0; x < TILE; ++x) total += a[x] * b[x];
    return total;
}

inline float sum(const float *lanes) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int x = 0; x < TILE; ++x) total += lanes[x];
    return total;
}

// The slot of one Gaussian in one tile: the sum of each of its column sums. Compilers turn ten sums of sixteen
// numbers into hundreds of moves, so that the tree of additions is written out: quarters first, then transposes of
// 4x4.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SPLAT_SHUFFLE
#endif
#endif

#ifdef SPLAT_SHUFFLE
typedef float Four __attribute__((vector_size(16)));

inline Four quarters(const float *lanes) {
    Four part[4];
    memcpy(part, lanes, sizeof(part));
    return (part[0] + part[2]) + (part[1] + part[3]);
}

// The quarters of two vectors: [a0 + a2, b0 + b2, a1 + a3, b1 + b3].
inline Four pair_up(Four a, Four b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

inline Four add_pairs(Four ab, Four cd) {
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

inline void store_moments(const Columns &sums, float *slot) {
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
inline void store_moments(const Columns &sums, float *slot) {
    const float *lanes[MOMENTS] = {sums.red, sums.green, sums.blue, sums.depth, sums.v0,
                                   sums.dx,  sums.dy,    sums.dxx,  sums.dxy,   sums.dyy};
    for (int k = 0; k < MOMENTS; ++k) slot[k] = sum(lanes[k]);
}
#endif

int64_t forward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const Entry *entries,
                     int64_t count, float *kept, float *rgb, float *alpha, float *depth, int64_t *rows_drawn) {
    const int left = tile_x * TILE, top = tile_y * TILE;
    Plane T, R, G, B, D;
    start(view, left, top, T);
    clear(R);
    clear(G);
    clear(B);
    clear(D);
    int first = 0, last = TILE - 1;
    int64_t e = 0;
    *rows_drawn = 0;
    for (; e < count; ++e) {
        if (e % CHECK == 0 && !alive_rows(T, first, last)) break;
        if (e % SEGMENT == 0 && e > 0) memcpy(kept + (e / SEGMENT - 1) * TILE * TILE, &T, sizeof(Plane));
        if (e + AHEAD < count) SPLAT_PREFETCH(splats + entries[e + AHEAD].index);
        const Splat &s = splats[entries[e].index];
        const Geometry g = place(s, entries[e], left, top, first, last);
        for (int r = g.first; r <= g.last; ++r) {
            const float dy = float(r) - g.y;
            forward_row(g.x + s.skew * dy, s.log_opacity - s.row_falloff * dy * dy, s, T.row[r], R.row[r], G.row[r],
                        B.row[r], D.row[r]);
        }
        *rows_drawn += g.last >= g.first ? g.last - g.first + 1 : 0;
    }
    const int rows = view.height - top < TILE ? view.height - top : TILE;
    const int columns = view.width - left < TILE ? view.width - left : TILE;
    for (int r = 0; r < rows; ++r)
        for (int x = 0; x < columns; ++x) {
            const int64_t pixel = int64_t(top + r) * view.width + left + x;
            const float t = T.row[r][x];
            rgb[3 * pixel + 0] = R.row[r][x] + t * view.background[0];
            rgb[3 * pixel + 1] = G.row[r][x] + t * view.background[1];
            rgb[3 * pixel + 2] = B.row[r][x] + t * view.background[2];
            alpha[pixel] = 1.0f - t;
            depth[pixel] = D.row[r][x];
        }
    return e;
}

// With f_i the derivative of the loss along Gaussian i's colour and depth, and B_i that along what is visible behind
// it,
//   B_{i-1} = a_i f_i + (1 - a_i) B_i,   dL/da_i = T_i (f_i - B_i).
// B is a mixture, so that nothing cancels, however opaque the Gaussians are. T is computed from front to back and B
// from back to front; the list is cut into segments whose alphas and weights fit into the cache, and the forward pass
// has kept T between them. A slot holds, with v = a dL/da (0 if a is capped) and (dx, dy) from the mean to the pixel,
//   sum of w dL/d(r, g, b, depth), then sum of v (1, dx, dy, dx^2, dx dy, dy^2).
void backward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const Entry *entries, int64_t count,
                   const float *kept, const ImageGradient &gradient, Scratch &scratch, float *slots,
                   float *background) {
    const int left = tile_x * TILE, top = tile_y * TILE;
    Plane T, behind, R, G, B, D;  // transmittance, B_i, gradient planes
    clear(behind);
    clear(R);
    clear(G);
    clear(B);
    clear(D);
    const int rows = view.height - top < TILE ? view.height - top : TILE;
    const int columns = view.width - left < TILE ? view.width - left : TILE;
    for (int r = 0; r < rows; ++r)
        for (int x = 0; x < columns; ++x) {
            const int64_t pixel = int64_t(top + r) * view.width + left + x;
            const float *g = gradient.rgb + 3 * pixel;
            R.row[r][x] = g[0];
            G.row[r][x] = g[1];
            B.row[r][x] = g[2];
            D.row[r][x] = gradient.depth[pixel];
            behind.row[r][x] = g[0] * view.background[0] + g[1] * view.background[1] + g[2] * view.background[2] -
                               gradient.alpha[pixel];
        }
    background[0] = background[1] = background[2] = 0.0f;
    const int64_t segments = count > 0 ? (count - 1) / SEGMENT + 1 : 1;
    for (int64_t segment = segments - 1; segment >= 0; --segment) {
        const int64_t begin = segment * SEGMENT, end = begin + SEGMENT < count ? begin + SEGMENT : count;
        start(view, left, top, T);
        if (segment > 0) memcpy(&T, kept + (segment - 1) * TILE * TILE, sizeof(Plane));

        float(*alphas)[TILE] = scratch.alpha, (*weights)[TILE] = scratch.weight;
        int first = 0, last = TILE - 1;
        for (int64_t e = begin; e < end; ++e) {
            if (e % CHECK == 0) alive_rows(T, first, last);
            if (e + AHEAD < end) SPLAT_PREFETCH(splats + entries[e + AHEAD].index);
            const Splat &s = splats[entries[e].index];
            const Geometry g = place(s, entries[e], left, top, first, last);
            scratch.first[e - begin] = int8_t(g.first);
            scratch.last[e - begin] = int8_t(g.last);
            for (int r = g.first; r <= g.last; ++r, ++alphas, ++weights) {
                const float dy = float(r) - g.y;
                unroll_row(g.x + s.skew * dy, s.log_opacity - s.row_falloff * dy * dy, s, T.row[r], *alphas,
                           *weights);
            }
        }
        if (segment == segments - 1)
            for (int r = 0; r < TILE; ++r) {
                background[0] += dot(T.row[r], R.row[r]);
                background[1] += dot(T.row[r], G.row[r]);
                background[2] += dot(T.row[r], B.row[r]);
            }

        for (int64_t e = end - 1; e >= begin; --e) {
            const Splat &s = splats[entries[e].index];
            const float y = float(s.y - (top + 0.5)), x0 = float(s.x - (left + 0.5));
            Columns sums;
            start_sums(sums);
            for (int r = scratch.last[e - begin]; r >= scratch.first[e - begin]; --r)
                backward_row(float(r) - y, s, *--alphas, *--weights, R.row[r], G.row[r], B.row[r], D.row[r],
                             behind.row[r], sums);
#pragma omp simd
            for (int x = 0; x < TILE; ++x) {
                const float dx = float(x) - x0;
                sums.dx[x] = dx * sums.v0[x];
                sums.dxx[x] = dx * dx * sums.v0[x];
                sums.dxy[x] = dx * sums.dy[x];
            }
            store_moments(sums, slots + e * MOMENTS);
        }
    }
}

// The row operations alone, on a tile that stays in the first-level cache: the lower bound in
// benchmarks/splatting.py.
float exercise_rows(int64_t count, bool backward) {
    Plane T, behind, R, G, B, D, alpha, weight;
    clear(behind);
    // With constant gradients B converges to their mixture; it does not decay into slow denormals.
    for (int r = 0; r < TILE; ++r)
        for (int x = 0; x < TILE; ++x) R.row[r][x] = G.row[r][x] = B.row[r][x] = D.row[r][x] = 1.0f;
    Columns sums;
    start_sums(sums);
    Splat s;
    memset(&s, 0, sizeof(s));
    s.falloff = 0.01f;
    s.row_falloff = 0.02f;
    s.log_opacity = -5.0f;
    s.skew = 0.1f;
    s.color[0] = s.color[1] = s.color[2] = s.z = 0.5f;
    float total = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
        const int r = int(i % TILE);
        const float dy = float(r) - 7.3f;
        const float middle = 6.2f + s.skew * dy, peak = s.log_opacity - s.row_falloff * dy * dy;
        if (i % 4096 < TILE)
            for (int x = 0; x < TILE; ++x) T.row[r][x] = 1.0f;
        if (backward) {
            unroll_row(middle, peak, s, T.row[r], alpha.row[r], weight.row[r]);
            backward_row(dy, s, alpha.row[r], weight.row[r], R.row[r], G.row[r], B.row[r], D.row[r], behind.row[r],
                         sums);
        } else {
            forward_row(middle, peak, s, T.row[r], R.row[r], G.row[r], B.row[r], D.row[r]);
        }
    }
    for (int r = 0; r < TILE; ++r) total += sum(T.row[r]) + sum(R.row[r]) + sum(behind.row[r]);
    return total + sum(sums.red) + sum(sums.v0) + sum(sums.dy) + sum(sums.dyy);
}
