// Differentiable Gaussian splatting on the CPU: project, sort by depth, bin into 16x16 tiles, composite, and the
// adjoint.
//
// The picture and its gradients do not depend on the number of threads: every sum runs over a fixed order (Gaussians
// of a tile by depth, tiles of a Gaussian by position, views by index), and no two threads write to one place. The
// numeric kernels exist once for each instruction set; the best one that the machine has is chosen at run time.
#pragma once

#include "splat.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace splat {

// Uninitialised memory that only grows: each step of a run reuses the memory of the step before.
template <typename T> class Buffer {
  public:
    T *resize(int64_t count) {
        if (count > capacity_) {
            const int64_t capacity = count + count / 4;
            data_.reset(static_cast<T *>(::operator new(sizeof(T) * size_t(capacity), std::align_val_t(64))));
            capacity_ = capacity;
        }
        return data_.get();
    }
    T *get() { return data_.get(); }
    T &operator[](int64_t i) { return data_.get()[i]; }

  private:
    struct Release {
        void operator()(T *p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    std::unique_ptr<T, Release> data_;
    int64_t capacity_ = 0;
};

// What one chunk of Gaussians, in depth order, adds to the tiles' lists.
struct Chunk {
    std::vector<uint32_t> pairs;  // tiles
    std::vector<int64_t> counts;  // for each tile; later the position of the chunk's next entry in it
    int64_t first_pair;
};

struct SortItem {
    uint32_t key, index;
};

// One view between its forward and its backward pass.
struct ViewState {
    View view;
    int tiles_x, tiles_y;
    int64_t visible, pairs;
    Buffer<Splat> splats;              // by index in the cloud, like keys and moments
    Buffer<uint32_t> keys, order;      // order: indices of the visible Gaussians, nearest first
    Buffer<SortItem> items, scratch;
    Buffer<uint32_t> entries;          // indices, grouped by tile, by rank inside a tile
    Buffer<uint16_t> masks;            // of the blocks of its tile that each entry meets, while they are not opaque
    Buffer<int64_t> tile_begin;        // [tiles + 1]
    Buffer<int64_t> kept_begin;        // [tiles]: start of a tile's transmittances between segments
    Buffer<float> kept;
    Buffer<int64_t> visited, blocks;   // [tiles]: entries visited before the tile was opaque, and their blocks
    Buffer<int64_t> pair_begin;        // [visible + 1], by rank, into pair_slot
    Buffer<uint32_t> pair_slot;
    Buffer<float> slots, moments, background;
    std::vector<Chunk> chunks;

    int64_t tiles() const { return int64_t(tiles_x) * tiles_y; }
};

struct State {
    std::vector<std::unique_ptr<ViewState>> views;  // the first view_count are in use
    int64_t view_count = 0, count = 0;
    const Kernels *kernels = nullptr;
    Buffer<Scratch> scratch;  // [threads]
};

// States that are not in use, so that their memory is reused; a few are enough for a training loop.
class Pool {
  public:
    std::unique_ptr<State> take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return std::make_unique<State>();
        auto state = std::move(idle_.back());
        idle_.pop_back();
        return state;
    }
    void give(std::unique_ptr<State> state) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.size() < 2) idle_.push_back(std::move(state));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<State>> idle_;
};

inline Pool &pool() {
    static Pool instance;
    return instance;
}

// What Python keeps between the forward and the backward pass.
class SplatState {
  public:
    SplatState() : state(pool().take()) {}
    ~SplatState() {
        if (state) pool().give(std::move(state));
    }
    SplatState(const SplatState &) = delete;
    SplatState &operator=(const SplatState &) = delete;
    std::unique_ptr<State> state;
};

inline std::vector<const Kernels *> supported_kernels() {
    std::vector<const Kernels *> found;
#ifdef SPLAT_X86_VARIANTS
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&kernels_avx512);
    if (avx2) found.push_back(&kernels_avx2);
#endif
    found.push_back(&kernels_baseline);
    return found;
}

inline const Kernels *choose_kernels(const std::string &name) {
    for (const Kernels *kernels : supported_kernels())
        if (name.empty() || name == kernels->name) return kernels;
    throw std::invalid_argument("this machine has no splatting variant " + name);
}

inline int thread_index() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

template <typename Body> void parallel_ranges(int64_t count, [[maybe_unused]] int threads, const Body &body) {
    constexpr int64_t grain = 1024;
    const int64_t blocks = (count + grain - 1) / grain;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && blocks > 1)
    for (int64_t b = 0; b < blocks; ++b) body(b * grain, std::min(count, (b + 1) * grain));
}

