// Vectors of floats as wide as the machine has them, in the compiler's own vector types, and what is loaded into them.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace autellix {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));

struct bf16 {
    uint16_t bits;
};

constexpr float LOG2_E = 1.44269504088896341f;

inline floats all(float value) { return value - floats{}; }

using Lanes = std::make_integer_sequence<int, LANES>;

template <int... LANE>
inline integers numbers(int first, std::integer_sequence<int, LANE...>) {
    return integers{LANE...} + first;
}

// The numbers from `first` on, lane by lane.
inline integers numbers(int first) { return numbers(first, Lanes()); }

// The lanes FROM of x and y together; those from LANES on are y's.
template <int... FROM, class V>
inline V pick(V x, V y) {
#if defined(__clang__)
    return __builtin_shufflevector(x, y, FROM...);
#else
    return __builtin_shuffle(x, y, integers{FROM...});
#endif
}

// Of two vectors made of segments of SEGMENT lanes, each segment folded onto its first half; x's, then y's.
template <int SEGMENT, int... LANE>
inline floats fold(floats x, floats y, std::integer_sequence<int, LANE...>) {
    constexpr int HALF = LANES / 2;
    constexpr auto from = [](int lane) {
        return lane % HALF / (SEGMENT / 2) * SEGMENT + lane % HALF % (SEGMENT / 2) + (lane < HALF ? 0 : LANES);
    };
    return pick<from(LANE)...>(x, y) + pick<(from(LANE) + SEGMENT / 2)...>(x, y);
}

template <int SEGMENT>
inline floats fold(floats x, floats y) {
    return fold<SEGMENT>(x, y, Lanes());
}

// Lane i of the result is the sum of the lanes of vectors[i]; N is a power of 2, LANES at most. Overwrites `vectors`.
template <int N, int SEGMENT = LANES>
inline floats add_up(floats* vectors) {
    if constexpr (SEGMENT == 1) return vectors[0];
    else if constexpr (N == 1) {
        vectors[0] = fold<SEGMENT>(vectors[0], vectors[0]);
        return add_up<1, SEGMENT / 2>(vectors);
    } else {
        for (int i = 0; i < N / 2; ++i) vectors[i] = fold<SEGMENT>(vectors[2 * i], vectors[2 * i + 1]);
        return add_up<N / 2, SEGMENT / 2>(vectors);
    }
}

inline float add_up(floats v) { return add_up<1>(&v)[0]; }

template <int H, int... LANE>
inline floats swap_by(floats v, std::integer_sequence<int, LANE...>) {
    return pick<(LANE ^ H)...>(v, v);
}

// Lane by lane.
inline floats higher(floats x, floats y) { return x > y ? x : y; }

// The highest of the lanes.
template <int H = LANES / 2>
inline float highest(floats v) {
    if constexpr (H == 0) return v[0];
    else return highest<H / 2>(higher(swap_by<H>(v, Lanes()), v));
}

inline floats load(const float* from) {
    floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline words load_bits(const bf16* from) {
    halves h;
    std::memcpy(&h, from, sizeof h);
    return __builtin_convertvector(h, words);
}

inline floats load(const bf16* from) { return (floats)(load_bits(from) << 16); }

inline void store(float* to, floats v) { std::memcpy(to, &v, sizeof v); }

#if !defined(__AVX512BF16__)
// To the nearest, ties to even.
inline words rounded(floats v) {
    words bits = (words)v;
    return v == v ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : words{} + 0x7fc0;
}
#endif

inline void store(bf16* to, floats v) {
#if defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
#else
    halves h = __builtin_convertvector(rounded(v), halves);
#endif
    std::memcpy(to, &h, sizeof h);
}

// What is loaded again after it was stored as bfloat16.
inline floats as_stored(floats v) {
#if defined(__AVX512BF16__)
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16);
#else
    return (floats)(rounded(v) << 16);
#endif
}

// Lane by lane both numbers as bfloat16, `first` in the lower half of the word.
inline words pair(floats first, floats second) {
#if defined(__AVX512BF16__)
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    words turns = (words)numbers(0) | (words)numbers(16) << 16;
    return (words)_mm512_permutexvar_epi16((__m512i)turns, both);
#else
    return rounded(first) | rounded(second) << 16;
#endif
}

inline void store_one(float* to, float value) { *to = value; }

inline void store_one(bf16* to, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    to->bits = value == value ? uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fc0;
}

inline float load_one(const float* from) { return *from; }

