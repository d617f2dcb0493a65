// The table of kernels that one instruction set provides.
#pragma once

#include "types.h"

namespace gs {

struct Kernels {
  const char* name;
  void (*pack)(Scene&, const Parameters&, float extent_sigma, const int32_t* changed, int64_t changed_count,
               int threads);
  void (*project)(View&, const Scene&, int threads);
  void (*bin)(View&, int threads);
  void (*shade)(View&, const Parameters&, int threads);
  void (*blend)(View&, const float* features, int channels, const float* background, const Images&, int threads);
  void (*vote)(View&, const int32_t* ids, float rest, int32_t* winner, float* confidence, float* depth, int threads);
  void (*accumulate)(View&, const float* image, int channels, float* weighted_sum, float* weight_sum,
                     int32_t* pixel_count, int threads);
  void (*accumulate_labels)(View&, const int32_t* labels, int32_t* winner, float* winner_weight, float* weight_sum,
                            int threads);
  void (*backward)(View&, const Parameters&, const float* features, int channels, const float* background,
                   const Images&, const ImageGradients&, bool features_move_geometry, const Gradients&, int threads);
  int64_t (*step)(View&, const Parameters&, const WindowLoss&, const AdamState*, float* pose, double* error,
                  int threads);
  void (*step_images)(View&, const Parameters&, const float* features, int channels, const float* background,
                      const Images&, const ImageGradients&, bool features_move_geometry, const AdamState&, float* pose,
                      float* means2d_norm, float* radii, int threads);
  double (*step_features)(View&, const FeatureLoss&, const AdamState&, float* steps, int64_t keep_bytes, int threads);
  int64_t (*residual)(const Residual&, double* error, int threads);
  double (*depth_l1)(const float* depth, const float* target, float* grad, int64_t pixels, float weight, int threads);
  int64_t (*ssim_workspace)(const SsimL1&, int threads);
  double (*ssim_l1)(const SsimL1&, int threads);
  void (*adam)(const AdamTensor*, int tensor_count, const int64_t* rows, int64_t count, float beta1, float beta2,
               float eps, int threads);
  void (*census)(const uint8_t* image, int width, int height, int step, int threshold, uint32_t* out, int threads);
  void (*sweep)(const Sweep&, SweepScratch&, int threads);
  void (*nearest)(const DiscTree&, const float* points, int64_t count, float slack, int32_t* found, float* away,
                  int threads);
  void (*tsdf_fuse)(const TsdfFusion&, int threads);
  void (*mlp)(const float* x, int64_t rows, const int32_t* widths, int layers, const float* weights, bool last_bent,
              float* out, int threads);
  void (*view_votes)(const ViewVotes&, int threads);
  double (*calibrate)(int64_t rounds, int threads);
};

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_neon();

}  // namespace gs
