// Rows times weights. A row's numbers never depend on the rows beside it: an output is the sum of what some columns at
// a time give, each summed in sixteen lanes and then by halves, whatever the tile; products that are not of whole
// vectors are fused with their sums explicitly, since a compiler may do so in one tile and not in another.
#pragma once

#include <type_traits>
#include <utility>

#include "weights.h"

constexpr int64_t AHEAD_OUTS = 8;  // outputs further on, whose weights are fetched meanwhile
constexpr int64_t STRIDE = 16;     // outputs of which threads have whole shares: a cache line of floats
constexpr int64_t FEW_GROUPS = 4;  // of rows, up to which weights are used as they lie
constexpr int64_t DEEP = 4096;     // bytes of a row's inputs: those of a group stay in the nearest cache

struct Range {
    int64_t first, end;
};

// The share of a thread, in whole strides.
inline Range share(int64_t n, int64_t stride, int thread, int n_threads) {
    int64_t strides = (n + stride - 1) / stride;
    int64_t first = strides * thread / n_threads * stride, end = strides * (thread + 1) / n_threads * stride;
    return {first < n ? first : n, end < n ? end : n};
}

// Outputs of a tile of so many rows.
constexpr int64_t outs_of(int64_t n_rows) {
    if (n_rows == 1) return OUTS_OF_ONE;
    int64_t outs = 1;
    while (2 * outs * n_rows <= LARGEST_TILE) outs *= 2;
    return outs;
}

// A row's columns in as few parts as may be, of about the same number of blocks.
struct Parts {
    int64_t block, blocks, n;
    Parts(int64_t n_in, int64_t block, int64_t most)
        : block(block), blocks(n_in / block), n(blocks ? (blocks * block + most - 1) / most : 1) {}
    Range of(int64_t part) const { return {blocks * part / n * block, blocks * (part + 1) / n * block}; }
};

// Calls with a number of rows that the compiler knows.
template <int HEIGHT = ROWS, class Call>
inline void with_height(int64_t height, const Call& call) {
    if constexpr (HEIGHT > 1)
        if (height < HEIGHT) return with_height<HEIGHT - 1>(height, call);
    call(std::integral_constant<int, HEIGHT>());
}

template <class Weights>
using VectorsOf = decltype(std::declval<const Weights&>().at(0, 0));

// Where a tile of N_OUT outputs finds its weights.
template <int N_OUT, class Weights>
struct Outs {
    typedef VectorsOf<Weights> Some;
    const Weights& w;
    int64_t out;
    Outs(const Weights& w, int64_t out) : w(w), out(out) {}
    [[gnu::always_inline]] VectorsOf<Weights> at(int o, int64_t column) const { return w.at(out + o, column); }
};

// Some columns of some outputs, as vectors in the order in which tiles read them: made once for many rows.
template <class Weights>
struct Packed {
    typedef typename Weights::Input Input;
    typedef typename Weights::Sum Sum;
    typedef VectorsOf<Weights> Some;
    static constexpr int64_t block = Weights::block, most_blocks = DEEP / sizeof(Input) / block;
    static constexpr int TOGETHER = outs_of(ROWS);  // outputs whose blocks lie beside each other
    int64_t n_in, n_blocks;
    Range outs, columns;
    Some some[NEAR_OUTS * most_blocks];

    void pack(const Weights& w, Range of_outs, Range of_columns) {
        n_in = w.n_in, outs = of_outs, columns = of_columns, n_blocks = (columns.end - columns.first) / block;
        for (int64_t out = outs.first; out < outs.end; out++) {
            Some* into = begin(out);
            for (int64_t column = columns.first; column < columns.end; column += block, into += together(out)) {
                w.prefetch(out + AHEAD_OUTS, column);
                *into = w.at(out, column);
            }
        }
    }
    int64_t together(int64_t out) const {
        return (out - outs.first) / TOGETHER * TOGETHER + TOGETHER <= outs.end - outs.first ? TOGETHER : 1;
    }
    Some* begin(int64_t out) {
        const int64_t place = out - outs.first, first = place / together(out) * together(out);
        return some + first * n_blocks + place - first;
    }
    void prefetch(int64_t, int64_t) const {}
};

template <int N_OUT, class Weights>
struct Outs<N_OUT, Packed<Weights>> {
    typedef Packed<Weights> W;
    typedef VectorsOf<Weights> Some;
    static constexpr int NEAR = N_OUT < W::TOGETHER ? N_OUT : W::TOGETHER;
    const VectorsOf<Weights>* some;
    int64_t first, stride, tiles;
    Outs(const W& w, int64_t out)
        : some(const_cast<W&>(w).begin(out)), first(w.columns.first), stride(N_OUT > 1 ? NEAR : w.together(out)),
          tiles(NEAR * w.n_blocks) {}
    [[gnu::always_inline]] VectorsOf<Weights> at(int o, int64_t column) const {
        return some[o / NEAR * tiles + (column - first) / W::block * (N_OUT > 1 ? NEAR : stride) + o % NEAR];
    }
};

