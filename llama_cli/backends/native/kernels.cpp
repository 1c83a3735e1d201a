// Steps of a Llama on a CPU: linear layers on weights as they lie in the file, and everything between them.
//
// Few rows wait for weights, so what counts is that every byte is read once, in long runs and early enough, and that
// nothing else takes time: one parallel region computes a whole step. What a token gives never depends on the tokens
// that are computed beside it.

#include <omp.h>

#include <cstddef>
#include <vector>

#include "attention.h"

namespace {

// Where a step keeps its numbers, cut from one block.
struct Scratch {
    float *wide, *side_by_side, *mixed, *hidden, *up, *out;
    Inputs in;
    int64_t n_floats = 0;

    // With no block it only counts.
    Scratch(float* block, const Model& m, int64_t n_rows) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = widest_of(m);
        auto take = [&](int64_t n) {
            float* taken = block ? block + n_floats : nullptr;
            n_floats += (n + LANES - 1) / LANES * LANES;
            return taken;
        };
        wide = take(n_rows * m.dim);
        side_by_side = take(n_rows * (q_dim + 2 * m.n_kv_heads * m.head_dim));
        mixed = take(n_rows * q_dim);
        hidden = take(n_rows * m.ffn_dim);
        up = take(n_rows * m.ffn_dim);
        out = take(n_rows * m.dim);
        in.floats = take(n_rows * widest);
        in.bytes = (uint8_t*)take(n_rows * widest / 2 + LANES);
        in.steps = take(2 * n_rows);
    }

    static int64_t widest_of(const Model& m) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = q_dim > m.dim ? q_dim : m.dim;
        return m.ffn_dim > widest ? m.ffn_dim : widest;
    }
};

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

inline void activate(float* gate, const float* up, Range outs, bool rounds) {
    for (int64_t i = outs.first; i < outs.end; i += LANES) {
        const int64_t n = outs.end - i < LANES ? outs.end - i : LANES;
        Floats x = {};
        memcpy(&x, gate + i, n * sizeof(float));
        x = x / (1.0f + exponential(-x));
        float values[LANES];
        memcpy(values, &x, sizeof x);
        for (int64_t k = 0; k < n; k++)
            gate[i + k] = maybe_rounded(maybe_rounded(values[k], rounds) * up[i + k], rounds);
    }
}

inline void prepare_rows(int32_t kind, const float* x, Range rows, int64_t n_in, int64_t n_rows, const Inputs& in) {
    for (int64_t row = rows.first; row < rows.end; row++) prepare(kind, x + row * n_in, n_in, row, n_rows, in);
}

inline void round_rows(float* y, int64_t n_rows, Range columns, int64_t stride) {
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = columns.first; i < columns.end; i++) y[row * stride + i] = rounded(y[row * stride + i]);
}

// A product, of the thread's share of the outputs, in the dtype of the activations.
inline void project(const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, bool rounds, float* y,
                    int64_t stride) {
    product(matrix, in, outs, n_rows, y, stride);
    if (rounds) round_rows(y, n_rows, outs, stride);
}

// x += matrix · in, of the thread's share of the outputs.
inline void add_product(const Model& m, const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, float* out,
                        float* x) {
    project(matrix, in, outs, n_rows, m.rounds, out, m.dim);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = row * m.dim + outs.first; i < row * m.dim + outs.end; i++)
            x[i] = maybe_rounded(x[i] + out[i], m.rounds);
}

// Tokens in neighbouring positions of a slot, as many together as their query heads allow.
std::vector<Piece> pieces_of(const Model& m, int64_t n_rows, const int64_t* positions, const int64_t* slots) {
    const int64_t group = m.n_heads / m.n_kv_heads, most = group < MOST_QUERIES ? MOST_QUERIES / group : 1;
    std::vector<Piece> pieces;
    for (int64_t row = 0; row < n_rows; row++) {
        const bool goes_on = row > 0 && slots[row] == slots[row - 1] && positions[row] == positions[row - 1] + 1;
        if (goes_on && pieces.back().n < most)
            pieces.back().n++;
        else
            pieces.push_back({row, 1, slots[row], positions[row]});
    }
    return pieces;
}

// Where a structure or a field of one lies, by name.
struct Laid {
    const char* name;
    int64_t offset, size;
};

#define STRUCTURE(type) {#type, 0, sizeof(type)}
#define FIELD(type, field) {#type "." #field, offsetof(type, field), sizeof(type::field)}

const Laid LAYOUT[] = {
    STRUCTURE(Matrix), FIELD(Matrix, weights), FIELD(Matrix, scales), FIELD(Matrix, sums),
    FIELD(Matrix, n_out), FIELD(Matrix, n_in), FIELD(Matrix, kind),

    STRUCTURE(Layer), FIELD(Layer, wq), FIELD(Layer, wk), FIELD(Layer, wv), FIELD(Layer, wo),
    FIELD(Layer, w1), FIELD(Layer, w2), FIELD(Layer, w3), FIELD(Layer, attention_norm), FIELD(Layer, ffn_norm),
    FIELD(Layer, keys), FIELD(Layer, values),

    STRUCTURE(Model), FIELD(Model, n_layers), FIELD(Model, dim), FIELD(Model, ffn_dim), FIELD(Model, n_heads),
    FIELD(Model, n_kv_heads), FIELD(Model, head_dim), FIELD(Model, max_seq_len), FIELD(Model, layers),
    FIELD(Model, norm), FIELD(Model, output), FIELD(Model, rope), FIELD(Model, norm_eps), FIELD(Model, rounds),
    FIELD(Model, narrows),

    {nullptr, 0, 0},
};

}  // namespace

