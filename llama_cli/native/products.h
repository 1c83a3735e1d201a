// Rows times weights, tile by tile. A row's numbers never depend on the rows beside it: each output of a row is summed
// in the same order in every tile, and products that are not of whole vectors are fused with their sums explicitly,
// since a compiler may do so in one tile and not in another.
#pragma once

#include <type_traits>
#include <vector>

#include "weights.h"

// Outputs and rows of a tile, as the registers allow.
#ifdef __AVX512F__
constexpr int OUTS_OF_ONE = 8, OUTS = 4, ROWS = 4;
#else
constexpr int OUTS_OF_ONE = 4, OUTS = 2, ROWS = 2;
#endif
constexpr int64_t STRIDE = 16;     // outputs that meet all rows before the next ones: a cache line of floats
constexpr int64_t DEEP = 512;      // columns of a panel that stay in the nearest cache
constexpr int64_t BYTES = 64;      // int8 weights that are multiplied together
constexpr int64_t NEAR = 1 << 18;  // bytes of inputs that stay in a core's cache

struct Range {
    int64_t first, end;
};

// The share of a thread, in whole strides.
inline Range share(int64_t n, int64_t stride, int thread, int n_threads) {
    int64_t strides = (n + stride - 1) / stride;
    int64_t first = strides * thread / n_threads * stride, end = strides * (thread + 1) / n_threads * stride;
    return {first < n ? first : n, end < n ? end : n};
}

// Which part of a few outputs' weights a tile fetches for the next few, while several tiles of rows use these ones.
struct Turn {
    int64_t number, of;
};
constexpr Turn NEVER = {INT64_MAX, 2};  // they have been fetched

// Calls with a number of rows that the compiler knows.
template <int HEIGHT = ROWS, class Call>
inline void with_height(int64_t height, const Call& call) {
    if constexpr (HEIGHT > 1)
        if (height < HEIGHT) return with_height<HEIGHT - 1>(height, call);
    call(std::integral_constant<int, HEIGHT>());
}

// Rows in as few groups as their tiles allow, all of about the same height.
template <class Call>
inline void in_groups(Range rows, const Call& call) {
    const int64_t n = rows.end - rows.first, n_groups = (n + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < n_groups; i++) {
        const int64_t first = n * i / n_groups, end = n * (i + 1) / n_groups;
        with_height(end - first, [&](auto height) { call(height, rows.first + first, Turn{i, n_groups}); });
    }
}

template <class Weights, int N_OUT, int N_ROWS>
inline void tile(const Weights& w, int64_t out, const float* x, int64_t x_stride, float* y, int64_t y_stride,
                 Turn fetch = {0, 1}) {
    Floats sums[N_ROWS][N_OUT];
    for (int row = 0; row < N_ROWS; row++)
        for (int o = 0; o < N_OUT; o++) sums[row][o] = Floats{};
    const int64_t n_in = w.n_in, whole = n_in / BLOCK * BLOCK;
    int64_t until_turn = fetch.number;
    for (int64_t column = 0; column < whole; column += BLOCK) {
        const bool fetches = until_turn-- == 0;
        if (fetches) until_turn = fetch.of - 1;
        Floats first[N_ROWS], second[N_ROWS];
        for (int row = 0; row < N_ROWS; row++) {
            first[row] = load<Floats>(x + row * x_stride + column);
            second[row] = load<Floats>(x + row * x_stride + column + LANES);
        }
        for (int o = 0; o < N_OUT; o++) {
            if (fetch.of == 1)
                w.prefetch(out + o, column + Weights::ahead);
            else if (fetches)
                w.prefetch(out + o + STRIDE, column);
            Pair pair = w.at(out + o, column);
            for (int row = 0; row < N_ROWS; row++) {
                sums[row][o] += pair.first * first[row];
                sums[row][o] += pair.second * second[row];
            }
        }
    }
    float found[N_ROWS][N_OUT];
    total_tile<N_OUT, N_ROWS>(sums, found);
    for (int row = 0; row < N_ROWS; row++) {
        for (int64_t column = whole; column < n_in; column++)
            for (int o = 0; o < N_OUT; o++)
                found[row][o] = fmaf(w.one(out + o, column), x[row * x_stride + column], found[row][o]);
        memcpy(y + row * y_stride + out, found[row], sizeof found[row]);
    }
}

