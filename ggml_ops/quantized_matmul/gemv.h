// A few columns: each row of weights is unpacked once, block by block, and multiplied with all of them. Included inside
// the namespace of a target.

// How far ahead of its use a weight is asked for. The processor's own reading ahead ends with a page of 4 KiB, which is
// what a mapped file has.
inline constexpr std::int64_t read_ahead = 8192;

template <class Weights>
void prefetch_block(const std::uint8_t* p) {
    for (int i = 0; i < Weights::bytes; i += 64) prefetch(reinterpret_cast<const float*>(p + read_ahead + i));
}

// Where a super-block of any column lies, in bytes from the column's beginning.
struct ColumnPlace {
    std::int64_t q, sums, scale;
};

template <class Weights>
ColumnPlace place(std::int64_t k, std::int64_t block) {
    constexpr std::int64_t sums = super_block / Weights::values_a_scale;
    constexpr std::int64_t scales = Weights::column_scale_of_32 ? 8 : 1;
    return {block * super_block, sums_offset(k, Weights::values_a_scale) + floats_bytes(block * sums),
            scales_offset(k) + floats_bytes(block * scales)};
}

inline const float* floats_at(const std::uint8_t* column, std::int64_t place) {
    return reinterpret_cast<const float*>(column + place);
}

// The scales of a super-block of a row, in the form that its format asks for.
template <class Weights>
struct RowScales {
    static constexpr int count = super_block / Weights::values_a_scale;

    B of_16;                       // narrow
    I of_32;                       // else, where a column has one scale for a super-block
    F floats[vectors_for(count)];  // else
    F factor;
    F minimums[vectors_for(count)];

    explicit RowScales(const std::uint8_t* p) {
        if constexpr (Weights::column_scale_of_32) {
            Weights::scales(p, floats);
        } else {
            factor = set(Weights::factor(p));
            if constexpr (Weights::narrow) of_16 = make_words(Weights::scales_of_16(p));
            else of_32 = integers(Weights::scales_of_32(p));
        }
        if constexpr (Weights::has_minimums) Weights::minimums(p, minimums);
    }
};

// Half a super-block of a row times some columns: integer sums, scaled, or for Q8_0 the sums as they are.
template <class Weights, int Half, int Columns>
void add_half(const std::uint8_t* p, const RowScales<Weights>& scales, const std::uint8_t* const (&columns)[Columns],
              const ColumnPlace& at, I (&integer_sum)[Columns], F (&sum)[Columns]) {
    B q[vectors];
    Weights::template unpack<Half>(p, q);
    const std::int64_t first = at.q + Half * half_block;
    if constexpr (Weights::narrow) {
        B words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread_words(scales.of_16, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            const std::uint8_t* const x = columns[c] + first;
            I a = scaled(pairs(q[0], load_bytes(x)), words[0]);
            for (int i = 1; i < vectors; ++i) a = scaled(a, pairs(q[i], load_bytes(x + width * i)), words[i]);
            integer_sum[c] = Half == 0 ? a : integer_sum[c] + a;
        }
    } else if constexpr (Weights::column_scale_of_32) {
        for (int c = 0; c < Columns; ++c) {
            const F both = scales.floats[0] * eight(floats_at(columns[c], at.scale));
            for (int i = 0; i < vectors; ++i) {
                const I a = dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i));
                sum[c] = fma(to_float(a), spread(both, Half * vectors + i), sum[c]);
            }
        }
    } else {
        I words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread(scales.of_32, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            I a = Half == 0 ? zero_sums() : integer_sum[c];
            for (int i = 0; i < vectors; ++i) {
                a = a + multiply(dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i)), words[i]);
            }
            integer_sum[c] = a;
        }
    }
}

// A super-block of a row times some columns, in lanes.
template <class Weights, int Columns>
void add_block(const std::uint8_t* p, const std::uint8_t* const (&columns)[Columns], const ColumnPlace& at,
               F (&sum)[Columns], F (&correction)[Columns]) {
    const RowScales<Weights> scales(p);
    I integer_sum[Columns];
    add_half<Weights, 0>(p, scales, columns, at, integer_sum, sum);
    add_half<Weights, 1>(p, scales, columns, at, integer_sum, sum);
    if constexpr (!Weights::column_scale_of_32) {
        for (int c = 0; c < Columns; ++c) {
            sum[c] = fma(to_float(integer_sum[c]) * scales.factor, set(*floats_at(columns[c], at.scale)), sum[c]);
        }
    }
    if constexpr (Weights::has_minimums) {
        constexpr int count = RowScales<Weights>::count;
        for (int c = 0; c < Columns; ++c) {
            for (int i = 0; i < vectors_for(count); ++i) {
                const float* const sums = floats_at(columns[c], at.sums) + i * lanes;
                correction[c] = fma(scales.minimums[i], count < lanes ? eight(sums) : load(sums), correction[c]);
            }
        }
    }
}

template <class Weights, int Columns>
void by_rows(const Product& job, std::int64_t first_column) {
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[first_column + c];
    const std::int64_t blocks = job.k / super_block;
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::uint8_t* const row = job.weights + r * job.row_step;
        F sum[Columns], correction[Columns];
        for (int c = 0; c < Columns; ++c) sum[c] = correction[c] = zero();
        for (std::int64_t b = 0; b < blocks; ++b) {
            prefetch_block<Weights>(row + b * Weights::bytes);
            add_block<Weights>(row + b * Weights::bytes, columns, place<Weights>(job.k, b), sum, correction);
        }
        for (int c = 0; c < Columns; ++c) job.out[first_column + c][r] = total(sum[c] - correction[c]);
    }
}

template <class Weights>
void few_columns(const Product& job, std::int64_t first, std::int64_t count) {
    switch (count) {
        case 1: return by_rows<Weights, 1>(job, first);
        case 2: return by_rows<Weights, 2>(job, first);
        case 3: return by_rows<Weights, 3>(job, first);
        case 4: return by_rows<Weights, 4>(job, first);
        case 5: return by_rows<Weights, 5>(job, first);
        case 6: return by_rows<Weights, 6>(job, first);
        case 7: return by_rows<Weights, 7>(job, first);
        default: return by_rows<Weights, 8>(job, first);
    }
}
