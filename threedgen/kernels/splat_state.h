// What a splatting forward pass keeps for its backward pass, the variants of the kernels, and loops over threads.
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

// What one chunk of Gaussians adds to the tiles' lists.
struct Chunk {
    std::vector<uint32_t> tiles;   // of its Gaussians, one after the other
    int64_t pairs;                 // of a chunk of the depth order
    std::vector<int64_t> next;     // [tiles]: how many entries a chunk of the depth order has, then the next place
};

struct SortItem {
    uint32_t key, index;
};

// One view between its forward and its backward pass.
struct ViewState {
    View view;
    int tiles_x, tiles_y;
    int64_t visible, pairs;
    Buffer<Splat> splats;              // by index in the cloud, like keys
    Buffer<uint32_t> keys, order;      // order: indices of the visible Gaussians, nearest first
    Buffer<uint32_t> listed;           // [count + 1], by index in the cloud, into listed_tiles
    Buffer<uint32_t> joined_tiles;
    const uint32_t *listed_tiles;      // the tiles of each Gaussian: of the only chunk, or joined_tiles
    Buffer<uint32_t> pair_begin;       // [visible + 1], by rank, into pair_place
    Buffer<uint32_t> pair_place;       // where each (tile, Gaussian) pair is in entries
    Buffer<uint32_t> entries;          // Gaussians, grouped by tile, nearest first inside a tile
    Buffer<Blocks> masks;              // of the blocks of its tile that each entry meets, while they are not opaque
    Buffer<int64_t> tile_begin;        // [tiles + 1]
    Buffer<int64_t> kept_begin;        // [tiles]: start of a tile's transmittances between segments
    Buffer<float> kept;
    Buffer<int64_t> visited, blocks;   // [tiles]: entries visited before the tile was opaque, their blocks
    Buffer<float> slots, background;   // slots: by place in entries
    bool spent;                        // the splats' memory holds the moments now
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

}  // namespace splat
