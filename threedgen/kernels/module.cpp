// The extension module. Kernels take contiguous buffers and do not use torch, so that one build works with every
// version of torch.
#include <nanobind/nanobind.h>

void bind_connected(nanobind::module_ &module);
void bind_field_rendering(nanobind::module_ &module);
void bind_field_training(nanobind::module_ &module);
void bind_gaussian_sums(nanobind::module_ &module);
void bind_mesh_ops(nanobind::module_ &module);
void bind_neighbours(nanobind::module_ &module);
void bind_raymarch(nanobind::module_ &module);
void bind_rigidity(nanobind::module_ &module);
void bind_splat(nanobind::module_ &module);
void bind_surface_color(nanobind::module_ &module);
void bind_triplane(nanobind::module_ &module);
void bind_visual_hull(nanobind::module_ &module);
void bind_zbuffer(nanobind::module_ &module);

NB_MODULE(_native, module) {
    module.doc() = "threedgen's CPU kernels";
    bind_connected(module);
    bind_field_rendering(module);
    bind_field_training(module);
    bind_gaussian_sums(module);
    bind_mesh_ops(module);
    bind_neighbours(module);
    bind_raymarch(module);
    bind_rigidity(module);
    bind_splat(module);
    bind_surface_color(module);
    bind_triplane(module);
    bind_visual_hull(module);
    bind_zbuffer(module);
}
