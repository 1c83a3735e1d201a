// Rows times weights. A row's numbers never depend on the rows beside it: an output is the sum of what some columns at
// a time give, each summed in sixteen lanes and then by halves, whatever the tile; products that are not of whole
// vectors are fused with their sums explicitly, since a compiler may do so in one tile and not in another.
#pragma once

#include <type_traits>

#include "weights.h"

// How many numbers a tile may have, as the registers allow, and how many outputs meet how many groups of rows before
// the next ones, their weights staying in a core's cache.
#ifdef __AVX512F__
constexpr int OUTS_OF_ONE = 8, LARGEST_TILE = 16;
constexpr int64_t NEAR_OUTS = 64, NEAR_GROUPS = 4;
constexpr bool WIDENS_INT4 = false;  // as each of its weights meets so many rows
#else
constexpr int OUTS_OF_ONE = 4, LARGEST_TILE = 4;
constexpr int64_t NEAR_OUTS = 16, NEAR_GROUPS = 16;
constexpr bool WIDENS_INT4 = true;
#endif
constexpr int64_t AHEAD_OUTS = 8;  // outputs further on, whose weights are fetched meanwhile
constexpr int64_t STRIDE = 16;     // outputs of which threads have whole shares: a cache line of floats
constexpr int64_t DEEP = 576;      // columns whose inputs, of one group, stay in the nearest cache

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
constexpr int outs_of(int n_rows) {
    if (n_rows == 1) return OUTS_OF_ONE;
    int outs = 1;
    while (2 * outs * n_rows <= LARGEST_TILE) outs *= 2;
    return outs;
}

// A row's columns in as few parts as may be, of about the same number of blocks.
struct Parts {
    int64_t blocks, n;
    explicit Parts(int64_t n_in) : blocks(n_in / BLOCK), n(blocks ? (blocks * BLOCK + DEEP - 1) / DEEP : 1) {}
    Range of(int64_t part) const { return {blocks * part / n * BLOCK, blocks * (part + 1) / n * BLOCK}; }
};

// Calls with a number of rows that the compiler knows.
template <int HEIGHT = ROWS, class Call>
inline void with_height(int64_t height, const Call& call) {
    if constexpr (HEIGHT > 1)
        if (height < HEIGHT) return with_height<HEIGHT - 1>(height, call);
    call(std::integral_constant<int, HEIGHT>());
}

// What some columns give, of N_ROWS rows and N_OUT outputs, rows first. `next` says how many weights further on lie
// those that will be used soon.
template <class Weights, int N_OUT, int N_ROWS>
inline Floats tile(const Weights& w, int64_t out, Range columns, const float* x, int64_t next) {
    Floats sums[N_ROWS * N_OUT];
    for (int i = 0; i < N_ROWS * N_OUT; i++) sums[i] = Floats{};
    for (int64_t column = columns.first; column < columns.end; column += BLOCK) {
        Pair pairs[N_OUT];
        for (int o = 0; o < N_OUT; o++) {
            w.prefetch(out + o, column + next);
            pairs[o] = w.at(out + o, column);
        }
        const float* of_block = x + column * N_ROWS;
        for (int row = 0; row < N_ROWS; row++)
            for (int o = 0; o < N_OUT; o++)
                sums[row * N_OUT + o] += pairs[o].first * load<Floats>(of_block + row * BLOCK);
        for (int row = 0; row < N_ROWS; row++)
            for (int o = 0; o < N_OUT; o++)
                sums[row * N_OUT + o] += pairs[o].second * load<Floats>(of_block + row * BLOCK + LANES);
    }
    return totals(sums);
}

// Some columns of some outputs' int4 weights as floats, made once for several groups of rows.
struct Widened {
    int64_t n_in, first_out, first_column;
    float floats[NEAR_OUTS * DEEP];
    Widened(const Int4& w, Range outs, Range columns)
        : n_in(w.n_in), first_out(outs.first), first_column(columns.first) {
        for (int64_t out = outs.first; out < outs.end; out++)
            for (int64_t column = columns.first; column < columns.end; column += BLOCK) {
                w.prefetch(out + AHEAD_OUTS, column);
                const Pair pair = w.at(out, column);
                memcpy(floats + (out - first_out) * DEEP + (column - first_column), &pair, sizeof pair);
            }
    }
    void prefetch(int64_t, int64_t) const {}
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        const float* from = floats + (out - first_out) * DEEP + (column - first_column);
        return {load<Floats>(from), load<Floats>(from + LANES)};
    }
};

