// Projection of 3D Gaussians and its adjoint. In double: the covariance of a needle, and coordinates of a few hundred
// pixels, would lose in float what the compositing kernel keeps.
// EWA splatting (Zwicker et al. 2001), 3DGS (Kerbl et al. 2023) equations 5 and 6.

struct Rotation {
    double q[4];        // unit quaternion wxyz
    double inverse_norm;
    bool clamped;       // length below 1e-12
    double matrix[9];
};

inline Rotation rotation_of(const float *quat) {
    Rotation r;
    double squared = 0.0;
    for (int k = 0; k < 4; ++k) squared += double(quat[k]) * double(quat[k]);
    r.clamped = squared < 1e-24;
    r.inverse_norm = 1.0 / sqrt(r.clamped ? 1e-24 : squared);
    for (int k = 0; k < 4; ++k) r.q[k] = quat[k] * r.inverse_norm;
    const double w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3];
    r.matrix[0] = 1 - 2 * (y * y + z * z);
    r.matrix[1] = 2 * (x * y - w * z);
    r.matrix[2] = 2 * (x * z + w * y);
    r.matrix[3] = 2 * (x * y + w * z);
    r.matrix[4] = 1 - 2 * (x * x + z * z);
    r.matrix[5] = 2 * (y * z - w * x);
    r.matrix[6] = 2 * (x * z - w * y);
    r.matrix[7] = 2 * (y * z + w * x);
    r.matrix[8] = 1 - 2 * (x * x + y * y);
    return r;
}

inline void rotation_adjoint(const Rotation &r, const double *d, float *gradient) {
    const double w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3];
    double g[4];
    g[0] = 2 * (x * (d[7] - d[5]) + y * (d[2] - d[6]) + z * (d[3] - d[1]));
    g[1] = 2 * (-2 * x * (d[4] + d[8]) + y * (d[1] + d[3]) + z * (d[2] + d[6]) + w * (d[7] - d[5]));
    g[2] = 2 * (x * (d[1] + d[3]) - 2 * y * (d[0] + d[8]) + z * (d[7] + d[5]) + w * (d[2] - d[6]));
    g[3] = 2 * (x * (d[2] + d[6]) + y * (d[5] + d[7]) - 2 * z * (d[0] + d[4]) + w * (d[3] - d[1]));
    double along = 0.0;
    for (int k = 0; k < 4; ++k) along += r.clamped ? 0.0 : r.q[k] * g[k];
    for (int k = 0; k < 4; ++k) gradient[k] = float((g[k] - r.q[k] * along) * r.inverse_norm);
}

// Everything the projection of one Gaussian computes on its way, for the adjoint to use again.
struct Projection {
    double t[3];            // mean in camera axes
    double inverse_z;
    double slope[2];        // clamped x/z, y/z
    bool clamped[2];
    double jacobian[4];     // fx/z, d(x)/dz, fy/z, d(y)/dz
    double axes[9];         // camera_from_world times the rotation
    double u[2][3];         // jacobian times axes
    double a, b, c, det;    // filtered covariance xx, xy, yy
};

inline bool project_mean(const View &view, const float *mean, Projection &p) {
    for (int k = 0; k < 3; ++k) {
        const double *row = view.rotation + 3 * k;
        p.t[k] = row[0] * mean[0] + row[1] * mean[1] + row[2] * mean[2] + view.translation[k];
    }
    return p.t[2] >= view.near_z && p.t[2] <= view.far_z;
}

inline void project_covariance(const View &view, const double *rotation, const float *scale, Projection &p) {
    const double iz = p.inverse_z = 1.0 / p.t[2];
    for (int k = 0; k < 2; ++k) {
        const double slope = p.t[k] * iz, low = view.slope_low[k], high = view.slope_high[k];
        p.slope[k] = slope < low ? low : (slope > high ? high : slope);
        p.clamped[k] = slope < low || slope > high;
    }
    p.jacobian[0] = view.fx * iz;
    p.jacobian[1] = -view.fx * p.slope[0] * iz;
    p.jacobian[2] = view.fy * iz;
    p.jacobian[3] = -view.fy * p.slope[1] * iz;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
            const double *row = view.rotation + 3 * i;
            p.axes[3 * i + j] = row[0] * rotation[j] + row[1] * rotation[3 + j] + row[2] * rotation[6 + j];
        }
    double uu = 0.0, uv = 0.0, vv = 0.0, u[3], v[3];
    for (int k = 0; k < 3; ++k) {
        p.u[0][k] = p.jacobian[0] * p.axes[k] + p.jacobian[1] * p.axes[6 + k];
        p.u[1][k] = p.jacobian[2] * p.axes[3 + k] + p.jacobian[3] * p.axes[6 + k];
        u[k] = p.u[0][k] * scale[k];
        v[k] = p.u[1][k] * scale[k];
        uu += u[k] * u[k];
        uv += u[k] * v[k];
        vv += v[k] * v[k];
    }
    const double n0 = u[1] * v[2] - u[2] * v[1], n1 = u[2] * v[0] - u[0] * v[2], n2 = u[0] * v[1] - u[1] * v[0];
    p.a = uu + LOW_PASS;
    p.b = uv;
    p.c = vv + LOW_PASS;
    p.det = n0 * n0 + n1 * n1 + n2 * n2 + LOW_PASS * (uu + vv) + LOW_PASS * LOW_PASS;
}

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

