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

/* Parse all packets of a batch, one a thread. */
static inline __device__ void parse_one(const struct regroup_batch *batch, __u32 options, __u32 i)
{
	struct parsed parsed = {};
	struct frame frame = frame_of(batch, i);
	struct cursor cursor;

	cursor.pos = frame.data;
	cursor.end = frame.data + frame.captured;
	if (frame.data &&
	    !parse_captured(&cursor, column<__u32>(batch->wire_len, i), (int)batch->link_type,
			    column<__u16>(batch->vlan, i), options, &parsed.packet))
		parsed.segments = count_segments(&parsed.packet,
						 column<__u16>(batch->segment_len, i));
	*parsed_of(batch, i) = parsed;
}

#endif /* ETCPIPE_PACKETS_CUH */
