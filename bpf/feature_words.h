/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Features of a flow, packet by packet and in whole numbers, for the kernel and for user space
 * (etcpipe/native/gather.c). What is no whole number (mean, deviation, seconds) is finished
 * by etcpipe/kernel/features_rows.py. gpu/views_cpu.py defines all of it.
 */
#ifndef ETCPIPE_FEATURE_WORDS_H
#define ETCPIPE_FEATURE_WORDS_H

#include "features_plan.h"
#include "ip.h"

/* libbpf fills a global that clang must not take for the zeros that it is compiled as. */
#if defined(__BPF__) && !defined(ETCPIPE_BCC)
#define PLAN const volatile struct feature_plan
#else
#define PLAN const struct feature_plan
#endif

/* What the statistics take of a packet. */
struct feature_sample {
	__u64 now;
	__u32 ip_len;
	__u32 payload_len;
	__u32 rank;		/* below the plan's depth */
	__u16 window;
	__u8 ttl;
	__u8 flags;
	__u8 side;		/* 0: from the initiator */
	__u8 is_tcp;
};

static __always_inline __u64 *feature_words(struct feature_entry *entry)
{
	return (__u64 *)(entry + 1);
}

/* Make an entry that of a flow of which nothing was seen. The caller fills in the key. */
static __always_inline void features_begin(struct feature_entry *entry, PLAN *plan,
					   __u64 flow_id, __u64 now)
{
	__u64 *words = feature_words(entry);
	__u32 i;

	entry->ranks[0] = 0;
	entry->ranks[1] = 0;
	entry->last_ns[0] = 0;
	entry->last_ns[1] = 0;
	entry->first_ns = now;
	entry->ready_ns = 0;
	entry->status = FEATURES_OPEN;
	entry->reason = 0;
	entry->judged = FEATURES_NOT_JUDGED;
	entry->class = 0;
	entry->sum = 0;
NO_UNROLL
	for (i = 0; i < 2 * N_FEATURE_WORDS; i++) {
		OPAQUE(i);
		if (i >= plan->pairs)
			break;
		words[i] = 0;
	}
	entry->flow_id = flow_id;
}

static __always_inline __u64 features_last_ns(const struct feature_entry *entry)
{
	__u64 a = entry->last_ns[0], b = entry->last_ns[1];

	return (long long)(a - b) > 0 || !b ? a : b;
}

/* Was the flow silent for so long that its row is closed, whatever comes? */
static __always_inline int features_are_idle(const struct feature_entry *entry, __u64 now,
					     __u64 wait_ns)
{
	return (long long)(now - features_last_ns(entry)) > (long long)wait_ns;
}

static __always_inline void features_close(struct feature_entry *entry, PLAN *plan, __u8 reason)
{
	entry->reason = reason;
	entry->ready_ns = features_last_ns(entry) + (reason == READY_IDLE ? plan->wait_ns : 0);
}

/* @quantity is a constant; @is_first: nothing of it was seen in this direction. */
static __always_inline void feature_quantity(__u64 *words, PLAN *plan, __u32 quantity, __u32 side,
					     __u64 value, int is_first)
{
	const __u32 word = FEATURE_STATISTICS * quantity;
	__u32 at = plan->at[word];

	if (at != FEATURE_NONE)
		words[at + side] += value;
	at = plan->at[word + 1];
	if (at != FEATURE_NONE)
		words[at + side] += value * value;
	at = plan->at[word + 2];
	if (at != FEATURE_NONE && (is_first || value < words[at + side]))
		words[at + side] = value;
	at = plan->at[word + 3];
	if (at != FEATURE_NONE && value > words[at + side])
		words[at + side] = value;
}

/* Eight flags as eight bytes, 0 or 1 each. */
static __always_inline __u64 flags_spread(__u8 flags)
{
	__u64 bits = flags * 0x0101010101010101ull & 0x8040201008040201ull;

	return (bits + 0x7f7f7f7f7f7f7f7full) >> 7 & 0x0101010101010101ull;
}

/* When SYN, SYN+ACK and ACK were first seen in this order (RFC 9293, 3.5). */
static __always_inline void feature_handshake(__u64 *words, PLAN *plan,
					      const struct feature_sample *s, __u32 side)
{
	__u32 at = plan->at[FEATURE_SYN], ack_at = plan->at[FEATURE_ACK];
	__u8 kind = s->flags & (TCP_SYN | TCP_ACK);

	if (at == FEATURE_NONE)
		return;
	if (!side && kind == TCP_SYN && !words[at])
		words[at] = s->now + 1;
	else if (side && kind == (TCP_SYN | TCP_ACK) && words[at] && !words[at + 1])
		words[at + 1] = s->now + 1;
	else if (!side && kind == TCP_ACK && ack_at != FEATURE_NONE && words[at + 1] &&
		 !words[ack_at])
		words[ack_at] = s->now + 1;
}

static __always_inline void feature_tcp(__u64 *words, PLAN *plan, const struct feature_sample *s,
					__u32 side, int is_first)
{
	__u32 at = plan->at[FEATURE_FLAGS];

	feature_quantity(words, plan, FEATURE_WINDOW, side, s->window, is_first);
	if (at != FEATURE_NONE)
		words[at + side] += flags_spread(s->flags);
	feature_handshake(words, plan, s, side);
}

static __always_inline __u64 feature_sizes(const struct feature_sample *s)
{
	return (s->ip_len & ((1ull << FEATURE_PAYLOAD_SHIFT) - 1)) |
	       (s->payload_len & 0xffffull) << FEATURE_PAYLOAD_SHIFT |
	       (__u64)s->window << FEATURE_WINDOW_SHIFT | (__u64)s->ttl << FEATURE_TTL_SHIFT;
}

static __always_inline void feature_series(__u64 *words, PLAN *plan,
					   const struct feature_sample *s, __u64 rank)
{
	__u32 sizes_at = plan->sizes_at, times_at = plan->times_at;

	if (sizes_at != FEATURE_NONE)
		words[sizes_at + rank] = feature_sizes(s);
	if (times_at != FEATURE_NONE)
		words[times_at + rank] = s->now;
}

/* Take a packet into its flow's statistics. */
static __always_inline void features_add(struct feature_entry *entry, PLAN *plan,
					 const struct feature_sample *s)
{
	__u64 *words = feature_words(entry), rank = s->rank, before, last, gap;
	__u32 side = s->side & 1;

	OPAQUE(rank);
	if (rank >= plan->depth)
		return;
	before = entry->ranks[side];
	last = entry->last_ns[side];
	entry->ranks[side] = before | 1ull << rank;
	entry->last_ns[side] = s->now;
	if (before) {
		gap = (long long)(s->now - last) > 0 ? s->now - last : 0;
		feature_quantity(words, plan, FEATURE_GAP, side, gap, !(before & (before - 1)));
	}
	feature_quantity(words, plan, FEATURE_BYTES, side, s->ip_len, !before);
	feature_quantity(words, plan, FEATURE_TTL, side, s->ttl, !before);
	feature_quantity(words, plan, FEATURE_PAYLOAD, side, s->payload_len, !before);
	if (s->is_tcp)
		feature_tcp(words, plan, s, side, !before);
	feature_series(words, plan, s, rank);
}

#endif /* ETCPIPE_FEATURE_WORDS_H */
