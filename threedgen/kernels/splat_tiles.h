// Compositing of one tile, front to back, one 16-pixel row of one Gaussian at a time: the inner loops are written so
// that a compiler turns each into a few vector instructions.

struct alignas(64) Plane {
    float row[TILE][TILE];
};

// 2^t for t <= 0, relative error 1e-7. Below 2^-60 (far under MIN_ALPHA) it stays at 2^-60: no denormals.
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
    // A bit cast, not a union or memcpy through memory: those keep the row loops from becoming vector code.
    return __builtin_bit_cast(float, __builtin_bit_cast(int32_t, p) + (__builtin_bit_cast(int32_t, shifted) << 23));
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

// Rows first..last are all that still have a transparent pixel; false when there is none.
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

// Transmittance 1 inside the image and 0 (dead) outside of it.
inline void start(const View &view, int left, int top, Plane &transmittance) {
    for (int r = 0; r < TILE; ++r)
        for (int x = 0; x < TILE; ++x)
            transmittance.row[r][x] = top + r < view.height && left + x < view.width ? 1.0f : 0.0f;
}

int64_t forward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const Entry *entries,
                     int64_t count, float *kept, float *rgb, float *alpha, float *depth) {
    const int left = tile_x * TILE, top = tile_y * TILE;
    Plane T, R, G, B, D;
    start(view, left, top, T);
    clear(R);
    clear(G);
    clear(B);
    clear(D);
    int first = 0, last = TILE - 1;
    int64_t e = 0;
    for (; e < count; ++e) {
        if (e % CHECK == 0 && !alive_rows(T, first, last)) break;
        if (e % SEGMENT == 0 && e > 0) memcpy(kept + (e / SEGMENT - 1) * TILE * TILE, &T, sizeof(Plane));
        const Splat &s = splats[entries[e].rank];
        const Geometry g = place(s, entries[e], left, top, first, last);
        const float falloff = s.falloff, cr = s.color[0], cg = s.color[1], cb = s.color[2], cz = s.z;
        for (int r = g.first; r <= g.last; ++r) {
            const float dy = float(r) - g.y;
            const float middle = g.x + s.skew * dy, peak = s.log_opacity - s.row_falloff * dy * dy;
            float *t = T.row[r], *pr = R.row[r], *pg = G.row[r], *pb = B.row[r], *pd = D.row[r];
#pragma omp simd
            for (int x = 0; x < TILE; ++x) {
                const float d = float(x) - middle;
                float a = exp2_negative(peak - falloff * d * d);
                a = a < MAX_ALPHA ? a : MAX_ALPHA;
                a = a >= MIN_ALPHA ? a : 0.0f;
                const float before = t[x];
                a = before >= MIN_TRANSMITTANCE ? a : 0.0f;
                const float w = a * before;
                t[x] = before - w;
                pr[x] += w * cr;
                pg[x] += w * cg;
                pb[x] += w * cb;
                pd[x] += w * cz;
            }
        }
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

// With f_i the loss's derivative along Gaussian i's colour and depth, and B_i that along what shows behind it,
//   B_{i-1} = a_i f_i + (1 - a_i) B_i,   dL/da_i = T_i (f_i - B_i):
// B is a mixture, so nothing cancels however opaque the Gaussians are. T comes front to back and B back to front; the
// list is cut into segments whose alphas and weights fit the cache, and the forward pass has kept T between them.
// A slot holds, with v = a dL/da (0 where a is capped) and (dx, dy) from mean to pixel,
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
            const Splat &s = splats[entries[e].rank];
            const Geometry g = place(s, entries[e], left, top, first, last);
            scratch.first[e - begin] = int8_t(g.first);
            scratch.last[e - begin] = int8_t(g.last);
            const float falloff = s.falloff;
            for (int r = g.first; r <= g.last; ++r, ++alphas, ++weights) {
                const float dy = float(r) - g.y;
                const float middle = g.x + s.skew * dy, peak = s.log_opacity - s.row_falloff * dy * dy;
                float *t = T.row[r], *kept_alpha = *alphas, *kept_weight = *weights;
#pragma omp simd
                for (int x = 0; x < TILE; ++x) {
                    const float d = float(x) - middle;
                    float a = exp2_negative(peak - falloff * d * d);
                    a = a < MAX_ALPHA ? a : MAX_ALPHA;
                    a = a >= MIN_ALPHA ? a : 0.0f;
                    const float before = t[x];
                    a = before >= MIN_TRANSMITTANCE ? a : 0.0f;
                    const float w = a * before;
                    t[x] = before - w;
                    kept_alpha[x] = a;
                    kept_weight[x] = w;
                }
            }
        }
        if (segment == segments - 1)
            for (int r = 0; r < TILE; ++r) {
                background[0] += dot(T.row[r], R.row[r]);
                background[1] += dot(T.row[r], G.row[r]);
                background[2] += dot(T.row[r], B.row[r]);
            }

        for (int64_t e = end - 1; e >= begin; --e) {
            const Splat &s = splats[entries[e].rank];
            const float y = float(s.y - (top + 0.5)), x0 = float(s.x - (left + 0.5));
            const float cr = s.color[0], cg = s.color[1], cb = s.color[2], cz = s.z;
            const int first_row = scratch.first[e - begin], last_row = scratch.last[e - begin];
            alignas(64) float wr[TILE] = {0}, wg[TILE] = {0}, wb[TILE] = {0}, wd[TILE] = {0};
            alignas(64) float v0[TILE] = {0}, v1[TILE] = {0}, v2[TILE] = {0};
            for (int r = last_row; r >= first_row; --r) {
                const float dy = float(r) - y;
                const float *a = *--alphas, *w = *--weights;
                const float *gr = R.row[r], *gg = G.row[r], *gb = B.row[r], *gd = D.row[r];
                float *b = behind.row[r];
#pragma omp simd
                for (int x = 0; x < TILE; ++x) {
                    const float excess = gr[x] * cr + gg[x] * cg + gb[x] * cb + gd[x] * cz - b[x];
                    b[x] += a[x] * excess;
                    const float v = a[x] < MAX_ALPHA ? w[x] * excess : 0.0f;
                    wr[x] += w[x] * gr[x];
                    wg[x] += w[x] * gg[x];
                    wb[x] += w[x] * gb[x];
                    wd[x] += w[x] * gd[x];
                    v0[x] += v;
                    v1[x] += v * dy;
                    v2[x] += v * (dy * dy);
                }
            }
            alignas(64) float dx0[TILE], dx00[TILE], dx1[TILE];
#pragma omp simd
            for (int x = 0; x < TILE; ++x) {
                const float dx = float(x) - x0;
                dx0[x] = dx * v0[x];
                dx00[x] = dx * dx * v0[x];
                dx1[x] = dx * v1[x];
            }
            float *slot = slots + e * MOMENTS;
            slot[0] = sum(wr);
            slot[1] = sum(wg);
            slot[2] = sum(wb);
            slot[3] = sum(wd);
            slot[4] = sum(v0);
            slot[5] = sum(dx0);
            slot[6] = sum(v1);
            slot[7] = sum(dx00);
            slot[8] = sum(dx1);
            slot[9] = sum(v2);
        }
    }
}
