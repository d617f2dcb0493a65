#include "api.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "kernels.h"
#include "thread_pool.h"

namespace {

using namespace gs;

bool supported(const char* name) {
  if (!std::strcmp(name, "scalar")) return true;
#if GS_HAVE_neon
  if (!std::strcmp(name, "neon")) return true;  // every aarch64 has it
#endif
#if GS_HAVE_avx2 || GS_HAVE_avx512
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
#endif
#if GS_HAVE_avx2
  if (!std::strcmp(name, "avx2")) return avx2;
#endif
#if GS_HAVE_avx512
  if (!std::strcmp(name, "avx512"))
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#endif
  return false;
}

const Kernels* table([[maybe_unused]] const char* name) {
#if GS_HAVE_neon
  if (!std::strcmp(name, "neon")) return kernels_neon();
#endif
#if GS_HAVE_avx512
  if (!std::strcmp(name, "avx512")) return kernels_avx512();
#endif
#if GS_HAVE_avx2
  if (!std::strcmp(name, "avx2")) return kernels_avx2();
#endif
  return kernels_scalar();
}

const Kernels* kernels() {
  static const Kernels* const chosen = []() -> const Kernels* {
    const char* forced = std::getenv("GS_SEMANTIC_ISA");
    if (forced && *forced) return supported(forced) ? table(forced) : nullptr;
    for (const char* name : {"avx512", "avx2", "neon"})
      if (supported(name)) return table(name);
    return table("scalar");
  }();
  return chosen;
}

class Stopwatch {
 public:
  explicit Stopwatch(double& out) : out_(out), start_(Clock::now()) {}
  ~Stopwatch() { out_ = std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  double& out_;
  Clock::time_point start_;
};

template <class Function>
int32_t guarded(Function&& function) {
  if (!kernels()) return GS_BAD_ISA;
  try {
    return function(*kernels());
  } catch (const std::bad_alloc&) {
    return GS_OUT_OF_MEMORY;
  }
}

void reserve_scratch(View& view, int threads) {
  const int wanted = effective_threads(threads);
  if (wanted <= view.scratch_count) return;
  Scratch* fresh = new Scratch[wanted];
  delete[] view.scratch;
  view.scratch = fresh;
  view.scratch_count = wanted;
}

template <class Pass>
int32_t image_pass(View* view, int threads, Pass&& pass) {
  return guarded([&](const Kernels& k) {
    reserve_scratch(*view, threads);
    Stopwatch watch(view->times_ms[2]);
    for (int i = 0; i < view->scratch_count; ++i) view->scratch[i].evaluations = 0;
    pass(k);
    view->evaluations = 0;
    for (int i = 0; i < view->scratch_count; ++i) view->evaluations += view->scratch[i].evaluations;
    return GS_OK;
  });
}

}  // namespace

int32_t gs_abi_version() { return 5; }

const char* gs_isa() { return kernels() ? kernels()->name : nullptr; }

int32_t gs_thread_count(int32_t threads) { return effective_threads(threads); }

const char* gs_error_text(int32_t error) {
  switch (error) {
    case GS_OK:
      return "no error";
    case GS_OUT_OF_MEMORY:
      return "out of memory";
    case GS_TOO_MANY:
      return "the Gaussians cover too many image tiles; are their scales in metres?";
    case GS_BAD_ARGUMENT:
      return "bad argument";
    case GS_BAD_ISA:
      return "GS_SEMANTIC_ISA must be scalar, avx2, avx512 or neon, and this machine and build must have it";
    default:
      return "unknown error";
  }
}

Scene* gs_scene_create() { return new (std::nothrow) Scene; }
void gs_scene_destroy(Scene* scene) { delete scene; }

int32_t gs_scene_pack(Scene* scene, const Parameters* p, float extent_sigma, int32_t threads) {
  if (p->count < 0 || p->count >= (int64_t{1} << 31)) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.pack(*scene, *p, extent_sigma, nullptr, 0, threads);
    return GS_OK;
  });
}

int32_t gs_scene_repack(Scene* scene, const Parameters* p, float extent_sigma, const int32_t* changed,
                        int64_t changed_count, int32_t threads) {
  if (p->count < 0 || p->count >= (int64_t{1} << 31)) return GS_BAD_ARGUMENT;
  for (int64_t i = 0; i < changed_count; ++i)
    if (changed[i] < 0 || int64_t{changed[i]} * CHUNK >= p->count) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.pack(*scene, *p, extent_sigma, changed, changed_count, threads);
    return GS_OK;
  });
}

