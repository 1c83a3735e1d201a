// Decode steps of a Llama on a CPU: linear layers on weights as they lie in the file, and everything between them.
//
// Few rows wait for weights, so what counts is that every byte is read once, in long runs and early enough
// (PREFETCH), and that nothing else takes time: one parallel region computes a whole step.
//
// A row's numbers never depend on the rows beside it: each output of a row is summed in the same order in every tile.
//
// Vectors are those of GCC and Clang, so that AVX-512, AVX2 and NEON are all served by the same lines.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include <omp.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define HAS_BYTE_PRODUCTS 1
#else
#define HAS_BYTE_PRODUCTS 0
#endif

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t BLOCK = 2 * LANES;  // columns that are read together, as two vectors
constexpr int64_t AHEAD = 1024;       // bytes that are fetched ahead where every weight is read once
constexpr int64_t POSITIONS = 128;    // attended at a time
constexpr int64_t MOST_HEAD_DIM = 256;
constexpr int64_t GROUP = 32;  // int4 weights that share a scale
constexpr int64_t BYTES = 64;  // int8 weights that are multiplied together
constexpr int64_t NEAR = 1 << 18;  // bytes
constexpr float ZERO_POINT = 128.0f;
constexpr float BYTE_LIMIT = 127.0f;
constexpr float SMALLEST = 1e-12f;

