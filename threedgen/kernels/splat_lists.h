// From a cloud to the lists of the tiles, each with its Gaussians from front to back.
#pragma once

#include "splat_state.h"

namespace splat {

// Stable least-significant-digit radix sort of the visible Gaussians by the bits of z, as many as their range has.
inline void sort_by_depth(ViewState &v, int64_t count) {
    constexpr int bits = 12, buckets = 1 << bits;
    constexpr int64_t floats = 2 * sizeof(SortItem) / sizeof(float);  // in the memory of the slots, which come later
    float *memory = v.slots.resize(std::max(v.pairs * MOMENTS, count * floats));
    SortItem *items = reinterpret_cast<SortItem *>(memory), *scratch = items + count;
    int64_t visible = 0;
    uint32_t low = INVISIBLE, high = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t key = v.keys[i];
        if (key == INVISIBLE) continue;
        items[visible++] = {key, uint32_t(i)};
        low = std::min(low, key);
        high = std::max(high, key);
    }
    for (int shift = 0; visible > 0 && shift < 32 && (high - low) >> shift != 0; shift += bits) {
        const auto digit = [=](const SortItem &item) { return ((item.key - low) >> shift) & (buckets - 1); };
        int64_t next[buckets] = {0}, position = 0;
        for (int64_t i = 0; i < visible; ++i) ++next[digit(items[i])];
        for (int64_t &n : next) {
            const int64_t size = n;
            n = position;
            position += size;
        }
        for (int64_t i = 0; i < visible; ++i) scratch[next[digit(items[i])]++] = items[i];
        std::swap(items, scratch);
    }
    v.visible = visible;
    uint32_t *order = v.order.resize(visible);
    for (int64_t r = 0; r < visible; ++r) order[r] = items[r].index;
}

// Appends the tiles that the ellipse alpha >= 1/255 overlaps, column by column.
inline void bin_one(const Splat &s, const View &view, int tiles_x, std::vector<uint32_t> &tiles) {
    const float x = float(s.x), y = float(s.y), w = s.shape.half_width, h = s.shape.half_height;
    const float right = float(view.width), bottom = float(view.height);
    // The pixels inside of the box, in 1 .. size. Clamped before the conversion: the extent of a huge Gaussian does
    // not fit into an int.
    const auto first = [](float from, float end) {
        from = std::min(std::max(from, 0.0f), end);
        const int whole = int(from);
        return whole + (float(whole) < from ? 1 : 0);
    };
    const auto last = [](float to, float end) { return int(std::max(std::min(to + 1.0f, end), 0.0f)) - 1; };
    const int first_x = first(x - w - 0.5f, right), last_x = last(x + w - 0.5f, right);
    const int first_y = first(y - h - 0.5f, bottom), last_y = last(y + h - 0.5f, bottom);
    if (first_x > last_x || first_y > last_y) return;
    const int first_column = first_x / TILE_WIDTH, last_column = last_x / TILE_WIDTH;
    const int first_row = first_y / TILE_HEIGHT, last_row = last_y / TILE_HEIGHT;
    const auto add = [&](int column, int from, int to) {
        for (int row = from; row <= to; ++row) tiles.push_back(uint32_t(row * tiles_x + column));
    };
    if (first_column == last_column || first_row == last_row) {  // an ellipse touches each side of its box
        for (int column = first_column; column <= last_column; ++column) add(column, first_row, last_row);
        return;
    }
    for (int column = first_column; column <= last_column; ++column) {
        // The ellipse inside the strip of pixel centres [low, high] (relative to the mean, in half widths).
        const float low = (column * TILE_WIDTH + 0.5f - x) / w, high = low + (TILE_WIDTH - 1) / w;
        const float rho = s.shape.correlation;
        int from = first_row, to = last_row;
        if (low > rho || high < rho || low > -rho || high < -rho) {
            const float up = std::min(std::max(rho, low), high), down = std::min(std::max(-rho, low), high);
            const float across = std::max(0.0f, 1.0f - rho * rho), pad = 1e-3f * h + 1e-2f;
            const float above = h * (rho * up + std::sqrt(across * std::max(0.0f, 1.0f - up * up))) + pad;
            const float below = h * (rho * down - std::sqrt(across * std::max(0.0f, 1.0f - down * down))) - pad;
            const int low_y = first(y + below - 0.5f, bottom), high_y = last(y + above - 0.5f, bottom);
            if (low_y > high_y) continue;
            from = std::max(from, low_y / TILE_HEIGHT);
            to = std::min(to, high_y / TILE_HEIGHT);
        }
        add(column, from, to);
    }
}

