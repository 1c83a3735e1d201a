// Decode steps of a Llama on a CPU: linear layers on weights as they lie in the file, and everything between them.
//
// Few rows wait for weights, so what counts is that every byte is read once, in long runs and early enough, and that
// nothing else takes time: one parallel region computes a whole step.

#include <omp.h>

#include <cstddef>

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

// A product, of the thread's share of the outputs, in the dtype of the activations.
inline void project(const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, bool rounds, float* y,
                    int64_t stride) {
    product(matrix, in, outs, n_rows, y, stride);
    if (!rounds) return;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = outs.first; i < outs.end; i++) y[row * stride + i] = rounded(y[row * stride + i]);
}

// x += matrix · in, of the thread's share of the outputs.
inline void add_product(const Model& m, const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, float* out,
                        float* x) {
    project(matrix, in, outs, n_rows, m.rounds, out, m.dim);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = row * m.dim + outs.first; i < row * m.dim + outs.end; i++)
            x[i] = maybe_rounded(x[i] + out[i], m.rounds);
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

int64_t most_head_dim() { return MOST_HEAD_DIM; }

int64_t scratch_floats(const Model* m, int64_t n_rows) { return Scratch(nullptr, *m, n_rows).n_floats; }

// One token of each row: x (n_rows, dim) are their embeddings, and are overwritten; logits (n_rows, vocab_size).
void decode(const Model* model, int64_t n_rows, const int64_t* positions, const int64_t* slots, float* x, float* logits,
            float* scratch, int n_threads) {
    const Model& m = *model;
    const Scratch s(scratch, m, n_rows);
    const int64_t q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim, all = q_dim + 2 * kv_dim;
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range dim = share(m.dim, STRIDE, thread, n), ffn = share(m.ffn_dim, STRIDE, thread, n);
        const Range rows = share(n_rows, 1, thread, n);
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
#pragma omp barrier
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < n_rows * m.n_kv_heads; unit++) {
                const int64_t row = unit / m.n_kv_heads, head = unit % m.n_kv_heads;
                const float* of_row = s.side_by_side + row * all;
                float* into = s.mixed + row * q_dim;
                if (m.narrows)
                    attend_head<BFloat16, uint16_t>(m, layer, head, slots[row], positions[row], of_row, into);
                else
                    attend_head<Float32, float>(m, layer, head, slots[row], positions[row], of_row, into);
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
        prepare_normed(m.norm, m.output.kind);
#pragma omp barrier
        const Range words = share(m.output.n_out, STRIDE, thread, n);
        project(m.output, s.in, words, n_rows, m.rounds, logits, m.output.n_out);
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