// Adds what some columns give to what was found of outputs and one group of rows.
template <int N_ROWS, class Weights>
inline void add_columns(const Weights& w, Range outs, Range columns, const float* x, Floats* found) {
    constexpr int N_OUT = outs_of(N_ROWS);
    const int64_t whole = w.n_in / BLOCK * BLOCK;
    // Weights lie in the order of their outputs; the next ones are AHEAD_OUTS further on.
    const auto next_of = [&](int64_t out) {
        if (out + AHEAD_OUTS < outs.end) return AHEAD_OUTS * w.n_in;
        if (columns.end < whole) return (AHEAD_OUTS - (outs.end - outs.first)) * w.n_in + columns.end - columns.first;
        return AHEAD_OUTS * w.n_in - columns.first;
    };
    int64_t out = outs.first;
    for (; out + N_OUT <= outs.end; out += N_OUT)
        found[out - outs.first] += tile<Weights, N_OUT, N_ROWS>(w, out, columns, x, next_of(out));
    for (; out < outs.end; out++) found[out - outs.first] += tile<Weights, 1, N_ROWS>(w, out, columns, x, next_of(out));
}

// Puts what tiles found where it belongs, and adds the columns behind the last block.
template <class Weights, int N_ROWS>
inline void finish(const Weights& w, Range outs, const float* behind, const Floats* found, float* y, int64_t y_stride) {
    constexpr int64_t N_OUT = outs_of(N_ROWS);
    const int64_t whole = w.n_in / BLOCK * BLOCK, left = w.n_in - whole,
                  in_tiles = (outs.end - outs.first) / N_OUT * N_OUT;
    for (int64_t row = 0; row < N_ROWS; row++) {
        float* const into = y + row * y_stride + outs.first;
        for (int64_t out = 0; out < in_tiles; out += N_OUT)
            for (int64_t o = 0; o < N_OUT; o++) into[out + o] = found[out][row * N_OUT + o];
        for (int64_t out = in_tiles; out < outs.end - outs.first; out++) into[out] = found[out][row];
        for (int64_t i = 0; i < left; i++)
            for (int64_t out = 0; out < outs.end - outs.first; out++)
                into[out] = fmaf(w.one(outs.first + out, whole + i), behind[row * left + i], into[out]);
    }
}

// y (rows, ...) = x (rows, n_in) · weights of some outputs. A few outputs meet all rows while their weights are near,
// some columns at a time, whose inputs stay in the nearest cache meanwhile.
template <class Weights>
inline void multiply(const Weights& w, Range outs, int64_t n_rows, const float* x, float* y, int64_t y_stride) {
    const int64_t whole = w.n_in / BLOCK * BLOCK, n_groups = groups_of(n_rows);
    const Parts parts(w.n_in);
    Floats found[NEAR_GROUPS][NEAR_OUTS];
    for (int64_t out = outs.first; out < outs.end; out += NEAR_OUTS) {
        const Range near = {out, out + NEAR_OUTS < outs.end ? out + NEAR_OUTS : outs.end};
        for (int64_t first = 0; first < n_groups; first += NEAR_GROUPS) {
            const auto each_group = [&](const auto& call) {
                for (int64_t i = 0; i < NEAR_GROUPS && first + i < n_groups; i++) {
                    const int64_t row = first_row(first + i, n_rows), end = first_row(first + i + 1, n_rows);
                    with_height(end - row, [&](auto height) { call(height, row, found[i]); });
                }
            };
            each_group([&](auto, int64_t, Floats* into) { memset(into, 0, sizeof found[0]); });
            for (int64_t part = 0; part < parts.n; part++) {
                const Range columns = parts.of(part);
                const auto add = [&](const auto& weights) {
                    each_group([&](auto height, int64_t row, Floats* into) {
                        add_columns<height()>(weights, near, columns, x + row * w.n_in, into);
                    });
                };
                if constexpr (WIDENS_INT4 && std::is_same_v<Weights, Int4>)
                    if (n_groups > 1) {
                        add(Widened(w, near, columns));
                        continue;
                    }
                add(w);
            }
            each_group([&](auto height, int64_t row, const Floats* from) {
                finish<Weights, height()>(w, near, x + row * w.n_in + whole * height(), from, y + row * y_stride,
                                          y_stride);
            });
        }
    }
}

#if HAS_BYTE_PRODUCTS
constexpr int64_t BYTES = 64;      // int8 weights that are multiplied together
constexpr int64_t AHEAD = 1024;    // bytes of them that are fetched ahead
constexpr int64_t NEAR = 1 << 18;  // bytes of inputs that stay in a core's cache
constexpr int BYTE_OUTS = 4, BYTE_ROWS = 4;

typedef uint8_t Bytes __attribute__((vector_size(BYTES)));

// Adds, in each of 16 sums, four products of an unsigned and a signed byte.
inline Ints add_products(Ints sums, Bytes x, Bytes w) {
#ifdef __AVX512VNNI__
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
#else
    __m256i halves[3][2];
    memcpy(halves[0], &sums, BYTES), memcpy(halves[1], &x, BYTES), memcpy(halves[2], &w, BYTES);
    for (int half = 0; half < 2; half++)
        halves[0][half] = _mm256_dpbusd_avx_epi32(halves[0][half], halves[1][half], halves[2][half]);
    return load<Ints>(halves[0]);
#endif
}

