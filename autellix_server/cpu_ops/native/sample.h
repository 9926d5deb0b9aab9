// Drawing a token from each row of probabilities, among the most probable ones where there are limits.
//
// Nothing is sorted but the few probabilities around the limit: the tokens to draw from are all those above a value and
// some at it, and the value is found by counting.

#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "pool.h"
#include "simd.h"

namespace autellix {

struct Limits {
    int64_t most;      // tokens, the most probable ones
    float mass;        // tokens as long as those more probable have no more than this together
    float least;       // tokens with at least this share of the highest probability
};

using Weighted = std::pair<float, int>;  // a probability and its token

// Positive floats are ordered as their bits are: the 11 highest bits name one of these.
constexpr int BINS = 2048;

inline int bin_of(float p) {
    uint32_t bits;
    std::memcpy(&bits, &p, sizeof bits);
    return int(bits >> 20);
}

// Draws from all tokens: sums blocks, finds the block, finds the token in it.
inline int draw(const float* probs, int count, float uniform) {
    constexpr int BLOCK = 512;
    thread_local std::vector<float> sums;
    sums.clear();
    double total = 0;
    for (int start = 0; start < count; start += BLOCK) {
        int end = std::min(count, start + BLOCK), i = start;
        floats lanes{};
        for (; i + LANES <= end; i += LANES) lanes += load(probs + i);
        float sum = add_up(lanes);
        for (; i < end; ++i) sum += probs[i];
        sums.push_back(sum);
        total += sum;
    }
    double left = uniform * total;
    int last = 0;
    for (int block = 0; block < int(sums.size()); ++block) {
        if (left >= sums[block]) {
            left -= sums[block];
            continue;
        }
        for (int i = block * BLOCK; i < std::min(count, (block + 1) * BLOCK); ++i) {
            if (probs[i] <= 0) continue;
            last = i;
            if ((left -= probs[i]) < 0) return i;
        }
    }
    // Rounding left a little over: the last token that can be drawn at all.
    for (int i = count - 1; i > last; --i)
        if (probs[i] > 0) return i;
    return last;
}

// Draws from the tokens within the limits.
inline int draw_limited(const float* probs, int count, const Limits& limits, float uniform) {
    thread_local std::vector<int> counts(BINS);
    thread_local std::vector<double> masses(BINS);
    thread_local std::vector<Weighted> kept;
    std::fill(counts.begin(), counts.end(), 0);
    std::fill(masses.begin(), masses.end(), 0.0);
    float highest_probability = 0;
    for (int i = 0; i < count; ++i) {
        if (!(probs[i] > 0)) continue;
        highest_probability = std::max(highest_probability, probs[i]);
        ++counts[bin_of(probs[i])];
        masses[bin_of(probs[i])] += probs[i];
    }
    float least = std::max(highest_probability * limits.least, 1e-45f);
    int edge = BINS - 1;
    int64_t above = 0;
    double mass = 0;
    while (edge > bin_of(least) && above + counts[edge] < limits.most && mass + masses[edge] <= limits.mass) {
        above += counts[edge];
        mass += masses[edge--];
    }
    kept.clear();
    for (int i = 0; i < count; ++i)
        if (probs[i] > 0 && bin_of(probs[i]) >= edge) kept.emplace_back(probs[i], i);
    // What is above the edge first, then what is at it, the most probable first.
    auto at_edge = std::partition(kept.begin(), kept.end(), [&](Weighted w) { return bin_of(w.first) > edge; });
    std::sort(at_edge, kept.end(), [](Weighted a, Weighted b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    auto end = at_edge;
    for (; end != kept.end() && above < limits.most && mass <= limits.mass && end->first >= least; ++end, ++above)
        mass += end->first;
    if (end == kept.begin()) return kept.empty() ? 0 : kept.front().second;
    double left = uniform * mass;
    for (auto each = kept.begin(); each != end; ++each)
        if ((left -= each->first) < 0) return each->second;
    return (end - 1)->second;
}

// Where a row's probabilities are no numbers, its token is some token: the engine has to live on.
// tokens[row] drawn from probs[row, :], by uniforms[row] in [0, 1). Null limits are none.
inline void sample(const float* probs, int64_t stride, const float* uniforms, const int32_t* most, const float* mass,
                   const float* least, int32_t* tokens, int rows, int count) {
    Pool::instance().run(rows, [=](int row) {
        const float* mine = probs + row * stride;
        bool limited = (most && most[row] < count) || (mass && mass[row] < 1) || (least && least[row] > 0);
        Limits limits{most ? most[row] : count, mass ? mass[row] : 1, least ? least[row] : 0};
        tokens[row] = limited ? draw_limited(mine, count, limits, uniforms[row]) : draw(mine, count, uniforms[row]);
    });
}

}  // namespace autellix