inline double direction_to(const View &view, const float *mean, float *direction) {
    double d[3], squared = 0.0;
    for (int k = 0; k < 3; ++k) {
        d[k] = mean[k] - view.center[k];
        squared += d[k] * d[k];
    }
    const double inverse = 1.0 / sqrt(squared);
    for (int k = 0; k < 3; ++k) direction[k] = float(d[k] * inverse);
    return inverse;
}

inline void unclamped_color(const Cloud &cloud, int64_t i, const float *basis, float *color) {
    const float *sh = cloud.sh + i * cloud.sh_terms * 3;
    color[0] = color[1] = color[2] = 0.5f;
    for (int k = 0; k < cloud.sh_terms; ++k)
        for (int c = 0; c < 3; ++c) color[c] += basis[k] * sh[3 * k + c];
}

void project(const Cloud &cloud, const View &view, int64_t begin, int64_t end, Splat *splats, uint32_t *keys,
             float *radii) {
    constexpr double log2_e = 1.4426950408889634;
    constexpr float log2_255 = 7.994353436858858f;
    for (int64_t i = begin; i < end; ++i) {
        keys[i] = INVISIBLE;
        radii[i] = 0.0f;
        Projection p;
        const float opacity = cloud.opacities[i];
        if (!project_mean(view, cloud.means + 3 * i, p) || !(opacity >= MIN_ALPHA)) continue;
        const Rotation rotation = rotation_of(cloud.quats + 4 * i);
        project_covariance(view, rotation.matrix, cloud.scales + 3 * i, p);
        if (!(p.a < 1e30 && p.c < 1e30)) continue;  // NaN, or more pixels than a float counts

        const float log_opacity = log2f(opacity);
        const float reach2 = 2 * float(1 / log2_e) * (log_opacity + log2_255);
        const float reach = reach2 > 0 ? sqrtf(reach2) : 0.0f;
        Splat s;
        s.x = view.fx * p.t[0] * p.inverse_z + view.cx;
        s.y = view.fy * p.t[1] * p.inverse_z + view.cy;
        // The pad outweighs every rounding of the row kernel's exponent.
        s.half_width = reach * float(sqrt(p.a)) * (1 + 1e-4f) + 1e-2f;
        s.half_height = reach * float(sqrt(p.c)) * (1 + 1e-4f) + 1e-2f;
        if (!(s.x + s.half_width > 0 && s.x - s.half_width < view.width && s.y + s.half_height > 0 &&
              s.y - s.half_height < view.height))
            continue;
        const double half = 0.5 * (p.a - p.c);
        radii[i] = reach * float(sqrt(0.5 * (p.a + p.c) + sqrt(half * half + p.b * p.b)));

        s.skew = float(p.b / p.c);
        s.falloff = float(0.5 * log2_e * p.c / p.det);
        s.row_falloff = float(0.5 * log2_e / p.c);
        s.log_opacity = log_opacity;
        s.correlation = float(p.b / sqrt(p.a * p.c));
        s.z = float(p.t[2]);
        s.index = uint32_t(i);
        float direction[3], basis[16];
        direction_to(view, cloud.means + 3 * i, direction);
        sh_basis(cloud.sh_terms, direction, basis);
        unclamped_color(cloud, i, basis, s.color);
        for (float &channel : s.color) channel = channel > 0 ? channel : 0.0f;
        splats[i] = s;
        memcpy(keys + i, &s.z, sizeof(float));  // z > 0: its bits are ordered as it is
    }
}

