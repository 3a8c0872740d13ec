// Real is a vector of as many doubles as a register of the instruction set holds, with the arithmetic of one double:
// the projection and its adjoint process LANES Gaussians at a time. Wide is the same of floats, for pixels. Without
// vector extensions (MSVC) they are one number.
#if defined(__GNUC__) || defined(__clang__)
#if defined(__AVX512F__)
constexpr int LANES = 8;
#elif defined(__AVX__)
constexpr int LANES = 4;
#else
constexpr int LANES = 2;
#endif
constexpr int WIDTH = 2 * LANES;
typedef double Real __attribute__((vector_size(LANES * sizeof(double))));
typedef float Wide __attribute__((vector_size(WIDTH * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(WIDTH * sizeof(float))));
#else
constexpr int LANES = 1, WIDTH = 1;
typedef double Real;
typedef float Wide;
typedef uint32_t Bits;
#endif
typedef decltype(Real() < Real()) Mask;
typedef decltype(Wide() < Wide()) WideMask;

inline double *lanes(Real &value) { return reinterpret_cast<double *>(&value); }
inline const double *lanes(const Real &value) { return reinterpret_cast<const double *>(&value); }

inline Real pick(Mask condition, Real yes, Real no) { return condition ? yes : no; }
inline Wide pick(WideMask condition, Wide yes, Wide no) { return condition ? yes : no; }

inline Real all(double value) { return Real{} + value; }
inline Wide smaller(Wide a, Wide b) {
#if defined(__AVX512F__)
    return (Wide)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Wide)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (Wide)_mm_min_ps((__m128)a, (__m128)b);
#else
    return pick(a < b, a, b);
#endif
}

inline Wide wide(float value) { return Wide{} + value; }

inline Wide load_wide(const float *from) {
    Wide value;
    memcpy(&value, from, sizeof(value));
    return value;
}

inline void store_wide(float *to, Wide value) { memcpy(to, &value, sizeof(value)); }

inline int lowest_bit(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(bits);
#else
    int position = 0;
    for (; (bits & 1) == 0; bits >>= 1) ++position;
    return position;
#endif
}

inline Real root(Real value) {
    for (int l = 0; l < LANES; ++l) lanes(value)[l] = sqrt(lanes(value)[l]);
    return value;
}

inline void root(Real value, float *roots) {
    for (int l = 0; l < LANES; ++l) roots[l] = float(lanes(value)[l]);
    for (int l = 0; l < LANES; ++l) roots[l] = sqrtf(roots[l]);
}

// The first SIZE numbers of records i, i + 1, ... of STRIDE floats, one record in each lane; lanes from `end` on
// repeat record i.
template <int SIZE, int STRIDE = SIZE> inline void load(const float *records, int64_t i, int64_t end, Real *out) {
    float padded[LANES * STRIDE];
    const float *from = records + i * STRIDE;
    if (end - i < LANES) {
        for (int l = 0; l < LANES; ++l)
            for (int k = 0; k < SIZE; ++k) padded[l * STRIDE + k] = from[(l < end - i ? l : 0) * STRIDE + k];
        from = padded;
    }
    for (int k = 0; k < SIZE; ++k)
        for (int l = 0; l < LANES; ++l) lanes(out[k])[l] = from[l * STRIDE + k];
}

template <int SIZE> inline void store(float *records, int64_t i, int64_t end, const Real *values) {
    const int count = end - i < LANES ? int(end - i) : LANES;
    for (int l = 0; l < count; ++l)
        for (int k = 0; k < SIZE; ++k) records[(i + l) * SIZE + k] = float(lanes(values[k])[l]);
}