// Stable least-significant-digit radix sort of the visible Gaussians by the bits of z, 11 at a time.
inline void sort_by_depth(ViewState &v, int64_t count) {
    constexpr int bits = 11, buckets = 1 << bits, passes = 3;
    SortItem *items = v.items.resize(count), *scratch = v.scratch.resize(count);
    std::vector<int64_t> histogram(size_t(buckets * passes), 0);
    int64_t visible = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t key = v.keys[i];
        if (key == INVISIBLE) continue;
        items[visible++] = {key, uint32_t(i)};
        for (int p = 0; p < passes; ++p) ++histogram[size_t(p * buckets + ((key >> (p * bits)) & (buckets - 1)))];
    }
    for (int p = 0; p < passes; ++p) {
        int64_t *h = histogram.data() + p * buckets, position = 0;
        for (int b = 0; b < buckets; ++b) {
            const int64_t n = h[b];
            h[b] = position;
            position += n;
        }
        for (int64_t i = 0; i < visible; ++i) scratch[h[(items[i].key >> (p * bits)) & (buckets - 1)]++] = items[i];
        std::swap(items, scratch);
    }
    v.visible = visible;
    uint32_t *order = v.order.resize(visible);
    for (int64_t r = 0; r < visible; ++r) order[r] = items[r].index;
}

// Appends the tiles that the ellipse alpha >= 1/255 overlaps, column by column.
inline void bin_one(const Splat &s, const View &view, int tiles_x, Chunk &chunk) {
    const float x = float(s.x), y = float(s.y), w = s.shape.half_width, h = s.shape.half_height;
    const float right = float(view.width - 1), bottom = float(view.height - 1);
    // The first and last pixels inside of the box. Clamped before the conversion: the extent of a huge Gaussian does
    // not fit into an int.
    const int first_x = int(std::ceil(std::min(std::max(x - w - 0.5f, 0.0f), right + 1)));
    const int last_x = int(std::floor(std::max(std::min(x + w - 0.5f, right), -1.0f)));
    const int first_y = int(std::ceil(std::min(std::max(y - h - 0.5f, 0.0f), bottom + 1)));
    const int last_y = int(std::floor(std::max(std::min(y + h - 0.5f, bottom), -1.0f)));
    if (first_x > last_x || first_y > last_y) return;
    const int first_column = first_x / TILE, last_column = last_x / TILE;
    const int first_row = first_y / TILE, last_row = last_y / TILE;
    const auto add = [&](int column, int from, int to) {
        for (int row = from; row <= to; ++row) {
            const uint32_t tile = uint32_t(row * tiles_x + column);
            chunk.pairs.push_back(tile);
            ++chunk.counts[tile];
        }
    };
    if (first_column == last_column || first_row == last_row) {  // an ellipse touches each side of its box
        for (int column = first_column; column <= last_column; ++column) add(column, first_row, last_row);
        return;
    }
    for (int column = first_column; column <= last_column; ++column) {
        // The ellipse inside the strip of pixel centres [low, high] (relative to the mean, in half widths).
        const float low = (column * TILE + 0.5f - x) / w, high = (column * TILE + TILE - 0.5f - x) / w;
        const float rho = s.shape.correlation;
        int from = first_row, to = last_row;
        if (low > rho || high < rho || low > -rho || high < -rho) {
            const float up = std::min(std::max(rho, low), high), down = std::min(std::max(-rho, low), high);
            const float across = std::max(0.0f, 1.0f - rho * rho), pad = 1e-3f * h + 1e-2f;
            const float above = h * (rho * up + std::sqrt(across * std::max(0.0f, 1.0f - up * up))) + pad;
            const float below = h * (rho * down - std::sqrt(across * std::max(0.0f, 1.0f - down * down))) - pad;
            const float first = std::ceil(std::min(std::max(y + below - 0.5f, 0.0f), bottom + 1));
            const float last = std::floor(std::max(std::min(y + above - 0.5f, bottom), -1.0f));
            if (first > last) continue;
            from = std::max(from, int(first) / TILE);
            to = std::min(to, int(last) / TILE);
        }
        add(column, from, to);
    }
}

