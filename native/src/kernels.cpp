// All kernels for one instruction set. This file is compiled once per set with GS_ISA defined to its name. Nothing here
// may use the standard library's templates: the linker would merge them across instruction sets.
#include "kernels.h"

#include "kernels/adam.h"
#include "kernels/backward.h"
#include "kernels/bin.h"
#include "kernels/blend.h"
#include "kernels/calibrate.h"
#include "kernels/feature_step.h"
#include "kernels/ids.h"
#include "kernels/mlp.h"
#include "kernels/nearest.h"
#include "kernels/pack.h"
#include "kernels/project.h"
#include "kernels/residual.h"
#include "kernels/shade.h"
#include "kernels/ssim.h"
#include "kernels/step.h"
#include "kernels/sweep.h"
#include "kernels/transpose.h"
#include "kernels/tsdf.h"
#include "kernels/view_votes.h"

#define GS_TEXT_(x) #x
#define GS_TEXT(x) GS_TEXT_(x)
#define GS_JOIN_(a, b) a##b
#define GS_JOIN(a, b) GS_JOIN_(a, b)

namespace gs {

const Kernels* GS_JOIN(kernels_, GS_ISA)() {
  using namespace GS_ISA;
  static const Kernels table = {
      GS_TEXT(GS_ISA), pack,     project, bin,  shade,    blend,          vote,    accumulate,
      accumulate_labels, backward, step, step_images, step_features, residual, depth_l1, ssim_workspace, ssim_l1, adam,
      census, sweep, nearest, tsdf_fuse, mlp, view_votes, calibrate};
  return &table;
}

}  // namespace gs
