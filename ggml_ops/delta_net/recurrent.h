// The recurrent form, for small batches of tokens: vectors run along a row of the state, which is read and written once
// per token, in place. Sixteen rows (or as many as there are lanes) stay in the L1 cache between the two passes: first
// both dot products with the old state, because S' q = e S q + d (k . q), then the update.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../simd/exponential.h"
#include "delta_net.h"

namespace delta_net::SIMD_TARGET {
namespace {

using namespace simd;

constexpr int tokens_per_group = 8;

// In a model the state is in memory, not in a cache, when its layer starts: prefetch this many rows ahead.
constexpr int rows_ahead = 16;

constexpr std::int64_t recurrent_scratch(std::int64_t size) { return tokens_per_group * 3 * size; }

inline float dot(const float* a, const float* b, std::int64_t n) {
    F total = zero();
    for (std::int64_t i = 0; i < n; i += lanes) total = fma(load(a + i), load(b + i), total);
    return sum(total);
}

struct Token {
    const float* k;  // as they are, or times the decay of their columns
    const float* q;
    const float* decay;  // of each column, or null: then it is `factor`
    float factor;
    float beta;
    float kq;  // k . q, without any decay
    const float* raw_k;
};

inline Token prepare(const Head& head, std::int64_t t, float* scratch) {
    const float* q = head.q + t * head.q_step;
    const float* k = head.k + t * head.k_step;
    const float* gate = head.gate + t * head.gate_step;
    Token token = {k, q, nullptr, 1.F, head.beta[t * head.beta_step], dot(k, q, head.size), k};
    if (!head.gate_per_column) {
        token.factor = std::exp(gate[0]);
        return token;
    }
    float* decay = scratch;
    float* decayed_k = scratch + head.size;
    float* decayed_q = scratch + 2 * head.size;
    for (std::int64_t i = 0; i < head.size; i += lanes) {
        const F e = decay_of(load(gate + i));
        store(decay + i, e);
        store(decayed_k + i, e * load(k + i));
        store(decayed_q + i, e * load(q + i));
    }
    token.k = decayed_k;
    token.q = decayed_q;
    token.decay = decay;
    return token;
}

// Where a token finds rows of the state, and where it leaves them.
struct Rows {
    const float* from;
    float* to;    // may be `from`
    float* copy;  // null: none
    // Whether the copy goes around the caches. Nobody reads it during this call, and a store to a line that is in no
    // cache would read it from memory first.
    bool around;