extern "C" {

// How the structures lie that callers fill, up to an entry without a name: callers compare it with their own.
const Laid* layout() { return LAYOUT; }

int multiplies_bytes() { return HAS_BYTE_PRODUCTS; }

int multiplies_bfloat16() { return HAS_BFLOAT16_PRODUCTS; }

int64_t most_head_dim() { return MOST_HEAD_DIM; }

int64_t scratch_floats(const Model* m, int64_t n_rows) { return Scratch(nullptr, *m, n_rows).n_floats; }

// Tokens of some slots, those of one slot in a row: x (n_rows, dim) are their embeddings, and are overwritten; logits
// (n_outputs, vocab_size) of some of them, in the dtype of the activations but for the last `n_exact`.
void forward(const Model* model, int64_t n_rows, const int64_t* positions, const int64_t* slots, float* x,
             int64_t n_outputs, int64_t n_exact, const int64_t* outputs, float* logits, float* scratch, int n_threads) {
    const Model& m = *model;
    const Scratch s(scratch, m, n_rows);
    const int64_t q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim, all = q_dim + 2 * kv_dim;
    const std::vector<Piece> pieces = pieces_of(m, n_rows, positions, slots);
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range dim = share(m.dim, STRIDE, thread, n), ffn = share(m.ffn_dim, STRIDE, thread, n);
        const Range rows = share(n_rows, 1, thread, n), answered = share(n_outputs, 1, thread, n);
        const Range queries = share(q_dim, STRIDE, thread, n), pairs = share(kv_dim, STRIDE, thread, n);
        const auto prepare_normed = [&](const float* weight, int32_t kind) {
            for (int64_t row = rows.first; row < rows.end; row++)
                norm(x + row * m.dim, weight, m, s.wide + row * m.dim);
            prepare_rows(kind, s.wide, rows, m.dim, n_rows, s.in);
        };
        for (int64_t l = 0; l < m.n_layers; l++) {
            const Layer& layer = m.layers[l];
            prepare_normed(layer.attention_norm, layer.wq.kind);
#pragma omp barrier
            project(layer.wq, s.in, queries, n_rows, m.rounds, s.side_by_side, all);
            project(layer.wk, s.in, pairs, n_rows, m.rounds, s.side_by_side + q_dim, all);
            project(layer.wv, s.in, pairs, n_rows, m.rounds, s.side_by_side + q_dim + kv_dim, all);
            for (int64_t row = 0; row < n_rows; row++) {
                const float* const cos_sin = m.rope + positions[row] * m.head_dim;
                float *const q = s.side_by_side + row * all, *const k = q + q_dim, *const v = k + kv_dim;
                rotate(q, queries, cos_sin, m.head_dim, m.rounds || m.narrows);
                rotate(k, pairs, cos_sin, m.head_dim, m.rounds);
                const auto put = m.narrows ? store<uint16_t> : store<float>;
                put(k, pairs, m, slots[row], positions[row], layer.keys);
                put(v, pairs, m, slots[row], positions[row], layer.values);
            }
#pragma omp barrier
#pragma omp for schedule(dynamic)
            for (int64_t unit = int64_t(pieces.size()) * m.n_kv_heads - 1; unit >= 0; unit--) {
                const auto attend = m.narrows ? attend_head<BFloat16, uint16_t> : attend_head<Float32, float>;
                attend(m, layer, unit % m.n_kv_heads, pieces[unit / m.n_kv_heads], s.side_by_side, all, s.mixed);
            }
            prepare_rows(layer.wo.kind, s.mixed, rows, q_dim, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.wo, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
            prepare_normed(layer.ffn_norm, layer.w1.kind);
#pragma omp barrier
            project(layer.w1, s.in, ffn, n_rows, m.rounds, s.hidden, m.ffn_dim);
            project(layer.w3, s.in, ffn, n_rows, m.rounds, s.up, m.ffn_dim);
            for (int64_t row = 0; row < n_rows; row++)
                activate(s.hidden + row * m.ffn_dim, s.up + row * m.ffn_dim, ffn, m.rounds);
#pragma omp barrier
            prepare_rows(layer.w2.kind, s.hidden, rows, m.ffn_dim, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.w2, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
        }
        for (int64_t i = answered.first; i < answered.end; i++)
            norm(x + outputs[i] * m.dim, m.norm, m, s.wide + i * m.dim);
        prepare_rows(m.output.kind, s.wide, answered, m.dim, n_outputs, s.in);
#pragma omp barrier
        const Range ids = share(m.output.n_out, STRIDE, thread, n);
        product(m.output, s.in, ids, n_outputs, logits, m.output.n_out);
        if (m.rounds) round_rows(logits, n_outputs - n_exact, ids, m.output.n_out);
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
        prepare_rows(m.kind, x, rows, m.n_in, n_rows, in);
#pragma omp barrier
        product(m, in, share(m.n_out, STRIDE, thread, n), n_rows, y, m.n_out);
    }
}

// Rows of int4 weights as floats, (n_rows, n_in).
void upcast_int4(const Matrix* matrix, int64_t first, int64_t n_rows, float* into, int n_threads) {
    const Int4 w(matrix->weights, matrix->scales, matrix->n_in);
#pragma omp parallel for num_threads(n_threads)
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t column = 0; column < w.n_in; column += BLOCK) {
            Pair pair = w.as_floats(first + row, column);
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
