// Plain data shared by all kernels. Nothing here has code of its own.
#pragma once

#include <cstdint>

#include "memory.h"

namespace gs {

constexpr int CHUNK = 64;                          // rows that share a bounding sphere
constexpr int MAX_TILE = 32;                       // pixels along the side of a tile
constexpr int BLOCK = 1024;                        // rows that are projected as one task
constexpr int64_t MAX_ENTRIES = int64_t{1} << 26;  // splats times tiles of one view; more is a mistake in the map
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

struct Camera {
  float R[9];  // world to camera, row major
  float t[3];
  float fx, fy, cx, cy;  // the first pixel's centre is (0.5, 0.5)
  int32_t width, height;
};

struct Settings {
  float near_plane, far_plane, eps2d, alpha_min, alpha_max, transmittance_min, extent_sigma;
};

// The raw parameters of a map, N rows each; quaternions need not be normalised.
struct Parameters {
  const float* means;           // (N, 3)
  const float* quats;           // (N, 4) wxyz
  const float* log_scales;      // (N, 3)
  const float* opacity_logits;  // (N,)
  const float* sh;              // (N, sh_count, 3)
  int64_t count;
  int32_t sh_count;
};

// What projection reads: one array per component, rows in map order, padded to whole chunks with transparent rows.
struct Scene {
  enum Field { X, Y, Z, XX, XY, XZ, YY, YZ, ZZ, LOG2_OPACITY, RED, GREEN, BLUE, FIELDS };
  int64_t count = 0, padded = 0;
  int64_t stride = 0;    // rows that there is room for
  bool colored = false;  // colours do not depend on the direction, so they are packed, too
  Buffer<float> fields;
  Buffer<float> spheres;    // (chunks, 4): centre, radius
  Buffer<uint8_t> invalid;  // (chunks): rows that have parameters which are not finite numbers
  const float* field(int i) const { return fields.data + i * stride; }
};

// A projected Gaussian: alpha(p) = 2^(log2_opacity + a dx^2 + b dx dy + c dy^2), drawn where the exponent >= threshold.
// All that drawing needs lies in one cache line. A channel that would be negative, or is no number, is 0.
struct alignas(64) Splat {
  float x, y, a, b, c, log2_opacity, threshold, z;
  float color[3];
  uint32_t row;                // in the map
  int32_t tiles[4];            // touched: first and last column, first and last row
};

struct Rect {  // tiles touched, inclusive
  uint16_t x0, x1, y0, y1;
};

// Buffers of one thread, reused from tile to tile.
struct Scratch {
  Buffer<float> fields, records, features, walked;
  Buffer<uint16_t> bucket;
  Buffer<uint32_t> row, position, bucket_end;
  Buffer<uint64_t> masks, sort_a, sort_b;
  Buffer<float> sums;
  Buffer<uint8_t> drawn;
  Buffer<int32_t> counts;
  int64_t evaluations = 0;  // of a splat on a block, in the pass that runs
};

// What feature steps draw in a view, with the weights: as geometry stays, so do they (see kernels/feature_step.h).
struct Kept {
  struct Tile {
    int64_t start;  // in `memory`, bytes
    int32_t splats, records, blocks;
  };
  enum Stage { NOTHING, COUNTED, STORED } stage = NOTHING;
  int64_t bytes = 0;  // once counted
  Buffer<Tile> tiles;
  Buffer<uint8_t> memory;
};

// One map seen by one camera: projected Gaussians ("splats") and, per tile, which of them touch it, by depth.
//
// A splat's *position* is block * BLOCK + its place in the block; its *visible index* is base[block] + its place.
// Both rise with the row, whatever the number of threads, so results never depend on scheduling.
struct View {
  Camera camera;
  Settings settings;
  int32_t tile_size = 16, tiles_x = 0, tiles_y = 0;
  int64_t rows = 0;  // of the map
  int64_t blocks = 0, visible = 0, entries = 0;

