/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The way of a copy: cloned in TC, a header pushed in front on the mirror's sending end,
 * popped into AF_XDP metadata on its receiving end. Only copies are ever dropped here.
 */
#ifndef ETCPIPE_MIRROR_H
#define ETCPIPE_MIRROR_H

#include "track.h"

#define CB_WORDS 5

/* Copy a packet to the mirror; @mark travels in the clone's control block. */
static __always_inline int mirror(struct __sk_buff *skb, const struct mark *mark)
{
	__u32 saved[CB_WORDS];
	int error, i;

UNROLL
	for (i = 0; i < CB_WORDS; i++)
		saved[i] = skb->cb[i];
	skb->cb[0] = mark_magic();
	skb->cb[1] = mark->flow_id;
	skb->cb[2] = (mark->flow_id >> 32) | (__u32)mark->rank << 16 | (__u32)mark->direction << 31;
	skb->cb[3] = mark->timestamp_ns;
	skb->cb[4] = mark->timestamp_ns >> 32;
	error = bpf_clone_redirect(skb, SETTING(mirror_ifindex), 0);
UNROLL
	for (i = 0; i < CB_WORDS; i++)
		skb->cb[i] = saved[i];	/* other programs on this hook find it as it was */
	count(error ? PACKETS_CLONE_FAILED : PACKETS_CLONED);
	return error;
}

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

/* Cutting also ends being a super-packet, which the veth would split into many copies. */
static __always_inline int cut(struct __sk_buff *skb)
{
	__u32 len = skb->len;
	__u32 snap_len = SETTING(snap_len);

	if (len <= snap_len && !skb->gso_size)
		return 0;
	return bpf_skb_change_tail(skb, len < snap_len ? len : snap_len, 0);
}

static __always_inline int push(struct __sk_buff *skb)
{
	struct mirror_header header = { .protocol = NET16(MIRROR_PROTOCOL) };
	struct packet_meta *meta = &header.meta;

	if (skb->cb[0] != mark_magic()) {
		count(PACKETS_FOREIGN);
		return TC_ACT_SHOT;
	}
	meta->flow_id = skb->cb[1] | (__u64)(skb->cb[2] & 0xffff) << 32;
	meta->timestamp_ns = skb->cb[3] | (__u64)skb->cb[4] << 32;
	meta->wire_len = skb->len;
	meta->ifindex = SETTING(device_ifindex);
	meta->rank = skb->cb[2] >> 16 & 0x7fff;
	meta->direction = skb->cb[2] >> 31;
	meta->segment_len = skb->gso_size;
	meta->vlan = skb->vlan_present ? skb->vlan_tci : vlan_in_band(skb);
	if (skb->vlan_present)
		meta->wire_len += sizeof(struct vlan_tag);
	if (cut(skb) || bpf_skb_change_head(skb, sizeof(header), 0) ||
	    bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0)) {
		count(PACKETS_PUSH_FAILED);
		return TC_ACT_STOLEN;	/* unlike SHOT not reported to mirror(): counted once */
	}
	return TC_ACT_UNSPEC;
}

static __always_inline int pop(struct xdp_md *ctx)
{
	struct mirror_header *header = (void *)(long)ctx->data;
	struct packet_meta meta, *place;
	int action;

	if ((void *)(header + 1) > (void *)(long)ctx->data_end ||
	    header->protocol != NET16(MIRROR_PROTOCOL)) {
		count(PACKETS_FOREIGN);
		return XDP_DROP;
	}
	meta = header->meta;
	if (bpf_xdp_adjust_head(ctx, sizeof(*header)) ||
	    bpf_xdp_adjust_meta(ctx, -(int)sizeof(meta)))
		goto failed;
	place = (void *)(long)ctx->data_meta;
	if ((void *)(place + 1) > (void *)(long)ctx->data)
		goto failed;
	*place = meta;
	action = xsks_redirect(ctx);
	count(action == XDP_REDIRECT ? PACKETS_REDIRECTED : PACKETS_NO_CONSUMER);
	return action;
failed:
	count(PACKETS_POP_FAILED);
	return XDP_DROP;
}

#endif /* ETCPIPE_MIRROR_H */
