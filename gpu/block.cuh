// SPDX-License-Identifier: Apache-2.0
/*
 * What the threads of a warp or of a block do together: copy, fill, sort and scan. One element
 * a thread and one block of BATCH_MAX threads, so nothing here needs CUB.
 */
#ifndef ETCPIPE_BLOCK_CUH
#define ETCPIPE_BLOCK_CUH

#include "etcpipe.h"

#define WARP 32
#define WARPS (BATCH_MAX / WARP)
#define ALL_LANES 0xffffffffu
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads) void

struct alignas(16) block16 {
	__u64 low;
	__u64 high;
};

static inline __device__ __u32 lane_id()
{
	return threadIdx.x % WARP;
}

/* Threads and warps of the whole grid, from 0 on. */
static inline __device__ __u32 grid_thread()
{
	return blockIdx.x * blockDim.x + threadIdx.x;
}

static inline __device__ __u32 grid_threads()
{
	return gridDim.x * blockDim.x;
}

static inline __device__ __u32 grid_warp()
{
	return grid_thread() / WARP;
}

static inline __device__ __u32 grid_warps()
{
	return grid_threads() / WARP;
}

/* Fill @n bytes. All lanes of the warp call it with the same arguments. */
static inline __device__ void warp_fill(__u8 *to, __u8 value, __u64 n)
{
	const __u64 word = value * 0x0101010101010101ull;
	__u32 lane = lane_id();
	__u64 head = -(__u64)to % 8, words, tail;

	if (head > n)
		head = n;
	words = (n - head) / 8;
	tail = head + words * 8;
	if (lane < head)
		to[lane] = value;
	for (__u64 i = lane; i < words; i += WARP)
		((__u64 *)(to + head))[i] = word;
	if (tail + lane < n)
		to[tail + lane] = value;
	__syncwarp();
}

/* Bytes @shift .. @shift + 7 of 16 bytes. */
static inline __device__ __u64 funnel(__u64 low, __u64 high, __u32 shift)
{
	return shift ? low >> 8 * shift | high << (64 - 8 * shift) : low;
}

/* Read what will not be read again: frames, from the host's memory or the device's. */
static inline __device__ struct block16 load_once(const struct block16 *from)
{
#ifdef __CUDACC__
	ulonglong2 loaded = __ldcs((const ulonglong2 *)from);

	return { loaded.x, loaded.y };
#else
	return *from;
#endif
}

/*
 * Copy @n bytes to an address that is a multiple of 8: aligned loads of 16 bytes a lane, put
 * right in registers with what the next lane loaded, stores of 8 bytes. It reads whole blocks
 * of 16 bytes, so the memory begins and ends at a multiple of 16.
 */
static inline __device__ void warp_copy_words(__u64 *to, const __u8 *from, __u64 n)
{
	const __u32 lane = lane_id(), shift = (__u64)from % 16;
	const struct block16 *blocks = (const struct block16 *)(from - shift);
	const __u64 n_blocks = (shift + n + 15) / 16, words = n / 8;

	/* the last lane's block is the first one of the next turn: it only helps its neighbour */
	for (__u64 first = 0; first * 16 < n; first += WARP - 1) {
		struct block16 here = {}, next;
		__u64 at = first + lane;

		if (at < n_blocks)
			here = load_once(blocks + at);
		next.low = __shfl_down_sync(ALL_LANES, here.low, 1);
		next.high = __shfl_down_sync(ALL_LANES, here.high, 1);
		if (lane == WARP - 1)
			continue;
		if (2 * at < words)
			to[2 * at] = shift < 8 ? funnel(here.low, here.high, shift) :
						 funnel(here.high, next.low, shift - 8);
		if (2 * at + 1 < words)
			to[2 * at + 1] = shift < 8 ? funnel(here.high, next.low, shift) :
						     funnel(next.low, next.high, shift - 8);
	}
}

#define COPY_BYTES_MAX 64	/* what is shorter is copied byte by byte */

/*
 * Copy @n bytes. All lanes of the warp call it with the same arguments. What it writes over was
 * filled before, if at all, and no lane writes there again but with what all lanes write.
 */
static inline __device__ void warp_copy(__u8 *to, const __u8 *from, __u64 n)
{
	__u32 lane = lane_id();
	__u64 head = 0, tail = 0;

	if (n > COPY_BYTES_MAX) {
		head = -(__u64)to % 8;
		tail = head + (n - head) / 8 * 8;
		warp_copy_words((__u64 *)(to + head), from + head, tail - head);
	}
	if (lane < head)
		to[lane] = from[lane];
	for (__u64 i = tail + lane; i < n; i += WARP)
		to[i] = from[i];
}

/* Sort one number a thread, all of them different, with @shared of BATCH_MAX. */
static inline __device__ __u64 block_sort(__u64 mine, __u64 *shared)
{
	const __u32 t = threadIdx.x;

	for (__u32 run = 2; run <= BATCH_MAX; run *= 2) {
		for (__u32 step = run / 2; step; step /= 2) {
			bool wants_less = ((t & step) == 0) == ((t & run) == 0);
			__u64 other;

			if (step < WARP) {
				other = __shfl_xor_sync(ALL_LANES, mine, step);
			} else {
				shared[t] = mine;
				__syncthreads();
				other = shared[t ^ step];
				__syncthreads();
			}
			if ((other < mine) == wants_less)
				mine = other;
		}
	}
	return mine;
}

struct plus {
	static __device__ __u32 of(__u32 a, __u32 b) { return a + b; }
};

struct larger {
	static __device__ __u32 of(__u32 a, __u32 b) { return a > b ? a : b; }
};

template <class Operation> static inline __device__ __u32 warp_scan(__u32 mine)
{
	for (__u32 step = 1; step < WARP; step *= 2) {
		__u32 other = __shfl_up_sync(ALL_LANES, mine, step);

		if (lane_id() >= step)
			mine = Operation::of(mine, other);
	}
	return mine;
}

/* Return the operation over this thread's number and those of all threads before it. */
template <class Operation> static inline __device__ __u32 block_scan(__u32 mine, __u32 *shared)
{
	const __u32 warp = threadIdx.x / WARP;

	mine = warp_scan<Operation>(mine);
	if (lane_id() == WARP - 1)
		shared[warp] = mine;
	__syncthreads();
	if (warp == 0)
		shared[threadIdx.x] = warp_scan<Operation>(shared[threadIdx.x]);
	__syncthreads();
	if (warp)
		mine = Operation::of(mine, shared[warp - 1]);
	__syncthreads();	/* the next scan may use @shared */
	return mine;
}

#endif /* ETCPIPE_BLOCK_CUH */