inline float load_one(const bf16* from) {
    uint32_t bits = uint32_t(from->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Half of the lanes change places: those with bit H of a, those without of b.
template <int H, int... LANE>
inline void exchange(words& a, words& b, std::integer_sequence<int, LANE...>) {
    words low = pick<(LANE & H ? LANES + LANE - H : LANE)...>(a, b);
    b = pick<(LANE & H ? LANES + LANE : LANE + H)...>(a, b);
    a = low;
}

// Lane j of square[i] becomes lane i of square[j].
template <int H = LANES / 2>
inline void transpose(words* square) {
    for (int i = 0; i < LANES; ++i)
        if (!(i & H)) exchange<H>(square[i], square[i + H], Lanes());
    if constexpr (H > 1) transpose<H / 2>(square);
}

// 2^x for x up to 127, within 2 units in the last place of 2^(x rounded to a float); exactly 0 up to -127.
inline floats power_of_two(floats x) {
    x = higher(x, all(-127.0f));
    const float round_off = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    floats shifted = x + round_off;
    floats r = x - (shifted - round_off);
    floats p = all(1.32647e-3f);
    p = p * r + 9.67151e-3f;
    p = p * r + 5.550734e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314698e-1f;
    p = p * r + 1.0f;
    return (floats)((integers)p + ((integers)shifted << 23));
}

// exp, within 2 units in the last place; below -87 it is 0 for what it is used for.
inline floats exponential(floats x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    const float round_off = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    floats shifted = x * 1.44269504088896341f + round_off;
    floats n = shifted - round_off;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    integers exponent = __builtin_convertvector(n, integers) + 127;
    return p * (floats)(exponent << 23);
}

// 1 / x within 2 units in the last place, for x up to 2^127, beyond 2^126 less exactly: a division takes as long as an exponential.
inline floats reciprocal(floats x) {
#if defined(__AVX512F__)
    floats guess = (floats)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

// What a dot product takes at a time: STEP elements of each side, multiplied and added into LANES float sums.
template <class T>
struct Dot;

template <>
struct Dot<float> {
    static constexpr int STEP = LANES;
    using Side = floats;
    static floats add(floats sum, Side a, Side b) { return sum + a * b; }
};

template <>
struct Dot<bf16> {
    static constexpr int STEP = 2 * LANES;
    using Side = words;
    static floats add(floats sum, Side a, Side b) {
#if defined(__AVX512BF16__)
        return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
        sum += (floats)(a << 16) * (floats)(b << 16);
        return sum + (floats)(a & 0xffff0000u) * (floats)(b & 0xffff0000u);
#endif
    }
};

// out[r * stride + c] = dot(rows[r], columns[c]) over `size` elements, a multiple of Dot<T>::STEP. Every sum is added
// up in the same order whatever R and C are.
template <class T, int R, int C>
inline void dot_tile(const T* const* rows, const T* const* columns, int size, float* out, int stride) {
    using Side = typename Dot<T>::Side;
    floats sums[R][C] = {};
    for (int i = 0; i < size; i += Dot<T>::STEP) {
        Side right[C];
        for (int c = 0; c < C; ++c) std::memcpy(&right[c], columns[c] + i, sizeof(Side));
        for (int r = 0; r < R; ++r) {
            Side left;
            std::memcpy(&left, rows[r] + i, sizeof left);
            for (int c = 0; c < C; ++c) sums[r][c] = Dot<T>::add(sums[r][c], left, right[c]);
        }
    }
    if constexpr (C == 4 && R == 4 && LANES == 16) {
        floats each = add_up<16>(&sums[0][0]);
        for (int r = 0; r < R; ++r) std::memcpy(out + r * stride, (float*)&each + r * C, C * sizeof(float));
    } else {
        for (int r = 0; r < R; ++r) {
            constexpr int N = C == 3 ? 4 : C;
            floats padded[N] = {};
            for (int c = 0; c < C; ++c) padded[c] = sums[r][c];
            floats each = add_up<N>(padded);
            std::memcpy(out + r * stride, &each, C * sizeof(float));
        }
    }
}

// The same for up to 4 rows and 4 columns.
template <class T, int R = 4, int C = 4>
inline void dots(int r, int c, const T* const* rows, const T* const* columns, int size, float* out, int stride) {
    if constexpr (R > 1) {
        if (r < R) return dots<T, R - 1, C>(r, c, rows, columns, size, out, stride);
    }
    if constexpr (C > 1) {
        if (c < C) return dots<T, R, C - 1>(r, c, rows, columns, size, out, stride);
    }
    dot_tile<T, R, C>(rows, columns, size, out, stride);
}

}  // namespace autellix
