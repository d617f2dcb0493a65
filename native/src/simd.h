// Sixteen float lanes and their masks: AVX-512 (one register), AVX2 (two registers), NEON (four registers), or GCC vector
// extensions, which the compiler lowers to whatever the machine has. Everything lives in a namespace per instruction set.
//
// Comparisons with NaN are false. vmin(a, b) and vmax(a, b) return b when either is NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(GS_ISA_avx512) || defined(GS_ISA_avx2)
#include <immintrin.h>
#elif defined(GS_ISA_neon)
#include <arm_neon.h>
#endif

#define GS_INLINE inline __attribute__((always_inline))
#ifdef GS_ISA_scalar
#define GS_UNROLL  // a Vec is a loop already: unrolling would only make the compiler slow
#else
#define GS_UNROLL _Pragma("GCC unroll 32")
#endif

namespace gs {
namespace GS_ISA {

constexpr int LANES = 16;

#if defined(GS_ISA_avx512)

struct Vec {
  __m512 v;
};
using Mask = __mmask16;

GS_INLINE Vec set(float x) { return {_mm512_set1_ps(x)}; }
GS_INLINE Vec set_bits(int32_t x) { return {_mm512_castsi512_ps(_mm512_set1_epi32(x))}; }
GS_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
GS_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
GS_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
GS_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
GS_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
GS_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
GS_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
GS_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
GS_INLINE Vec vmin(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
GS_INLINE Vec vmax(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
GS_INLINE Vec vsqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
GS_INLINE Vec vabs(Vec a) { return {_mm512_abs_ps(a.v)}; }
GS_INLINE Vec round_nearest(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
GS_INLINE Vec scale_by_exp2(Vec a, Vec whole) { return {_mm512_scalef_ps(a.v, whole.v)}; }
// The lanes as 32-bit integers, rounded towards zero, in the bits of a Vec.
GS_INLINE Vec truncated(Vec a) { return {_mm512_castsi512_ps(_mm512_cvttps_epi32(a.v))}; }
// a = mantissa * 2^exponent with mantissa in [1, 2), for positive normal a.
GS_INLINE Vec exponent(Vec a) { return {_mm512_getexp_ps(a.v)}; }
GS_INLINE Vec mantissa(Vec a) { return {_mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)}; }

GS_INLINE Mask gt(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
GS_INLINE Mask ge(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
GS_INLINE Mask eq_bits(Vec a, Vec b) {
  return _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v));
}
GS_INLINE Mask both(Mask a, Mask b) { return a & b; }
GS_INLINE Mask either(Mask a, Mask b) { return a | b; }
GS_INLINE Mask without(Mask a, Mask b) { return static_cast<Mask>(a & ~b); }
GS_INLINE bool any(Mask a) { return a != 0; }
GS_INLINE uint32_t bits(Mask a) { return a; }
GS_INLINE Mask from_bits(uint32_t b) { return static_cast<Mask>(b); }
GS_INLINE Vec keep(Mask m, Vec a) { return {_mm512_maskz_mov_ps(m, a.v)}; }
GS_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_mov_ps(no.v, m, yes.v)}; }
GS_INLINE float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
// out[i] += a[i] + a[i + 4] + a[i + 8] + a[i + 12]
GS_INLINE void add_quarters(float* out, Vec a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), quarter));
}

// Writes base + i for every set bit i of m; may write up to 16 values; returns how many count.
GS_INLINE int compress_indices(int32_t* out, int32_t base, uint32_t m) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index = _mm512_add_epi32(_mm512_set1_epi32(base), lane);
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(m), index));
  return __builtin_popcount(m);
}