template <class Weights, int N_OUT, int N_ROWS>
inline void column_of_tiles(const Weights& w, Range outs, const float* x, int64_t x_stride, float* y, int64_t y_stride,
                            Turn fetch = {0, 1}) {
    int64_t out = outs.first;
    for (; out + N_OUT <= outs.end; out += N_OUT) tile<Weights, N_OUT, N_ROWS>(w, out, x, x_stride, y, y_stride, fetch);
    for (; out < outs.end; out++) tile<Weights, 1, N_ROWS>(w, out, x, x_stride, y, y_stride);
}

// Adds some columns to the sums (PANEL, STRIDE) of a panel's rows.
template <class Weights, int N_OUT>
inline void add_to_panel(const Weights& w, int64_t out, Range columns, const float* x, Floats* kept) {
    Floats sums[PANEL][N_OUT];
    for (int row = 0; row < PANEL; row++)
        for (int o = 0; o < N_OUT; o++) sums[row][o] = kept[row * STRIDE + o];
    for (int64_t column = columns.first; column < columns.end; column += BLOCK) {
        Pair pairs[N_OUT];
        for (int o = 0; o < N_OUT; o++) {
            w.prefetch(out + o + STRIDE, column);
            pairs[o] = w.at(out + o, column);
        }
        for (int row = 0; row < PANEL; row++) {
            const float* of_row = x + column * PANEL + row * BLOCK;
            Floats first = load<Floats>(of_row), second = load<Floats>(of_row + LANES);
            for (int o = 0; o < N_OUT; o++) {
                sums[row][o] += pairs[o].first * first;
                sums[row][o] += pairs[o].second * second;
            }
        }
    }
    for (int row = 0; row < PANEL; row++)
        for (int o = 0; o < N_OUT; o++) kept[row * STRIDE + o] = sums[row][o];
}

// A panel and at most STRIDE outputs: the inputs are used some columns at a time, and every weight is read once.
template <class Weights>
inline void multiply_panel(const Weights& w, Range outs, const float* x, float* y, int64_t y_stride) {
    Floats kept[PANEL][STRIDE] = {};
    const int64_t whole = w.n_in / BLOCK * BLOCK, behind = w.n_in - whole, n = outs.end - outs.first;
    for (int64_t begin = 0; begin < whole; begin += DEEP) {
        const Range columns = {begin, begin + DEEP < whole ? begin + DEEP : whole};
        int64_t o = 0;
        for (; o + 2 <= n; o += 2) add_to_panel<Weights, 2>(w, outs.first + o, columns, x, kept[0] + o);
        if (o < n) add_to_panel<Weights, 1>(w, outs.first + o, columns, x, kept[0] + o);
    }
    for (int64_t row = 0; row < PANEL; row++) {
        const Floats found = totals(kept[row]);
        float* into = y + row * y_stride + outs.first;
        memcpy(into, &found, n * sizeof *into);
        for (int64_t i = 0; i < behind; i++)
            for (int64_t o = 0; o < n; o++)
                into[o] = fmaf(w.one(outs.first + o, whole + i), x[whole * PANEL + row * behind + i], into[o]);
    }
}

template <class Weights>
void multiply(const Weights&, Range, int64_t, const float*, int64_t, float*, int64_t);

// Int4 weights of a tile's outputs are made floats once, not for each tile of rows.
inline void multiply_widened(const Int4& w, Range outs, int64_t n_rows, const float* x, int64_t x_stride, float* y,
                             int64_t y_stride) {
    static thread_local std::vector<float> room;
    room.resize(OUTS * w.n_in);
    float* const wide = room.data();
    for (int64_t out = outs.first; out < outs.end; out += OUTS) {
        const int64_t n = out + OUTS < outs.end ? OUTS : outs.end - out;
        for (int64_t column = 0; column < w.n_in; column += BLOCK)
            for (int64_t o = 0; o < n; o++) {
                w.prefetch(out + o + OUTS, column);
                Pair pair = w.at(out + o, column);
                memcpy(wide + o * w.n_in + column, &pair, sizeof pair);
            }
        multiply(NearFloat32(wide, nullptr, w.n_in), {0, n}, n_rows, x, x_stride, y + out, y_stride);
    }
}

