// The C interface of the library. All functions that can fail return 0 on success and a GS_ERROR otherwise;
// gs_error_text then explains it. Pointers are to contiguous row-major arrays; `threads` <= 0 means one per hardware
// thread.
#pragma once

#include <cstdint>

#include "types.h"

#define GS_API extern "C" __attribute__((visibility("default")))

enum { GS_OK = 0, GS_OUT_OF_MEMORY = 1, GS_TOO_MANY = 2, GS_BAD_ARGUMENT = 3, GS_BAD_ISA = 4 };

// Rises when the meaning of any function below changes.
GS_API int32_t gs_abi_version();
// "scalar", "avx2", "avx512" or "neon"; null when GS_SEMANTIC_ISA asks for what this machine or build does not have.
GS_API const char* gs_isa();
GS_API int32_t gs_thread_count(int32_t threads);
GS_API const char* gs_error_text(int32_t error);

GS_API gs::Scene* gs_scene_create();
GS_API void gs_scene_destroy(gs::Scene*);
GS_API int32_t gs_scene_pack(gs::Scene*, const gs::Parameters*, float extent_sigma, int32_t threads);

// Only the `changed` chunks of gs::CHUNK rows, where the rest of the map is as it was at the last call.
GS_API int32_t gs_scene_repack(gs::Scene*, const gs::Parameters*, float extent_sigma, const int32_t* changed,
                               int64_t changed_count, int32_t threads);

// Rows that are never drawn, as some of their parameters are not finite numbers or their quaternion is 0.
GS_API int64_t gs_scene_invalid(const gs::Scene*);

GS_API gs::View* gs_view_create();
GS_API void gs_view_destroy(gs::View*);
GS_API int32_t gs_view_open(gs::View*, const gs::Scene*, const gs::Camera*, const gs::Settings*, int32_t tile_size,
                            int32_t threads);
GS_API int64_t gs_view_visible_count(const gs::View*);
GS_API void gs_view_visible(const gs::View*, int64_t* rows);
// (visible, 2): half the width and height in pixels of what each visible Gaussian can draw.
GS_API void gs_view_radii(const gs::View*, float* radii);
// Milliseconds: project, bin, last pass.
GS_API void gs_view_times(const gs::View*, double times_ms[3]);
// How often the last pass evaluated a splat on a block of 4x4 pixels.
GS_API int64_t gs_view_evaluations(const gs::View*);

// features (N, channels), channels a multiple of 4; background (3,) or null; images as in gs::Images.
GS_API int32_t gs_view_render(gs::View*, const gs::Parameters*, const float* features, int32_t channels,
                              const float* background, const gs::Images*, int32_t threads);
GS_API int32_t gs_view_ids(gs::View*, const int32_t* ids, float rest, int32_t* winner, float* confidence, float* depth,
                           int32_t threads);
// Results have the map's rows and must be zero before.
GS_API int32_t gs_view_accumulate(gs::View*, const float* image, int32_t channels, float* weighted_sum,
                                  float* weight_sum, int32_t* pixel_count, int32_t threads);
GS_API int32_t gs_view_accumulate_labels(gs::View*, const int32_t* labels, int32_t* winner, float* winner_weight,
                                         float* weight_sum, int32_t threads);
// After gs_view_render with the same features and background, whose images are given back in `images`.
GS_API int32_t gs_view_backward(gs::View*, const gs::Parameters*, const float* features, int32_t channels,
                                const float* background, const gs::Images* images, const gs::ImageGradients*,
                                int32_t features_move_geometry, const gs::Gradients*, int32_t threads);

// One optimisation step of what a view sees. state null: nothing moves; pose (6,) or null: gradient of the loss with
// respect to the camera, as in gs::Gradients. `error` gets the sum of the absolute colour errors.
GS_API int32_t gs_view_step(gs::View*, const gs::Parameters*, const gs::WindowLoss*, const gs::AdamState*, float* pose,
                            double* error, int32_t threads);

// A step from image gradients, as gs_view_backward takes them, with at most 16 channels; pose, means2d_norm and radii may
// be null.
GS_API int32_t gs_view_step_images(gs::View*, const gs::Parameters*, const float* features, int32_t channels,
                                   const float* background, const gs::Images*, const gs::ImageGradients*,
                                   int32_t features_move_geometry, const gs::AdamState*, float* pose,
                                   float* means2d_norm, float* radii, int32_t threads);