// What some columns give, of N_ROWS rows and N_OUT outputs, rows first. `next` says how many weights further on lie
// those that will be used soon.
template <int N_OUT, int N_ROWS, class Weights>
inline typename Weights::Sum tile(const Weights& w, int64_t out, Range columns, const typename Weights::Input* x,
                                  int64_t next) {
    typedef typename Outs<N_OUT, Weights>::Some Some;
    const Outs<N_OUT, Weights> weights(w, out);
    constexpr int64_t block = Weights::block, n_vectors = Some::n;
    typename Weights::Sum sums[N_ROWS * N_OUT];
    for (int i = 0; i < N_ROWS * N_OUT; i++) sums[i] = typename Weights::Sum{};
    for (int64_t column = columns.first; column < columns.end; column += block) {
        Some some[N_OUT];
        for (int o = 0; o < N_OUT; o++) {
            w.prefetch(out + o, column + next);
            some[o] = weights.at(o, column);
        }
        for (int v = 0; v < n_vectors; v++)
            for (int row = 0; row < N_ROWS; row++)
                for (int o = 0; o < N_OUT; o++) {
                    const auto* from = x + column * N_ROWS + row * block + v * (block / n_vectors);
                    auto& sum = sums[row * N_OUT + o];
                    sum = add_products(sum, some[o].of[v], load<typename Some::One>(from));
                }
    }
    return totals(sums);
}

// Adds what some columns give to what was found of outputs and one group of rows by the columns before them.
template <int N_ROWS, class Weights>
inline void add_columns(const Weights& w, Range outs, Range columns, const typename Weights::Input* x,
                        typename Weights::Sum* found) {
    constexpr int N_OUT = outs_of(N_ROWS);
    const int64_t whole = w.n_in / Weights::block * Weights::block;
    // Weights lie in the order of their outputs; the next ones are AHEAD_OUTS further on.
    const auto next_of = [&](int64_t out) {
        if (out + AHEAD_OUTS < outs.end) return AHEAD_OUTS * w.n_in;
        if (columns.end < whole) return (AHEAD_OUTS - (outs.end - outs.first)) * w.n_in + columns.end - columns.first;
        return AHEAD_OUTS * w.n_in - columns.first;
    };
    if (columns.first == 0) memset(found, 0, (outs.end - outs.first) * sizeof *found);
    int64_t out = outs.first;
    for (; N_OUT > 1 && out + N_OUT <= outs.end; out += N_OUT)
        found[out - outs.first] += tile<N_OUT, N_ROWS>(w, out, columns, x, next_of(out));
    for (; out < outs.end; out++) found[out - outs.first] += tile<1, N_ROWS>(w, out, columns, x, next_of(out));
}

// The numbers of one of some rows, from those of tiles of N_OUT outputs or fewer.
template <int64_t N_OUT = OUTS_OF_ONE, class Sum, class Number>
inline void take_row(const Sum* found, int64_t row, int64_t n_rows, int64_t n, Number* into) {
    if constexpr (N_OUT > 1)
        if (outs_of(n_rows) < N_OUT) return take_row<N_OUT / 2>(found, row, n_rows, n, into);
    const int64_t in_tiles = n / N_OUT * N_OUT;
    for (int64_t out = 0; out < in_tiles; out += N_OUT)
        for (int64_t o = 0; o < N_OUT; o++) into[out + o] = found[out][row * N_OUT + o];
    for (int64_t out = in_tiles; out < n; out++) into[out] = found[out][row];
}

// Where the results of a product belong; rows of bytes are those of the inputs, then those of their residuals.
struct Results {
    float* y;
    int64_t stride, n_rows;
    const float* steps;  // of each row of bytes
};

inline float as_float(float value) { return value; }
inline float as_float(uint16_t bfloat16) { return upcast(bfloat16); }

// Puts what was found where it belongs, with the columns behind the last block.
template <class Weights>
inline void finish(const Weights& w, Range outs, Range rows, const typename Weights::Input* behind,
                   const Floats* found, const Results& to) {
    const int64_t whole = w.n_in / BLOCK * BLOCK, left = w.n_in - whole, n = outs.end - outs.first;
    for (int64_t row = rows.first; row < rows.end; row++) {
        const int64_t place = row - rows.first;
        float* const into = to.y + row * to.stride + outs.first;
        take_row(found, place, rows.end - rows.first, n, into);
        for (int64_t i = 0; i < left; i++)
            for (int64_t o = 0; o < n; o++)
                into[o] = fmaf(w.one(outs.first + o, whole + i), as_float(behind[place * left + i]), into[o]);
    }
}

