// SPDX-License-Identifier: Apache-2.0
/*
 * CUDA on a host: every thread of a block is a fiber, barriers of warps and blocks are places
 * where all of them meet, and shared memory is poisoned before each block. The order in which
 * fibers run is random, so a barrier that is missing shows up as a wrong result, and one that
 * not all threads reach as an error. One block runs at a time.
 *
 * Not modelled: memory ordering between threads, and speed.
 */
#ifndef ETCPIPE_SHIM_H
#define ETCPIPE_SHIM_H

#include <math.h>
#include <string.h>

namespace shim {

typedef void (*kernel)(const void *, const void *);

struct index {
	unsigned x;
};

extern index block_index, block_size, grid_size;

unsigned thread();
/* Wait until all threads of the block, or of the warp, are here. */
void meet_block();
void meet_warp();
/* Give @mine to the warp and return what lane @lane gave. */
unsigned long long exchange(unsigned long long mine, unsigned lane);

inline unsigned lane()
{
	return thread() % 32;
}

template <class T> T from_lane(T mine, unsigned lane)
{
	unsigned long long bits = 0;

	memcpy(&bits, &mine, sizeof(mine));
	bits = exchange(bits, lane);
	memcpy(&mine, &bits, sizeof(mine));
	return mine;
}

} // namespace shim

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __noinline__ __attribute__((noinline))
#define __shared__ static __attribute__((section("shim_shared")))

#define threadIdx (shim::index{ shim::thread() })
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

#define __syncthreads() shim::meet_block()
#define __syncwarp() shim::meet_warp()
#define __clzll(x) ((x) ? __builtin_clzll(x) : 64)
#define __popcll(x) __builtin_popcountll(x)
#define __ffsll(x) __builtin_ffsll(x)

template <class T> T __shfl_xor_sync(unsigned, T mine, unsigned bits)
{
	return shim::from_lane(mine, shim::lane() ^ bits);
}

template <class T> T __shfl_up_sync(unsigned, T mine, unsigned step)
{
	unsigned lane = shim::lane();

	return shim::from_lane(mine, lane >= step ? lane - step : lane);
}

template <class T> T __shfl_down_sync(unsigned, T mine, unsigned step)
{
	unsigned lane = shim::lane();

	return shim::from_lane(mine, lane + step < 32 ? lane + step : lane);
}

template <class T> T __shfl_sync(unsigned, T mine, unsigned lane)
{
	return shim::from_lane(mine, lane);
}

template <class T> T atomicAdd(T *p, T n)
{
	T old = *p;

	*p += n;
	return old;
}

template <class T> T atomicSub(T *p, T n)
{
	return atomicAdd(p, (T)-n);
}

template <class T> T atomicMin(T *p, T n)
{
	T old = *p;

	*p = n < old ? n : old;
	return old;
}

template <class T> T atomicMax(T *p, T n)
{
	T old = *p;

	*p = n > old ? n : old;
	return old;
}

template <class T> T atomicExch(T *p, T wanted)
{
	T old = *p;

	*p = wanted;
	return old;
}

template <class T> T atomicCAS(T *p, T expected, T wanted)
{
	T old = *p;

	if (old == expected)
		*p = wanted;
	return old;
}

#endif /* ETCPIPE_SHIM_H */