int64_t gs_scene_invalid(const Scene* scene) {
  int64_t count = 0;
  for (int64_t chunk = 0; chunk < scene->padded / CHUNK; ++chunk) count += scene->invalid[chunk];
  return count;
}

View* gs_view_create() { return new (std::nothrow) View; }
void gs_view_destroy(View* view) {
  if (view) delete[] view->scratch;
  delete view;
}

int32_t gs_view_open(View* view, const Scene* scene, const Camera* camera, const Settings* settings, int32_t tile_size,
                     int32_t threads) {
  if (tile_size < 8 || tile_size > MAX_TILE || tile_size % 4 || camera->width < 1 || camera->height < 1 || camera->width > 65535 ||
      camera->height > 65535)
    return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) -> int32_t {
    gs_view_forget(view);
    view->camera = *camera;
    view->settings = *settings;
    view->tile_size = tile_size;
    view->tiles_x = (camera->width + tile_size - 1) / tile_size;
    view->tiles_y = (camera->height + tile_size - 1) / tile_size;
    {
      Stopwatch watch(view->times_ms[0]);
      k.project(*view, *scene, threads);
    }
    Stopwatch watch(view->times_ms[1]);
    k.bin(*view, threads);
    return view->entries <= MAX_ENTRIES ? GS_OK : GS_TOO_MANY;
  });
}

int64_t gs_view_visible_count(const View* view) { return view->visible; }

void gs_view_visible(const View* view, int64_t* rows) {
  for (int64_t block = 0; block < view->blocks; ++block) {
    const int64_t begin = view->base[block], count = view->base[block + 1] - begin;
    for (int64_t k = 0; k < count; ++k) rows[begin + k] = view->row[block * BLOCK + k];
  }
}

void gs_view_radii(const View* view, float* radii) {
  for (int64_t block = 0; block < view->blocks; ++block) {
    const int64_t begin = view->base[block], count = view->base[block + 1] - begin;
    for (int64_t k = 0; k < count; ++k) {
      const Splat& s = view->splats[block * BLOCK + k];
      // Of the ellipse -a x^2 - b x y - c y^2 <= reach.
      const float reach = s.log2_opacity - s.threshold, det = s.a * s.c - 0.25f * s.b * s.b;
      float* out = radii + 2 * (begin + k);
      out[0] = det > 0.f ? __builtin_sqrtf(reach * -s.c / det) : 0.f;
      out[1] = det > 0.f ? __builtin_sqrtf(reach * -s.a / det) : 0.f;
    }
  }
}

void gs_view_times(const View* view, double times_ms[3]) { std::memcpy(times_ms, view->times_ms, 3 * sizeof(double)); }

int64_t gs_view_evaluations(const View* view) { return view->evaluations; }

int32_t gs_view_render(View* view, const Parameters* p, const float* features, int32_t channels,
                       const float* background, const Images* images, int32_t threads) {
  if (channels < 0 || channels % 4 || p->count != view->rows) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    k.shade(*view, *p, threads);
    k.blend(*view, features, channels, background, *images, threads);
  });
}

int32_t gs_view_ids(View* view, const int32_t* ids, float rest, int32_t* winner, float* confidence, float* depth,
                    int32_t threads) {
  return image_pass(view, threads,
                    [&](const Kernels& k) { k.vote(*view, ids, rest, winner, confidence, depth, threads); });
}

int32_t gs_view_accumulate(View* view, const float* image, int32_t channels, float* weighted_sum, float* weight_sum,
                           int32_t* pixel_count, int32_t threads) {
  if (channels < 0) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    k.accumulate(*view, image, channels, weighted_sum, weight_sum, pixel_count, threads);
  });
}

int32_t gs_view_accumulate_labels(View* view, const int32_t* labels, int32_t* winner, float* winner_weight,
                                  float* weight_sum, int32_t threads) {
  return image_pass(view, threads, [&](const Kernels& k) {
    k.accumulate_labels(*view, labels, winner, winner_weight, weight_sum, threads);
  });
}

