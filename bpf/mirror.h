/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The way of a copy to an AF_XDP socket: cloned in TC into the mirror's ingress, where a
 * generic XDP program hands it to the socket. What we know of the packet waits meanwhile in
 * a list of this CPU: the kernel's backlog is one too, so both come in the same order, and
 * the copy itself needs no header of ours. (A header in band took a copy of the packet more,
 * and the mirror's veth another: 1.6 to 2.2 us a packet.) Only copies are ever dropped here.
 */
#ifndef ETCPIPE_MIRROR_H
#define ETCPIPE_MIRROR_H

#include "segments.h"
#include "track.h"

#define STAMP_FROM 18		/* within the headers of the shortest packet that counts */
#define PENDING_SCAN 16		/* copies in a row that may vanish unnoticed */
#define PENDING_STALE_NS 1000000000ll

/* A sender on a raw socket writes the tag itself; the stack keeps it beside the frame. */
static __always_inline __u16 vlan_in_band(struct __sk_buff *skb)
{
	struct { __be16 protocol, tci; } tag;

	if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &tag, sizeof(tag)))
		return VLAN_NONE;
	if (tag.protocol != NET16(ETH_P_8021Q) && tag.protocol != NET16(ETH_P_8021AD))
		return VLAN_NONE;
	return NET16(tag.tci);
}

static __always_inline void describe(struct __sk_buff *skb, const struct mark *mark,
				     struct packet_meta *meta)
{
	meta->flow_id = mark->flow_id;
	meta->timestamp_ns = mark->timestamp_ns;
	meta->wire_len = skb->len;
	meta->ifindex = SETTING(device_ifindex);
	meta->rank = mark->rank;
	meta->vlan = skb->vlan_present ? skb->vlan_tci : vlan_in_band(skb);
	meta->segment_len = 0;
	meta->direction = mark->direction;
	meta->pad = 0;
	if (skb->vlan_present)
		meta->wire_len += sizeof(struct vlan_tag);
}

static __always_inline void describe_segment(struct packet_meta *meta, __u32 frame_len,
					     const struct segment_cut *cut)
{
	meta->wire_len = meta->wire_len - frame_len + cut->headers + cut->payload_len;
	meta->rank += cut->index;
}

/* Something of the frame to know it by when it comes out of the backlog. */
static __always_inline __u32 frame_stamp(const __u32 words[6])
{
	return words[0] ^ words[5];
}

/*
 * Copies that are on their way for so long do not come any more: the kernel had no memory for
 * them, or does not run generic XDP on them (act_mirred redirected the packet before).
 */
static __always_inline void pending_expire(struct mirror_list *list, __u64 now)
{
	struct mirror_entry *oldest = mirror_pending_at(list->tail);

	if (!oldest || (long long)(now - oldest->meta.timestamp_ns) < PENDING_STALE_NS)
		return;
	count_n(PACKETS_POP_FAILED, list->head - list->tail);
	list->tail = list->head;
}

/* Room for one more copy on its way. */
static __always_inline struct mirror_entry *pending_next(struct mirror_list *list, __u64 now)
{
	if (list->head != list->tail)
		pending_expire(list, now);
	if (list->head - list->tail >= MIRROR_PENDING)
		return NULL;
	return mirror_pending_at(list->head);
}

/* A flow always takes one queue, and the original keeps what it had. */
static __always_inline int clone(struct __sk_buff *skb, __u64 flow_id)
{
	__u32 before = skb->queue_mapping;
	int error;

	if (SETTING(queues) <= 1)
		return bpf_clone_redirect(skb, SETTING(mirror_ifindex), BPF_F_INGRESS);
	skb->queue_mapping = 1 + (__u32)flow_id % (__u32)SETTING(queues);
	error = bpf_clone_redirect(skb, SETTING(mirror_ifindex), BPF_F_INGRESS);
	skb->queue_mapping = before;
	return error;
}

/* Copy a packet, or that one of a super-packet's which @cut tells. Returns 0, or -1: lost. */
static __always_inline int mirror_one(struct __sk_buff *skb, const struct mark *mark,
				      const struct segment_cut *cut)
{
	struct mirror_list *list = mirror_list();
	struct mirror_entry *entry = list ? pending_next(list, mark->timestamp_ns) : NULL;
	__u32 words[6] = {};

	if (!entry) {
		count(PACKETS_PUSH_FAILED);
		return -1;
	}
	bpf_skb_load_bytes(skb, STAMP_FROM, words, sizeof(words));
	describe(skb, mark, &entry->meta);
	entry->len = skb->len;
	entry->stamp = frame_stamp(words);
	entry->cut = *cut;
	if (cut->payload_len)
		describe_segment(&entry->meta, entry->len, cut);
	list->head++;	/* before: the copy may come out at once where softirqs are threads */
	if (clone(skb, mark->flow_id)) {
		list->head--;
		count(PACKETS_CLONE_FAILED);
		return -1;
	}
	count(PACKETS_CLONED);
	return 0;
}

