// Differentiable Gaussian splatting on the CPU: project, sort by depth, bin into tiles, composite, and the adjoint.
//
// The picture and its gradients do not depend on the number of threads: every sum runs over a fixed order (Gaussians
// of a tile by depth, tiles of a Gaussian by position, views by index), and no two threads write to one place. The
// numeric kernels exist once for each instruction set; the best one that the machine has is chosen at run time.
#pragma once

#include "splat_lists.h"

namespace splat {

inline void forward(State &state, const Cloud &cloud, const std::vector<View> &views, int threads, float *rgb,
                    float *alpha, float *depth, float *radii) {
    const int view_count = int(views.size());
    state.count = cloud.count;
    while (state.views.size() < views.size()) state.views.push_back(std::make_unique<ViewState>());
    state.view_count = view_count;
    // With many views each has one thread; with few, all threads work on each in turn.
    const int outer = view_count >= threads ? threads : 1, inner = outer > 1 ? 1 : threads;
#pragma omp parallel for schedule(dynamic) num_threads(outer) if (outer > 1)
    for (int b = 0; b < view_count; ++b) {
        ViewState &v = *state.views[size_t(b)];
        v.view = views[size_t(b)];
        v.tiles_x = (v.view.width + TILE_WIDTH - 1) / TILE_WIDTH;
        v.tiles_y = (v.view.height + TILE_HEIGHT - 1) / TILE_HEIGHT;
        v.spent = false;
        project_and_bin(*state.kernels, cloud, v, inner, radii + b * cloud.count);
        sort_by_depth(v, cloud.count);
        sort_by_tile(v, inner);
        v.visited.resize(v.tiles());
        v.blocks.resize(v.tiles());
    }
    const int64_t tiles = state.views[0]->tiles(), pixels = int64_t(views[0].height) * views[0].width;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t job = 0; job < tiles * view_count; ++job) {
        const int64_t b = job / tiles, tile = job % tiles;
        ViewState &v = *state.views[size_t(b)];
        const int64_t begin = v.tile_begin[tile];
        v.visited[tile] = state.kernels->forward_tile(
            v.view, int(tile % v.tiles_x), int(tile / v.tiles_x), v.splats.get(), v.entries.get() + begin,
            v.tile_begin[tile + 1] - begin, v.masks.get() + begin, v.kept.get() + v.kept_begin[tile],
            rgb + 3 * b * pixels, alpha + b * pixels, depth + b * pixels, &v.blocks[tile]);
    }
}

// Sums each visible Gaussian's slots over its tiles, in the order in which they were listed. By rank, because the lists
// of the tiles are read from front to back then.
// The sums replace the splats, which are as many and one cache line each.
inline void reduce_moments(ViewState &v, int threads) {
    float *moments = reinterpret_cast<float *>(v.splats.get());
    v.spent = true;
    const uint32_t *order = v.order.get(), *pair_begin = v.pair_begin.get(), *pair_place = v.pair_place.get();
    const float *slots = v.slots.get();
    const Blocks *masks = v.masks.get();
    parallel_ranges(v.visible, threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            if (r + AHEAD < v.visible) SPLAT_PREFETCH(moments + int64_t(order[r + AHEAD]) * SPLAT_FLOATS);
            float total[MOMENTS] = {0};
            for (uint32_t p = pair_begin[r]; p < pair_begin[r + 1]; ++p) {
                if (p + AHEAD < v.pairs) {  // a slot may be on two cache lines
                    const float *later = slots + int64_t(pair_place[p + AHEAD]) * MOMENTS;
                    SPLAT_PREFETCH(later);
                    SPLAT_PREFETCH(later + MOMENTS - 1);
                }
                const int64_t place = pair_place[p];
                if (masks[place] == 0) continue;
                for (int k = 0; k < MOMENTS; ++k) total[k] += slots[place * MOMENTS + k];
            }
            std::memcpy(moments + int64_t(order[r]) * SPLAT_FLOATS, total, sizeof(total));
        }
    });
}

inline void backward(State &state, const Cloud &cloud, int threads, const ImageGradient &gradient,
                     const CloudGradient &cloud_gradient, float *means2d, float *background) {
    const int64_t view_count = state.view_count, tiles = state.views[0]->tiles();
    const int64_t pixels = int64_t(state.views[0]->view.height) * state.views[0]->view.width;
    for (int64_t b = 0; b < view_count; ++b) {
        ViewState &v = *state.views[size_t(b)];
        v.slots.resize(v.pairs * MOMENTS);
        if (v.spent)  // by an earlier backward pass of the same picture
            parallel_ranges(cloud.count, threads, [&](int64_t begin, int64_t end) {
                state.kernels->project(cloud, v.view, begin, end, v.splats.get(), v.keys.get(), nullptr);
            });
        v.background.resize(tiles * 3);
    }
    state.scratch.resize(threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t job = 0; job < tiles * view_count; ++job) {
        const int64_t b = job / tiles, tile = job % tiles;
        ViewState &v = *state.views[size_t(b)];
        const int64_t begin = v.tile_begin[tile];
        const ImageGradient image = {gradient.rgb + 3 * b * pixels, gradient.alpha + b * pixels,
                                     gradient.depth + b * pixels};
        state.kernels->backward_tile(v.view, int(tile % v.tiles_x), int(tile / v.tiles_x), v.splats.get(),
                                     v.entries.get() + begin, v.visited[tile], v.masks.get() + begin,
                                     v.kept.get() + v.kept_begin[tile], image, state.scratch[thread_index()],
                                     v.slots.get() + begin * MOMENTS, v.background.get() + 3 * tile);
    }
    std::vector<ViewMoments> moments;
    for (int64_t b = 0; b < view_count; ++b) {
        ViewState &v = *state.views[size_t(b)];
        reduce_moments(v, threads);
        moments.push_back({v.view, v.keys.get(), reinterpret_cast<const float *>(v.splats.get())});
        for (int k = 0; k < 3; ++k) {
            double total = 0.0;
            for (int64_t t = 0; t < tiles; ++t) total += v.background[3 * t + k];
            background[3 * b + k] = float(total);
        }
    }
    parallel_ranges(cloud.count, threads, [&](int64_t begin, int64_t end) {
        state.kernels->backward_project(cloud, moments.data(), int(view_count), begin, end, cloud_gradient, means2d);
    });
}

}  // namespace splat
