// The Python bindings of the splatting kernels, which only check shapes.
#include "splat_pipeline.h"

#include <chrono>
#include <utility>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace {

using splat::SplatState;
using Input = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;

void require_size(size_t got, int64_t expected, const char *name) {
    if (int64_t(got) != expected)
        throw std::invalid_argument(std::string("splat: ") + name + " has " + std::to_string(got) +
                                    " numbers, expected " + std::to_string(expected));
}

splat::Cloud cloud_of(const Input &means, const Input &quats, const Input &scales, const Input &opacities,
                      const Input &sh) {
    const int64_t count = int64_t(opacities.size());
    require_size(means.size(), 3 * count, "means");
    require_size(quats.size(), 4 * count, "quats");
    require_size(scales.size(), 3 * count, "scales");
    const int terms = sh.ndim() == 3 ? int(sh.shape(1)) : 0;
    if (terms != 1 && terms != 4 && terms != 9 && terms != 16)
        throw std::invalid_argument("splat: sh must be [N, 1|4|9|16, 3]");
    require_size(sh.size(), 3 * terms * count, "sh");
    if (count >= int64_t(splat::INVISIBLE)) throw std::invalid_argument("splat: too many Gaussians");
    return {means.data(), quats.data(), scales.data(), opacities.data(), sh.data(), count, terms};
}

std::vector<splat::View> views_of(const Doubles &poses, const Doubles &intrinsics, const Input &backgrounds,
                                  int height, int width, double near_z, double far_z) {
    const int64_t count = int64_t(poses.size()) / 16;
    require_size(poses.size(), 16 * count, "world_from_camera");
    require_size(intrinsics.size(), 9 * count, "intrinsics");
    require_size(backgrounds.size(), 3 * count, "background");
    if (count == 0 || height <= 0 || width <= 0) throw std::invalid_argument("splat: no view, or an empty image");
    std::vector<splat::View> views{size_t(count)};
    for (int64_t b = 0; b < count; ++b) {
        splat::View &v = views[size_t(b)];
        const double *m = poses.data() + 16 * b, *k = intrinsics.data() + 9 * b;
        for (int r = 0; r < 3; ++r) {
            v.translation[r] = 0.0;
            for (int c = 0; c < 3; ++c) {  // the inverse of a rigid transform
                v.rotation[3 * r + c] = m[4 * c + r];
                v.translation[r] -= m[4 * c + r] * m[4 * c + 3];
            }
            v.center[r] = m[4 * r + 3];
            v.background[r] = backgrounds.data()[3 * b + r];
        }
        v.fx = k[0];
        v.cx = k[2];
        v.fy = k[4];
        v.cy = k[5];
        v.near_z = near_z;
        v.far_z = far_z;
        v.width = width;
        v.height = height;
        const double focal[2] = {v.fx, v.fy}, principal[2] = {v.cx, v.cy}, size[2] = {double(width), double(height)};
        for (int a = 0; a < 2; ++a) {
            const double margin = splat::FRUSTUM_MARGIN * 0.5 * size[a] / focal[a];
            v.slope_low[a] = -principal[a] / focal[a] - margin;
            v.slope_high[a] = (size[a] - principal[a]) / focal[a] + margin;
        }
    }
    return views;
}

void splat_forward(SplatState &state, Input means, Input quats, Input scales, Input opacities, Input sh,
                   Doubles poses, Doubles intrinsics, Input background, int height, int width, double near_z,
                   double far_z, int threads, const std::string &variant, Output rgb, Output alpha, Output depth,
                   Output radii) {
    const splat::Cloud cloud = cloud_of(means, quats, scales, opacities, sh);
    const auto views = views_of(poses, intrinsics, background, height, width, near_z, far_z);
    const int64_t pixels = int64_t(views.size()) * height * width;
    require_size(rgb.size(), 3 * pixels, "rgb");
    require_size(alpha.size(), pixels, "alpha");
    require_size(depth.size(), pixels, "depth");
    require_size(radii.size(), int64_t(views.size()) * cloud.count, "radii");
    state.state->kernels = splat::choose_kernels(variant);
    nb::gil_scoped_release release;
    splat::forward(*state.state, cloud, views, std::max(1, threads), rgb.data(), alpha.data(), depth.data(),
                   radii.data());
}