/* Leave the entry of this frame in front. Returns NULL if it has none: it is not ours. */
static __always_inline struct mirror_entry *pending_find(struct mirror_list *list, __u32 len,
							 __u32 stamp)
{
	struct mirror_entry *entry;
	__u32 i;

NO_UNROLL
	for (i = 0; i < PENDING_SCAN; i++) {
		if (list->tail + i == list->head)
			return NULL;
		entry = mirror_pending_at(list->tail + i);
		if (!entry)
			return NULL;
		if (entry->len != len || entry->stamp != stamp)
			continue;
		if (i)
			count_n(PACKETS_POP_FAILED, i);	/* those before it vanished */
		list->tail += i;
		return entry;
	}
	return NULL;
}

/* The copy's first bytes, kept while the bytes in front of its segment go away. */
static __always_inline int save_headers(struct xdp_md *ctx, struct mirror_scratch *scratch)
{
	void *from = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 i;

NO_UNROLL
	for (i = 0; i < SEGMENT_HEADERS_MAX / 2; i++) {
		KEEP(i);
		if (from + 2 * i + 2 > end)
			break;
		scratch->words[i] = *(__u16 *)(from + 2 * i);
	}
	return 0;
}

static __always_inline void put_headers(struct xdp_md *ctx, const struct mirror_scratch *scratch,
					__u32 headers)
{
	void *to = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 i;

NO_UNROLL
	for (i = 0; i < SEGMENT_HEADERS_MAX / 2; i++) {
		KEEP(i);
		if (2 * i >= headers || to + 2 * i + 2 > end)
			break;
		*(__u16 *)(to + 2 * i) = scratch->words[i];
	}
}

/* Make of the whole super-packet the one packet that the entry tells. */
static __always_inline int cut_out(struct xdp_md *ctx, const struct segment_cut *cut)
{
	struct mirror_scratch *scratch = mirror_scratch();
	void *data, *end;

	if (!scratch || save_headers(ctx, scratch) ||
	    (cut->skip && bpf_xdp_adjust_head(ctx, cut->skip)))
		return -1;
	put_headers(ctx, scratch, cut->headers);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	segment_fix(data, end, cut);
	return 0;
}

static __always_inline int trim(struct xdp_md *ctx, __u32 wanted)
{
	__u32 len = ctx->data_end - ctx->data;

	return len > wanted ? bpf_xdp_adjust_tail(ctx, -(int)(len - wanted)) : 0;
}

/* Turn the copy into what the consumer gets: packet_meta, and at most snap_len bytes. */
static __always_inline int prepare(struct xdp_md *ctx, const struct mirror_entry *entry)
{
	__u32 wanted = SETTING(snap_len), packet = entry->cut.headers + entry->cut.payload_len;
	struct packet_meta *place;

	if (entry->cut.payload_len) {
		if (cut_out(ctx, &entry->cut))
			return -1;
		wanted = packet < wanted ? packet : wanted;
	}
	if (trim(ctx, wanted) || bpf_xdp_adjust_meta(ctx, -(int)sizeof(*place)))
		return -1;
	place = (void *)(long)ctx->data_meta;
	if ((void *)(place + 1) > (void *)(long)ctx->data)
		return -1;
	*place = entry->meta;
	return 0;
}

static __always_inline int pop(struct xdp_md *ctx)
{
	__u32 *words = (void *)(long)ctx->data + STAMP_FROM;
	__u32 len = ctx->data_end - ctx->data;
	struct mirror_list *list = mirror_list();
	struct mirror_entry *entry = NULL;
	int action;

	if (list && (void *)(words + 6) <= (void *)(long)ctx->data_end)
		entry = pending_find(list, len, frame_stamp(words));
	if (!entry) {
		count(PACKETS_FOREIGN);
		return XDP_DROP;
	}
	list->tail++;
	if (prepare(ctx, entry)) {
		count(PACKETS_POP_FAILED);
		return XDP_DROP;
	}
	action = xsks_redirect(ctx);
	count(action == XDP_REDIRECT ? PACKETS_REDIRECTED : PACKETS_NO_CONSUMER);
	return action;
}

#endif /* ETCPIPE_MIRROR_H */