int32_t gs_view_backward(View* view, const Parameters* p, const float* features, int32_t channels,
                         const float* background, const Images* images, const ImageGradients* image_gradients,
                         int32_t features_move_geometry, const Gradients* gradients, int32_t threads) {
  if (channels < 0 || channels % 4 || p->count != view->rows) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    k.backward(*view, *p, features, channels, background, *images, *image_gradients, features_move_geometry != 0,
               *gradients, threads);
  });
}

int32_t gs_view_step(View* view, const Parameters* p, const WindowLoss* loss, const AdamState* state, float* pose,
                     double* error, int32_t threads) {
  if (p->count != view->rows || (loss->features && (loss->channels < 1 || loss->channels > 16))) return GS_BAD_ARGUMENT;
  int64_t strangers = 0;
  const int32_t result = image_pass(view, threads, [&](const Kernels& k) {
    k.shade(*view, *p, threads);
    strangers = k.step(*view, *p, *loss, state, pose, error, threads);
  });
  return result == GS_OK && strangers ? GS_BAD_ARGUMENT : result;
}

int32_t gs_view_step_images(View* view, const Parameters* p, const float* features, int32_t channels,
                            const float* background, const Images* images, const ImageGradients* image_gradients,
                            int32_t features_move_geometry, const AdamState* state, float* pose, float* means2d_norm,
                            float* radii, int32_t threads) {
  if (channels < 0 || channels > 16 || p->count != view->rows) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    k.step_images(*view, *p, features, channels, background, *images, *image_gradients, features_move_geometry != 0,
                  *state, pose, means2d_norm, radii, threads);
  });
}

int32_t gs_view_step_photometric(View* view, const Parameters* p, const PhotometricLoss* loss, const AdamState* state,
                                 float* means2d_norm, float* radii, double* value, double times_ms[3],
                                 int32_t threads) {
  if (p->count != view->rows) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    const int64_t pixels = int64_t{view->camera.width} * view->camera.height;
    SsimL1 colour = {nullptr, loss->rgb, nullptr, nullptr, view->camera.height, view->camera.width, 3, loss->ssim_weight};
    float* rgb = view->images.reserve(9 * pixels + k.ssim_workspace(colour, threads));
    float *depth = rgb + 3 * pixels, *alpha = depth + pixels, *grad_rgb = alpha + pixels, *grad_depth = grad_rgb + 3 * pixels;
    colour.image = rgb;
    colour.grad = grad_rgb;
    colour.workspace = grad_depth + pixels;
    const Images images = {rgb, depth, alpha, nullptr, nullptr};
    {
      Stopwatch watch(times_ms[0]);
      k.shade(*view, *p, threads);
      k.blend(*view, nullptr, 0, loss->background, images, threads);
    }
    {
      Stopwatch watch(times_ms[1]);
      *value = k.ssim_l1(colour, threads);
      if (loss->depth) *value += k.depth_l1(depth, loss->depth, grad_depth, pixels, loss->depth_weight, threads);
    }
    Stopwatch watch(times_ms[2]);
    const ImageGradients gradients = {grad_rgb, loss->depth ? grad_depth : nullptr, nullptr, nullptr};
    k.step_images(*view, *p, nullptr, 0, loss->background, images, gradients, false, *state, nullptr, means2d_norm,
                  radii, threads);
  });
}

int32_t gs_view_step_features(View* view, const FeatureLoss* loss, const AdamState* state, float* steps,
                              int64_t keep_bytes, double* error, int32_t threads) {
  if (loss->channels < 1 || loss->channels > 16) return GS_BAD_ARGUMENT;
  return image_pass(view, threads, [&](const Kernels& k) {
    *error = k.step_features(*view, *loss, *state, steps, keep_bytes, threads);
  });
}

int64_t gs_view_kept_bytes(const View* view) { return view->kept.stage == Kept::STORED ? view->kept.bytes : 0; }

void gs_view_forget(View* view) {
  view->kept.stage = Kept::NOTHING;
  view->kept.memory.clear();
}

int32_t gs_residual(const Residual* residual, double* error, int32_t threads) {
  return guarded([&](const Kernels& k) { return k.residual(*residual, error, threads) ? GS_BAD_ARGUMENT : GS_OK; });
}

int64_t gs_ssim_workspace(const SsimL1* images, int32_t threads) {
  return kernels() ? kernels()->ssim_workspace(*images, threads) : 0;
}

