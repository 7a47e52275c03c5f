// The chunkwise form, for large batches of tokens: value rows are in the lanes, so that no sum crosses them, and
// `chunk` tokens share one sweep over the state, which applies the updates of the previous chunk and computes the dot
// products of this one. With G the cumulative decay (all factors e multiplied) since the start of the chunk and S
// the state at that start,
//   S_{c-1} k_c e_c = G_c S k_c + sum over j < c of (G_c / G_j) (k_j . k_c) d_j
//   S_c q_c         = G_c S q_c + sum over j <= c of (G_c / G_j) (k_j . q_c) d_j
//   S at its end    = G S + sum over j of (G / G_j) d_j k_j^T
// The quotients are the cumulative decays in between: nothing is divided, so that decays down to zero are safe. This
// leaves three multiply-adds per element of the state and token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../simd/exponential.h"
#include "delta_net.h"
#include "state_tile.h"

namespace delta_net::SIMD_TARGET {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int chunk = 2;  // sixteen registers
#else
constexpr int chunk = 4;
#endif
constexpr int row_vectors = 2;
constexpr int chunks_per_group = 8;
constexpr int tokens_ahead = 32;

// The coefficients of a chunk that a sweep needs.
struct Chunk {
    const float* k_dot[chunk];  // for the dot products; times the decay of their columns if there is one for each
    const float* q_dot[chunk];
    const float* k_update[chunk];  // for the update; the same
    const float* column_decay;     // G of each column, or null
    float decay;                   // what the tile is multiplied by at the end of the chunk: G, or 1
    float after[chunk];            // G / G_c, or 1, in units of the tile
    // d_c = beta_v v + d_dot (S k_c) + sum over j < c of d_d[c][j] d_j
    float beta_v[chunk], d_dot[chunk], d_d[chunk][chunk];
    // out_c = out_dot (S q_c) + sum over j <= c of out_d[c][j] d_j
    float out_dot[chunk], out_d[chunk][chunk];
    int tokens;  // the others are padding that changes nothing
};

constexpr std::int64_t panel_floats(std::int64_t size) { return (3 * chunk + 1) * size; }

constexpr std::int64_t chunkwise_scratch(std::int64_t size) {
    const std::int64_t chunks = static_cast<std::int64_t>(sizeof(Chunk) / sizeof(float) + 1) * chunks_per_group;
    return size * size + size + chunks + chunks_per_group * panel_floats(size) + 64;
}

// The factors of a chunk. upto: G_c, or 1 if the columns have it; between: G_c / G_j, or 1; kk, kq: the dot products,
// [c][j].
inline void set_factors(const Head& head, std::int64_t first, const float (&upto)[chunk],
                        const float (&between)[chunk][chunk], const float (&kk)[chunk][chunk],
                        const float (&kq)[chunk][chunk], Chunk& p) {
    for (int c = 0; c < p.tokens; ++c) {
        const float beta = head.beta[(first + c) * head.beta_step];
        p.beta_v[c] = beta;
        p.d_dot[c] = -beta * upto[c];
        p.out_dot[c] = head.scale * upto[c];
        for (int j = 0; j < c; ++j) p.d_d[c][j] = -beta * (between[c][j] * kk[c][j]);
        for (int j = 0; j <= c; ++j) p.out_d[c][j] = head.scale * (between[c][j] * kq[c][j]);
    }
}

// Copies the keys and queries of a chunk and computes all dot products between them.
inline void copy_and_dot(const float* const (&keys)[chunk], const float* const (&queries)[chunk], std::int64_t n,
                         float* panel, float (&kk)[chunk][chunk], float (&kq)[chunk][chunk]) {
    constexpr int pairs = chunk * chunk;  // k_j with q_c for j <= c, and with k_c for j < c: c + 1 and c of them
    F part[pairs];
    for (F& some : part) some = zero();
    for (std::int64_t i = 0; i < n; i += lanes) {
        F k[chunk];
        for (int c = 0; c < chunk; ++c) {
            const F q = load(queries[c] + i);
            k[c] = load(keys[c] + i);
            store(panel + 2 * c * n + i, k[c]);
            store(panel + (2 * c + 1) * n + i, q);
            for (int j = 0; j <= c; ++j) part[c * c + j] = fma(k[j], q, part[c * c + j]);
            for (int j = 0; j < c; ++j) part[c * c + c + 1 + j] = fma(k[j], k[c], part[c * c + c + 1 + j]);
        }
    }
    float total[pairs];
    for (int some = 0; some < pairs; some += 4) {
        float four[4];
        sums({part[some], part[some + 1], part[some + 2], part[some + 3]}, four);
        for (int i = 0; i < 4; ++i) total[some + i] = four[i];
    }
    for (int c = 0; c < chunk; ++c) {
        for (int j = 0; j <= c; ++j) kq[c][j] = total[c * c + j];
        for (int j = 0; j < c; ++j) kk[c][j] = total[c * c + c + 1 + j];
    }
}

// Prefetches what a chunk reads and writes: tokens are too far apart for the hardware prefetcher.
// Always inlined: GCC treats a function that only prefetches as one without effects, and removes the call.
[[gnu::always_inline]] inline void prefetch_tokens(const Head& head, std::int64_t first) {
    const std::int64_t end_row = head.first_row + head.rows;
    for (std::int64_t t = first; t < std::min(first + chunk, head.tokens); ++t) {
        for (std::int64_t i = 0; i < head.size; i += floats_per_line) {
            prefetch(head.k + t * head.k_step + i);
            prefetch(head.q + t * head.q_step + i);
        }
        for (std::int64_t i = head.first_row; i < end_row; i += floats_per_line) {
            prefetch(head.v + t * head.v_step + i);
            prefetch_to_change(head.out + t * head.out_step + i);
        }
    }
}

// Keys and queries are copied, because tokens are often a multiple of 4 KiB apart and would then compete for the same
// few sets of the L1 cache.
inline Chunk prepare_scalar(const Head& head, std::int64_t first, int tokens, const float* zeros, float* panel) {
    const std::int64_t n = head.size;
    Chunk p = {};
    p.tokens = tokens;
    float e[chunk];
    const float* keys[chunk];
    const float* queries[chunk];
    for (int c = 0; c < chunk; ++c) {
        const std::int64_t t = first + c;
        const bool real = c < tokens;
        keys[c] = real ? head.k + t * head.k_step : zeros;
        queries[c] = real ? head.q + t * head.q_step : zeros;
        e[c] = real ? std::exp(head.gate[t * head.gate_step]) : 1.F;
        p.k_dot[c] = p.k_update[c] = panel + 2 * c * n;
        p.q_dot[c] = panel + (2 * c + 1) * n;
    }
    float upto[chunk], between[chunk][chunk];
    for (int j = 0; j < chunk; ++j) {
        between[j][j] = 1.F;
        for (int c = j + 1; c < chunk; ++c) between[c][j] = between[c - 1][j] * e[c];
        p.after[j] = between[chunk - 1][j];
    }
    for (int c = 0; c < chunk; ++c) upto[c] = e[0] * between[c][0];
    p.decay = upto[chunk - 1];
    float kk[chunk][chunk], kq[chunk][chunk];
    copy_and_dot(keys, queries, n, panel, kk, kq);
    set_factors(head, first, upto, between, kk, kq, p);
    return p;
}

// The same with a decay for each column, which goes into copies of k and q.
inline Chunk prepare_columns(const Head& head, std::int64_t first, int tokens, const float* zeros, float* panel) {
    const std::int64_t n = head.size;
    Chunk p = {};
    p.tokens = tokens;
    p.decay = 1.F;
    float* decay = panel;
    p.column_decay = decay;
    float kk[chunk][chunk] = {};
    float kq[chunk][chunk] = {};
    float ones[chunk], all_ones[chunk][chunk];
    for (std::int64_t i = 0; i < n; i += lanes) store(decay + i, set(1.F));
    for (int c = 0; c < chunk; ++c) {
        for (int j = 0; j < chunk; ++j) all_ones[c][j] = 1.F;
        ones[c] = p.after[c] = 1.F;
        p.k_dot[c] = p.q_dot[c] = p.k_update[c] = zeros;
        if (c >= tokens) continue;
        const std::int64_t t = first + c;
        const float* k = head.k + t * head.k_step;
        const float* q = head.q + t * head.q_step;
        const float* gate = head.gate + t * head.gate_step;
        const auto update = [&](int j) { return panel + (3 + 3 * j) * n; };
        float* k_dot = panel + (1 + 3 * c) * n;
        float* q_dot = k_dot + n;
        F k_sum[chunk], q_sum[chunk];
        for (int j = 0; j < chunk; ++j) k_sum[j] = q_sum[j] = zero();
        for (std::int64_t i = 0; i < n; i += lanes) {
            const F e = decay_of(load(gate + i));
            const F k_here = load(k + i);
            const F q_here = load(q + i);
            const F all = load(decay + i) * e;
            store(decay + i, all);
            store(k_dot + i, all * k_here);
            store(q_dot + i, all * q_here);
            store(update(c) + i, k_here);
            q_sum[c] = fma(k_here, q_here, q_sum[c]);
            // What the earlier updates decay to by now: at the end of the loop, (G / G_j) k_j.
            for (int j = 0; j < c; ++j) {
                const F u = load(update(j) + i) * e;
                store(update(j) + i, u);
                k_sum[j] = fma(u, k_here, k_sum[j]);
                q_sum[j] = fma(u, q_here, q_sum[j]);
            }
        }
        for (int j = 0; j <= c; ++j) {
            kk[c][j] = sum(k_sum[j]);
            kq[c][j] = sum(q_sum[j]);
        }
        p.k_dot[c] = k_dot;
        p.q_dot[c] = q_dot;
        p.k_update[c] = update(c);
    }
    set_factors(head, first, ones, all_ones, kk, kq, p);
    return p;
}

// Keeps the scalar decays out of the tiles: the state is a tile times a factor, the factor shrinks from chunk to chunk,
// and the updates are in units of it. This saves one multiplication per element and chunk. The last chunk, and any
// chunk at which the factor gets so small that the updates might overflow, reset the factor to one.
inline void defer_decays(Chunk* chunks, int count) {
    constexpr float smallest = 1e-15F;
    float factor = 1.F;
    for (int i = 0; i < count; ++i) {
        Chunk& p = chunks[i];
        for (int c = 0; c < p.tokens; ++c) {
            p.d_dot[c] *= factor;
            p.out_dot[c] *= factor;
        }
        factor *= p.decay;
        if (i + 1 == count || factor < smallest) {
            p.decay = factor;
            factor = 1.F;
        } else {
            p.decay = 1.F;
            for (float& after : p.after) after /= factor;
        }
    }
}

// Vectors of value rows for each token of a chunk.
template <int Rows>
struct Block {
    F of[chunk][Rows];
};
template <int Rows>
struct Dots {
    Block<Rows> k, q;
};

enum class Decay { none, scalar, columns };

// tile: size x Rows vectors. Applies the updates d of the chunk `before` (null: none), then computes the dot products
// of `now` (null: none).
template <int Rows, Decay Kind, bool Update, bool Dot>
[[gnu::always_inline]] inline Dots<Rows> sweep(F* tile, std::int64_t n, const Chunk* before, const Block<Rows>& d,
                                               const Chunk* now) {
    Dots<Rows> sum;
    F scaled[chunk][Rows];
    const float* kb[chunk];
    const float* kn[chunk];
    const float* qn[chunk];
    const float* column_decay = nullptr;
    F decay = zero();
    for (int c = 0; c < chunk; ++c) {
        if constexpr (Update) {
            kb[c] = before->k_update[c];
            for (int r = 0; r < Rows; ++r) scaled[c][r] = set(before->after[c]) * d.of[c][r];
        }
        if constexpr (Dot) {
            kn[c] = now->k_dot[c];
            qn[c] = now->q_dot[c];
            for (int r = 0; r < Rows; ++r) sum.k.of[c][r] = sum.q.of[c][r] = zero();
        }
    }
    if constexpr (Update) {
        decay = set(before->decay);
        column_decay = before->column_decay;
    }
    for (std::int64_t i = 0; i < n; ++i) {
        F s[Rows];
        for (int r = 0; r < Rows; ++r) s[r] = tile[i * Rows + r];
        if constexpr (Update) {
            if constexpr (Kind != Decay::none) {
                for (int r = 0; r < Rows; ++r) s[r] = s[r] * (Kind == Decay::columns ? set(column_decay[i]) : decay);
            }
            for (int c = 0; c < chunk; ++c) {
                const F k = set(kb[c][i]);
                for (int r = 0; r < Rows; ++r) s[r] = fma(scaled[c][r], k, s[r]);
            }
            for (int r = 0; r < Rows; ++r) tile[i * Rows + r] = s[r];
        }
        if constexpr (Dot) {
            for (int c = 0; c < chunk; ++c) {
                const F k = set(kn[c][i]);
                const F q = set(qn[c][i]);
                for (int r = 0; r < Rows; ++r) {
                    sum.k.of[c][r] = fma(s[r], k, sum.k.of[c][r]);
                    sum.q.of[c][r] = fma(s[r], q, sum.q.of[c][r]);
                }
            }
        }
    }
    return sum;
}

// Computes d and the outputs of the chunk's tokens from the dot products.
template <int Rows, bool Columns>
[[gnu::always_inline]] inline Block<Rows> solve(const Head& head, const Chunk& p, const Dots<Rows>& sum,
                                                std::int64_t first, std::int64_t row) {
    Block<Rows> d;
    for (int c = 0; c < chunk; ++c) {
        for (int r = 0; r < Rows; ++r) {
            d.of[c][r] = zero();
            if (c >= p.tokens) continue;
            const F v = load(head.v + (first + c) * head.v_step + row + r * lanes);
            F change = fma(set(p.d_dot[c]), sum.k.of[c][r], set(p.beta_v[c]) * v);
            for (int j = 0; j < c; ++j) change = fma(set(p.d_d[c][j]), d.of[j][r], change);
            d.of[c][r] = change;
            F out = set(p.out_dot[c]) * sum.q.of[c][r];
            for (int j = 0; j <= c; ++j) out = fma(set(p.out_d[c][j]), d.of[j][r], out);
            store(head.out + (first + c) * head.out_step + row + r * lanes, out);
        }
    }
    return d;
}

template <int Rows, bool Columns>
void run_chunks(const Head& head, F* tile, const Chunk* chunks, int count, std::int64_t first, std::int64_t row) {
    constexpr Decay kind = Columns ? Decay::columns : Decay::scalar;
    const std::int64_t n = head.size;
    Dots<Rows> sum = sweep<Rows, kind, false, true>(tile, n, nullptr, {}, chunks);
    for (int c = 0;; ++c) {
        const Chunk* now = chunks + c;
        const Block<Rows> d = solve<Rows, Columns>(head, *now, sum, first + c * chunk, row);
        if (c + 1 == count) {
            sweep<Rows, kind, true, false>(tile, n, now, d, nullptr);
            return;
        }
        if (!Columns && now->decay == 1.F) {
            sum = sweep<Rows, Decay::none, true, true>(tile, n, now, d, now + 1);
        } else {
            sum = sweep<Rows, kind, true, true>(tile, n, now, d, now + 1);
        }
    }
}

inline float* aligned(float* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

// The first `tokens` tokens. Meanwhile the state is kept transposed in the scratch memory.
inline void chunkwise(const Head& head, std::int64_t tokens) {
    const std::int64_t n = head.size;
    float* memory = aligned(head.scratch);
    F* tiles = reinterpret_cast<F*>(memory);
    float* zeros = memory + n * n;
    std::memset(zeros, 0, static_cast<std::size_t>(n) * sizeof(float));
    Chunk* chunks = reinterpret_cast<Chunk*>(aligned(zeros + n));
    float* panels = reinterpret_cast<float*>(chunks + chunks_per_group);

    const auto for_tiles = [&](const auto& one, const auto& rest) {
        constexpr std::int64_t width = row_vectors * lanes;
        std::int64_t row = 0;
        for (; row + width <= head.rows; row += width) one(tiles + row / lanes * n, head.first_row + row);
        for (; row < head.rows; row += lanes) rest(tiles + row / lanes * n, head.first_row + row);
    };
    for_tiles([&](F* tile, std::int64_t row) { rows_to_lanes<row_vectors>(head.state + row * n, n, tile); },
              [&](F* tile, std::int64_t row) { rows_to_lanes<1>(head.state + row * n, n, tile); });
    for (std::int64_t first = 0; first < tokens; first += chunk * chunks_per_group) {
        const std::int64_t here = std::min<std::int64_t>(tokens - first, chunk * chunks_per_group);
        int count = 0;
        for (std::int64_t at = 0; at < here; at += chunk, ++count) {
            const int some = static_cast<int>(std::min<std::int64_t>(chunk, here - at));
            prefetch_tokens(head, first + at + tokens_ahead);
            chunks[count] = head.gate_per_column
                                ? prepare_columns(head, first + at, some, zeros, panels + count * panel_floats(n))
                                : prepare_scalar(head, first + at, some, zeros, panels + count * panel_floats(n));
        }
        if (!head.gate_per_column) defer_decays(chunks, count);
        if (head.gate_per_column) {
            for_tiles(
                [&](F* t, std::int64_t row) { run_chunks<row_vectors, true>(head, t, chunks, count, first, row); },
                [&](F* t, std::int64_t row) { run_chunks<1, true>(head, t, chunks, count, first, row); });
        } else {
            for_tiles(
                [&](F* t, std::int64_t row) { run_chunks<row_vectors, false>(head, t, chunks, count, first, row); },
                [&](F* t, std::int64_t row) { run_chunks<1, false>(head, t, chunks, count, first, row); });
        }
    }
    for_tiles([&](F* tile, std::int64_t row) { lanes_to_rows<row_vectors>(tile, n, head.new_state + row * n); },
              [&](F* tile, std::int64_t row) { lanes_to_rows<1>(tile, n, head.new_state + row * n); });
}

}  // namespace
}  // namespace delta_net::SIMD_TARGET
