// SPDX-License-Identifier: Apache-2.0
/* All kernels as one source: for nvcc and NVRTC, and for a host compiler by tests/cuda/shim.h. */
#include "wire.cuh"

#include "flow_sort.cu"
#include "regroup_plan.cu"
#include "regroup_rows.cu"
#include "views.cu"