// The same for 64 bits and up to 64 values; `bytes`: the machine has AVX-512 VBMI2 and packs bytes in one go.
GS_INLINE bool packs_bytes() { return __builtin_cpu_supports("avx512vbmi2"); }
GS_INLINE int compress_indices64(int32_t* out, int32_t base, uint64_t m, bool bytes) {
  if (!bytes) {
    int n = 0;
    for (int i = 0; i < 64; i += 16) n += compress_indices(out + n, base + i, static_cast<uint16_t>(m >> i));
    return n;
  }
  alignas(64) static constexpr uint8_t lane[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
      32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  __m512i packed;  // by name, as code for this set may not assume the instruction
  asm("vpcompressb %1, %0%{%2%}%{z%}" : "=v"(packed) : "v"(_mm512_load_si512(lane)), "Yk"(static_cast<__mmask64>(m)));
  const __m512i start = _mm512_set1_epi32(base);
  auto put = [&](int i, __m128i part) { _mm512_storeu_si512(out + i, _mm512_add_epi32(start, _mm512_cvtepu8_epi32(part))); };
  put(0, _mm512_castsi512_si128(packed));
  const int n = __builtin_popcountll(m);
  if (n > 16) {
    put(16, _mm512_extracti32x4_epi32(packed, 1));
    put(32, _mm512_extracti32x4_epi32(packed, 2));
    put(48, _mm512_extracti32x4_epi32(packed, 3));
  }
  return n;
}

// out[k], lane i: from[i][offset + k], for k < 4.
GS_INLINE void load_columns(const float* const* from, int offset, Vec* out) {
  __m512 r[4];
  GS_UNROLL for (int i = 0; i < 4; ++i) {
    auto quarter = [&](int k) { return _mm_loadu_ps(from[4 * k + i] + offset); };
    r[i] = _mm512_castps128_ps512(quarter(0));
    r[i] = _mm512_insertf32x4(r[i], quarter(1), 1);
    r[i] = _mm512_insertf32x4(r[i], quarter(2), 2);
    r[i] = _mm512_insertf32x4(r[i], quarter(3), 3);
  }
  const __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]),
               c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
  auto low = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  auto high = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  out[0].v = low(a, c);
  out[1].v = high(a, c);
  out[2].v = low(b, d);
  out[3].v = high(b, d);
}

// out[i * stride + k] = in[k], lane i, for k < 4.
GS_INLINE void store_columns(const Vec* in, float* out, int64_t stride) {
  const __m512 a = _mm512_unpacklo_ps(in[0].v, in[1].v), b = _mm512_unpackhi_ps(in[0].v, in[1].v),
               c = _mm512_unpacklo_ps(in[2].v, in[3].v), d = _mm512_unpackhi_ps(in[2].v, in[3].v);
  const __m512d e = _mm512_castps_pd(a), f = _mm512_castps_pd(b), g = _mm512_castps_pd(c), h = _mm512_castps_pd(d);
  const __m512 r[4] = {_mm512_castpd_ps(_mm512_unpacklo_pd(e, g)), _mm512_castpd_ps(_mm512_unpackhi_pd(e, g)),
                       _mm512_castpd_ps(_mm512_unpacklo_pd(f, h)), _mm512_castpd_ps(_mm512_unpackhi_pd(f, h))};
  GS_UNROLL for (int i = 0; i < 4; ++i) {
    _mm_storeu_ps(out + i * stride, _mm512_castps512_ps128(r[i]));
    _mm_storeu_ps(out + (4 + i) * stride, _mm512_extractf32x4_ps(r[i], 1));
    _mm_storeu_ps(out + (8 + i) * stride, _mm512_extractf32x4_ps(r[i], 2));
    _mm_storeu_ps(out + (12 + i) * stride, _mm512_extractf32x4_ps(r[i], 3));
  }
}

