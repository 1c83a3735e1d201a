// Attention: the query heads of a key head, of some tokens in a row, over the cache, some positions at a time. What a
// query sees never depends on those beside it: blocks of positions lie at fixed places, and each is added in order.
#pragma once

#include <cfloat>

#include "products.h"

constexpr int64_t POSITIONS = 128;  // attended at a time
constexpr int64_t MOST_HEAD_DIM = 256;
constexpr int64_t MOST_QUERIES = 32;  // of one key head, which meet a block of keys together
constexpr int QUERIES = 4;            // which meet a block of values together

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

// Turns pairs of numbers, some of those of a token's heads, by its row of the rotation table.
inline void rotate(float* x, Range some, const float* cos_sin, int64_t head_dim, bool rounds) {
    int64_t i = some.first, column = some.first % head_dim;
    for (; i < some.end; i += 2, column = column + 2 < head_dim ? column + 2 : 0) {
        const float c = cos_sin[column], s = cos_sin[column + 1], a = x[i], b = x[i + 1];
        x[i] = maybe_rounded(a * c - b * s, rounds);
        x[i + 1] = maybe_rounded(a * s + b * c, rounds);
    }
}

// Puts some of a token's numbers of all key heads into the cache, at its position in its slot.
template <class Value>
inline void store(const float* x, Range some, const Model& m, int64_t slot, int64_t position, void* cache) {
    Value* const of_slot = (Value*)cache + slot * m.n_kv_heads * m.max_seq_len * m.head_dim;
    for (int64_t i = some.first; i < some.end;) {
        const int64_t head = i / m.head_dim, column = i % m.head_dim;
        const int64_t left = m.head_dim - column, n = left < some.end - i ? left : some.end - i;
        Value* const into = of_slot + (head * m.max_seq_len + position) * m.head_dim + column;
        for (int64_t k = 0; k < n; k++)
            if constexpr (sizeof(Value) == sizeof(float))
                into[k] = x[i + k];
            else
                into[k] = narrow(x[i + k]);
        i += n;
    }
}

// sums (N, head_dim) += shares (N, positions) · values (positions, head_dim), of some positions in their order.
template <class Values, int N>
inline void add_values(const Values& values, Range some, const float* shares, float* sums) {
    const int64_t head_dim = values.n_in, whole = head_dim / BLOCK * BLOCK;
    for (int64_t column = 0; column < whole; column += BLOCK) {
        Floats first[N], second[N];
        for (int q = 0; q < N; q++) {
            first[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column);
            second[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column + LANES);
        }
        for (int64_t position = some.first; position < some.end; position++) {
            const Pair pair = values.at(position, column);
            for (int q = 0; q < N; q++) {
                first[q] += pair.of[0] * shares[q * POSITIONS + position];
                second[q] += pair.of[1] * shares[q * POSITIONS + position];
            }
        }
        for (int q = 0; q < N; q++) {
            memcpy(sums + q * MOST_HEAD_DIM + column, &first[q], sizeof first[q]);
            memcpy(sums + q * MOST_HEAD_DIM + column + LANES, &second[q], sizeof second[q]);
        }
    }
    for (int64_t column = whole; column < head_dim; column++)
        for (int q = 0; q < N; q++) {
            float sum = sums[q * MOST_HEAD_DIM + column];
            for (int64_t position = some.first; position < some.end; position++)
                sum = fmaf(shares[q * POSITIONS + position], values.one(position, column), sum);
            sums[q * MOST_HEAD_DIM + column] = sum;
        }
}

// Queries of one key head that look at the first positions of a slot, each at as many as it may.
struct Queries {
    int64_t n;
    int64_t lengths[MOST_QUERIES];
    float* mixed[MOST_QUERIES];              // (head_dim,) each
    float in[MOST_QUERIES * MOST_HEAD_DIM];  // as a product wants them
    float shares[MOST_QUERIES * POSITIONS];
    float sums[MOST_QUERIES * MOST_HEAD_DIM];
    float largest[MOST_QUERIES], totals[MOST_QUERIES];

    // Scores of `n` more positions become shares, relative to the largest until now; what was summed follows.
    void share_out(int64_t q, int64_t n, bool is_first, float scale, int64_t head_dim) {
        float* const of_query = shares + q * POSITIONS;
        float most = is_first ? -FLT_MAX : largest[q];
        for (int64_t i = 0; i < n; i++) {
            of_query[i] *= scale;
            most = of_query[i] > most || of_query[i] != of_query[i] ? of_query[i] : most;
        }
        for (int64_t i = n; i < POSITIONS; i++) of_query[i] = -FLT_MAX;
        for (int64_t i = 0; i < POSITIONS; i += LANES) {
            const Floats some = exponential(load<Floats>(of_query + i) - most);
            memcpy(of_query + i, &some, sizeof some);
        }
        for (int64_t i = n; i < POSITIONS; i++) of_query[i] = 0;
        Floats sum = {};
        for (int64_t i = 0; i < POSITIONS; i += LANES) sum += load<Floats>(of_query + i);
        const float correction = is_first ? 0.0f : expf(largest[q] - most);
        totals[q] = fmaf(is_first ? 0.0f : totals[q], correction, total(sum));
        largest[q] = most;
        float* const of_sums = sums + q * MOST_HEAD_DIM;
        for (int64_t i = 0; i < head_dim; i++) of_sums[i] = is_first ? 0.0f : of_sums[i] * correction;
    }
};

