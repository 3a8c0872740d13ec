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
    union { float f; int32_t i; } bits, scale;
    bits.f = shifted;
    scale.f = p;
    scale.i += bits.i << 23;
    return scale.f;
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
                     int64_t count, float *rgb, float *alpha, float *depth) {
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
                a = (a >= MIN_ALPHA) & (t[x] >= MIN_TRANSMITTANCE) ? a : 0.0f;
                const float w = a * t[x];
                t[x] -= w;
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

inline float sum(const float *lanes) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int x = 0; x < TILE; ++x) total += lanes[x];
    return total;
}

// With f_i the loss's derivative along Gaussian i's colour and depth and L' = sum_i w_i f_i + T_end k the part of the
// picture that the loss sees, dL/da_i = T_i f_i - (L' - sum_{j <= i} w_j f_j) / (1 - a_i): one pass front to back.
// A slot holds, with v = a dL/da (0 where a is capped) and (dx, dy) from mean to pixel,
//   sum of w dL/d(r, g, b, depth), then sum of v (1, dx, dy, dx^2, dx dy, dy^2).
void backward_tile(const View &view, int tile_x, int tile_y, const Splat *splats, const Entry *entries, int64_t count,
                   const ImageView &output, const ImageView &gradient, float *slots, float *background) {
    const int left = tile_x * TILE, top = tile_y * TILE;
    Plane T, S, R, G, B, D;  // transmittance, what is left of L', gradient planes
    start(view, left, top, T);
    clear(S);
    clear(R);
    clear(G);
    clear(B);
    clear(D);
    background[0] = background[1] = background[2] = 0.0f;
    const int rows = view.height - top < TILE ? view.height - top : TILE;
    const int columns = view.width - left < TILE ? view.width - left : TILE;
    for (int r = 0; r < rows; ++r)
        for (int x = 0; x < columns; ++x) {
            const int64_t pixel = int64_t(top + r) * view.width + left + x;
            const float *c = output.rgb + 3 * pixel, *g = gradient.rgb + 3 * pixel;
            const float t = 1.0f - output.alpha[pixel], gd = gradient.depth[pixel];
            R.row[r][x] = g[0];
            G.row[r][x] = g[1];
            B.row[r][x] = g[2];
            D.row[r][x] = gd;
            S.row[r][x] = g[0] * c[0] + g[1] * c[1] + g[2] * c[2] + gd * output.depth[pixel] -
                          gradient.alpha[pixel] * t;
            for (int k = 0; k < 3; ++k) background[k] += t * g[k];
        }
    int first = 0, last = TILE - 1;
    for (int64_t e = 0; e < count; ++e) {
        if (e % CHECK == 0) alive_rows(T, first, last);
        const Splat &s = splats[entries[e].rank];
        const Geometry g = place(s, entries[e], left, top, first, last);
        const float falloff = s.falloff, cr = s.color[0], cg = s.color[1], cb = s.color[2], cz = s.z;
        alignas(64) float wr[TILE] = {0}, wg[TILE] = {0}, wb[TILE] = {0}, wd[TILE] = {0};
        alignas(64) float v0[TILE] = {0}, v1[TILE] = {0}, v2[TILE] = {0};
        for (int r = g.first; r <= g.last; ++r) {
            const float dy = float(r) - g.y;
            const float middle = g.x + s.skew * dy, peak = s.log_opacity - s.row_falloff * dy * dy;
            float *t = T.row[r], *rest = S.row[r];
            const float *gr = R.row[r], *gg = G.row[r], *gb = B.row[r], *gd = D.row[r];
#pragma omp simd
            for (int x = 0; x < TILE; ++x) {
                const float d = float(x) - middle;
                const float free = exp2_negative(peak - falloff * d * d);
                float a = free < MAX_ALPHA ? free : MAX_ALPHA;
                a = (a >= MIN_ALPHA) & (t[x] >= MIN_TRANSMITTANCE) ? a : 0.0f;
                const float w = a * t[x];
                const float wf = w * (gr[x] * cr + gg[x] * cg + gb[x] * cb + gd[x] * cz);
                const float behind = rest[x] - wf;
                rest[x] = behind;
                t[x] -= w;
                float v = wf - behind * (a / (1.0f - a));
                v = free < MAX_ALPHA ? v : 0.0f;
                wr[x] += w * gr[x];
                wg[x] += w * gg[x];
                wb[x] += w * gb[x];
                wd[x] += w * gd[x];
                v0[x] += v;
                v1[x] += v * dy;
                v2[x] += v * dy * dy;
            }
        }
        alignas(64) float dx0[TILE], dx00[TILE], dx1[TILE];
#pragma omp simd
        for (int x = 0; x < TILE; ++x) {
            const float dx = float(x) - g.x;
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