GS_INLINE void transpose16(Vec* r) {
  __m512 t[16], u[16];
  GS_UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  GS_UNROLL for (int i = 0; i < 16; i += 4) {
    auto lo = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    auto hi = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    u[i] = lo(t[i], t[i + 2]);
    u[i + 1] = hi(t[i], t[i + 2]);
    u[i + 2] = lo(t[i + 1], t[i + 3]);
    u[i + 3] = hi(t[i + 1], t[i + 3]);
  }
  // u[4g + k] holds, in its 128-bit quarter q, column 4q + k of rows 4g .. 4g + 3.
  GS_UNROLL for (int k = 0; k < 4; ++k) {
    const __m512 a = _mm512_shuffle_f32x4(u[k], u[4 + k], 0x88), b = _mm512_shuffle_f32x4(u[8 + k], u[12 + k], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(u[k], u[4 + k], 0xdd), d = _mm512_shuffle_f32x4(u[8 + k], u[12 + k], 0xdd);
    r[k].v = _mm512_shuffle_f32x4(a, b, 0x88);
    r[8 + k].v = _mm512_shuffle_f32x4(a, b, 0xdd);
    r[4 + k].v = _mm512_shuffle_f32x4(c, d, 0x88);
    r[12 + k].v = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

#elif defined(GS_ISA_avx2)

struct Vec {
  __m256 a, b;
};
struct Mask {
  __m256 a, b;
};

GS_INLINE Vec set(float x) {
  const __m256 t = _mm256_set1_ps(x);
  return {t, t};
}
GS_INLINE Vec set_bits(int32_t x) {
  const __m256 t = _mm256_castsi256_ps(_mm256_set1_epi32(x));
  return {t, t};
}
GS_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
GS_INLINE void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
#define GS_BINARY(name, intrinsic) \
  GS_INLINE Vec name(Vec x, Vec y) { return {intrinsic(x.a, y.a), intrinsic(x.b, y.b)}; }
GS_BINARY(operator+, _mm256_add_ps)
GS_BINARY(operator-, _mm256_sub_ps)
GS_BINARY(operator*, _mm256_mul_ps)
GS_BINARY(operator/, _mm256_div_ps)
GS_BINARY(vmin, _mm256_min_ps)
GS_BINARY(vmax, _mm256_max_ps)
#undef GS_BINARY
GS_INLINE Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
GS_INLINE Vec fnma(Vec x, Vec y, Vec z) { return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
GS_INLINE Vec vsqrt(Vec x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
GS_INLINE Vec vabs(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
GS_INLINE Vec round_nearest(Vec x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
GS_INLINE __m256 scale_half(__m256 x, __m256 whole) {  // whole is limited so that the exponent field cannot wrap
  const __m256 w = _mm256_min_ps(_mm256_max_ps(whole, _mm256_set1_ps(-126.f)), _mm256_set1_ps(127.f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(w), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
}
GS_INLINE Vec scale_by_exp2(Vec x, Vec whole) { return {scale_half(x.a, whole.a), scale_half(x.b, whole.b)}; }
GS_INLINE Vec truncated(Vec x) {
  return {_mm256_castsi256_ps(_mm256_cvttps_epi32(x.a)), _mm256_castsi256_ps(_mm256_cvttps_epi32(x.b))};
}
GS_INLINE __m256 exponent_half(__m256 x) {
  const __m256i field = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(255));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(field, _mm256_set1_epi32(127)));
}
GS_INLINE __m256 mantissa_half(__m256 x) {
  const __m256i low = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_set1_epi32(0x3f800000)));
}
GS_INLINE Vec exponent(Vec x) { return {exponent_half(x.a), exponent_half(x.b)}; }
GS_INLINE Vec mantissa(Vec x) { return {mantissa_half(x.a), mantissa_half(x.b)}; }

GS_INLINE Mask gt(Vec x, Vec y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)}; }
GS_INLINE Mask ge(Vec x, Vec y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)}; }
GS_INLINE __m256 eq_half(__m256 x, __m256 y) {
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
GS_INLINE Mask eq_bits(Vec x, Vec y) { return {eq_half(x.a, y.a), eq_half(x.b, y.b)}; }
GS_INLINE Mask both(Mask x, Mask y) { return {_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)}; }
GS_INLINE Mask either(Mask x, Mask y) { return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)}; }
GS_INLINE Mask without(Mask x, Mask y) { return {_mm256_andnot_ps(y.a, x.a), _mm256_andnot_ps(y.b, x.b)}; }
GS_INLINE uint32_t bits(Mask x) {
  return static_cast<uint32_t>(_mm256_movemask_ps(x.a)) | (static_cast<uint32_t>(_mm256_movemask_ps(x.b)) << 8);
}
GS_INLINE bool any(Mask x) { return _mm256_movemask_ps(_mm256_or_ps(x.a, x.b)) != 0; }
GS_INLINE Mask from_bits(uint32_t m) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i lo = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(m & 255)), lane);
  const __m256i hi = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>((m >> 8) & 255)), lane);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(lo, lane)), _mm256_castsi256_ps(_mm256_cmpeq_epi32(hi, lane))};
}
GS_INLINE Vec keep(Mask m, Vec x) { return {_mm256_and_ps(m.a, x.a), _mm256_and_ps(m.b, x.b)}; }
GS_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}