// Sums are exact, so their order does not matter. Rows of inputs are those of all digits.
template <int N_OUT, int N_ROWS>
inline void byte_tile(const Matrix& m, int64_t out, int64_t row, const Inputs& in, float* y, int64_t y_stride,
                      bool adds) {
    Ints sums[N_ROWS * N_OUT];
    for (int i = 0; i < N_ROWS * N_OUT; i++) sums[i] = Ints{};
    const int8_t* w = (const int8_t*)m.weights + out * m.n_in;
    const uint8_t* x = in.bytes + row * m.n_in;
    const int64_t whole = m.n_in / BYTES * BYTES;
    for (int64_t column = 0; column < whole; column += BYTES) {
        Bytes of_row[N_ROWS];
        for (int r = 0; r < N_ROWS; r++) of_row[r] = load<Bytes>(x + r * m.n_in + column);
        for (int o = 0; o < N_OUT; o++) {
            if (row == 0) __builtin_prefetch(w + o * m.n_in + column + AHEAD, 0, 2);
            Bytes bytes = load<Bytes>(w + o * m.n_in + column);
            for (int r = 0; r < N_ROWS; r++) sums[r * N_OUT + o] = add_products(sums[r * N_OUT + o], of_row[r], bytes);
        }
    }
    const Ints all = totals(sums);
    int32_t found[LANES];
    memcpy(found, &all, sizeof found);
    for (int r = 0; r < N_ROWS; r++) {
        for (int64_t column = whole; column < m.n_in; column++)
            for (int o = 0; o < N_OUT; o++)
                found[r * N_OUT + o] += int32_t(x[r * m.n_in + column]) * int32_t(w[o * m.n_in + column]);
        float* into = y + r * y_stride + out;
        for (int o = 0; o < N_OUT; o++) {
            float value = float(found[r * N_OUT + o] - int32_t(ZERO_POINT) * m.sums[out + o]);
            value *= ((const float*)m.scales)[out + o];
            into[o] = adds ? fmaf(value, in.steps[row + r], into[o]) : value * in.steps[row + r];
        }
    }
}

template <int N_OUT, int N_ROWS>
inline void byte_tiles(const Matrix& m, Range outs, int64_t row, const Inputs& in, float* y, int64_t y_stride,
                       bool adds) {
    int64_t out = outs.first;
    for (; out + N_OUT <= outs.end; out += N_OUT) byte_tile<N_OUT, N_ROWS>(m, out, row, in, y, y_stride, adds);
    for (; out < outs.end; out++) byte_tile<1, N_ROWS>(m, out, row, in, y, y_stride, adds);
}

inline void multiply_bytes(const Matrix& m, Range outs, int64_t n_rows, const Inputs& in, float* y, int64_t y_stride) {
    const int64_t near = NEAR / m.n_in > BYTE_ROWS ? NEAR / m.n_in / BYTE_ROWS * BYTE_ROWS
                                                   : BYTE_ROWS;  // rows whose inputs stay in a core's cache
    for (int64_t begin = 0; begin < n_rows; begin += near) {
        const int64_t end = begin + near < n_rows ? begin + near : n_rows;
        for (int64_t out = outs.first; out < outs.end; out += STRIDE) {
            Range few = {out, out + STRIDE < outs.end ? out + STRIDE : outs.end};
            for (int64_t digit = 0; digit < digits_of(m.kind); digit++) {
                int64_t row = begin, first = digit * n_rows;
                for (; row + BYTE_ROWS <= end; row += BYTE_ROWS)
                    byte_tiles<BYTE_OUTS, BYTE_ROWS>(m, few, first + row, in, y + row * y_stride, y_stride, digit);
                for (; row < end; row++)
                    byte_tiles<OUTS_OF_ONE, 1>(m, few, first + row, in, y + row * y_stride, y_stride, digit);
            }
        }
    }
}
#endif

inline void product(const Matrix& m, const Inputs& in, Range outs, int64_t n_rows, float* y, int64_t y_stride) {
    const int64_t n_in = m.n_in;
    switch (m.kind) {
        case FLOAT32:
            return multiply(Float32(m.weights, m.scales, n_in), outs, n_rows, in.floats, y, y_stride);
        case BFLOAT16:
            return multiply(BFloat16(m.weights, m.scales, n_in), outs, n_rows, in.floats, y, y_stride);
        case INT4:
            return multiply(Int4(m.weights, m.scales, n_in), outs, n_rows, in.floats, y, y_stride);
#if HAS_BYTE_PRODUCTS
        default:
            return multiply_bytes(m, outs, n_rows, in, y, y_stride);
#endif
    }
}