  Buffer<Splat> splats;
  Buffer<Rect> rects;
  Buffer<uint32_t> row;          // row in the map, by position
  Buffer<uint32_t> first;        // the splat's first place in entry order, by position; where partials are needed
  bool has_first = false;
  Buffer<uint8_t> owner;         // thread that projected each block
  Buffer<uint32_t> base;         // visible index of each block's first splat (blocks + 1)
  Buffer<float> depth;           // by position, as in the splats
  Buffer<uint32_t> tile_counts;  // (threads, tiles) while binning
  Buffer<uint32_t> tile_start;   // (tiles + 1)
  Buffer<uint64_t> keys;         // by tile: depth bits << 32 | position
  Buffer<uint32_t> sorted;       // (tiles): how many of the tile's keys, its nearest, are in their final order
  Buffer<uint8_t> touched;       // by entry: a backward or transpose pass wrote its partial
  Buffer<float> partials;        // by entry: sums of one splat over one tile
  Scratch* scratch = nullptr;    // one per thread
  int scratch_count = 0;
  Buffer<float> splat_gradients;  // by visible index: 16 sums of a backward pass
  Buffer<double> pose_partials;   // by block: 6 sums of a backward pass
  Kept kept;
  Buffer<float> images;  // of a photometric step: rgb, depth, alpha, gradients of rgb and depth, workspace of the loss
  double times_ms[3] = {};        // project, bin, the last pass
  int64_t evaluations = 0;        // of a splat on a 4x4-pixel block, in the last pass
};

struct Gradients {  // rows aligned with the visible splats; any may be null
  float *means, *quats, *log_scales, *opacity_logits, *sh, *features, *means2d_norm, *radii;
  float* pose;  // (6,), of the camera
};

struct ImageGradients {  // of the returned images; any may be null
  const float *rgb, *depth, *alpha, *features;
};

struct Images {  // (H, W, channels)
  float *rgb, *depth, *alpha, *features;
  float* median_depth;  // null: not wanted
};

// Depth of a reference image by comparing it with posed sources (see kernels/sweep.h). Descriptor images have one
// descriptor per pixel of the full image; the reference is looked at in every `step`-th column and row.
struct SweepSource {
  const uint32_t* descriptors;  // (height, width)
  int32_t width, height;
  // 3x4 row major: point (x, y) of the result at inverse depth w is seen at the pixel M (x, y, 1, w)
  float M[12];
};

constexpr int MAX_PLANES = 256;

struct Sweep {
  const uint32_t* reference;  // (reference_height, reference_width) descriptors
  const uint8_t* intensity;   // (height, width): across its edges a change of depth costs less
  const int32_t* regions;     // (height, width) or null: and across their borders as little as a small one
  const SweepSource* sources;
  int32_t reference_width, reference_height, step, width, height;
  int32_t source_count, planes;  // planes: a multiple of 16
  int32_t small_step, large_step, edge;
  float inverse_far, inverse_step;
  float *inverse_depth, *margin;  // (height, width): the result, and how much worse the next best hypothesis is
  uint8_t* cost;                  // (height, width): of the chosen hypothesis, before smoothing
};

struct SweepScratch {
  Buffer<uint8_t> cost, paths_down, paths_up;
  Buffer<uint16_t> sums_down, sums_up;
};

// Discs in a tree of boxes with 16 children a node (see kernels/nearest.h). Children of node n of a level are the nodes
// 16 n ... 16 n + 15 of the level below, of the lowest level leaves; empty places have boxes and discs far away.
struct DiscTree {
  const float* leaves;     // (leaves, 11, 16): centres, unit axes, one over the half axes; a column for each disc
  const int32_t* slots;    // (leaves, 16)
  const float* boxes;      // (nodes, 6, 16): low and high corners of the children
  const int32_t* uniform;  // (nodes, 16): the slot that all discs below a child have, -1: several
  const int64_t* starts;   // (levels,) first node of each level; the lowest comes first
  const uint8_t* hidden;   // by slot: 1: as if those discs were not there
  int32_t levels;
};

constexpr int MAX_TREE_LEVELS = 8;  // 16^9 discs

constexpr int MLP_WIDEST = 256;  // of a layer of gs_mlp
constexpr int VOTE_INNER = 32;  // channels of what a voting network keeps of a view

// What a view says of the Gaussians it sees, the sums over views of all Gaussians, and the voting network (see
// kernels/view_votes.h). Weights of networks are as those of gs_mlp.
struct ViewVotes {
  const float *described, *difference, *cues;  // (count, features), (count, differences), (count, cue_count)
  const float *total, *first, *second;         // (gaussians,), (gaussians, features) twice
  const int64_t* rows;                         // (count,)
  const float *base, *residual, *seen, *vote;  // widths 3 features, 64, 32; 32, 32, 33; 32, 32, 1; all inputs, 16, 8, 1
  const float* straight;                       // (cue_count,)
  float* logits;                               // (count,)
  int64_t count;
  int32_t features, differences, cue_count;
  float largest;  // of a logit
};

constexpr int TSDF_SIDE = 8;  // voxels along a block

// A depth image and the blocks of a signed distance field that it shows (see kernels/tsdf.h).
struct TsdfFusion {
  const float* depth;    // (height, width) m, 0: none
  const int64_t* rows;   // (count,) of the blocks, each named once
  const float* corners;  // (count, 3): centres of their first voxels in the camera's frame, m
  float* distance;       // (blocks, 8, 8, 8) m
  uint8_t* weight;       // the same; 0: unknown
  int64_t count;
  int32_t width, height, most_weight;
  float fx, fy, cx, cy, near, truncation;
  float axes[9];  // steps from voxel to voxel along x, y and z of the field in the camera's frame, m
};

// Rendered images, what they should be, and where to put the gradients of the loss (see kernels/residual.h).
struct Residual {
  const float *rgb, *depth, *alpha, *features;      // (pixels, 3), (pixels,), (pixels,), (pixels, channels)
  const float *target_rgb, *target_depth, *codes;   // (pixels, 3), (pixels,) or null, (code_count, channels)
  const int64_t* slots;                             // (pixels,) or null: features are left alone
  float *grad_rgb, *grad_depth, *grad_features;
  int64_t pixels, code_count;
  int32_t channels;
  float colour_scale, depth_scale, near, near_per_m2, depth_weight, feature_weight;  // scales are 1 / knee
};

// What an optimisation step compares a view with (see kernels/step.h); the fields as in Residual.
struct WindowLoss {
  const float *rgb, *depth;  // (pixels, 3), (pixels,) or null
  const float* features;     // (N, channels) of the map, or null; at most 16 channels
  const float* codes;        // (code_count, channels)
  const int64_t* slots;      // (pixels,)
  int64_t code_count;
  int32_t channels, features_move_geometry;
  float colour_scale, depth_scale, near, near_per_m2, depth_weight, feature_weight;
};

// What features alone are compared with (see step_features): the gradient is scale (f - f*).
struct FeatureLoss {
  const float* target;  // (pixels, channels), NaN: left out
  int32_t channels;     // at most 16
  float scale;
};

// Parameters that a step moves, and their optimiser state.
struct AdamState {
  float *means, *quats, *log_scales, *opacity_logits, *sh;  // as in Parameters
  float* rows;                                              // (N, 32 + 6 (sh_count - 1)), see kernels/step.h
  float *features, *feature_moments;                        // (N, channels), (N, 2, channels)
  uint8_t* changed;                                         // (chunks of CHUNK rows): set where a row moved
  uint8_t* moved;  // (N,) zeros: all rows move, those not in view with a gradient of zero; null: only what is drawn
  float lr_means, lr_quats, lr_log_scales, lr_opacity_logits, lr_sh, lr_sh_rest, lr_features;
  float beta1, beta2, eps;
};

// A whole view against its images: ssim_l1 of colour and depth_weight times the mean of |z - z*| (see kernels/residual.h).
struct PhotometricLoss {
  const float *rgb, *depth;  // (pixels, 3), (pixels,) or null
  const float* background;   // (3,) or null
  float ssim_weight, depth_weight;
};

// An image against its target (see kernels/ssim.h), (height, width, channels) each.
struct SsimL1 {
  const float *image, *target;
  float* grad;
  float* workspace;  // gs_ssim_workspace floats
  int32_t height, width, channels;
  float ssim_weight;
};

// One tensor of an Adam step (see gs_adam_step).
struct AdamTensor {
  float* param;       // (N, width)
  const float* grad;  // (rows, width)
  float *exp_avg, *exp_avg_sq;
  float* steps;  // (N,)
  int64_t width;
  float lr;
  int32_t advance;  // add one to the rows' steps first
};

}  // namespace gs