int32_t gs_ssim_l1(const SsimL1* images, double* loss, int32_t threads) {
  if (images->height < 1 || images->width < 1 || images->channels < 1) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    *loss = k.ssim_l1(*images, threads);
    return GS_OK;
  });
}

int32_t gs_adam_step(const AdamTensor* tensors, int32_t tensor_count, const int64_t* rows, int64_t count, float beta1,
                     float beta2, float eps, int32_t threads) {
  return guarded([&](const Kernels& k) {
    k.adam(tensors, tensor_count, rows, count, beta1, beta2, eps, threads);
    return GS_OK;
  });
}

int32_t gs_census(const uint8_t* image, int32_t width, int32_t height, int32_t step, int32_t threshold,
                  uint32_t* descriptors, int32_t threads) {
  if (width < 1 || height < 1 || step < 1) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.census(image, width, height, step, threshold, descriptors, threads);
    return GS_OK;
  });
}

SweepScratch* gs_sweep_create() { return new (std::nothrow) SweepScratch; }
void gs_sweep_destroy(SweepScratch* scratch) { delete scratch; }

int32_t gs_sweep_run(SweepScratch* scratch, const Sweep* s, int32_t threads) {
  // path costs are kept in 8 bits: see kernels/sweep.h
  const bool fits = s->planes >= 16 && s->planes <= MAX_PLANES && s->planes % 16 == 0 && s->small_step >= 0 &&
                    s->small_step <= s->large_step && s->large_step <= 120 && s->edge >= 1;
  const bool sized = s->step >= 1 && s->width >= 1 && s->height >= 1 &&
                     (s->width - 1) * s->step < s->reference_width && (s->height - 1) * s->step < s->reference_height;
  if (!fits || !sized || s->source_count < 1) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.sweep(*s, *scratch, threads);
    return GS_OK;
  });
}

int32_t gs_nearest_discs(const DiscTree* tree, const float* points, int64_t count, float slack, int32_t* found, float* away,
                         int32_t threads) {
  if (tree->levels < 1 || tree->levels > MAX_TREE_LEVELS || count < 0 || !(slack >= 1.f)) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.nearest(*tree, points, count, slack, found, away, threads);
    return GS_OK;
  });
}

int32_t gs_tsdf_fuse(const TsdfFusion* fusion, int32_t threads) {
  if (fusion->width < 1 || fusion->height < 1 || fusion->count < 0) return GS_BAD_ARGUMENT;
  if (fusion->most_weight < 1 || fusion->most_weight > 255) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.tsdf_fuse(*fusion, threads);
    return GS_OK;
  });
}

int32_t gs_mlp(const float* x, int64_t rows, const int32_t* widths, int32_t layers, const float* weights,
               int32_t last_bent, float* out, int32_t threads) {
  if (layers < 1 || rows < 0) return GS_BAD_ARGUMENT;
  for (int32_t i = 0; i <= layers; ++i)
    if (widths[i] < 1 || widths[i] > MLP_WIDEST) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.mlp(x, rows, widths, layers, weights, last_bent != 0, out, threads);
    return GS_OK;
  });
}

int32_t gs_view_votes(const ViewVotes* votes, int32_t threads) {
  const int32_t rest = VOTE_INNER + 1 + votes->differences + votes->cue_count;
  if (votes->count < 0 || votes->features < 1 || votes->differences < 0 || votes->cue_count < 0) return GS_BAD_ARGUMENT;
  if (3 * votes->features > MLP_WIDEST || rest > MLP_WIDEST) return GS_BAD_ARGUMENT;
  return guarded([&](const Kernels& k) {
    k.view_votes(*votes, threads);
    return GS_OK;
  });
}

double gs_calibrate(double milliseconds, int32_t threads) {
  if (!kernels()) return 0.0;
  double first_ms = 0.0, ms = 0.0, work;
  constexpr int64_t TRIAL = 10000;
  {
    Stopwatch watch(first_ms);
    work = kernels()->calibrate(TRIAL, threads);
  }
  const double rounds = TRIAL * milliseconds / (first_ms > 1e-3 ? first_ms : 1e-3);
  {
    Stopwatch watch(ms);
    work = kernels()->calibrate(rounds > 1.0 ? static_cast<int64_t>(rounds) : 1, threads);
  }
  return work / ms * 1e-6;
}
