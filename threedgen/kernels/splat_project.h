// Projection of 3D Gaussians and its adjoint, LANES Gaussians at a time, in double precision: the covariance of a
// very thin Gaussian, and coordinates of a few hundred pixels, would lose digits in float that the compositing kernel
// needs. EWA splatting (Zwicker et al. 2001); Kerbl et al. 2023, equations 5 and 6.

struct Rotation {
    Real q[4];  // unit quaternion wxyz
    Real inverse_norm;
    Mask clamped;  // length below 1e-12
    Real matrix[9];
};

inline void rotation_of(const float *quats, int64_t i, int64_t end, Rotation &r) {
    Real quat[4];
    load<4>(quats, i, end, quat);
    const Real squared = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    r.clamped = squared < 1e-24;
    r.inverse_norm = 1.0 / root(pick(r.clamped, all(1e-24), squared));
    for (int k = 0; k < 4; ++k) r.q[k] = quat[k] * r.inverse_norm;
    const Real w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3];
    r.matrix[0] = 1.0 - 2.0 * (y * y + z * z);
    r.matrix[1] = 2.0 * (x * y - w * z);
    r.matrix[2] = 2.0 * (x * z + w * y);
    r.matrix[3] = 2.0 * (x * y + w * z);
    r.matrix[4] = 1.0 - 2.0 * (x * x + z * z);
    r.matrix[5] = 2.0 * (y * z - w * x);
    r.matrix[6] = 2.0 * (x * z - w * y);
    r.matrix[7] = 2.0 * (y * z + w * x);
    r.matrix[8] = 1.0 - 2.0 * (x * x + y * y);
}

inline void rotation_adjoint(const Rotation &r, const Real *d, Real *gradient) {
    const Real w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3];
    Real g[4], along = all(0.0);
    g[0] = 2.0 * (x * (d[7] - d[5]) + y * (d[2] - d[6]) + z * (d[3] - d[1]));
    g[1] = 2.0 * (-2.0 * x * (d[4] + d[8]) + y * (d[1] + d[3]) + z * (d[2] + d[6]) + w * (d[7] - d[5]));
    g[2] = 2.0 * (x * (d[1] + d[3]) - 2.0 * y * (d[0] + d[8]) + z * (d[7] + d[5]) + w * (d[2] - d[6]));
    g[3] = 2.0 * (x * (d[2] + d[6]) + y * (d[5] + d[7]) - 2.0 * z * (d[0] + d[4]) + w * (d[3] - d[1]));
    for (int k = 0; k < 4; ++k) along += r.q[k] * g[k];
    along = pick(r.clamped, all(0.0), along);
    for (int k = 0; k < 4; ++k) gradient[k] = (g[k] - r.q[k] * along) * r.inverse_norm;
}

// The intermediate values of the projection, which its adjoint uses again.
struct Projection {
    Real t[3];         // mean in camera axes
    Real inverse_z;
    Real slope[2];     // clamped x/z, y/z
    Mask clamped[2];
    Real jacobian[4];  // fx/z, d(x)/dz, fy/z, d(y)/dz
    Real axes[9];      // camera_from_world times the rotation
    Real u[2][3];      // jacobian times axes
    Real a, b, c, det;  // filtered covariance xx, xy, yy
};