#elif defined(GS_ISA_neon)

struct Vec {
  float32x4_t q[4];
};
struct Mask {
  uint32x4_t q[4];
};

#define GS_EACH GS_UNROLL for (int i = 0; i < 4; ++i)
GS_INLINE Vec set(float x) {
  const float32x4_t t = vdupq_n_f32(x);
  return {{t, t, t, t}};
}
GS_INLINE Vec set_bits(int32_t x) {
  const float32x4_t t = vreinterpretq_f32_s32(vdupq_n_s32(x));
  return {{t, t, t, t}};
}
GS_INLINE Vec load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
GS_INLINE void store(float* p, Vec x) { GS_EACH vst1q_f32(p + 4 * i, x.q[i]); }
#define GS_BINARY(name, expression)        \
  GS_INLINE Vec name(Vec x, Vec y) {       \
    Vec r;                                 \
    GS_EACH {                              \
      const float32x4_t a = x.q[i], b = y.q[i]; \
      r.q[i] = expression;                 \
    }                                      \
    return r;                              \
  }
GS_BINARY(operator+, vaddq_f32(a, b))
GS_BINARY(operator-, vsubq_f32(a, b))
GS_BINARY(operator*, vmulq_f32(a, b))
GS_BINARY(operator/, vdivq_f32(a, b))
GS_BINARY(vmin, vbslq_f32(vcltq_f32(a, b), a, b))
GS_BINARY(vmax, vbslq_f32(vcgtq_f32(a, b), a, b))
#undef GS_BINARY
GS_INLINE Vec fma(Vec x, Vec y, Vec z) {
  GS_EACH z.q[i] = vfmaq_f32(z.q[i], x.q[i], y.q[i]);
  return z;
}
GS_INLINE Vec fnma(Vec x, Vec y, Vec z) {
  GS_EACH z.q[i] = vfmsq_f32(z.q[i], x.q[i], y.q[i]);
  return z;
}
#define GS_UNARY(name, expression)    \
  GS_INLINE Vec name(Vec x) {         \
    GS_EACH {                         \
      const float32x4_t a = x.q[i];   \
      x.q[i] = expression;            \
    }                                 \
    return x;                         \
  }
GS_INLINE float32x4_t exponent_quarter(float32x4_t a) {
  const int32x4_t field = vandq_s32(vshrq_n_s32(vreinterpretq_s32_f32(a), 23), vdupq_n_s32(255));
  return vcvtq_f32_s32(vsubq_s32(field, vdupq_n_s32(127)));
}
GS_INLINE float32x4_t mantissa_quarter(float32x4_t a) {
  const int32x4_t low = vandq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(0x007fffff));
  return vreinterpretq_f32_s32(vorrq_s32(low, vdupq_n_s32(0x3f800000)));
}
GS_UNARY(vsqrt, vsqrtq_f32(a))
GS_UNARY(vabs, vabsq_f32(a))
GS_UNARY(round_nearest, vrndnq_f32(a))
GS_UNARY(exponent, exponent_quarter(a))
GS_UNARY(mantissa, mantissa_quarter(a))
GS_UNARY(truncated, vreinterpretq_f32_s32(vcvtq_s32_f32(a)))
#undef GS_UNARY
GS_INLINE Vec scale_by_exp2(Vec x, Vec whole) {  // whole is limited so that the exponent field cannot wrap
  const Vec w = vmin(vmax(whole, set(-126.f)), set(127.f));
  GS_EACH {
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(w.q[i]), vdupq_n_s32(127)), 23);
    x.q[i] = vmulq_f32(x.q[i], vreinterpretq_f32_s32(power));
  }
  return x;
}

