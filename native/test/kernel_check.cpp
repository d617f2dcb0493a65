// Runs every kernel on small and degenerate scenes and writes what they return, for two uses: under sanitizers, and to
// compare instruction sets (also under an emulator). All arrays have exactly the size that the interface asks for.
//
//   kernel_check FILE        runs everything and writes the results as floats
//   kernel_check --compare A B   exits with 1 where two such files differ by more than rounding explains
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../src/api.h"
#include "../src/types.h"

namespace {

using Floats = std::vector<float>;

void fail(const std::string& text) {
  std::fprintf(stderr, "kernel_check: %s\n", text.c_str());
  std::exit(1);
}

void ok(int32_t error, const char* what) {
  if (error) fail(std::string(what) + ": " + gs_error_text(error));
}

struct Map {
  Floats means, quats, log_scales, opacity_logits, sh;
  int sh_count;

  Map(int count, int sh_coefficients, bool with_bad_rows) : sh_count(sh_coefficients) {
    std::mt19937 generator(static_cast<unsigned>(count));
    // Not std::normal_distribution, whose numbers differ between libraries.
    auto uniform = [&] { return static_cast<float>(generator() >> 8) / static_cast<float>(1 << 24); };
    auto spread = [&](float scale) { return scale * (uniform() + uniform() + uniform() - 1.5f); };
    for (int i = 0; i < count; ++i) {
      means.insert(means.end(), {spread(1.2f), spread(1.f), 2.5f + spread(1.f)});
      quats.insert(quats.end(), {spread(1.f) + 0.1f, spread(1.f), spread(1.f), spread(1.f)});
      for (int k = 0; k < 3; ++k) log_scales.push_back(-3.f + spread(1.f));
      opacity_logits.push_back(spread(3.f));
      for (int k = 0; k < 3 * sh_count; ++k) sh.push_back(spread(0.5f));
    }
    if (!with_bad_rows) return;
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    const float bad[] = {nan, infinity, -infinity, 0.f, 1e30f, -1e30f, 1e-40f, 80.f};
    for (int i = 0; i < count; i += 3) {
      const float value = bad[generator() % 8];
      switch (generator() % 6) {
        case 0: means[3 * i + generator() % 3] = value; break;
        case 1: quats[4 * i + generator() % 4] = value; break;
        case 2: log_scales[3 * i + generator() % 3] = value; break;
        case 3: opacity_logits[i] = value; break;
        case 4: sh[3 * i * sh_count] = value; break;
        default: std::fill_n(&quats[4 * i], 4, 0.f);
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(opacity_logits.size()); }
  gs::Parameters parameters() const {
    return {means.data(), quats.data(), log_scales.data(), opacity_logits.data(), sh.data(), count(), sh_count};
  }
};

class Results {
 public:
  template <class T>
  void add(const std::vector<T>& values, const char* what) {
    for (T value : values) {
      if (!std::isfinite(static_cast<double>(value))) fail(std::string(what) + " is not finite");
      all_.push_back(static_cast<float>(value));
    }
  }
  const Floats& all() const { return all_; }

 private:
  Floats all_;
};

void run(const Map& map, int width, int height, int tile, int channels, int threads, Results& results) {
  const gs::Parameters p = map.parameters();
  const int64_t n = map.count(), pixels = int64_t{width} * height;
  gs::Scene* scene = gs_scene_create();
  gs::View* view = gs_view_create();
  const gs::Settings settings = {0.01f, 1e10f, 0.3f, 1.f / 255.f, 0.999f, 1e-4f, 3.33f};
  gs::Camera camera = {{1, 0, 0, 0, 1, 0, 0, 0, 1}, {0, 0, 0}, 60.f, 61.f, 0.49f * width, 0.47f * height, width, height};
  ok(gs_scene_pack(scene, &p, settings.extent_sigma, threads), "pack");
  if (n > 0) {
    const std::vector<int32_t> chunks = {0, static_cast<int32_t>((n - 1) / gs::CHUNK)};
    ok(gs_scene_repack(scene, &p, settings.extent_sigma, chunks.data(), 2, threads), "repack");
  }
  ok(gs_view_open(view, scene, &camera, &settings, tile, threads), "open");
  std::vector<int64_t> visible(gs_view_visible_count(view));
  gs_view_visible(view, visible.data());
  const int64_t seen = static_cast<int64_t>(visible.size());
  Floats radii(2 * seen);
  gs_view_radii(view, radii.data());

  Floats features(n * channels), background = {0.1f, 0.2f, 0.3f};
  for (size_t i = 0; i < features.size(); ++i) features[i] = static_cast<float>(i % 17) / 17.f;
  Floats rgb(3 * pixels), depth(pixels), alpha(pixels), image(pixels * channels), median(pixels);
  const gs::Images images = {rgb.data(), depth.data(), alpha.data(), image.data(), median.data()};
  ok(gs_view_render(view, &p, features.data(), channels, background.data(), &images, threads), "render");
  results.add(rgb, "rgb");
  results.add(depth, "depth");
  results.add(alpha, "alpha");
  results.add(image, "features");

  std::vector<int32_t> ids(n), winner(pixels);
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(i % 5);
  Floats confidence(pixels), id_depth(pixels);
  ok(gs_view_ids(view, ids.data(), 0.f, winner.data(), confidence.data(), id_depth.data(), threads), "ids");
  results.add(confidence, "confidence");

  Floats sums(n * 3), weights(n), target(3 * pixels, 0.5f);
  std::vector<int32_t> drawn(n);
  ok(gs_view_accumulate(view, target.data(), 3, sums.data(), weights.data(), drawn.data(), threads), "accumulate");
  results.add(sums, "weighted sum");
  std::vector<int32_t> labels(pixels), label_of(n);
  for (int64_t i = 0; i < pixels; ++i) labels[i] = static_cast<int32_t>(i / 7 % 6);
  Floats label_weight(n), label_sum(n);
  ok(gs_view_accumulate_labels(view, labels.data(), label_of.data(), label_weight.data(), label_sum.data(), threads),
     "labels");
  results.add(label_sum, "label weights");

  Floats g_rgb(3 * pixels, 0.3f), g_depth(pixels, 0.2f), g_alpha(pixels, -0.1f), g_features(pixels * channels, 0.25f);
  Floats g_means(3 * seen), g_quats(4 * seen), g_scales(3 * seen), g_logits(seen), g_sh(3 * seen * map.sh_count),
      g_values(seen * channels), norms(seen), sizes(seen);
  gs::ImageGradients grads = {};
  grads.rgb = g_rgb.data(), grads.depth = g_depth.data(), grads.alpha = g_alpha.data();
  gs::Gradients out = {};
  out.means = g_means.data(), out.quats = g_quats.data(), out.log_scales = g_scales.data();
  out.opacity_logits = g_logits.data(), out.sh = g_sh.data(), out.means2d_norm = norms.data(), out.radii = sizes.data();
  if (channels) grads.features = g_features.data(), out.features = g_values.data();
  ok(gs_view_backward(view, &p, features.data(), channels, background.data(), &images, &grads, 1, &out, threads),
     "backward");

  // Feature steps: the first one counts what is drawn, the second one keeps it, the third one uses it.
  const int few = std::min(channels, 16);
  if (few > 0) {
    Floats values(n * few, 0.1f), moments(2 * n * few), steps(n), wanted(pixels * few, 0.7f);
    gs::AdamState state = {};
    state.features = values.data(), state.feature_moments = moments.data(), state.lr_features = 0.01f;
    state.beta1 = 0.9f, state.beta2 = 0.99f, state.eps = 1e-3f;
    const gs::FeatureLoss loss = {wanted.data(), few, 0.5f};
    double error = 0.0;
    for (int k = 0; k < 3; ++k)
      ok(gs_view_step_features(view, &loss, &state, steps.data(), int64_t{1} << 30, &error, threads), "step features");
    if (gs_view_kept_bytes(view) == 0) fail("nothing was kept");
    gs_view_forget(view);
    results.add(values, "stepped features");
  }

  // A photometric step, which moves the map.
  Map moved = map;
  const gs::Parameters q = moved.parameters();
  Floats rows(n * (32 + 6 * (map.sh_count - 1))), z_wanted(pixels, 2.f);
  std::vector<uint8_t> changed((n + gs::CHUNK - 1) / gs::CHUNK), moves(n);
  gs::AdamState state = {};
  state.means = moved.means.data(), state.quats = moved.quats.data(), state.log_scales = moved.log_scales.data();
  state.opacity_logits = moved.opacity_logits.data(), state.sh = moved.sh.data();
  state.rows = rows.data(), state.changed = changed.data(), state.moved = moves.data();
  state.lr_means = state.lr_quats = state.lr_log_scales = state.lr_opacity_logits = state.lr_sh = 1e-3f;
  state.beta1 = 0.9f, state.beta2 = 0.99f, state.eps = 1e-3f;
  const gs::PhotometricLoss loss = {target.data(), z_wanted.data(), background.data(), 0.2f, 0.1f};
  double value = 0.0, times_ms[3];
  ok(gs_view_step_photometric(view, &q, &loss, &state, norms.data(), sizes.data(), &value, times_ms, threads),
     "step photometric");
  // Colours of 1e30 have no square, so there the loss need not be finite.
  results.add(Floats{std::isfinite(value) ? static_cast<float>(value) : 0.f}, "photometric loss");
  gs_view_destroy(view);
  gs_scene_destroy(scene);
}

// Discs in a tree of one level over `leaves` leaves, the last of which is not full, and points around them.
void run_nearest(int leaves, int threads, Results& results) {
  std::mt19937 generator(static_cast<unsigned>(leaves));
  auto uniform = [&] { return static_cast<float>(generator() >> 8) / static_cast<float>(1 << 24); };
  const float away = 1e15f;
  Floats discs(leaves * 11 * 16), boxes(6 * 16, away);
  std::vector<int32_t> slots(leaves * 16), same(16, -1);
  for (int leaf = 0; leaf < leaves; ++leaf) {
    float low[3] = {away, away, away}, high[3] = {-away, -away, -away};
    for (int i = 0; i < 16; ++i) {
      const bool empty = leaf == leaves - 1 && i > 8;
      float* disc = &discs[leaf * 11 * 16 + i];
      for (int k = 0; k < 3; ++k) {
        disc[k * 16] = empty ? away : uniform();
        if (empty) continue;
        low[k] = std::min(low[k], disc[k * 16] - 0.1f);
        high[k] = std::max(high[k], disc[k * 16] + 0.1f);
      }
      disc[3 * 16] = 1.f, disc[7 * 16] = 1.f;  // axes x and y
      disc[9 * 16] = 10.f + 40.f * uniform(), disc[10 * 16] = 10.f + 40.f * uniform();
      slots[leaf * 16 + i] = i % 3;
    }
    for (int k = 0; k < 3; ++k) boxes[k * 16 + leaf] = low[k], boxes[(3 + k) * 16 + leaf] = high[k];
  }
  const int64_t start = 0;
  const std::vector<uint8_t> none(3, 0), all(3, 1), some = {0, 1, 0};
  for (const auto& hidden : {none, some, all}) {
    const gs::DiscTree tree = {discs.data(), slots.data(), boxes.data(), same.data(), &start, hidden.data(), 1};
    const int count = 131;
    Floats points(3 * count), vectors(3 * count);
    for (float& value : points) value = 3.f * uniform() - 1.f;
    points[0] = 1e12f;
    std::vector<int32_t> found(count);
    ok(gs_nearest_discs(&tree, points.data(), count, 1.02f, found.data(), vectors.data(), threads), "nearest discs");
    for (int32_t index : found)
      if ((index < 0) != (hidden == all)) fail("nearest discs: found what is hidden, or nothing");
    vectors[0] = vectors[1] = vectors[2] = 0.f;  // of the far point, where a float has no digits left for it
    results.add(vectors, "vectors from discs");
  }
}

// A wall seen by a small camera, in blocks before, on and behind it, beside the image and around the camera.
void run_tsdf(int width, int height, int threads, Results& results) {
  const int side = gs::TSDF_SIDE, blocks = 7;
  Floats depth(width * height, 1.f), distance(blocks * side * side * side), corners;
  for (size_t i = 0; i < depth.size(); i += 5) depth[i] = 0.f;
  for (const float z : {0.6f, 0.9f, 1.05f, 3.f, -0.1f, -4.f}) corners.insert(corners.end(), {-0.08f, -0.08f, z});
  corners.insert(corners.end(), {5.f, 0.f, 1.f});
  std::vector<uint8_t> weight(distance.size());
  const std::vector<int64_t> rows = {6, 0, 5, 1, 4, 2, 3};
  const gs::TsdfFusion fusion = {depth.data(), rows.data(), corners.data(), distance.data(), weight.data(), blocks,
                                 width, height, 8, 60.f, 61.f, 0.49f * width, 0.47f * height, 0.05f, 0.08f,
                                 {0.02f, 0, 0, 0, 0.02f, 0, 0, 0, 0.02f}};
  for (int k = 0; k < 12; ++k) ok(gs_tsdf_fuse(&fusion, threads), "tsdf");
  if (*std::max_element(weight.begin(), weight.end()) > 8) fail("tsdf: a weight is too large");
  results.add(distance, "signed distances");
}

int compare(const char* first, const char* second) {
  auto read = [](const char* path) {
    FILE* file = std::fopen(path, "rb");
    if (!file) fail(std::string("cannot read ") + path);
    Floats values;
    for (float value; std::fread(&value, sizeof value, 1, file) == 1;) values.push_back(value);
    std::fclose(file);
    return values;
  };
  const Floats a = read(first), b = read(second);
  if (a.size() != b.size() || a.empty()) fail("the files are of different runs");
  size_t far = 0;
  for (size_t i = 0; i < a.size(); ++i) far += std::fabs(a[i] - b[i]) > 1e-3f * std::max(1.f, std::fabs(a[i]));
  std::printf("%zu of %zu values differ\n", far, a.size());
  return far * 2000 > a.size();  // a splat on the edge of a threshold may go either way
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--compare") return compare(argv[2], argv[3]);
  if (argc != 2) fail("give a file for the results, or --compare and two files");
  if (!gs_isa()) fail(gs_error_text(GS_BAD_ISA));
  // Bad rows make needles that a float's conic does not define well, so only whether they end well is checked.
  Results results, unstable;
  for (const int count : {0, 1, 63, 64, 65, 1500})
    for (const bool bad : {false, true})
      for (const auto& size : {std::pair{1, 1}, std::pair{3, 2}, std::pair{61, 47}, std::pair{97, 33}}) {
        const Map map(count, count % 2 ? 1 : 16, bad);
        Results& kept = bad ? unstable : results;
        run(map, size.first, size.second, 16, 4, 1, kept);
        run(map, size.first, size.second, 32, 20, 3, kept);
        run(map, size.first, size.second, 8, 0, 2, kept);
      }
  for (const int leaves : {1, 3, 16}) run_nearest(leaves, leaves, results);
  for (const auto& size : {std::pair{1, 1}, std::pair{61, 47}}) run_tsdf(size.first, size.second, 2, results);
  FILE* file = std::fopen(argv[1], "wb");
  if (!file || std::fwrite(results.all().data(), sizeof(float), results.all().size(), file) != results.all().size())
    fail(std::string("cannot write ") + argv[1]);
  std::fclose(file);
  std::printf("%s: %zu values\n", gs_isa(), results.all().size());
  return 0;
}