void backward_project(const Cloud &cloud, const View *views, int view_count, int64_t begin, int64_t end,
                      const float *const *moments, const uint32_t *const *ranks, const CloudGradient &out,
                      float *means2d) {
    for (int64_t i = begin; i < end; ++i) {
        const float *mean = cloud.means + 3 * i, *scale = cloud.scales + 3 * i;
        const float *sh = cloud.sh + i * cloud.sh_terms * 3;
        float *sh_gradient = out.sh + i * cloud.sh_terms * 3;
        const Rotation rotation = rotation_of(cloud.quats + 4 * i);
        double d_mean[3] = {0, 0, 0}, d_scale[3] = {0, 0, 0}, d_rotation[9] = {0}, d_opacity = 0;
        for (int k = 0; k < 3 * cloud.sh_terms; ++k) sh_gradient[k] = 0.0f;

        for (int v = 0; v < view_count; ++v) {
            float *d_pixel = means2d + 2 * (v * cloud.count + i);
            d_pixel[0] = d_pixel[1] = 0.0f;
            const uint32_t rank = ranks[v][i];
            const uint32_t later = i + AHEAD < end ? ranks[v][i + AHEAD] : INVISIBLE;
            if (later != INVISIBLE) SPLAT_PREFETCH(moments[v] + int64_t(later) * MOMENTS);
            if (rank == INVISIBLE) continue;
            const View &view = views[v];
            const float *m = moments[v] + int64_t(rank) * MOMENTS;
            Projection p;
            project_mean(view, mean, p);
            project_covariance(view, rotation.matrix, scale, p);
            d_opacity += m[4];

            float direction[3], basis[16], color[3], weights[16], d_color[3], d_direction[3] = {0, 0, 0};
            const double inverse_distance = direction_to(view, mean, direction);
            sh_basis(cloud.sh_terms, direction, basis);
            unclamped_color(cloud, i, basis, color);
            for (int c = 0; c < 3; ++c) d_color[c] = color[c] >= 0 ? m[c] : 0.0f;
            for (int k = 0; k < cloud.sh_terms; ++k) {
                weights[k] = 0;
                for (int c = 0; c < 3; ++c) {
                    sh_gradient[3 * k + c] += basis[k] * d_color[c];
                    weights[k] += sh[3 * k + c] * d_color[c];
                }
            }
            sh_adjoint(cloud.sh_terms, direction, weights, d_direction);
            double along = 0;
            for (int k = 0; k < 3; ++k) along += double(direction[k]) * d_direction[k];
            for (int k = 0; k < 3; ++k) d_mean[k] += (d_direction[k] - direction[k] * along) * inverse_distance;

            const double inverse_det = 1.0 / p.det;
            const double A = p.c * inverse_det, B = -p.b * inverse_det, C = p.a * inverse_det;
            const double dx = A * m[5] + B * m[6], dy = B * m[5] + C * m[6];  // of the mean in pixels
            d_pixel[0] = float(dx);
            d_pixel[1] = float(dy);
            // Conic to covariance: -K G K with G the symmetric gradient of the conic K.
            const double ga = -0.5 * m[7], gb = -0.5 * m[8], gc = -0.5 * m[9];
            const double p00 = ga * A + gb * B, p01 = ga * B + gb * C, p10 = gb * A + gc * B, p11 = gb * B + gc * C;
            const double h00 = -2 * (A * p00 + B * p10), h01 = -2 * (A * p01 + B * p11),
                         h11 = -2 * (B * p01 + C * p11);
            double du[2][3];
            for (int k = 0; k < 3; ++k) {
                const double s = scale[k], u0 = p.u[0][k], u1 = p.u[1][k];
                const double f0 = (h00 * u0 + h01 * u1) * s, f1 = (h01 * u0 + h11 * u1) * s;  // of jacobian axes scale
                d_scale[k] += f0 * u0 + f1 * u1;
                du[0][k] = f0 * s;
                du[1][k] = f1 * s;
            }
            double d_axes[9], d_jacobian[4] = {0, 0, 0, 0};
            for (int k = 0; k < 3; ++k) {
                d_jacobian[0] += du[0][k] * p.axes[k];
                d_jacobian[1] += du[0][k] * p.axes[6 + k];
                d_jacobian[2] += du[1][k] * p.axes[3 + k];
                d_jacobian[3] += du[1][k] * p.axes[6 + k];
                d_axes[k] = p.jacobian[0] * du[0][k];
                d_axes[3 + k] = p.jacobian[2] * du[1][k];
                d_axes[6 + k] = p.jacobian[1] * du[0][k] + p.jacobian[3] * du[1][k];
            }
            for (int r = 0; r < 3; ++r)
                for (int k = 0; k < 3; ++k)
                    for (int j = 0; j < 3; ++j) d_rotation[3 * r + k] += view.rotation[3 * j + r] * d_axes[3 * j + k];

            const double iz = p.inverse_z, focal[2] = {view.fx, view.fy}, d_pixels[2] = {dx, dy};
            double dt[3] = {0, 0, m[3]};
            for (int k = 0; k < 2; ++k) {
                const double scaled = focal[k] * iz * iz, along_z = d_jacobian[2 * k + 1];
                dt[2] -= scaled * d_jacobian[2 * k];
                dt[k] += focal[k] * iz * d_pixels[k];
                dt[2] -= scaled * p.t[k] * d_pixels[k];
                // -focal slope / z: the slope follows x/z only where it is not clamped.
                dt[2] += scaled * p.slope[k] * along_z;
                if (!p.clamped[k]) {
                    dt[k] -= scaled * along_z;
                    dt[2] += scaled * p.slope[k] * along_z;
                }
            }
            for (int k = 0; k < 3; ++k)
                for (int j = 0; j < 3; ++j) d_mean[k] += view.rotation[3 * j + k] * dt[j];
        }
        for (int k = 0; k < 3; ++k) {
            out.means[3 * i + k] = float(d_mean[k]);
            out.scales[3 * i + k] = float(d_scale[k]);
        }
        const float opacity = cloud.opacities[i];
        out.opacities[i] = opacity >= MIN_ALPHA ? float(d_opacity / opacity) : 0.0f;
        rotation_adjoint(rotation, d_rotation, out.quats + 4 * i);
    }
}
