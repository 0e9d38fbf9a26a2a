/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The other way of a copy: written into a BPF ring buffer, as struct packet_record and the
 * captured bytes. No clone, no device, no socket, and it works in XDP.
 */
#ifndef ETCPIPE_RECORDS_H
#define ETCPIPE_RECORDS_H

#include "mirror.h"

/*
 * The verifier wants the size of a reservation as a constant: a few classes. A segment
 * has SEGMENT_HEADERS_MAX beside its payload, whatever its headers are: 1728 takes all of
 * an Ethernet frame, and 3328 the longest snap length.
 */
#define RECORD_TINY 256
#define RECORD_SMALL 512
#define RECORD_MEDIUM 1088
#define RECORD_FRAME 1728
#define RECORD_LARGE 3328
#define RECORD_ROOM(size) ((size) - sizeof(struct packet_record))

/*
 * Does a helper take this length, 1 to @most? The verifier of Linux 5.10 learns nothing from a
 * comparison with zero, so it is one with 1, signed; and clang must not make one of the two.
 */
static __always_inline int length_fits(__u64 *len, __u64 most)
{
	if ((__s64)*len < 1)
		return 0;
	KEEP(*len);	/* the very number that is compared goes to the helper */
	return *len <= most;
}

/*
 * bpf_xdp_load_bytes (Linux 5.18) is left out where older kernels must take the object. By its
 * number: the headers of Ubuntu 22.04 do not have its name.
 */
#if defined(ETCPIPE_FETCH_ADD)
static long (*const xdp_load_bytes)(struct xdp_md *, __u32 offset, void *to, __u32 len) =
	(void *)189;

static __always_inline int xdp_copy(struct xdp_md *ctx, void *to, __u64 len, __u32 room)
{
	(void)room;
	return xdp_load_bytes(ctx, 0, to, len);
}
#else
/* @room is a constant: the verifier of Linux 5.10 does not see that @len is below it. */
static __always_inline int xdp_copy(struct xdp_md *ctx, void *to, __u64 len, __u32 room)
{
	void *from = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 *bytes = to;
	__u32 i;

NO_UNROLL
	for (i = 0; i < room; i++) {
		KEEP(i);
		if (i >= len || from + i + 1 > end)
			break;
		bytes[i] = *(__u8 *)(from + i);
	}
	return 0;
}
#endif

static __always_inline __u32 record_needs(__u32 len)
{
	return len < SETTING(snap_len) ? len : SETTING(snap_len);
}

/* All of a frame that is one packet. Returns how many bytes, or 0. */
static __always_inline __u32 record_frame(struct __sk_buff *skb, __u8 *frame, __u32 room)
{
	__u64 len = record_needs(skb->len);

	KEEP(len);
	if (!length_fits(&len, room) || bpf_skb_load_bytes(skb, 0, frame, len))
		return 0;
	return len;
}

/* One packet of a super-packet. Returns how many bytes, or 0. */
static __always_inline __u32 record_segment_frame(struct __sk_buff *skb, __u8 *frame, __u32 room,
						  const struct segment_cut *cut)
{
	__u64 headers = cut->headers & SEGMENT_OFFSET_MASK;
	__u64 len = record_needs(headers + cut->payload_len) - headers;

	KEEP(len);
	KEEP(headers);
	if (!length_fits(&headers, SEGMENT_HEADERS_MAX) ||
	    !length_fits(&len, room - SEGMENT_HEADERS_MAX))
		return 0;
	if (bpf_skb_load_bytes(skb, 0, frame, headers) ||
	    bpf_skb_load_bytes(skb, headers + cut->skip, frame + headers, len))
		return 0;
	segment_fix(frame, frame + room, cut);
	return headers + len;
}

static __always_inline int record_write(struct __sk_buff *skb, const struct mark *mark, __u64 size)
{
	struct packet_record *record = record_reserve(size);

	if (!record) {
		count(PACKETS_RINGBUF_FULL);
		return -1;
	}
	describe(skb, mark, &record->meta);
	record->captured = record_frame(skb, (__u8 *)(record + 1), RECORD_ROOM(size));
	__builtin_memset(record->pad, 0, sizeof(record->pad));
	record_submit(record);
	count(PACKETS_CLONED);
	return 0;
}

