// How weights lie in memory, and how rows of inputs are laid out to meet them.
#pragma once

#include <cmath>

#include "vectors.h"

constexpr int64_t BLOCK = 2 * LANES;  // columns that are read together, as two vectors
constexpr int64_t BYTES = 4 * LANES;  // columns of bytes that are read together, as one
constexpr int64_t GROUP = 32;         // int4 weights that share a scale
constexpr float ZERO_POINT = 128.0f;
constexpr float BYTE_LIMIT = 127.0f;
constexpr float SMALLEST = 1e-12f;  // keeps the step of an all-zero row from dividing by zero

enum Kind : int32_t { FLOAT32, BFLOAT16, INT4, INT8, INT8_RESIDUAL };

// How weights lie, and what makes vectors of a block of their columns. Inputs lie so that they meet: see `prepare`.

struct OfFloats {
    typedef float Input;
    typedef Floats Sum;
    static constexpr int64_t block = BLOCK;
};

struct Float32 : OfFloats {
    static constexpr Kind kind = FLOAT32;
    typedef Float32 AsFloats;
    const float* weights;
    int64_t n_in;
    Float32(const void* weights, int64_t n_in) : weights((const float*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        const char* from = (const char*)(weights + out * n_in + column);
        __builtin_prefetch(from, 0, 2);
        __builtin_prefetch(from + 64, 0, 2);
    }
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        const float* from = weights + out * n_in + column;
        return {load<Floats>(from), load<Floats>(from + LANES)};
    }
    float one(int64_t out, int64_t column) const { return weights[out * n_in + column]; }
};

// As pairs of vectors of floats, the even columns of a block before its odd ones.
struct BFloat16AsFloats : OfFloats {
    static constexpr Kind kind = BFLOAT16;
    typedef BFloat16AsFloats AsFloats;
    const uint16_t* weights;
    int64_t n_in;
    BFloat16AsFloats(const void* weights, int64_t n_in) : weights((const uint16_t*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const { __builtin_prefetch(weights + out * n_in + column, 0, 2); }
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        Words two = load<Words>(weights + out * n_in + column);
        return {(Floats)(two << 16), (Floats)(two & 0xffff0000u)};
    }
    float one(int64_t out, int64_t column) const { return upcast(weights[out * n_in + column]); }
};

#if HAS_BFLOAT16_PRODUCTS
struct BFloat16 {
    typedef uint16_t Input;
    typedef Floats Sum;
    typedef BFloat16AsFloats AsFloats;
    static constexpr int64_t block = BLOCK;
    static constexpr Kind kind = BFLOAT16;
    const uint16_t* weights;
    int64_t n_in;
    BFloat16(const void* weights, int64_t n_in) : weights((const uint16_t*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const { __builtin_prefetch(weights + out * n_in + column, 0, 2); }
    [[gnu::always_inline]] Several<Halves, 1> at(int64_t out, int64_t column) const {
        return {load<Halves>(weights + out * n_in + column)};
    }
    float one(int64_t out, int64_t column) const { return upcast(weights[out * n_in + column]); }
};
#else
typedef BFloat16AsFloats BFloat16;
#endif

// 16 levels; byte k of a group holds column k in its lower half and column k + 16 in its upper one. What a level means is
// rounded to bfloat16 where products are of that.
struct Int4 {
#if HAS_BFLOAT16_PRODUCTS
    typedef uint16_t Input;
#else
    typedef float Input;
#endif
    typedef Floats Sum;
    static constexpr int64_t block = BLOCK;
    const uint8_t* weights;
    const uint16_t* scales;  // of each group: scale, zero point
    int64_t n_in;
    Int4(const void* weights, const void* scales, int64_t n_in)
        : weights((const uint8_t*)weights), scales((const uint16_t*)scales), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        if (column % (4 * GROUP)) return;
        __builtin_prefetch(weights + (out * n_in + column) / 2, 0, 2);
    }
    [[gnu::always_inline]] Pair as_floats(int64_t out, int64_t column) const {
        int64_t group = (out * n_in + column) / GROUP;
        Words both = upcast(load<Nibbles>(weights + group * LANES));
        Words scale = Words{} + load<uint32_t>(scales + 2 * group);
        Floats step = (Floats)(scale << 16), zero = (Floats)(scale & 0xffff0000u);
        return {level(both) * step + zero, level(both >> 4) * step + zero};
    }
#if HAS_BFLOAT16_PRODUCTS
    [[gnu::always_inline]] Several<Halves, 1> at(int64_t out, int64_t column) const {
        const Pair pair = as_floats(out, column);
        return {narrow(pair.of[0], pair.of[1])};
    }
#else
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const { return as_floats(out, column); }
#endif
    float one(int64_t, int64_t) const { return 0; }  // rows are whole groups
};

// A row's sums over weights w and inputs x of 0 to 255, whose 128 means 0.
struct Int8 {
    typedef uint8_t Input;
    typedef Ints Sum;
    static constexpr int64_t block = BYTES;
    const int8_t* weights;
    const float* scales;  // of each output the size of a step
    const int32_t* sums;  // of each output its weights
    int64_t n_in;
    void prefetch(int64_t out, int64_t column) const { __builtin_prefetch(weights + out * n_in + column, 0, 2); }
    [[gnu::always_inline]] Several<Bytes, 1> at(int64_t out, int64_t column) const {
        return {load<Bytes>(weights + out * n_in + column)};
    }
    int32_t one(int64_t out, int64_t column) const { return weights[out * n_in + column]; }
};

struct Matrix {
    const void* weights;  // (n_out, n_in)
    const void* scales;   // of int8: float32 (n_out,); of int4: bfloat16 (n_out, n_in / GROUP, 2)
    const int32_t* sums;  // of int8: of each row's weights
    int64_t n_out, n_in;
    int32_t kind;
};

// Rows are in as few groups as may be, all of about the same height.
inline int64_t groups_of(int64_t n_rows) { return (n_rows + ROWS - 1) / ROWS; }
inline int64_t first_row(int64_t group, int64_t n_rows) { return n_rows * group / groups_of(n_rows); }
inline int64_t group_of(int64_t row, int64_t n_rows) { return ((row + 1) * groups_of(n_rows) - 1) / n_rows; }

// Where the inputs of a row lie. The rows of a group are interleaved by blocks of columns: block 0 of each row, then block
// 1 of each, and so on. Behind them come the columns that fill no block, row by row.
struct Place {
    int64_t first, rows, place, n_in, whole, block;
    Place(int64_t row, int64_t n_rows, int64_t n_in, int64_t block)
        : n_in(n_in), whole(n_in / block * block), block(block) {
        const int64_t group = group_of(row, n_rows);
        first = first_row(group, n_rows), rows = first_row(group + 1, n_rows) - first, place = row - first;
    }
    int64_t of_block(int64_t column) const { return first * n_in + column * rows + place * block; }
    int64_t behind() const { return first * n_in + whole * rows + place * (n_in - whole); }
};

// Rows as a product wants them, in groups: floats in the order of the weights, or bytes with the size of their steps.
struct Inputs {
    float* floats;   // (rows, n_in)
    uint8_t* bytes;  // (roundings · rows, n_in): the rounded rows, then their rounded residuals
    float* steps;    // (roundings · rows,)
};

inline int64_t roundings_of(int32_t kind) { return kind == INT8_RESIDUAL ? 2 : 1; }
inline bool is_bytes(int32_t kind) { return kind >= INT8; }

// The largest magnitude; NaN if any is NaN.
inline float largest_of(const float* x, int64_t n) {
    Words most = {};  // positive floats are ordered as their bits are, NaN above all
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Words some = load<Words>(x + i) & 0x7fffffffu;
        most = some > most ? some : most;
    }
    uint32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < n; i++) {
        uint32_t one = load<uint32_t>(x + i) & 0x7fffffffu;
        largest = one > largest ? one : largest;
    }
    return load<float>(&largest);
}