// Projects the cloud and lists the tiles of each Gaussian, while its projection is still in the cache.
inline void project_and_bin(const Kernels &kernels, const Cloud &cloud, ViewState &v, int threads, float *radii) {
    constexpr int64_t grain = 1024;
    Splat *splats = v.splats.resize(cloud.count);
    uint32_t *keys = v.keys.resize(cloud.count), *listed = v.listed.resize(cloud.count + 1);
    const int64_t blocks = (cloud.count + grain - 1) / grain;
    const int chunks = threads > 1 ? int(std::min<int64_t>(blocks, 4 * threads)) : 1;
    if (int(v.chunks.size()) < chunks) v.chunks.resize(size_t(chunks));
    const auto first_of = [&](int c) { return std::min(cloud.count, blocks * c / chunks * grain); };
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (chunks > 1)
    for (int c = 0; c < chunks; ++c) {
        std::vector<uint32_t> &tiles = v.chunks[size_t(c)].tiles;
        tiles.clear();
        for (int64_t begin = first_of(c); begin < first_of(c + 1); begin += grain) {
            const int64_t end = std::min(begin + grain, cloud.count);
            kernels.project(cloud, v.view, begin, end, splats, keys, radii);
            for (int64_t i = begin; i < end; ++i) {
                listed[i] = uint32_t(tiles.size());
                if (keys[i] != INVISIBLE) bin_one(splats[i], v.view, v.tiles_x, tiles);
            }
        }
    }
    std::vector<int64_t> first_pair(size_t(chunks) + 1, 0);
    for (int c = 0; c < chunks; ++c)
        first_pair[size_t(c) + 1] = first_pair[size_t(c)] + int64_t(v.chunks[size_t(c)].tiles.size());
    v.pairs = first_pair[size_t(chunks)];
    listed[cloud.count] = uint32_t(v.pairs);
    v.listed_tiles = v.chunks[0].tiles.data();
    if (chunks == 1) return;
    uint32_t *listed_tiles = v.joined_tiles.resize(v.pairs);
    v.listed_tiles = listed_tiles;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int c = 0; c < chunks; ++c) {
        const std::vector<uint32_t> &tiles = v.chunks[size_t(c)].tiles;
        const int64_t first = first_pair[size_t(c)];
        std::copy(tiles.begin(), tiles.end(), listed_tiles + first);
        if (first > 0)
            for (int64_t i = first_of(c); i < first_of(c + 1); ++i) listed[i] += uint32_t(first);
    }
}

// Counting sort of the (tile, Gaussian) pairs by tile. Chunks of the depth order are counted and placed by different
// threads; the sort is stable, so the lists are the same for any number of chunks.
inline void sort_by_tile(ViewState &v, int threads) {
    const int64_t tiles = v.tiles(), visible = v.visible;
    const int chunks = int(std::max<int64_t>(1, std::min<int64_t>(threads, visible / 1024)));
    if (int(v.chunks.size()) < chunks) v.chunks.resize(size_t(chunks));
    const uint32_t *order = v.order.get(), *listed = v.listed.get(), *listed_tiles = v.listed_tiles;
#pragma omp parallel for schedule(static, 1) num_threads(chunks) if (chunks > 1)
    for (int c = 0; c < chunks; ++c) {
        std::vector<int64_t> &counts = v.chunks[size_t(c)].next;
        counts.assign(size_t(tiles), 0);
        if (chunks == 1) {
            for (int64_t p = 0; p < v.pairs; ++p) ++counts[listed_tiles[p]];
            v.chunks[0].pairs = v.pairs;
            continue;
        }
        int64_t pairs = 0;
        for (int64_t r = visible * c / chunks; r < visible * (c + 1) / chunks; ++r) {
            const uint32_t first = listed[order[r]], end = listed[order[r] + 1];
            for (uint32_t p = first; p < end; ++p) ++counts[listed_tiles[p]];
            pairs += end - first;
        }
        v.chunks[size_t(c)].pairs = pairs;
    }
    int64_t *tile_begin = v.tile_begin.resize(tiles + 1), *kept_begin = v.kept_begin.resize(tiles);
    int64_t position = 0, kept = 0;
    for (int64_t t = 0; t < tiles; ++t) {
        tile_begin[t] = position;
        for (int c = 0; c < chunks; ++c) {
            int64_t &next = v.chunks[size_t(c)].next[size_t(t)];
            const int64_t n = next;
            next = position;
            position += n;
        }
        kept_begin[t] = kept;
        kept += (position - tile_begin[t]) / SEGMENT * BLOCKS * PIXELS;
    }
    tile_begin[tiles] = position;
    v.kept.resize(kept);
    v.masks.resize(position);
    uint32_t *entries = v.entries.resize(position), *pair_place = v.pair_place.resize(position);
    uint32_t *pair_begin = v.pair_begin.resize(visible + 1);
    pair_begin[visible] = uint32_t(position);
#pragma omp parallel for schedule(static, 1) num_threads(chunks) if (chunks > 1)
    for (int c = 0; c < chunks; ++c) {
        int64_t *next = v.chunks[size_t(c)].next.data();
        const int64_t end = visible * (c + 1) / chunks;
        uint32_t pair = 0;
        for (int before = 0; before < c; ++before) pair += uint32_t(v.chunks[size_t(before)].pairs);
        for (int64_t r = visible * c / chunks; r < end; ++r) {
            if (r + 2 * AHEAD < end) SPLAT_PREFETCH(listed + order[r + 2 * AHEAD]);
            if (r + AHEAD < end) SPLAT_PREFETCH(listed_tiles + listed[order[r + AHEAD]]);
            const uint32_t index = order[r];
            pair_begin[r] = pair;
            for (uint32_t p = listed[index]; p < listed[index + 1]; ++p) {
                const int64_t place = next[listed_tiles[p]]++;
                entries[place] = index;
                pair_place[pair++] = uint32_t(place);
            }
        }
    }
}

}  // namespace splat