#define GS_COMPARE(name, expression)            \
  GS_INLINE Mask name(Vec x, Vec y) {           \
    Mask r;                                     \
    GS_EACH {                                   \
      const float32x4_t a = x.q[i], b = y.q[i]; \
      r.q[i] = expression;                      \
    }                                           \
    return r;                                   \
  }
GS_COMPARE(gt, vcgtq_f32(a, b))
GS_COMPARE(ge, vcgeq_f32(a, b))
GS_COMPARE(eq_bits, vceqq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
#undef GS_COMPARE
GS_INLINE Mask both(Mask x, Mask y) {
  GS_EACH x.q[i] = vandq_u32(x.q[i], y.q[i]);
  return x;
}
GS_INLINE Mask either(Mask x, Mask y) {
  GS_EACH x.q[i] = vorrq_u32(x.q[i], y.q[i]);
  return x;
}
GS_INLINE Mask without(Mask x, Mask y) {
  GS_EACH x.q[i] = vbicq_u32(x.q[i], y.q[i]);
  return x;
}
GS_INLINE uint32x4_t lane_bits() {
  static const uint32_t one_per_lane[4] = {1, 2, 4, 8};
  return vld1q_u32(one_per_lane);
}
GS_INLINE uint32_t bits(Mask x) {
  uint32_t r = 0;
  GS_EACH r |= vaddvq_u32(vandq_u32(x.q[i], lane_bits())) << (4 * i);
  return r;
}
GS_INLINE bool any(Mask x) {
  return vmaxvq_u32(vorrq_u32(vorrq_u32(x.q[0], x.q[1]), vorrq_u32(x.q[2], x.q[3]))) != 0;
}
GS_INLINE Mask from_bits(uint32_t m) {
  Mask r;
  GS_EACH r.q[i] = vtstq_u32(vdupq_n_u32(m >> (4 * i)), lane_bits());
  return r;
}
GS_INLINE Vec keep(Mask m, Vec x) {
  GS_EACH x.q[i] = vreinterpretq_f32_u32(vandq_u32(m.q[i], vreinterpretq_u32_f32(x.q[i])));
  return x;
}
GS_INLINE Vec select(Mask m, Vec yes, Vec no) {
  GS_EACH no.q[i] = vbslq_f32(m.q[i], yes.q[i], no.q[i]);
  return no;
}
#undef GS_EACH

#else  // vector extensions

typedef float FloatLanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
struct Vec {
  FloatLanes v;
};
struct Mask {
  IntLanes m;
};  // -1 or 0 per lane

GS_INLINE Vec set(float x) { return {x - FloatLanes{}}; }
GS_INLINE Vec set_bits(int32_t x) { return {reinterpret_cast<FloatLanes>(x - IntLanes{})}; }
GS_INLINE Vec load(const float* p) {
  Vec r;
  std::memcpy(&r.v, p, sizeof r.v);
  return r;
}
GS_INLINE void store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof a.v); }
GS_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
GS_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
GS_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
GS_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
GS_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
GS_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }
GS_INLINE Vec vmin(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
GS_INLINE Vec vmax(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
GS_INLINE Vec vsqrt(Vec a) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = __builtin_sqrtf(a.v[i]);
  return r;
}
GS_INLINE Vec vabs(Vec a) { return {reinterpret_cast<FloatLanes>(reinterpret_cast<IntLanes>(a.v) & 0x7fffffff)}; }
GS_INLINE Vec round_nearest(Vec a) {  // |a| below 2^22, which is all that the callers need
  const FloatLanes magic = 12582912.f - FloatLanes{};
  FloatLanes shifted = a.v + magic;
  asm("" : "+m"(shifted));  // the addition must really round
  return {shifted - magic};
}
GS_INLINE Vec scale_by_exp2(Vec a, Vec whole) {
  const Vec w = vmin(vmax(whole, set(-126.f)), set(127.f));
  const IntLanes power = (__builtin_convertvector(w.v, IntLanes) + 127) << 23;
  return {a.v * reinterpret_cast<FloatLanes>(power)};
}
GS_INLINE Vec truncated(Vec a) { return {reinterpret_cast<FloatLanes>(__builtin_convertvector(a.v, IntLanes))}; }
GS_INLINE Vec exponent(Vec a) {
  return {__builtin_convertvector(((reinterpret_cast<IntLanes>(a.v) >> 23) & 255) - 127, FloatLanes)};
}
GS_INLINE Vec mantissa(Vec a) {
  return {reinterpret_cast<FloatLanes>((reinterpret_cast<IntLanes>(a.v) & 0x007fffff) | 0x3f800000)};
}

GS_INLINE Mask gt(Vec a, Vec b) { return {a.v > b.v}; }
GS_INLINE Mask ge(Vec a, Vec b) { return {a.v >= b.v}; }
GS_INLINE Mask eq_bits(Vec a, Vec b) { return {reinterpret_cast<IntLanes>(a.v) == reinterpret_cast<IntLanes>(b.v)}; }
GS_INLINE Mask both(Mask a, Mask b) { return {a.m & b.m}; }
GS_INLINE Mask either(Mask a, Mask b) { return {a.m | b.m}; }
GS_INLINE Mask without(Mask a, Mask b) { return {a.m & ~b.m}; }
GS_INLINE uint32_t bits(Mask a) {
  uint32_t r = 0;
  for (int i = 0; i < 16; ++i) r |= static_cast<uint32_t>(a.m[i] & 1) << i;
  return r;
}
GS_INLINE bool any(Mask a) {
  uint64_t parts[8];
  std::memcpy(parts, &a.m, sizeof parts);
  return ((parts[0] | parts[1]) | (parts[2] | parts[3]) | (parts[4] | parts[5]) | (parts[6] | parts[7])) != 0;
}
GS_INLINE Mask from_bits(uint32_t m) {
  Mask r;
  for (int i = 0; i < 16; ++i) r.m[i] = (m >> i) & 1 ? -1 : 0;
  return r;
}
GS_INLINE Vec keep(Mask m, Vec a) { return {reinterpret_cast<FloatLanes>(m.m & reinterpret_cast<IntLanes>(a.v))}; }
GS_INLINE Vec select(Mask m, Vec yes, Vec no) { return {m.m ? yes.v : no.v}; }

#endif

// inverse_sqrt: to 1e-4 relative. power_of_2: of the floor of a, for a in [0, 8]. store_bytes: of whole numbers below 256.
// bit_columns: out[c * stride], bit i = bytes[i], bit c, for 64 bytes and c < count <= 8.
#if defined(GS_ISA_avx512)
GS_INLINE Vec inverse_sqrt(Vec a) { return {_mm512_rsqrt14_ps(a.v)}; }
GS_INLINE Vec power_of_2(Vec a) { return {_mm512_scalef_ps(_mm512_set1_ps(1.f), a.v)}; }
GS_INLINE void store_bytes(uint8_t* out, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a.v)));
}
GS_INLINE void bit_columns(const uint8_t* bytes, int count, uint64_t* out, int64_t stride) {
  const __m512i b = _mm512_loadu_si512(bytes);
  GS_UNROLL for (int c = 0; c < count; ++c)
    out[c * stride] = _mm512_test_epi8_mask(b, _mm512_set1_epi8(static_cast<char>(1 << c)));
}
#else
GS_INLINE Vec inverse_sqrt(Vec a) { return set(1.f) / vsqrt(a); }
GS_INLINE Vec power_of_2(Vec a) {
  alignas(64) float t[LANES];
  int32_t whole[LANES];
  store(t, truncated(a));
  std::memcpy(whole, t, sizeof t);
  for (int i = 0; i < LANES; ++i) t[i] = static_cast<float>(1 << whole[i]);
  return load(t);
}
GS_INLINE void store_bytes(uint8_t* out, Vec a) {
  int32_t t[LANES];
  const Vec whole = truncated(a);
  std::memcpy(t, &whole, sizeof t);
  for (int i = 0; i < LANES; ++i) out[i] = static_cast<uint8_t>(t[i]);
}
GS_INLINE void bit_columns(const uint8_t* bytes, int count, uint64_t* out, int64_t stride) {
  for (int c = 0; c < count; ++c) out[c * stride] = 0;
  for (int i = 0; i < 64; i += 8) {
    uint64_t m;
    std::memcpy(&m, bytes + i, sizeof m);  // a square of 8x8 bits, transposed in three steps
    uint64_t t = (m ^ (m >> 7)) & 0x00aa00aa00aa00aaull;
    m ^= t ^ (t << 7);
    t = (m ^ (m >> 14)) & 0x0000cccc0000ccccull;
    m ^= t ^ (t << 14);
    t = (m ^ (m >> 28)) & 0x00000000f0f0f0f0ull;
    m ^= t ^ (t << 28);
    for (int c = 0; c < count; ++c) out[c * stride] |= (m >> (8 * c) & 255) << i;
  }
}
#endif