// A row in bytes of a step that the largest needs, in whole steps around ZERO_POINT. NaN becomes zero: its row's step,
// NaN too, tells of it.
inline void round_row(const float* x, const Place& to, float step, uint8_t* bytes) {
    const auto round = [&](int64_t from, int64_t n, uint8_t* into) {
        for (int64_t i = 0; i < n; i++) {
            const float steps = x[from + i] / step + (ZERO_POINT + 0.5f);
            into[i] = uint8_t(int32_t(steps >= 0.0f ? steps : 0.0f));
        }
    };
    for (int64_t i = 0; i < to.whole; i += BYTES) round(i, BYTES, bytes + to.of_block(i));
    round(to.whole, to.n_in - to.whole, bytes + to.behind());
}

// The residual: what rounding left of a row.
inline void subtract_rounded(const float* x, const Place& at, float step, const uint8_t* bytes, float* residual) {
    const auto subtract = [&](int64_t from, int64_t n, const uint8_t* rounded) {
        for (int64_t i = 0; i < n; i++) residual[from + i] = x[from + i] - step * (float(rounded[i]) - ZERO_POINT);
    };
    for (int64_t i = 0; i < at.whole; i += BYTES) subtract(i, BYTES, bytes + at.of_block(i));
    subtract(at.whole, at.n_in - at.whole, bytes + at.behind());
}

// Puts a row of inputs where a product with weights of that kind looks for it.
inline void prepare(int32_t kind, const float* x, int64_t n_in, int64_t row, int64_t n_rows, const Inputs& in) {
    const int64_t n_roundings = roundings_of(kind);
    if (is_bytes(kind)) {
        float* const residual = in.floats + row * n_in;
        for (int64_t rounding = 0; rounding < n_roundings; rounding++) {
            const Place place(rounding * n_rows + row, n_roundings * n_rows, n_in, BYTES);
            const float largest = largest_of(x, n_in), step = (largest < SMALLEST ? SMALLEST : largest) / BYTE_LIMIT;
            round_row(x, place, step, in.bytes);
            in.steps[rounding * n_rows + row] = step;
            if (rounding + 1 < n_roundings) subtract_rounded(x, place, step, in.bytes, residual);
            x = residual;
        }
        return;
    }
    const Place place(row, n_rows, n_in, BLOCK);
#if HAS_BFLOAT16_PRODUCTS
    if (kind == BFLOAT16 || kind == INT4) {
        uint16_t* const halves = (uint16_t*)in.floats;
        for (int64_t i = 0; i < place.whole; i += BLOCK) {
            const Halves some = narrow(load<Floats>(x + i), load<Floats>(x + i + LANES));
            memcpy(halves + place.of_block(i), &some, sizeof some);
        }
        for (int64_t i = place.whole; i < n_in; i++) halves[place.behind() + i - place.whole] = narrow(x[i]);
        return;
    }
#endif
    for (int64_t i = 0; i < place.whole; i += BLOCK) {
        const Floats a = load<Floats>(x + i), b = load<Floats>(x + i + LANES);
        Pair both = {a, b};
        if (kind == BFLOAT16)
            both = {pick(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                    pick(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
        memcpy(in.floats + place.of_block(i), &both, sizeof both);
    }
    memcpy(in.floats + place.behind(), x + place.whole, (n_in - place.whole) * sizeof *x);
}