    Rows after(std::int64_t floats) const {
        return {from + floats, to + floats, copy != nullptr ? copy + floats : nullptr, around};
    }
};

inline void leave(const Rows& rows, std::int64_t at, F value) {
    store(rows.to + at, value);
    if (rows.around) {
        store_to_memory(rows.copy + at, value);
    } else if (rows.copy != nullptr) {
        store(rows.copy + at, value);
    }
}

// One token for `lanes` rows from `first`.
inline void step_rows(const Head& head, const Token& token, std::int64_t t, std::int64_t first, const Rows& rows) {
    const float* const from = rows.from;
    constexpr int group = lanes < 4 ? lanes : 4;  // rows that share the loads of k and q
    const std::int64_t n = head.size;
    F with_k[lanes], with_q[lanes];
    for (int row = 0; row < lanes; row += group) {
        F k_sum[group], q_sum[group];
        for (int r = 0; r < group; ++r) k_sum[r] = q_sum[r] = zero();
        for (std::int64_t i = 0; i < n; i += lanes) {
            const F k = load(token.k + i);
            const F q = load(token.q + i);
            for (int r = 0; r < group; ++r) {
                if (i % floats_per_line == 0) prefetch_to_change(from + (row + r + rows_ahead) * n + i);
                const F s = load(from + (row + r) * n + i);
                k_sum[r] = fma(s, k, k_sum[r]);
                q_sum[r] = fma(s, q, q_sum[r]);
            }
        }
        for (int r = 0; r < group; ++r) {
            with_k[row + r] = k_sum[r];
            with_q[row + r] = q_sum[r];
        }
    }
    const F factor = set(token.factor);
    const F v = load(head.v + t * head.v_step + first);
    const F d = set(token.beta) * (v - factor * sums(with_k));
    store(head.out + t * head.out_step + first, set(head.scale) * fma(d, set(token.kq), factor * sums(with_q)));

    float each[lanes];
    store(each, d);
    for (int row = 0; row < lanes; row += group) {
        for (std::int64_t i = 0; i < n; i += lanes) {
            const F k = load(token.raw_k + i);
            const F decay = token.decay != nullptr ? load(token.decay + i) : factor;
            for (int r = 0; r < group; ++r) {
                const std::int64_t at = (row + r) * n + i;
                leave(rows, at, fma(set(each[row + r]), k, load(from + at) * decay));
            }
        }
    }
}

// The same for rows of Vectors vectors and one decay: two rows at a time stay in registers between the dot products and
// the update. The factors are multiplied beforehand, so that d is one multiply-add away from the dot products.
template <int Vectors>
void step_rows_in_registers(const Head& head, const Token& token, std::int64_t t, std::int64_t first, Rows rows) {
    constexpr std::int64_t n = Vectors * lanes;
    const float* v = head.v + t * head.v_step + first;
    float* out = head.out + t * head.out_step + first;
    const F factor = set(token.factor);
    const float d_dot = token.beta * token.factor;
    const float out_dot = head.scale * token.factor;
    const float out_d = head.scale * token.kq;
    for (int row = 0; row < lanes; row += 2, rows = rows.after(2 * n)) {
        F s[2][Vectors];
        F even[4] = {zero(), zero(), zero(), zero()};
        F odd[4] = {zero(), zero(), zero(), zero()};
        for (int i = 0; i < Vectors; ++i) {
            const F k = load(token.k + i * lanes);
            const F q = load(token.q + i * lanes);
            F(&part)[4] = i % 2 == 0 ? even : odd;
            for (int r = 0; r < 2; ++r) {
                prefetch_to_change(rows.from + (r + rows_ahead) * n + i * lanes);
                s[r][i] = load(rows.from + r * n + i * lanes);
                part[2 * r] = fma(s[r][i], k, part[2 * r]);
                part[2 * r + 1] = fma(s[r][i], q, part[2 * r + 1]);
            }
        }
        for (int j = 0; j < 4; ++j) even[j] = even[j] + odd[j];
        float dots[4];
        sums(even, dots);
        for (int r = 0; r < 2; ++r) {
            const float d = token.beta * v[row + r] - d_dot * dots[2 * r];
            out[row + r] = out_dot * dots[2 * r + 1] + out_d * d;
            for (int i = 0; i < Vectors; ++i) {
                leave(rows, r * n + i * lanes, fma(set(d), load(token.k + i * lanes), s[r][i] * factor));
            }
        }
    }
}

inline void step(const Head& head, const Token& token, std::int64_t t, std::int64_t first, const Rows& rows) {
    // Only AVX-512 has enough registers.
    if constexpr (lanes == 16) {
        if (token.decay == nullptr && head.size == 8 * lanes) {
            return step_rows_in_registers<8>(head, token, t, first, rows);
        }
        if (token.decay == nullptr && head.size == 4 * lanes) {
            return step_rows_in_registers<4>(head, token, t, first, rows);
        }
    }
    step_rows(head, token, t, first, rows);
}

// Tokens from `begin` on. Each changes the newest state in place, some rows of which stay in the L1 cache for all
// tokens of a group, and leaves a copy in the snapshot of its age, if there is one.
inline void recurrent(const Head& head, std::int64_t begin) {
    const auto is_aligned = [](const float* p) { return reinterpret_cast<std::uintptr_t>(p) % sizeof(F) == 0; };
    const bool around = is_aligned(head.new_state) && is_aligned(head.new_state + head.snapshot_step);
    for (std::int64_t first = begin; first < head.tokens; first += tokens_per_group) {
        const std::int64_t end = std::min<std::int64_t>(head.tokens, first + tokens_per_group);
        Token tokens[tokens_per_group];
        for (std::int64_t t = first; t < end; ++t) {
            tokens[t - first] = prepare(head, t, head.scratch + (t - first) * 3 * head.size);
        }
        for (std::int64_t row = head.first_row; row < head.first_row + head.rows; row += lanes) {
            for (std::int64_t t = first; t < end; ++t) {
                const std::int64_t age = head.tokens - 1 - t;
                float* const newest = head.new_state + row * head.size;
                const bool copied = age > 0 && age < head.snapshots;
                step(head, tokens[t - first], t, row,
                     {t == 0 ? head.state + row * head.size : newest, newest,
                      copied ? newest + age * head.snapshot_step : nullptr, copied && around});
            }
        }
    }
    if (around && std::min(head.snapshots, head.tokens) > 1) finish_stores_to_memory();
}

}  // namespace
}  // namespace delta_net::SIMD_TARGET
