// SPDX-License-Identifier: Apache-2.0
/*
 * Packets on the device: parsed by the parser of bpf/parsing.h, one thread a packet, and their
 * raw view written by etcpipe/native/mask.c, one warp a packet. There all lanes take the same
 * way through the headers, and share the work where bytes are copied or filled.
 */
#ifndef ETCPIPE_PACKETS_CUH
#define ETCPIPE_PACKETS_CUH

#include "block.cuh"
#include "link.h"
#include "tables.h"

#define memcpy warp_copy
#define memset warp_fill
#include "mask.c"
#include "tls.c"
#undef memcpy
#undef memset

struct parsed {
	struct packet packet;
	__u32 segments;		/* packets that the frame is on the wire, 0: it cannot be parsed */
};

static_assert(sizeof(struct parsed) <= PARSED_SIZE, "the host allocates enough");

template <class T> static inline __device__ T column(__u64 address, __u64 i)
{
	return ((const T *)address)[i];
}

/* The frame of packet @i, or one without data if it is not inside the batch's memory. */
static inline __device__ struct frame frame_of(const struct regroup_batch *batch, __u32 i)
{
	__u64 offset = column<__u64>(batch->offset, i);
	struct frame frame = {};

	frame.captured = column<__u32>(batch->captured, i);
	if (offset <= batch->memory_len && frame.captured <= batch->memory_len - offset)
		frame.data = (const __u8 *)batch->memory + offset;
	return frame;
}

static inline __device__ struct parsed *parsed_of(const struct regroup_batch *batch, __u32 i)
{
	return (struct parsed *)(batch->parsed + (__u64)i * PARSED_SIZE);
}

#define START_BLOCKS 8

/* The first bytes of a frame, from the 16-byte block on in which it begins. */
struct frame_start {
	struct block16 blocks[START_BLOCKS + 1];	/* one more: fewer threads meet in a bank */
};

/*
 * Read the first bytes of the frames of this block's packets, eight threads a frame: over PCIe
 * a few long reads cost less than many short ones.
 */
static inline __device__ void stage_frames(const struct regroup_batch *batch,
					   struct frame_start *starts)
{
	for (__u32 at = threadIdx.x; at < blockDim.x * START_BLOCKS; at += blockDim.x) {
		__u32 of = at / START_BLOCKS, block = at % START_BLOCKS;
		__u32 i = blockIdx.x * blockDim.x + of;
		struct frame frame = {};
		__u32 shift;

		if (i < batch->packets)
			frame = frame_of(batch, i);
		shift = (__u64)frame.data % sizeof(struct block16);
		if (frame.data && block * sizeof(struct block16) < shift + frame.captured)
			starts[of].blocks[block] =
				load_once((const struct block16 *)(frame.data - shift) + block);
	}
}

static inline __device__ int parse_at(const struct regroup_batch *batch, __u32 options, __u32 i,
				      const __u8 *data, __u32 len, struct packet *packet)
{
	struct cursor cursor;

	*packet = {};
	cursor.pos = data;
	cursor.end = data + len;
	return parse_captured(&cursor, column<__u32>(batch->wire_len, i), (int)batch->link_type,
			      column<__u16>(batch->vlan, i), options, packet);
}

/* Parse packet @i from its first bytes, or from all if the headers go on behind these. */
static inline __device__ void parse_one(const struct regroup_batch *batch, __u32 options, __u32 i,
					const struct frame_start *start)
{
	struct frame frame = frame_of(batch, i);
	__u32 shift = (__u64)frame.data % sizeof(struct block16);
	__u32 len = min_u32(START_BLOCKS * sizeof(struct block16) - shift, frame.captured);
	struct parsed parsed = {};
	int refused = -1;

	if (frame.data) {
		refused = parse_at(batch, options, i, (const __u8 *)start + shift, len,
				   &parsed.packet);
		if (parsed.packet.refusal && len < frame.captured)
			refused = parse_at(batch, options, i, frame.data, frame.captured,
					   &parsed.packet);
	}
	if (!refused)
		parsed.segments = count_segments(&parsed.packet,
						 column<__u16>(batch->segment_len, i));
	*parsed_of(batch, i) = parsed;
}

#endif /* ETCPIPE_PACKETS_CUH */