template <class Weights, class Value>
inline void attend(Queries& queries, const Value* keys, const Value* values, int64_t head_dim, bool rounds) {
    typedef typename Weights::AsFloats Values;
    const float scale = 1.0f / sqrtf(float(head_dim));
    int64_t longest = 0;
    for (int64_t q = 0; q < queries.n; q++) longest = queries.lengths[q] > longest ? queries.lengths[q] : longest;
    for (int64_t first = 0; first < longest; first += POSITIONS) {
        const auto seen = [&](int64_t q) {
            const int64_t n = queries.lengths[q] - first;
            return n < 0 ? 0 : n < POSITIONS ? n : POSITIONS;
        };
        const int64_t most = longest - first < POSITIONS ? longest - first : POSITIONS;
        multiply(Weights(keys + first * head_dim, head_dim), {0, most}, queries.n,
                 (const typename Weights::Input*)queries.in, {queries.shares, POSITIONS, queries.n, nullptr});
        const Values some(values + first * head_dim, head_dim);
        for (int64_t q = 0; q < queries.n; q++)
            if (seen(q)) queries.share_out(q, seen(q), first == 0, scale, head_dim);
        for (int64_t q = 0; q < queries.n; q += QUERIES) {
            const int64_t n = queries.n - q < QUERIES ? queries.n - q : QUERIES;
            int64_t common = POSITIONS;
            for (int64_t i = q; i < q + n; i++) common = seen(i) < common ? seen(i) : common;
            const float* const shares = queries.shares + q * POSITIONS;
            float* const sums = queries.sums + q * MOST_HEAD_DIM;
            with_height<QUERIES>(n, [&](auto height) { add_values<Values, height()>(some, {0, common}, shares, sums); });
            for (int64_t i = 0; i < n; i++)
                if (common < seen(q + i))
                    add_values<Values, 1>(some, {common, seen(q + i)}, shares + i * POSITIONS, sums + i * MOST_HEAD_DIM);
        }
    }
    const int64_t whole = Values::kind == BFLOAT16 ? head_dim / BLOCK * BLOCK : 0;
    for (int64_t q = 0; q < queries.n; q++)
        for (int64_t i = 0; i < head_dim; i++) {
            const int64_t from = i < whole ? i / BLOCK * BLOCK + i % 2 * LANES + i % BLOCK / 2 : i;
            queries.mixed[q][i] = maybe_rounded(queries.sums[q * MOST_HEAD_DIM + from] / queries.totals[q], rounds);
        }
}

// Tokens in neighbouring positions of one slot, which are attended together.
struct Piece {
    int64_t first, n, slot, position;  // its first token's place in the step, and its position
};

// What the query heads of one key head see, of the tokens of a piece, whose keys are in the cache by now.
template <class Weights, class Value>
inline void attend_head(const Model& m, const Layer& layer, int64_t head, const Piece& piece, const float* side_by_side,
                        int64_t stride, float* mixed) {
    const int64_t head_dim = m.head_dim, group = m.n_heads / m.n_kv_heads, q_dim = m.n_heads * head_dim;
    const int64_t place = (piece.slot * m.n_kv_heads + head) * m.max_seq_len * head_dim;
    Queries queries;
    const Inputs in = {queries.in, nullptr, nullptr};
    const int64_t n_heads = group < MOST_QUERIES ? group : MOST_QUERIES;
    for (int64_t done = 0; done < group; done += n_heads) {
        const int64_t n = group - done < n_heads ? group - done : n_heads;
        queries.n = n * piece.n;
        for (int64_t q = 0; q < queries.n; q++) {
            const int64_t token = q / n, column = (head * group + done + q % n) * head_dim;
            queries.lengths[q] = piece.position + token + 1;
            queries.mixed[q] = mixed + (piece.first + token) * q_dim + column;
            prepare(Weights::kind, side_by_side + (piece.first + token) * stride + column, head_dim, q, queries.n, in);
        }
        attend<Weights>(queries, (const Value*)layer.keys + place, (const Value*)layer.values + place, head_dim,
                        m.narrows);
    }
}