#if !defined(GS_ISA_avx512)

GS_INLINE void load_columns(const float* const* from, int offset, Vec* out) {
  for (int k = 0; k < 4; ++k) {
    alignas(64) float t[LANES];
    for (int i = 0; i < LANES; ++i) t[i] = from[i][offset + k];
    out[k] = load(t);
  }
}

GS_INLINE void store_columns(const Vec* in, float* out, int64_t stride) {
  alignas(64) float t[4][LANES];
  for (int k = 0; k < 4; ++k) store(t[k], in[k]);
  for (int i = 0; i < LANES; ++i)
    for (int k = 0; k < 4; ++k) out[i * stride + k] = t[k][i];
}

GS_INLINE float sum(Vec a) {  // in the same pairwise order everywhere
  float t[16];
  store(t, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) t[i] += t[i + width];
  return t[0];
}

GS_INLINE void add_quarters(float* out, Vec a) {
  float t[16];
  store(t, a);
  for (int i = 0; i < 4; ++i) out[i] += (t[i] + t[i + 8]) + (t[i + 4] + t[i + 12]);
}

GS_INLINE int compress_indices(int32_t* out, int32_t base, uint32_t m) {
  int n = 0;
  for (; m; m &= m - 1) out[n++] = base + __builtin_ctz(m);
  return n;
}