// Outputs of a tile for one row and for several, as the registers allow.
#ifdef __AVX512F__
constexpr int OUTS_OF_ONE = 8, OUTS = 4, ROWS = 4;
#else
constexpr int OUTS_OF_ONE = 4, OUTS = 2, ROWS = 2;
#endif
constexpr int QUERIES = 4;    // of one key head, attended together
constexpr int64_t STRIDE = 16;  // outputs that are computed for all rows before the next ones: a cache line of floats

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint8_t Nibbles __attribute__((vector_size(LANES)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

template <class Vector, class Value>
inline Vector load(const Value* from) {
    Vector loaded;
    memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

template <class Vector>
inline auto total(Vector v) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return v[0] + v[1];
}

// Sixteen totals in one vector, each added up in the order of `total`: halves meet halves of their neighbours.
template <class Vector>
inline Vector totals(Vector* v) {
    for (int i = 0; i < 8; i++)
        v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(v[2 * i], v[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               __builtin_shufflevector(v[2 * i], v[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return __builtin_shufflevector(v[0], v[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(v[0], v[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// The totals of a tile, those of a row side by side.
template <int N_OUT, int N_ROWS, class Vector, class Value>
inline void total_tile(Vector (&sums)[N_ROWS][N_OUT], Value (&into)[N_ROWS][N_OUT]) {
    if constexpr (N_OUT * N_ROWS > 4 && N_OUT * N_ROWS <= LANES) {
        Vector all[LANES] = {};
        memcpy(all, sums, sizeof sums);
        Vector found = totals(all);
        memcpy(into, &found, sizeof into);
    } else {
        for (int row = 0; row < N_ROWS; row++)
            for (int o = 0; o < N_OUT; o++) into[row][o] = total(sums[row][o]);
    }
}

inline float widen(uint16_t bfloat16) {
    uint32_t word = uint32_t(bfloat16) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

inline Words widen(Nibbles bytes) {
#ifdef __AVX512F__
    return (Words)_mm512_cvtepu8_epi32((__m128i)bytes);
#else
    return __builtin_convertvector(bytes, Words);
#endif
}

// The lower four bits less 8.
inline Floats level(Words bits) {
#ifdef __AVX512F__
    const Floats levels = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm512_permutexvar_ps((__m512i)bits, (__m512)levels);  // looks at no other bits
#else
    return __builtin_convertvector((Ints)(bits & 15) - 8, Floats);
#endif
}

// To the nearest bfloat16, ties to even; NaN stays NaN.
inline float rounded(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    word = (word + 0x7fff + ((word >> 16) & 1)) & 0xffff0000u;
    float result;
    memcpy(&result, &word, sizeof result);
    return value == value ? result : value;
}

inline uint16_t narrow(float value) {
    float result = rounded(value);
    uint32_t word;
    memcpy(&word, &result, sizeof word);
    return uint16_t(word >> 16);
}

// e^x to 2 units in the last place: 2^n by the exponent, the rest by its series.
inline Floats exponential(Floats x) {
    const Floats zero = {};
    x = x < -87.0f ? zero - 87.0f : x;
    x = x > 88.0f ? zero + 88.0f : x;
    const Floats shift = zero + 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number
    Floats n = (x * 1.44269504f + shift) - shift;
    Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Floats series = zero + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    return series * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}

struct Pair {
    Floats first, second;
};

// How weights lie, and what makes two vectors of them. Inputs lie so that they meet: see `prepare`.

struct Float32 {
    static constexpr bool even_and_odd = false;
    static constexpr int64_t ahead = AHEAD / 4;
    const float* weights;
    int64_t n_in;
    Float32(const void* weights, const void*, int64_t n_in) : weights((const float*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        const char* from = (const char*)(weights + out * n_in + column);
        __builtin_prefetch(from, 0, 2);
        __builtin_prefetch(from + 64, 0, 2);
    }
    Pair at(int64_t out, int64_t column) const {
        const float* from = weights + out * n_in + column;
        return {load<Floats>(from), load<Floats>(from + LANES)};
    }
    float one(int64_t out, int64_t column) const { return weights[out * n_in + column]; }
};

// In the cache already: what lies behind would be fetched in vain, or is not even memory.
struct NearFloat32 : Float32 {
    using Float32::Float32;
    void prefetch(int64_t, int64_t) const {}
};

struct BFloat16 {
    static constexpr bool even_and_odd = true;
    static constexpr int64_t ahead = AHEAD / 2;
    const uint16_t* weights;
    int64_t n_in;
    BFloat16(const void* weights, const void*, int64_t n_in) : weights((const uint16_t*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        __builtin_prefetch(weights + out * n_in + column, 0, 2);
    }
    Pair at(int64_t out, int64_t column) const {
        Words two = load<Words>(weights + out * n_in + column);
        return {(Floats)(two << 16), (Floats)(two & 0xffff0000u)};
    }
    float one(int64_t out, int64_t column) const { return widen(weights[out * n_in + column]); }
};

// 16 levels; byte k of a group holds column k in its lower half and column k + 16 in its upper one.
struct Int4 {
    static constexpr bool even_and_odd = false;
    static constexpr int64_t ahead = 2 * AHEAD;
    const uint8_t* weights;
    const uint16_t* scales;  // of each group the size of a step, and what level 8 means
    int64_t n_in;
    Int4(const void* weights, const void* scales, int64_t n_in)
        : weights((const uint8_t*)weights), scales((const uint16_t*)scales), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        if (column % (4 * GROUP)) return;
        __builtin_prefetch(weights + (out * n_in + column) / 2, 0, 2);
    }
    Pair at(int64_t out, int64_t column) const {
        int64_t group = (out * n_in + column) / GROUP;
        Words both = widen(load<Nibbles>(weights + group * LANES));
        Words scale = Words{} + load<uint32_t>(scales + 2 * group);
        Floats step = (Floats)(scale << 16), middle = (Floats)(scale & 0xffff0000u);
        return {level(both) * step + middle, level(both >> 4) * step + middle};
    }
    float one(int64_t, int64_t) const { return 0; }  // rows are whole groups
};

enum Kind : int32_t { FLOAT32, BFLOAT16, INT4, INT8, INT8_FINE };

struct Matrix {
    const void* weights;   // (n_out, n_in)
    const void* scales;    // of int8: float32 (n_out,); of int4: bfloat16 (n_out, n_in / GROUP, 2)
    const int32_t* sums;   // of int8: of each row's weights
    int64_t n_out, n_in;
    int32_t kind;
};

// Rows as a product wants them: floats in the order of the weights, or bytes with the size of their steps.
struct Inputs {
    float* floats;   // (rows, n_in)
    uint8_t* bytes;  // (digits · rows, n_in)
    float* steps;    // (digits · rows,)
};

inline int64_t digits_of(int32_t kind) { return kind == INT8_FINE ? 2 : 1; }
inline bool is_bytes(int32_t kind) { return kind >= INT8; }

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

template <class Weights, int N_OUT, int N_ROWS>
inline void tile(const Weights& w, int64_t out, const float* x, int64_t x_stride, float* y, int64_t y_stride, Turn fetch = {0, 1}) {
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
            if (fetch.of == 1) w.prefetch(out + o, column + Weights::ahead);
            else if (fetches) w.prefetch(out + o + STRIDE, column);
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
            for (int o = 0; o < N_OUT; o++) found[row][o] += w.one(out + o, column) * x[row * x_stride + column];
        memcpy(y + row * y_stride + out, found[row], sizeof found[row]);
    }
}

template <class Weights, int N_OUT, int N_ROWS>
inline void column_of_tiles(const Weights& w, Range outs, const float* x, int64_t x_stride, float* y, int64_t y_stride, Turn fetch = {0, 1}) {
    int64_t out = outs.first;
    for (; out + N_OUT <= outs.end; out += N_OUT) tile<Weights, N_OUT, N_ROWS>(w, out, x, x_stride, y, y_stride, fetch);
    for (; out < outs.end; out++) tile<Weights, 1, N_ROWS>(w, out, x, x_stride, y, y_stride);
}

template <class Weights>
void multiply(const Weights&, Range, int64_t, const float*, int64_t, float*, int64_t);

// Int4 weights of a tile's outputs are made floats once, not for each tile of rows.
inline void multiply_widened(const Int4& w, Range outs, int64_t n_rows, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
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
void multiply(const Weights& w, Range outs, int64_t n_rows, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    if (n_rows == 1) return column_of_tiles<Weights, OUTS_OF_ONE, 1>(w, outs, x, x_stride, y, y_stride);
    if constexpr (std::is_same_v<Weights, Int4>)
        if (n_rows > 4 * ROWS) return multiply_widened(w, outs, n_rows, x, x_stride, y, y_stride);
    for (int64_t out = outs.first; out < outs.end; out += STRIDE) {
        Range few = {out, out + STRIDE < outs.end ? out + STRIDE : outs.end};
        int64_t row = 0;
        for (; row + ROWS <= n_rows; row += ROWS)
            column_of_tiles<Weights, OUTS, ROWS>(w, few, x + row * x_stride, x_stride, y + row * y_stride, y_stride, {row / ROWS, n_rows / ROWS});
        for (; row < n_rows; row++)
            column_of_tiles<Weights, OUTS, 1>(w, few, x + row * x_stride, x_stride, y + row * y_stride, y_stride);
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
inline void byte_tile(const Matrix& m, int64_t out, int64_t row, const Inputs& in, float* y, int64_t y_stride, bool adds) {
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
            for (int o = 0; o < N_OUT; o++) found[r][o] += int32_t(x[r * m.n_in + column]) * int32_t(w[o * m.n_in + column]);
        float* into = y + r * y_stride + out;
        for (int o = 0; o < N_OUT; o++) {
            float value = float(found[r][o] - int32_t(ZERO_POINT) * m.sums[out + o]);
            value *= ((const float*)m.scales)[out + o];
            // Spelled out, since a compiler may fuse it in one tile and not in another.
            into[o] = adds ? fmaf(value, in.steps[row + r], into[o]) : value * in.steps[row + r];
        }
    }
}

template <int N_OUT, int N_ROWS>
inline void byte_tiles(const Matrix& m, Range outs, int64_t row, const Inputs& in, float* y, int64_t y_stride, bool adds) {
    int64_t out = outs.first;
    for (; out + N_OUT <= outs.end; out += N_OUT) byte_tile<N_OUT, N_ROWS>(m, out, row, in, y, y_stride, adds);
    for (; out < outs.end; out++) byte_tile<1, N_ROWS>(m, out, row, in, y, y_stride, adds);
}

inline void multiply_bytes(const Matrix& m, Range outs, int64_t n_rows, const Inputs& in, float* y, int64_t y_stride) {
    const int64_t near = NEAR / m.n_in > ROWS ? NEAR / m.n_in / ROWS * ROWS : ROWS;  // rows whose inputs stay in a core's cache
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

// Puts a row of inputs where a product with weights of that kind looks for it.
inline void prepare(int32_t kind, const float* x, int64_t n_in, int64_t row, int64_t n_rows, const Inputs& in) {
    if (is_bytes(kind)) {
        float* rest = in.floats + row * n_in;
        for (int64_t digit = 0; digit < digits_of(kind); digit++, x = rest) {
            float largest = largest_of(x, n_in);
            float step = (largest < SMALLEST ? SMALLEST : largest) / BYTE_LIMIT;
            uint8_t* into = in.bytes + (digit * n_rows + row) * n_in;
            for (int64_t i = 0; i < n_in; i++) into[i] = uint8_t(int32_t(x[i] / step + (ZERO_POINT + 0.5f)));
            in.steps[digit * n_rows + row] = step;
            if (digit + 1 == digits_of(kind)) break;
            for (int64_t i = 0; i < n_in; i++) rest[i] = x[i] - step * (float(into[i]) - ZERO_POINT);
        }
        return;
    }
    float* into = in.floats + row * n_in;
    int64_t i = 0;
    if (kind == BFLOAT16)
        for (; i + BLOCK <= n_in; i += BLOCK) {
            Floats a = load<Floats>(x + i), b = load<Floats>(x + i + LANES);
            Floats even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            Floats odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            memcpy(into + i, &even, sizeof even);
            memcpy(into + i + LANES, &odd, sizeof odd);
        }
    memcpy(into + i, x + i, (n_in - i) * sizeof *x);
}

inline void product(const Matrix& m, const Inputs& in, Range outs, int64_t n_rows, float* y, int64_t y_stride) {
    const int64_t n_in = m.n_in;
    switch (m.kind) {
        case FLOAT32: return multiply(Float32(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
        case BFLOAT16: return multiply(BFloat16(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
        case INT4: return multiply(Int4(m.weights, m.scales, n_in), outs, n_rows, in.floats, n_in, y, y_stride);
#if HAS_BYTE_PRODUCTS
        default: return multiply_bytes(m, outs, n_rows, in, y, y_stride);
#endif
    }
}

struct Layer {
    Matrix wq, wk, wv, wo, w1, w2, w3;
    const float* attention_norm;  // (dim,)
    const float* ffn_norm;        // (dim,)
    void* keys;                   // (n_slots, n_kv_heads, max_seq_len, head_dim)
    void* values;
};

struct Model {
    int64_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, max_seq_len;
    const Layer* layers;
    const float* norm;  // (dim,)
    Matrix output;
    const float* rope;  // (positions, head_dim / 2, 2): cosine and sine
    float norm_eps;
    int32_t rounds;   // activations are bfloat16
    int32_t narrows;  // the cache is bfloat16
};

// Where a step keeps its numbers, cut from one block.
struct Scratch {
    float *wide, *side_by_side, *mixed, *hidden, *up, *out;
    Inputs in;

    Scratch(float* from, const Model& m, int64_t n_rows) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = widest_of(m);
        auto take = [&](int64_t n) { float* taken = from; from += (n + LANES - 1) / LANES * LANES; return taken; };
        wide = take(n_rows * m.dim);
        side_by_side = take(n_rows * (q_dim + 2 * m.n_kv_heads * m.head_dim));
        mixed = take(n_rows * q_dim);
        hidden = take(n_rows * m.ffn_dim);
        up = take(n_rows * m.ffn_dim);
        out = take(n_rows * m.dim);
        in.floats = take(n_rows * widest);
        in.bytes = (uint8_t*)take(n_rows * widest / 2 + LANES);
        in.steps = take(2 * n_rows);
        end = from;
    }
    float* end;

    static int64_t widest_of(const Model& m) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = q_dim > m.dim ? q_dim : m.dim;
        return m.ffn_dim > widest ? m.ffn_dim : widest;
    }
};

inline float maybe_rounded(float value, bool rounds) { return rounds ? rounded(value) : value; }

void norm(const float* x, const float* weight, const Model& m, float* into) {
    Floats squares = {};
    int64_t i = 0;
    for (; i + LANES <= m.dim; i += LANES) {
        Floats some = load<Floats>(x + i);
        squares += some * some;
    }
    float sum = total(squares);
    for (; i < m.dim; i++) sum += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum / float(m.dim) + m.norm_eps);
    const bool rounds = m.rounds;
    for (i = 0; i < m.dim; i++) into[i] = maybe_rounded(maybe_rounded(x[i] * factor, rounds) * weight[i], rounds);
}

// Turns the pairs of a head by a row of the rotation table.
inline void turn(const float* x, const float* turns, int64_t head_dim, bool rounds, float* into) {
    for (int64_t i = 0; i < head_dim; i += 2) {
        float c = turns[i], s = turns[i + 1], a = x[i], b = x[i + 1];
        into[i] = maybe_rounded(a * c - b * s, rounds);
        into[i + 1] = maybe_rounded(a * s + b * c, rounds);
    }
}

inline void store(const float* x, int64_t n, float* into) { memcpy(into, x, n * sizeof *x); }
inline void store(const float* x, int64_t n, uint16_t* into) {
    for (int64_t i = 0; i < n; i++) into[i] = narrow(x[i]);
}

// sums (N, head_dim) = sums · corrections + shares (N, n) · values (n, head_dim)
template <class Weights, int N>
inline void mix(const Weights& values, int64_t n, const float* shares, const float* corrections, float* sums) {
    const int64_t head_dim = values.n_in, whole = head_dim / BLOCK * BLOCK;
    for (int64_t column = 0; column < whole; column += BLOCK) {
        Floats first[N], second[N];
        for (int q = 0; q < N; q++) {
            first[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column) * corrections[q];
            second[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column + LANES) * corrections[q];
        }
        for (int64_t position = 0; position < n; position++) {
            Pair pair = values.at(position, column);
            for (int q = 0; q < N; q++) {
                first[q] += pair.first * shares[q * POSITIONS + position];
                second[q] += pair.second * shares[q * POSITIONS + position];
            }
        }
        for (int q = 0; q < N; q++) {
            memcpy(sums + q * MOST_HEAD_DIM + column, &first[q], sizeof first[q]);
            memcpy(sums + q * MOST_HEAD_DIM + column + LANES, &second[q], sizeof second[q]);
        }
    }
    for (int64_t column = whole; column < head_dim; column++)
        for (int q = 0; q < N; q++) {
            float sum = sums[q * MOST_HEAD_DIM + column] * corrections[q];
            for (int64_t position = 0; position < n; position++)
                sum += shares[q * POSITIONS + position] * values.one(position, column);
            sums[q * MOST_HEAD_DIM + column] = sum;
        }
}

// The query heads of one key head over `length` positions, some positions at a time, with a running softmax.
template <class Weights, class Value, int N>
inline void attend(const Value* keys, const Value* values, int64_t length, int64_t head_dim, const Inputs& queries, float* mixed, bool rounds) {
    float shares[N * POSITIONS], sums[N * MOST_HEAD_DIM] = {}, largest[N], totals[N] = {}, corrections[N];
    for (int q = 0; q < N; q++) largest[q] = -FLT_MAX;
    const float scale = 1.0f / sqrtf(float(head_dim));
    for (int64_t first = 0; first < length; first += POSITIONS) {
        const int64_t n = length - first < POSITIONS ? length - first : POSITIONS;
        const Weights some_keys(keys + first * head_dim, nullptr, head_dim);
        column_of_tiles<Weights, OUTS, N>(some_keys, {0, n}, queries.floats, head_dim, shares, POSITIONS);
        for (int q = 0; q < N; q++) {
            float* of_query = shares + q * POSITIONS;
            float most = largest[q];
            for (int64_t i = 0; i < n; i++) {
                of_query[i] *= scale;
                most = of_query[i] > most || of_query[i] != of_query[i] ? of_query[i] : most;
            }
            for (int64_t i = n; i < POSITIONS; i++) of_query[i] = -FLT_MAX;
            Floats sum = {};
            for (int64_t i = 0; i < POSITIONS; i += LANES) {
                Floats some = exponential(load<Floats>(of_query + i) - most);
                memcpy(of_query + i, &some, sizeof some);
            }
            for (int64_t i = n; i < POSITIONS; i++) of_query[i] = 0;
            for (int64_t i = 0; i < POSITIONS; i += LANES) sum += load<Floats>(of_query + i);
            corrections[q] = first == 0 ? 0.0f : expf(largest[q] - most);
            totals[q] = totals[q] * corrections[q] + total(sum);
            largest[q] = most;
        }
        mix<Weights, N>(Weights(values + first * head_dim, nullptr, head_dim), n, shares, corrections, sums);
    }
    const int64_t whole = Weights::even_and_odd ? head_dim / BLOCK * BLOCK : 0;
    for (int q = 0; q < N; q++)
        for (int64_t i = 0; i < head_dim; i++) {
            int64_t from = i < whole ? i / BLOCK * BLOCK + i % 2 * LANES + i % BLOCK / 2 : i;
            mixed[q * head_dim + i] = maybe_rounded(sums[q * MOST_HEAD_DIM + from] / totals[q], rounds);
        }
}

// One key head of one row: its new key and value go into the cache, then its queries look at all of it.
template <class Weights, class Value>
inline void attend_head(const Model& m, const Layer& layer, int64_t head, int64_t slot, int64_t position, const float* side_by_side, float* mixed) {
    const int64_t head_dim = m.head_dim, group = m.n_heads / m.n_kv_heads;
    const int64_t place = (slot * m.n_kv_heads + head) * m.max_seq_len * head_dim;
    Value *keys = (Value*)layer.keys + place, *values = (Value*)layer.values + place;
    const float* turns = m.rope + position * head_dim;
    float turned[MOST_HEAD_DIM], of_queries[QUERIES * MOST_HEAD_DIM];
    turn(side_by_side + (m.n_heads + head) * head_dim, turns, head_dim, m.rounds, turned);
    store(turned, head_dim, keys + position * head_dim);
    store(side_by_side + (m.n_heads + m.n_kv_heads + head) * head_dim, head_dim, values + position * head_dim);
    const Inputs queries = {of_queries, nullptr, nullptr};
    for (int64_t done = 0; done < group;) {
        const int64_t n = group - done < QUERIES ? group - done : QUERIES, first = head * group + done;
        for (int64_t q = 0; q < n; q++) {
            turn(side_by_side + (first + q) * head_dim, turns, head_dim, m.rounds || m.narrows, turned);
            prepare(Weights::even_and_odd ? BFLOAT16 : FLOAT32, turned, head_dim, q, n, queries);
        }
        float* into = mixed + first * head_dim;
        switch (n) {
            case 1: attend<Weights, Value, 1>(keys, values, position + 1, head_dim, queries, into, m.narrows); break;
            case 2: attend<Weights, Value, 2>(keys, values, position + 1, head_dim, queries, into, m.narrows); break;
            case 3: attend<Weights, Value, 3>(keys, values, position + 1, head_dim, queries, into, m.narrows); break;
            default: attend<Weights, Value, QUERIES>(keys, values, position + 1, head_dim, queries, into, m.narrows);
        }
        done += n;
    }
}

inline void activate(float* gate, const float* up, Range outs, bool rounds) {
    for (int64_t i = outs.first; i < outs.end; i += LANES) {
        const int64_t n = outs.end - i < LANES ? outs.end - i : LANES;
        Floats x = {};
        memcpy(&x, gate + i, n * sizeof(float));
        x = x / (1.0f + exponential(-x));
        float values[LANES];
        memcpy(values, &x, sizeof x);
        for (int64_t k = 0; k < n; k++) gate[i + k] = maybe_rounded(maybe_rounded(values[k], rounds) * up[i + k], rounds);
    }
}

inline void round_all(float* y, Range outs, int64_t n_rows, int64_t stride, bool rounds) {
    if (!rounds) return;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = outs.first; i < outs.end; i++) y[row * stride + i] = rounded(y[row * stride + i]);
}

// x += m · in, of the thread's share of the outputs.
inline void add_product(const Model& m, const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, float* out, float* x) {
    product(matrix, in, outs, n_rows, out, m.dim);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = row * m.dim + outs.first; i < row * m.dim + outs.end; i++)
            x[i] = maybe_rounded(x[i] + maybe_rounded(out[i], m.rounds), m.rounds);
}

}  // namespace

extern "C" {

int multiplies_bytes() { return HAS_BYTE_PRODUCTS; }

int64_t most_head_dim() { return MOST_HEAD_DIM; }

int64_t scratch_floats(const Model* m, int64_t n_rows) { return Scratch(nullptr, *m, n_rows).end - (float*)nullptr; }

// One token of each row: x (n_rows, dim) are their embeddings, and are overwritten; logits (n_rows, vocab_size).
void decode(const Model* model, int64_t n_rows, const int64_t* positions, const int64_t* slots, float* x, float* logits, float* scratch, int n_threads) {
    const Model& m = *model;
    const Scratch s(scratch, m, n_rows);
    const int64_t q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim, all = q_dim + 2 * kv_dim;
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range dim = share(m.dim, STRIDE, thread, n), ffn = share(m.ffn_dim, STRIDE, thread, n);
        const Range rows = share(n_rows, 1, thread, n);
        const Range queries = share(q_dim, STRIDE, thread, n), pairs = share(kv_dim, STRIDE, thread, n);
        for (int64_t l = 0; l < m.n_layers; l++) {
            const Layer& layer = m.layers[l];
            for (int64_t row = rows.first; row < rows.end; row++) {
                norm(x + row * m.dim, layer.attention_norm, m, s.wide + row * m.dim);
                prepare(layer.wq.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
            }
#pragma omp barrier
            product(layer.wq, s.in, queries, n_rows, s.side_by_side, all);
            round_all(s.side_by_side, queries, n_rows, all, m.rounds);
            product(layer.wk, s.in, pairs, n_rows, s.side_by_side + q_dim, all);
            round_all(s.side_by_side + q_dim, pairs, n_rows, all, m.rounds);
            product(layer.wv, s.in, pairs, n_rows, s.side_by_side + q_dim + kv_dim, all);
            round_all(s.side_by_side + q_dim + kv_dim, pairs, n_rows, all, m.rounds);
#pragma omp barrier
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < n_rows * m.n_kv_heads; unit++) {
                const int64_t row = unit / m.n_kv_heads, head = unit % m.n_kv_heads;
                const float* of_row = s.side_by_side + row * all;
                float* into = s.mixed + row * q_dim;
                if (m.narrows) attend_head<BFloat16, uint16_t>(m, layer, head, slots[row], positions[row], of_row, into);
                else attend_head<Float32, float>(m, layer, head, slots[row], positions[row], of_row, into);
            }
            for (int64_t row = rows.first; row < rows.end; row++) prepare(layer.wo.kind, s.mixed + row * q_dim, q_dim, row, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.wo, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
            for (int64_t row = rows.first; row < rows.end; row++) {
                norm(x + row * m.dim, layer.ffn_norm, m, s.wide + row * m.dim);
                prepare(layer.w1.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
            }
#pragma omp barrier
            product(layer.w1, s.in, ffn, n_rows, s.hidden, m.ffn_dim);
            product(layer.w3, s.in, ffn, n_rows, s.up, m.ffn_dim);
            round_all(s.hidden, ffn, n_rows, m.ffn_dim, m.rounds);
            round_all(s.up, ffn, n_rows, m.ffn_dim, m.rounds);
            for (int64_t row = 0; row < n_rows; row++)
                activate(s.hidden + row * m.ffn_dim, s.up + row * m.ffn_dim, ffn, m.rounds);
#pragma omp barrier
            for (int64_t row = rows.first; row < rows.end; row++) prepare(layer.w2.kind, s.hidden + row * m.ffn_dim, m.ffn_dim, row, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.w2, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
        }
        for (int64_t row = rows.first; row < rows.end; row++) {
            norm(x + row * m.dim, m.norm, m, s.wide + row * m.dim);
            prepare(m.output.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
        }
#pragma omp barrier
        const Range words = share(m.output.n_out, STRIDE, thread, n);
        product(m.output, s.in, words, n_rows, logits, m.output.n_out);
        round_all(logits, words, n_rows, m.output.n_out, m.rounds);
    }
}

// y (n_rows, n_out) = x (n_rows, n_in) · weights; room has n_rows · (2 n_in + 2) + 64 floats.
void linear(const Matrix* matrix, int64_t n_rows, const float* x, float* y, float* room, int n_threads) {
    const Matrix& m = *matrix;
    const Inputs in = {room, (uint8_t*)(room + n_rows * m.n_in), room + n_rows * m.n_in + (n_rows * m.n_in + 1) / 2};
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range rows = share(n_rows, 1, thread, n);
        for (int64_t row = rows.first; row < rows.end; row++) prepare(m.kind, x + row * m.n_in, m.n_in, row, n_rows, in);
#pragma omp barrier
        product(m, in, share(m.n_out, STRIDE, thread, n), n_rows, y, m.n_out);
    }
}

// Rows of int4 weights as floats, (n_rows, n_in).
void widen_int4(const Matrix* matrix, int64_t first, int64_t n_rows, float* into, int n_threads) {
    const Int4 w(matrix->weights, matrix->scales, matrix->n_in);
#pragma omp parallel for num_threads(n_threads)
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t column = 0; column < w.n_in; column += BLOCK) {
            Pair pair = w.at(first + row, column);
            memcpy(into + row * w.n_in + column, &pair, sizeof pair);
        }
}

// The sum of each row of int8 weights.
void sum_rows(const int8_t* weights, int64_t n_out, int64_t n_in, int32_t* sums, int n_threads) {
#pragma omp parallel for num_threads(n_threads)
    for (int64_t out = 0; out < n_out; out++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < n_in; i++) sum += weights[out * n_in + i];
        sums[out] = sum;
    }
}
}