// Render, loss, backward and Adam: a step towards the view's images. `value` gets the loss before, times_ms the time of
// render, loss, and backward with Adam.
GS_API int32_t gs_view_step_photometric(gs::View*, const gs::Parameters*, const gs::PhotometricLoss*,
                                        const gs::AdamState*, float* means2d_norm, float* radii, double* value,
                                        double times_ms[3], int32_t threads);

// A step of the features alone; of the state, features, feature_moments, lr_features and Adam's constants are used; steps
// (N,) counts each row's own. `error` gets the sum of the squared differences. The view may use keep_bytes to keep what
// it draws for the next steps (see kernels/feature_step.h).
GS_API int32_t gs_view_step_features(gs::View*, const gs::FeatureLoss*, const gs::AdamState*, float* steps,
                                     int64_t keep_bytes, double* error, int32_t threads);
// How much it uses, 0 until a second step has stored it; and giving that back.
GS_API int64_t gs_view_kept_bytes(const gs::View*);
GS_API void gs_view_forget(gs::View*);

// Gradients of the loss of an optimisation step; `error` gets the sum of the absolute colour errors.
GS_API int32_t gs_residual(const gs::Residual*, double* error, int32_t threads);

// (1 - ssim_weight) L1 + ssim_weight (1 - SSIM) and its gradient; the sizes must be positive.
GS_API int64_t gs_ssim_workspace(const gs::SsimL1*, int32_t threads);
GS_API int32_t gs_ssim_l1(const gs::SsimL1*, double* loss, int32_t threads);

// Adam on the given rows of each tensor, one tensor after the other; every row is named once.
GS_API int32_t gs_adam_step(const gs::AdamTensor*, int32_t tensor_count, const int64_t* rows, int64_t count,
                            float beta1, float beta2, float eps, int32_t threads);

// votes.cpp: one vote (object, weight) for each of the rows of the tables objects, weights (N, 4) and leaders (N).
GS_API int32_t gs_add_votes(int32_t* objects, float* weights, int32_t* leaders, const int64_t* rows,
                            const int32_t* voted, const float* given, int64_t count, int32_t threads);

// seen.cpp: which of points (count, 3), those that among (count) names where it is given, the camera sees: in front of
// `near`, in the image, and where a depth image (height, width) is given, at its depth within a tolerance or a share of it.
// rows (count), places (count, 2) in pixels with centres at integers, z (count) m; found: how many they are.
GS_API int32_t gs_seen_points(const gs::Camera*, const float* points, const uint8_t* among, int64_t count,
                              const float* depth, float tolerance, float share, float near, int64_t* rows, float* places,
                              float* z, int64_t* found, int32_t threads);

// Descriptors uint32 (height, width) of an image uint8 (height, width), whose pixels are compared `step` apart.
GS_API int32_t gs_census(const uint8_t* image, int32_t width, int32_t height, int32_t step, int32_t threshold,
                         uint32_t* descriptors, int32_t threads);
GS_API gs::SweepScratch* gs_sweep_create();
GS_API void gs_sweep_destroy(gs::SweepScratch*);
// Depth of an image from posed sources; the scratch keeps its memory from call to call.
GS_API int32_t gs_sweep_run(gs::SweepScratch*, const gs::Sweep*, int32_t threads);

// For points (count, 3): the disc that is nearest, or nearer than all others but for slack = (1 + share)^2, by its place
// in the leaves (-1: none), and the vector from it to the point (count, 3).
GS_API int32_t gs_nearest_discs(const gs::DiscTree*, const float* points, int64_t count, float slack, int32_t* found,
                                float* away, int32_t threads);
GS_API int32_t gs_tsdf_fuse(const gs::TsdfFusion*, int32_t threads);

// Layers of dense networks, row by row: out (rows, widths[layers]) of x (rows, widths[0]). weights: of each layer
// (outputs, inputs), then its biases. ELU between layers, and after the last one if last_bent. No width is above MLP_WIDEST.
GS_API int32_t gs_mlp(const float* x, int64_t rows, const int32_t* widths, int32_t layers, const float* weights,
                      int32_t last_bent, float* out, int32_t threads);

GS_API int32_t gs_view_votes(const gs::ViewVotes*, int32_t threads);

// Gigaflops of a loop of fused multiply-adds of about `milliseconds`: what the machine has to give at this moment.
GS_API double gs_calibrate(double milliseconds, int32_t threads);