GS_INLINE bool packs_bytes() { return false; }
GS_INLINE int compress_indices64(int32_t* out, int32_t base, uint64_t m, bool) {
  int n = 0;
  for (; m; m &= m - 1) out[n++] = base + __builtin_ctzll(m);
  return n;
}

GS_INLINE void transpose16(Vec* r) {
  float t[16][16];
  for (int i = 0; i < 16; ++i) store(t[i], r[i]);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) {
      const float x = t[i][j];
      t[i][j] = t[j][i];
      t[j][i] = x;
    }
  for (int i = 0; i < 16; ++i) r[i] = load(t[i]);
}

#endif

// The first n (1 to 16) lanes from or to memory that ends there; other lanes are 0.
#if defined(GS_ISA_avx512)
GS_INLINE Vec load_first(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(0xffffu >> (LANES - n)), p)};
}
GS_INLINE void store_first(float* p, Vec a, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(0xffffu >> (LANES - n)), a.v);
}
#else
GS_INLINE Vec load_first(const float* p, int n) {
  alignas(64) float t[LANES] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
GS_INLINE void store_first(float* p, Vec a, int n) {
  alignas(64) float t[LANES];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
#endif

GS_INLINE Vec zero() { return set(0.f); }
GS_INLINE Vec operator-(Vec a) { return zero() - a; }
GS_INLINE Vec clamp(Vec x, Vec lo, Vec hi) { return vmin(hi, vmax(lo, x)); }

// x[k] = 2^x[k] to 2.6e-6 relative (minimax polynomial of degree 4), step by step for all, so that no step waits for the
// one before; underflows to 0 or a denormal's neighbour.
#define GS_EACH GS_UNROLL for (int k = 0; k < count; ++k)
template <int count>
GS_INLINE void exp2_fast(Vec* x) {
  Vec f[count], q[count];
#if defined(GS_ISA_avx512)
  // The polynomial of [-1/2, 1/2] moved to [0, 1), as the instructions take the floor.
  constexpr float c[] = {1.000002593e+00f, 6.930038379e-01f, 2.414427384e-01f, 5.201149182e-02f, 1.353415168e-02f};
  GS_EACH f[k] = {_mm512_reduce_ps(x[k].v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
#else
  constexpr float c[] = {9.999992614e-1f, 6.931218149e-1f, 2.402474511e-1f, 5.591785942e-2f, 9.570090427e-3f};
  GS_EACH f[k] = x[k] - round_nearest(x[k]);
  GS_EACH x[k] = x[k] - f[k];
#endif
  GS_EACH q[k] = fma(set(c[4]), f[k], set(c[3]));
  GS_EACH q[k] = fma(q[k], f[k], set(c[2]));
  GS_EACH q[k] = fma(q[k], f[k], set(c[1]));
  GS_EACH q[k] = fma(q[k], f[k], set(c[0]));
  GS_EACH x[k] = scale_by_exp2(q[k], x[k]);
}
#undef GS_EACH

// 2^x to float precision (degree 6).
GS_INLINE Vec exp2_exact(Vec x) {
  const Vec whole = round_nearest(x), f = x - whole;
  Vec q = set(1.534580214e-4f);
  q = fma(q, f, set(1.339993114e-3f));
  q = fma(q, f, set(9.618488994e-3f));
  q = fma(q, f, set(5.550328777e-2f));
  q = fma(q, f, set(2.402264689e-1f));
  q = fma(q, f, set(6.931472057e-1f));
  q = fma(q, f, set(1.f));
  return scale_by_exp2(q, whole);
}

// log2 of positive normal x: with m = mantissa brought to [1/sqrt 2, sqrt 2] and s = (m-1)/(m+1),
// ln m = 2 (s + s^3/3 + s^5/5 + ...).
GS_INLINE Vec log2_exact(Vec x) {
  Vec m = mantissa(x), e = exponent(x);
  const Mask upper = gt(m, set(1.41421356f));
  m = select(upper, m * set(0.5f), m);
  e = select(upper, e + set(1.f), e);
  const Vec s = (m - set(1.f)) / (m + set(1.f)), s2 = s * s;
  Vec q = set(1.f / 9.f);
  q = fma(q, s2, set(1.f / 7.f));
  q = fma(q, s2, set(1.f / 5.f));
  q = fma(q, s2, set(1.f / 3.f));
  q = fma(q, s2, set(1.f));
  return fma(s * q, set(2.f * 1.44269504f), e);
}

GS_INLINE int32_t imin(int32_t a, int32_t b) { return a < b ? a : b; }
GS_INLINE int32_t imax(int32_t a, int32_t b) { return a > b ? a : b; }

}  // namespace GS_ISA
}  // namespace gs