// Counting sort of the (tile, Gaussian) pairs by tile. Chunks of the depth order are counted and placed by different
// threads; the sort is stable, so the lists are the same for any number of chunks.
inline void bin_to_tiles(ViewState &v, int threads) {
    const int64_t tiles = v.tiles(), visible = v.visible;
    const int chunk_count = int(std::max<int64_t>(1, std::min<int64_t>(threads, visible / 1024)));
    if (int(v.chunks.size()) < chunk_count) v.chunks.resize(size_t(chunk_count));
    int64_t *pair_begin = v.pair_begin.resize(visible + 1);
#pragma omp parallel for schedule(static, 1) num_threads(chunk_count) if (chunk_count > 1)
    for (int c = 0; c < chunk_count; ++c) {
        Chunk &chunk = v.chunks[size_t(c)];
        chunk.pairs.clear();
        chunk.counts.assign(size_t(tiles), 0);
        for (int64_t r = visible * c / chunk_count; r < visible * (c + 1) / chunk_count; ++r) {
            pair_begin[r] = int64_t(chunk.pairs.size());
            if (r + AHEAD < visible) SPLAT_PREFETCH(&v.splats[v.order[r + AHEAD]]);
            bin_one(v.splats[v.order[r]], v.view, v.tiles_x, chunk);
        }
    }
    int64_t total = 0;
    for (int c = 0; c < chunk_count; ++c) {
        v.chunks[size_t(c)].first_pair = total;
        total += int64_t(v.chunks[size_t(c)].pairs.size());
    }
    v.pairs = total;
    pair_begin[visible] = total;
    int64_t *tile_begin = v.tile_begin.resize(tiles + 1), position = 0;
    for (int64_t t = 0; t < tiles; ++t) {
        tile_begin[t] = position;
        for (int c = 0; c < chunk_count; ++c) {
            int64_t &count = v.chunks[size_t(c)].counts[size_t(t)];
            const int64_t n = count;
            count = position;
            position += n;
        }
    }
    tile_begin[tiles] = position;
    int64_t *kept_begin = v.kept_begin.resize(tiles), kept = 0;
    for (int64_t t = 0; t < tiles; ++t) {
        kept_begin[t] = kept;
        kept += (tile_begin[t + 1] - tile_begin[t]) / SEGMENT * TILE * TILE;
    }
    v.kept.resize(kept);
    uint32_t *entries = v.entries.resize(total);
    uint32_t *pair_slot = v.pair_slot.resize(total);
    v.masks.resize(total);
#pragma omp parallel for schedule(static, 1) num_threads(chunk_count) if (chunk_count > 1)
    for (int c = 0; c < chunk_count; ++c) {
        Chunk &chunk = v.chunks[size_t(c)];
        const int64_t end = visible * (c + 1) / chunk_count, size = int64_t(chunk.pairs.size());
        for (int64_t r = visible * c / chunk_count; r < end; ++r) {
            const int64_t first = pair_begin[r], stop = r + 1 < end ? pair_begin[r + 1] : size;
            for (int64_t p = first; p < stop; ++p) {
                const int64_t slot = chunk.counts[chunk.pairs[size_t(p)]]++;
                entries[slot] = v.order[r];
                pair_slot[chunk.first_pair + p] = uint32_t(slot);
            }
            pair_begin[r] = first + chunk.first_pair;
        }
    }
}

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
        v.tiles_x = (v.view.width + TILE - 1) / TILE;
        v.tiles_y = (v.view.height + TILE - 1) / TILE;
        Splat *splats = v.splats.resize(cloud.count);
        uint32_t *keys = v.keys.resize(cloud.count);
        parallel_ranges(cloud.count, inner, [&](int64_t begin, int64_t end) {
            state.kernels->project(cloud, v.view, begin, end, splats, keys, radii + b * cloud.count);
        });
        sort_by_depth(v, cloud.count);
        bin_to_tiles(v, inner);
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
            v.tile_begin[tile + 1] - begin, v.masks.get() + begin, v.kept.get() + v.kept_begin[tile], rgb + 3 * b * pixels,
            alpha + b * pixels, depth + b * pixels, &v.blocks[tile]);
    }
}

// Sums each visible Gaussian's slots over its tiles, in the order in which it was binned.
inline void reduce_moments(ViewState &v, int64_t count, int threads) {
    float *moments = v.moments.resize(count * MOMENTS);
    parallel_ranges(v.visible, threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            if (r + AHEAD < v.visible) SPLAT_PREFETCH(moments + int64_t(v.order[r + AHEAD]) * MOMENTS);
            float total[MOMENTS] = {0};
            for (int64_t p = v.pair_begin[r]; p < v.pair_begin[r + 1]; ++p) {
                if (p + AHEAD < v.pairs) {  // a slot may be on two cache lines
                    const float *later = &v.slots[int64_t(v.pair_slot[p + AHEAD]) * MOMENTS];
                    SPLAT_PREFETCH(later);
                    SPLAT_PREFETCH(later + MOMENTS - 1);
                }
                const int64_t slot = v.pair_slot[p];
                if (v.masks[slot] == 0) continue;
                for (int k = 0; k < MOMENTS; ++k) total[k] += v.slots[slot * MOMENTS + k];
            }
            std::memcpy(moments + int64_t(v.order[r]) * MOMENTS, total, sizeof(total));
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
                                     v.entries.get() + begin, v.visited[tile], v.masks.get() + begin, v.kept.get() + v.kept_begin[tile],
                                     image, state.scratch[thread_index()], v.slots.get() + begin * MOMENTS,
                                     v.background.get() + 3 * tile);
    }
    std::vector<View> views;
    std::vector<const float *> moments;
    std::vector<const uint32_t *> keys;
    for (int64_t b = 0; b < view_count; ++b) {
        ViewState &v = *state.views[size_t(b)];
        reduce_moments(v, cloud.count, threads);
        views.push_back(v.view);
        moments.push_back(v.moments.get());
        keys.push_back(v.keys.get());
        for (int k = 0; k < 3; ++k) {
            double total = 0.0;
            for (int64_t t = 0; t < tiles; ++t) total += v.background[3 * t + k];
            background[3 * b + k] = float(total);
        }
    }
    parallel_ranges(cloud.count, threads, [&](int64_t begin, int64_t end) {
        state.kernels->backward_project(cloud, views.data(), int(view_count), begin, end, moments.data(), keys.data(),
                                        cloud_gradient, means2d);
    });
}

}  // namespace splat