inline void project_gaussians(const View &view, const Real *mean, const Real *rotation, const Real *scale,
                              Projection &p) {
    for (int k = 0; k < 3; ++k) {
        const double *row = view.rotation + 3 * k;
        p.t[k] = row[0] * mean[0] + row[1] * mean[1] + row[2] * mean[2] + view.translation[k];
    }
    const Real iz = p.inverse_z = 1.0 / p.t[2];
    for (int k = 0; k < 2; ++k) {
        const Real slope = p.t[k] * iz, low = all(view.slope_low[k]), high = all(view.slope_high[k]);
        const Real raised = pick(slope < low, low, slope);
        p.slope[k] = pick(raised > high, high, raised);
        p.clamped[k] = p.slope[k] != slope;
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
    Real uu = all(0.0), uv = all(0.0), vv = all(0.0), u[3], v[3];
    for (int k = 0; k < 3; ++k) {
        p.u[0][k] = p.jacobian[0] * p.axes[k] + p.jacobian[1] * p.axes[6 + k];
        p.u[1][k] = p.jacobian[2] * p.axes[3 + k] + p.jacobian[3] * p.axes[6 + k];
        u[k] = p.u[0][k] * scale[k];
        v[k] = p.u[1][k] * scale[k];
        uu += u[k] * u[k];
        uv += u[k] * v[k];
        vv += v[k] * v[k];
    }
    const Real n0 = u[1] * v[2] - u[2] * v[1], n1 = u[2] * v[0] - u[0] * v[2], n2 = u[0] * v[1] - u[1] * v[0];
    p.a = uu + LOW_PASS;
    p.b = uv;
    p.c = vv + LOW_PASS;
    p.det = n0 * n0 + n1 * n1 + n2 * n2 + LOW_PASS * (uu + vv) + LOW_PASS * LOW_PASS;
}

// Unit directions from the camera to the means; returns 1 / distance.
inline Real directions_to(const View &view, const Real *mean, Real *direction) {
    for (int k = 0; k < 3; ++k) direction[k] = mean[k] - view.center[k];
    const Real inverse = 1.0 / root(direction[0] * direction[0] + direction[1] * direction[1] +
                                    direction[2] * direction[2]);
    for (int k = 0; k < 3; ++k) direction[k] *= inverse;
    return inverse;
}

void project(const Cloud &cloud, const View &view, int64_t begin, int64_t end, Splat *splats, uint32_t *keys,
             float *radii) {
    constexpr double log2_e = 1.4426950408889634;
    constexpr float log2_255 = 7.994353436858858f;
    for (int64_t first = begin; first < end; first += LANES) {
        Real mean[3], scale[3], direction[3] = {};
        Rotation rotation;
        Projection p;
        load<3>(cloud.means, first, end, mean);
        load<3>(cloud.scales, first, end, scale);
        rotation_of(cloud.quats, first, end, rotation);
        project_gaussians(view, mean, rotation.matrix, scale, p);
        if (cloud.sh_terms > 1) directions_to(view, mean, direction);
        const Real x = view.fx * p.t[0] * p.inverse_z + view.cx, y = view.fy * p.t[1] * p.inverse_z + view.cy;
        const Real half = 0.5 * (p.a - p.c), inverse_c = 1.0 / p.c, scaled_c = 0.5 * log2_e * p.c / p.det;
        // Roots in float, which are several times faster; what they are taken of keeps its digits.
        float wide[LANES], high[LANES], radius[LANES], vy[LANES], ux[LANES];
        root(p.a, wide);
        root(p.c, high);
        root(half * half + p.b * p.b, radius);
        for (int l = 0; l < LANES; ++l) radius[l] += 0.5f * float(lanes(p.a)[l] + lanes(p.c)[l]);
        for (float &value : radius) value = sqrtf(value);
        root(0.5 * log2_e * inverse_c, vy);
        root(scaled_c, ux);
        const Real skew = p.b * inverse_c;

        for (int l = 0; l < LANES && first + l < end; ++l) {
            const int64_t i = first + l;
            keys[i] = INVISIBLE;
            if (radii != nullptr) radii[i] = 0.0f;
            const double z = lanes(p.t[2])[l];
            const float opacity = cloud.opacities[i];
            if (!(z >= view.near_z && z <= view.far_z && opacity >= MIN_ALPHA)) continue;
            if (!(lanes(p.a)[l] < 1e30 && lanes(p.c)[l] < 1e30)) continue;  // NaN, or too many pixels for a float
            Splat splat;
            Shape &s = splat.shape;
            s.log_opacity = log2f(opacity);
            const float reach2 = 2 * float(1 / log2_e) * (s.log_opacity + log2_255);
            const float reach = reach2 > 0 ? sqrtf(reach2) : 0.0f;
            splat.x = lanes(x)[l];
            splat.y = lanes(y)[l];
            // The margin is larger than every rounding error of the row kernel's exponent.
            s.half_width = reach * wide[l] * (1 + 1e-4f) + 1e-2f;
            s.half_height = reach * high[l] * (1 + 1e-4f) + 1e-2f;
            if (!(splat.x + s.half_width > 0 && splat.x - s.half_width < view.width &&
                  splat.y + s.half_height > 0 && splat.y - s.half_height < view.height))
                continue;
            if (radii != nullptr) radii[i] = reach * radius[l];
            s.ux = ux[l];
            s.uy = float(-ux[l] * lanes(skew)[l]);
            s.vy = vy[l];
            s.correlation = float(lanes(p.b)[l]) / (wide[l] * high[l]);
            s.z = float(z);
            const float towards[3] = {float(lanes(direction[0])[l]), float(lanes(direction[1])[l]),
                                      float(lanes(direction[2])[l])};
            unclamped_color(cloud, i, towards, s.color);
            for (float &channel : s.color) channel = channel > 0 ? channel : 0.0f;
            splats[i] = splat;
            memcpy(keys + i, &s.z, sizeof(float));  // for z > 0 the bits have the order of the numbers
        }
    }
}

// Adjoint of the projection to one view. m: the moments of a slot (see backward_tile), here from depth on.
// Adds to d_scale and d_rotation, and writes the gradient of the mean in world axes and in pixels.
inline void project_adjoint(const View &view, const Projection &p, const Real *scale, const Real *m, Mask seen,
                            Real *d_mean, Real *d_scale, Real *d_rotation, Real *d_pixel) {
    const Real inverse_det = 1.0 / p.det, zero = all(0.0);
    const Real A = p.c * inverse_det, B = -p.b * inverse_det, C = p.a * inverse_det;
    const Real dx = A * m[5] + B * m[6], dy = B * m[5] + C * m[6];  // with respect to the mean in pixels
    d_pixel[0] = pick(seen, dx, zero);
    d_pixel[1] = pick(seen, dy, zero);
    // Conic to covariance: -K G K with G the symmetric gradient of the conic K.
    const Real ga = -0.5 * m[7], gb = -0.5 * m[8], gc = -0.5 * m[9];
    const Real p00 = ga * A + gb * B, p01 = ga * B + gb * C, p10 = gb * A + gc * B, p11 = gb * B + gc * C;
    const Real h00 = -2.0 * (A * p00 + B * p10), h01 = -2.0 * (A * p01 + B * p11), h11 = -2.0 * (B * p01 + C * p11);
    Real du[2][3];
    for (int k = 0; k < 3; ++k) {
        const Real s = scale[k], u0 = p.u[0][k], u1 = p.u[1][k];
        const Real f0 = (h00 * u0 + h01 * u1) * s, f1 = (h01 * u0 + h11 * u1) * s;  // along jacobian axes scale
        d_scale[k] += pick(seen, f0 * u0 + f1 * u1, zero);
        du[0][k] = f0 * s;
        du[1][k] = f1 * s;
    }
    Real d_axes[9], d_jacobian[4] = {zero, zero, zero, zero};
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
            d_rotation[3 * r + k] +=
                pick(seen, view.rotation[r] * d_axes[k] + view.rotation[3 + r] * d_axes[3 + k] +
                               view.rotation[6 + r] * d_axes[6 + k], zero);

    const Real iz = p.inverse_z, d_pixels[2] = {dx, dy};
    const double focal[2] = {view.fx, view.fy};
    Real dt[3] = {zero, zero, m[3]};
    for (int k = 0; k < 2; ++k) {
        const Real scaled = focal[k] * iz * iz, along_z = d_jacobian[2 * k + 1];
        // -focal slope / z: the slope depends on x/z only if it is not clamped.
        const Real followed = pick(p.clamped[k], zero, along_z);
        dt[k] += focal[k] * iz * d_pixels[k] - scaled * followed;
        dt[2] += scaled * (p.slope[k] * (along_z + followed) - d_jacobian[2 * k] - p.t[k] * d_pixels[k]);
    }
    for (int k = 0; k < 3; ++k)
        d_mean[k] = view.rotation[k] * dt[0] + view.rotation[3 + k] * dt[1] + view.rotation[6 + k] * dt[2];
}

void backward_project(const Cloud &cloud, const ViewMoments *views, int view_count, int64_t begin, int64_t end,
                      const CloudGradient &out, float *means2d) {
    const Real zero = all(0.0);
    for (int64_t i = begin; i < end; i += LANES) {
        const int count = end - i < LANES ? int(end - i) : LANES;
        Real mean[3], scale[3];
        Real d_mean[3] = {zero, zero, zero}, d_scale[3] = {zero, zero, zero}, d_opacity = zero;
        Real d_rotation[9], d_quat[4];
        Rotation rotation;
        load<3>(cloud.means, i, end, mean);
        load<3>(cloud.scales, i, end, scale);
        rotation_of(cloud.quats, i, end, rotation);
        for (int k = 0; k < 9; ++k) d_rotation[k] = zero;
        memset(out.sh + i * cloud.sh_terms * 3, 0, sizeof(float) * size_t(count * cloud.sh_terms * 3));

        for (int v = 0; v < view_count; ++v) {
            Real m[MOMENTS], seen = zero, d_pixel[2] = {zero, zero}, direction[3] = {}, inverse_distance = zero;
            const uint32_t *keys = views[v].keys + i;
            load<MOMENTS, SPLAT_FLOATS>(views[v].moments, i, end, m);
            if (cloud.sh_terms > 1) inverse_distance = directions_to(views[v].view, mean, direction);
            Real d_direction[3] = {zero, zero, zero};
            for (int l = 0; l < LANES; ++l) lanes(seen)[l] = keys[l < count ? l : 0] == INVISIBLE ? 0.0 : 1.0;
            bool any = false;
            for (int l = 0; l < count; ++l) {
                if (keys[l] == INVISIBLE) continue;
                any = true;
                const float *from = views[v].moments + (i + l) * SPLAT_FLOATS;
                float towards[3], d_towards[3];
                for (int k = 0; k < 3; ++k) towards[k] = float(lanes(direction[k])[l]);
                color_adjoint(cloud, i + l, towards, from, out.sh + (i + l) * cloud.sh_terms * 3, d_towards);
                if (cloud.sh_terms > 1)
                    for (int k = 0; k < 3; ++k) lanes(d_direction[k])[l] = d_towards[k];
            }
            if (any) {
                Projection p;
                Real d_view_mean[3];
                const Mask drawn = seen > 0.5;
                project_gaussians(views[v].view, mean, rotation.matrix, scale, p);
                project_adjoint(views[v].view, p, scale, m, drawn, d_view_mean, d_scale, d_rotation, d_pixel);
                const Real along =
                    direction[0] * d_direction[0] + direction[1] * d_direction[1] + direction[2] * d_direction[2];
                for (int k = 0; k < 3; ++k) {
                    const Real turned = (d_direction[k] - direction[k] * along) * inverse_distance;
                    d_mean[k] += pick(drawn, d_view_mean[k] + turned, zero);
                }
                d_opacity += pick(drawn, m[4], zero);
            }
            store<2>(means2d + 2 * v * cloud.count, i, end, d_pixel);
        }
        rotation_adjoint(rotation, d_rotation, d_quat);
        store<3>(out.means, i, end, d_mean);
        store<3>(out.scales, i, end, d_scale);
        store<4>(out.quats, i, end, d_quat);
        for (int l = 0; l < count; ++l) {
            const float opacity = cloud.opacities[i + l];
            out.opacities[i + l] = opacity >= MIN_ALPHA ? float(lanes(d_opacity)[l] / opacity) : 0.0f;
        }
    }
}