inline void finish(const Int8& w, Range outs, Range rows, const uint8_t* behind, const Ints* found, const Results& to) {
    const int64_t whole = w.n_in / BYTES * BYTES, left = w.n_in - whole, n = outs.end - outs.first;
    for (int64_t row = rows.first; row < rows.end; row++) {
        const int64_t place = row - rows.first;
        int32_t sums[NEAR_OUTS];
        take_row(found, place, rows.end - rows.first, n, sums);
        for (int64_t i = 0; i < left; i++)
            for (int64_t o = 0; o < n; o++) sums[o] += w.one(outs.first + o, whole + i) * behind[place * left + i];
        const bool adds = row >= to.n_rows;
        const float step = to.steps[row];
        float* const into = to.y + (row - adds * to.n_rows) * to.stride + outs.first;
        for (int64_t o = 0; o < n; o++) {
            const float value =
                float(sums[o] - int32_t(ZERO_POINT) * w.sums[outs.first + o]) * w.scales[outs.first + o];
            into[o] = adds ? fmaf(value, step, into[o]) : value * step;
        }
    }
}

// y (rows, ...) = x (rows, n_in) · weights of some outputs. A few outputs meet all rows while their weights are near,
// some columns at a time, whose inputs stay in the nearest cache meanwhile. For many rows weights are packed.
template <bool PACKS, class Weights>
inline void multiply_groups(const Weights& w, Range outs, int64_t n_rows, const typename Weights::Input* x,
                            const Results& to) {
    typedef typename Weights::Sum Sum;
    constexpr int64_t MOST = PACKS ? NEAR_GROUPS : FEW_GROUPS;
    const int64_t whole = w.n_in / Weights::block * Weights::block, n_groups = groups_of(n_rows);
    const Parts parts(w.n_in, Weights::block, DEEP / sizeof *x);
    Sum found[MOST][NEAR_OUTS];
    std::conditional_t<PACKS, Packed<Weights>, Range> packed;
    for (int64_t out = outs.first; out < outs.end; out += NEAR_OUTS) {
        const Range near = {out, out + NEAR_OUTS < outs.end ? out + NEAR_OUTS : outs.end};
        for (int64_t first = 0; first < n_groups; first += MOST) {
            const auto each_group = [&](const auto& call) {
                for (int64_t i = 0; i < MOST && first + i < n_groups; i++) {
                    const int64_t row = first_row(first + i, n_rows), end = first_row(first + i + 1, n_rows);
                    with_height(end - row, [&](auto height) { call(height, row, found[i]); });
                }
            };
            for (int64_t part = 0; part < parts.n; part++) {
                const Range columns = parts.of(part);
                const auto add = [&](const auto& weights) {
                    each_group([&](auto height, int64_t row, Sum* into) {
                        add_columns<height()>(weights, near, columns, x + row * w.n_in, into);
                    });
                };
                if constexpr (PACKS) {
                    packed.pack(w, near, columns);
                    add(packed);
                } else {
                    add(w);
                }
            }
            each_group([&](auto height, int64_t row, const Sum* from) {
                finish(w, near, {row, row + height()}, x + row * w.n_in + whole * height(), from, to);
            });
        }
    }
}

template <class Weights>
inline void multiply(const Weights& w, Range outs, int64_t n_rows, const typename Weights::Input* x,
                     const Results& to) {
    if (groups_of(n_rows) > FEW_GROUPS)
        multiply_groups<true>(w, outs, n_rows, x, to);
    else
        multiply_groups<false>(w, outs, n_rows, x, to);
}

inline void product(const Matrix& m, const Inputs& in, Range outs, int64_t n_rows, float* y, int64_t y_stride) {
    const int64_t n_in = m.n_in;
    const Results to = {y, y_stride, n_rows, in.steps};
    switch (m.kind) {
        case FLOAT32:
            return multiply(Float32(m.weights, n_in), outs, n_rows, in.floats, to);
        case BFLOAT16:
            return multiply(BFloat16(m.weights, n_in), outs, n_rows, (const BFloat16::Input*)in.floats, to);
        case INT4:
            return multiply(Int4(m.weights, m.scales, n_in), outs, n_rows, (const Int4::Input*)in.floats, to);
#if HAS_BYTE_PRODUCTS
        default:
            return multiply(Int8{(const int8_t*)m.weights, (const float*)m.scales, m.sums, n_in}, outs,
                            roundings_of(m.kind) * n_rows, in.bytes, to);
#endif
    }
}