void splat_backward(SplatState &state, Input means, Input quats, Input scales, Input opacities, Input sh,
                    Input d_rgb, Input d_alpha, Input d_depth, int threads, Output d_means, Output d_quats,
                    Output d_scales, Output d_opacities, Output d_sh, Output d_background, Output d_means2d) {
    const splat::Cloud cloud = cloud_of(means, quats, scales, opacities, sh);
    splat::State &inner = *state.state;
    if (inner.kernels == nullptr || inner.count != cloud.count)
        throw std::invalid_argument("splat: backward needs the state and the cloud of its forward");
    const int64_t views = inner.view_count;
    const int64_t pixels = views * inner.views[0]->view.height * inner.views[0]->view.width;
    require_size(d_rgb.size(), 3 * pixels, "d_rgb");
    require_size(d_alpha.size(), pixels, "d_alpha");
    require_size(d_depth.size(), pixels, "d_depth");
    require_size(d_means.size(), 3 * cloud.count, "d_means");
    require_size(d_quats.size(), 4 * cloud.count, "d_quats");
    require_size(d_scales.size(), 3 * cloud.count, "d_scales");
    require_size(d_opacities.size(), cloud.count, "d_opacities");
    require_size(d_sh.size(), 3 * cloud.sh_terms * cloud.count, "d_sh");
    require_size(d_background.size(), 3 * views, "d_background");
    require_size(d_means2d.size(), 2 * views * cloud.count, "d_means2d");
    nb::gil_scoped_release release;
    splat::backward(inner, cloud, std::max(1, threads), {d_rgb.data(), d_alpha.data(), d_depth.data()},
                    {d_means.data(), d_quats.data(), d_scales.data(), d_opacities.data(), d_sh.data()},
                    d_means2d.data(), d_background.data());
}

int64_t blocks_drawn(SplatState &state) {
    int64_t total = 0;
    for (int64_t b = 0; b < state.state->view_count; ++b) {
        splat::ViewState &v = *state.state->views[size_t(b)];
        for (int64_t t = 0; t < v.tiles(); ++t) total += v.blocks[t];
    }
    return total;
}

std::pair<double, double> block_seconds(const std::string &variant, int64_t count) {
    const splat::Kernels *kernels = splat::choose_kernels(variant);
    nb::gil_scoped_release release;
    double seconds[2];
    const auto scratch = std::make_unique<splat::Scratch>();
    volatile float sink = 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
        const auto begin = std::chrono::steady_clock::now();
        sink = kernels->exercise_blocks(count, *scratch, pass == 1);
        seconds[pass] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    (void)sink;
    return {seconds[0] / double(count), seconds[1] / double(count)};
}

}  // namespace

void bind_splat(nb::module_ &module) {
    // A picture that exists when Python exits keeps its state alive, which is no leak to warn a user about.
    nb::set_leak_warnings(false);
    nb::class_<SplatState>(module, "SplatState", "What a splatting forward pass keeps for its backward pass.")
        .def(nb::init<>())
        .def("blocks", &blocks_drawn, "Sum over tiles and Gaussians of the 4x4 blocks that were composited.");
    module.def("splat_block_seconds", &block_seconds, nb::arg("variant") = "", nb::arg("count") = 2000000,
               "Seconds that one block takes forward and backward when its data is in the first-level cache.");
    module.def("splat_forward", &splat_forward);
    module.def("splat_backward", &splat_backward);
    module.def(
        "splat_variants",
        []() {
            std::vector<std::string> names;
            for (const splat::Kernels *kernels : splat::supported_kernels()) names.emplace_back(kernels->name);
            return names;
        },
        "Instruction-set variants of the splatting kernels that this machine can run, best first.");
}
