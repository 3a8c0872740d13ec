// Real is a vector of as many doubles as a register of the instruction set holds, with the arithmetic of one double:
// the projection and its adjoint process LANES Gaussians at a time. Without vector extensions (MSVC) it is one
// double.
#if defined(__GNUC__) || defined(__clang__)
#if defined(__AVX512F__)
constexpr int LANES = 8;
#elif defined(__AVX__)
constexpr int LANES = 4;
#else
constexpr int LANES = 2;
#endif
typedef double Real __attribute__((vector_size(LANES * sizeof(double))));
#else
constexpr int LANES = 1;
typedef double Real;
#endif
typedef decltype(Real() < Real()) Mask;

inline double *lanes(Real &value) { return reinterpret_cast<double *>(&value); }
inline const double *lanes(const Real &value) { return reinterpret_cast<const double *>(&value); }

inline Real pick(Mask condition, Real yes, Real no) { return condition ? yes : no; }

inline Real all(double value) { return Real{} + value; }

inline Real root(Real value) {
    for (int l = 0; l < LANES; ++l) lanes(value)[l] = sqrt(lanes(value)[l]);
    return value;
}

// Components of records i, i + 1, ... of SIZE floats, one in each lane; lanes from `end` on repeat record i.
template <int SIZE> inline void load(const float *records, int64_t i, int64_t end, Real *out) {
    float padded[LANES * SIZE];
    const float *from = records + i * SIZE;
    if (end - i < LANES) {
        for (int l = 0; l < LANES; ++l)
            for (int k = 0; k < SIZE; ++k) padded[l * SIZE + k] = from[(l < end - i ? l : 0) * SIZE + k];
        from = padded;
    }
    for (int k = 0; k < SIZE; ++k)
        for (int l = 0; l < LANES; ++l) lanes(out[k])[l] = from[l * SIZE + k];
}

template <int SIZE> inline void store(float *records, int64_t i, int64_t end, const Real *values) {
    const int count = end - i < LANES ? int(end - i) : LANES;
    for (int l = 0; l < count; ++l)
        for (int k = 0; k < SIZE; ++k) records[(i + l) * SIZE + k] = float(lanes(values[k])[l]);
}
