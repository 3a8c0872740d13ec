// Colours of Gaussians, and their adjoint: real spherical harmonics up to degree 3, in the order and with the signs
// of Kerbl et al. 2023.

constexpr float SH0 = 0.28209479177387814f, SH1 = 0.4886025119029199f;
constexpr float SH2[5] = {1.0925484305920792f, -1.0925484305920792f, 0.31539156525252005f, -1.0925484305920792f,
                          0.5462742152960396f};
constexpr float SH3[7] = {-0.5900435899266435f, 2.890611442640554f, -0.4570457994644658f, 0.3731763325901154f,
                          -0.4570457994644658f, 1.445305721320277f, -0.5900435899266435f};

inline void sh_basis(int terms, const float *d, float *basis) {
    const float x = d[0], y = d[1], z = d[2];
    basis[0] = SH0;
    if (terms > 1) {
        basis[1] = -SH1 * y;
        basis[2] = SH1 * z;
        basis[3] = -SH1 * x;
    }
    if (terms > 4) {
        basis[4] = SH2[0] * x * y;
        basis[5] = SH2[1] * y * z;
        basis[6] = SH2[2] * (2 * z * z - x * x - y * y);
        basis[7] = SH2[3] * x * z;
        basis[8] = SH2[4] * (x * x - y * y);
    }
    if (terms > 9) {
        basis[9] = SH3[0] * y * (3 * x * x - y * y);
        basis[10] = SH3[1] * x * y * z;
        basis[11] = SH3[2] * y * (4 * z * z - x * x - y * y);
        basis[12] = SH3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y);
        basis[13] = SH3[4] * x * (4 * z * z - x * x - y * y);
        basis[14] = SH3[5] * z * (x * x - y * y);
        basis[15] = SH3[6] * x * (x * x - 3 * y * y);
    }
}

// g += sum_k weight_k grad Y_k(d), with Y_k as polynomials of an unconstrained d.
inline void sh_adjoint(int terms, const float *d, const float *w, float *g) {
    const float x = d[0], y = d[1], z = d[2];
    if (terms > 1) {
        g[0] -= SH1 * w[3];
        g[1] -= SH1 * w[1];
        g[2] += SH1 * w[2];
    }
    if (terms > 4) {
        g[0] += SH2[0] * y * w[4] - 2 * SH2[2] * x * w[6] + SH2[3] * z * w[7] + 2 * SH2[4] * x * w[8];
        g[1] += SH2[0] * x * w[4] + SH2[1] * z * w[5] - 2 * SH2[2] * y * w[6] - 2 * SH2[4] * y * w[8];
        g[2] += SH2[1] * y * w[5] + 4 * SH2[2] * z * w[6] + SH2[3] * x * w[7];
    }
    if (terms > 9) {
        const float xx = x * x, yy = y * y, zz = z * z;
        g[0] += SH3[0] * 6 * x * y * w[9] + SH3[1] * y * z * w[10] - SH3[2] * 2 * x * y * w[11] -
                SH3[3] * 6 * x * z * w[12] + SH3[4] * (4 * zz - 3 * xx - yy) * w[13] + SH3[5] * 2 * x * z * w[14] +
                SH3[6] * 3 * (xx - yy) * w[15];
        g[1] += SH3[0] * 3 * (xx - yy) * w[9] + SH3[1] * x * z * w[10] + SH3[2] * (4 * zz - xx - 3 * yy) * w[11] -
                SH3[3] * 6 * y * z * w[12] - SH3[4] * 2 * x * y * w[13] - SH3[5] * 2 * y * z * w[14] -
                SH3[6] * 6 * x * y * w[15];
        g[2] += SH3[1] * x * y * w[10] + SH3[2] * 8 * y * z * w[11] + SH3[3] * (6 * zz - 3 * xx - 3 * yy) * w[12] +
                SH3[4] * 8 * x * z * w[13] + SH3[5] * (xx - yy) * w[14];
    }
}

inline void unclamped_color(const Cloud &cloud, int64_t i, const float *direction, float *color) {
    const float *sh = cloud.sh + i * cloud.sh_terms * 3;
    for (int c = 0; c < 3; ++c) color[c] = 0.5f + SH0 * sh[c];
    if (cloud.sh_terms == 1) return;
    float basis[16];
    sh_basis(cloud.sh_terms, direction, basis);
    for (int k = 1; k < cloud.sh_terms; ++k)
        for (int c = 0; c < 3; ++c) color[c] += basis[k] * sh[3 * k + c];
}

// Adds one view's gradient of the coefficients to sh_gradient, and writes that of the unconstrained direction (0 for a
// single coefficient).
inline void color_adjoint(const Cloud &cloud, int64_t i, const float *direction, const float *d_color,
                          float *sh_gradient, float *d_direction) {
    const float *sh = cloud.sh + i * cloud.sh_terms * 3;
    float basis[16], color[3], weights[16], kept[3];
    unclamped_color(cloud, i, direction, color);
    for (int c = 0; c < 3; ++c) {
        kept[c] = color[c] >= 0 ? d_color[c] : 0.0f;
        sh_gradient[c] += SH0 * kept[c];
        d_direction[c] = 0.0f;
    }
    if (cloud.sh_terms == 1) return;
    sh_basis(cloud.sh_terms, direction, basis);
    for (int k = 1; k < cloud.sh_terms; ++k) {
        weights[k] = 0;
        for (int c = 0; c < 3; ++c) {
            sh_gradient[3 * k + c] += basis[k] * kept[c];
            weights[k] += sh[3 * k + c] * kept[c];
        }
    }
    sh_adjoint(cloud.sh_terms, direction, weights, d_direction);
}