// y (rows, ...) = x (rows, n_in) · weights of some outputs. A few outputs at a time meet all rows while they are near.
template <class Weights>
void multiply(const Weights& w, Range outs, int64_t n_rows, const float* x, int64_t x_stride, float* y,
              int64_t y_stride) {
    if (n_rows == 1) return column_of_tiles<Weights, OUTS_OF_ONE, 1>(w, outs, x, x_stride, y, y_stride);
    if constexpr (std::is_same_v<Weights, Int4>)
        if (n_rows > 4 * ROWS) return multiply_widened(w, outs, n_rows, x, x_stride, y, y_stride);
    const int64_t in_panels = rows_in_panels(Weights::kind, n_rows);
    for (int64_t out = outs.first; out < outs.end; out += STRIDE) {
        Range few = {out, out + STRIDE < outs.end ? out + STRIDE : outs.end};
        for (int64_t row = 0; row < in_panels; row += PANEL)
            multiply_panel(w, few, x + row * x_stride, y + row * y_stride, y_stride);
        in_groups({in_panels, n_rows}, [&](auto height, int64_t row, Turn turn) {
            column_of_tiles<Weights, OUTS, height()>(w, few, x + row * x_stride, x_stride, y + row * y_stride, y_stride,
                                                     in_panels ? NEVER : turn);
        });
    }
}

#if HAS_BYTE_PRODUCTS
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
    Ints sums[N_ROWS][N_OUT];
    for (int r = 0; r < N_ROWS; r++)
        for (int o = 0; o < N_OUT; o++) sums[r][o] = Ints{};
    const int8_t* w = (const int8_t*)m.weights + out * m.n_in;
    const uint8_t* x = in.bytes + row * m.n_in;
    const int64_t whole = m.n_in / BYTES * BYTES;
    for (int64_t column = 0; column < whole; column += BYTES) {
        Bytes of_row[N_ROWS];
        for (int r = 0; r < N_ROWS; r++) of_row[r] = load<Bytes>(x + r * m.n_in + column);
        for (int o = 0; o < N_OUT; o++) {
            if (row == 0) __builtin_prefetch(w + o * m.n_in + column + AHEAD, 0, 2);
            Bytes bytes = load<Bytes>(w + o * m.n_in + column);
            for (int r = 0; r < N_ROWS; r++) sums[r][o] = add_products(sums[r][o], of_row[r], bytes);
        }
    }
    int32_t found[N_ROWS][N_OUT];
    total_tile<N_OUT, N_ROWS>(sums, found);
    for (int r = 0; r < N_ROWS; r++) {
        for (int64_t column = whole; column < m.n_in; column++)
            for (int o = 0; o < N_OUT; o++)
                found[r][o] += int32_t(x[r * m.n_in + column]) * int32_t(w[o * m.n_in + column]);
        float* into = y + r * y_stride + out;
        for (int o = 0; o < N_OUT; o++) {
            float value = float(found[r][o] - int32_t(ZERO_POINT) * m.sums[out + o]);
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
    const int64_t near =
        NEAR / m.n_in > ROWS ? NEAR / m.n_in / ROWS * ROWS : ROWS;  // rows whose inputs stay in a core's cache
    for (int64_t begin = 0; begin < n_rows; begin += near) {
        const int64_t end = begin + near < n_rows ? begin + near : n_rows;
        for (int64_t out = outs.first; out < outs.end; out += STRIDE) {
            Range few = {out, out + STRIDE < outs.end ? out + STRIDE : outs.end};
            for (int64_t digit = 0; digit < digits_of(m.kind); digit++) {
                int64_t row = begin, first = digit * n_rows;
                for (; row + ROWS <= end; row += ROWS)
                    byte_tiles<OUTS, ROWS>(m, few, first + row, in, y + row * y_stride, y_stride, digit);
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
            return multiply(Float32(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
        case BFLOAT16:
            return multiply(BFloat16(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
        case INT4:
            return multiply(Int4(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
#if HAS_BYTE_PRODUCTS
        default:
            return multiply_bytes(m, outs, n_rows, in, y, y_stride);
#endif
    }
}