/* Write a packet. Returns 0, or -1: it is lost. */
static __always_inline int record_skb(struct __sk_buff *skb, const struct mark *mark)
{
	__u32 needs = record_needs(skb->len);

	if (needs <= RECORD_ROOM(RECORD_TINY))
		return record_write(skb, mark, RECORD_TINY);
	if (needs <= RECORD_ROOM(RECORD_SMALL))
		return record_write(skb, mark, RECORD_SMALL);
	if (needs <= RECORD_ROOM(RECORD_MEDIUM))
		return record_write(skb, mark, RECORD_MEDIUM);
	if (needs <= RECORD_ROOM(RECORD_FRAME))
		return record_write(skb, mark, RECORD_FRAME);
	return record_write(skb, mark, RECORD_LARGE);
}

/*
 * Write that packet of a super-packet which @cut tells. Returns 0, or -1: it is lost. One
 * size for all: in a loop each class is one more branch for the verifier to follow.
 */
static __always_inline int record_segment(struct __sk_buff *skb, const struct mark *mark,
					  const struct segment_cut *cut)
{
	const __u32 size = SETTING(snap_len) > RECORD_ROOM(RECORD_FRAME) ? RECORD_LARGE :
									   RECORD_FRAME;
	struct packet_record *record = record_reserve(size);

	if (!record) {
		count(PACKETS_RINGBUF_FULL);
		return -1;
	}
	describe(skb, mark, &record->meta);
	describe_segment(&record->meta, skb->len, cut);
	record->captured = record_segment_frame(skb, (__u8 *)(record + 1), RECORD_ROOM(size), cut);
	__builtin_memset(record->pad, 0, sizeof(record->pad));
	record_submit(record);
	count(PACKETS_CLONED);
	return 0;
}

static __always_inline int record_write_xdp(struct xdp_md *ctx, const struct mark *mark,
					    const struct packet *p, __u32 len, __u64 size)
{
	struct packet_record *record = record_reserve(size);
	__u64 bytes = len;

	if (!record) {
		count(PACKETS_RINGBUF_FULL);
		return -1;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->meta.flow_id = mark->flow_id;
	record->meta.timestamp_ns = mark->timestamp_ns;
	record->meta.wire_len = ctx->data_end - ctx->data;
	record->meta.ifindex = SETTING(device_ifindex);
	record->meta.rank = mark->rank;
	record->meta.vlan = p->vlan;
	record->meta.direction = mark->direction;
	KEEP(bytes);
	if (length_fits(&bytes, RECORD_ROOM(size)) &&
	    !xdp_copy(ctx, record + 1, bytes, RECORD_ROOM(size)))
		record->captured = bytes;
	record_submit(record);
	count(PACKETS_CLONED);
	return 0;
}

/* Returns 0, or -1: the packet is lost. */
static __always_inline int record_xdp(struct xdp_md *ctx, const struct mark *mark,
				      const struct packet *p)
{
	__u32 len = record_needs(ctx->data_end - ctx->data);

	if (len <= RECORD_ROOM(RECORD_TINY))
		return record_write_xdp(ctx, mark, p, len, RECORD_TINY);
	if (len <= RECORD_ROOM(RECORD_SMALL))
		return record_write_xdp(ctx, mark, p, len, RECORD_SMALL);
	if (len <= RECORD_ROOM(RECORD_MEDIUM))
		return record_write_xdp(ctx, mark, p, len, RECORD_MEDIUM);
	if (len <= RECORD_ROOM(RECORD_FRAME))
		return record_write_xdp(ctx, mark, p, len, RECORD_FRAME);
	return record_write_xdp(ctx, mark, p, len, RECORD_LARGE);
}

#endif /* ETCPIPE_RECORDS_H */
