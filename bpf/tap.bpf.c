// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The tap: track flows where packets pass and copy the first N of each to the consumer.
 *
 *   device, TC mode     tc_track at ingress and egress
 *   device, XDP mode    xdp_track, then tc_mirror at TC ingress; tc_track at egress
 *   mirror veth, end A  mirror_push at egress: cut, prepend struct mirror_header
 *   mirror veth, end B  mirror_pop: header into AF_XDP metadata, frame into the socket
 *
 * XDP cannot both pass a packet and copy it, hence the clone in TC. A veth carries
 * neither skb->cb nor metadata to its peer, hence the header in band.
 * Traffic always passes; only copies on the mirror are ever dropped, and counted.
 */
#ifdef ETCPIPE_BCC
#undef SEC
#define SEC(name)
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include <linux/pkt_cls.h>

#include "etcpipe.h"
#include "settings.h"
#include "maps.h"

#ifndef ETCPIPE_BCC
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif

#define HEADERS_MAX 256		/* bytes made linear where a packet's headers are not */
#define CB_WORDS 5

/* What tracking says of a packet that must be mirrored; XDP's metadata for TC. */
struct mark {
	__u64 flow_id;
	__u64 timestamp_ns;
	__u32 magic;
	__u16 rank;
	__u8 direction;
	__u8 pad;
};

/* Of this tap, not of another one on a device stacked upon this one. */
static __always_inline __u32 mark_magic(void)
{
	return 0xe7c00000 ^ SETTING(device_ifindex);
}

static __always_inline __u32 canary_magic(void)
{
	return 0xe7ca0000 ^ SETTING(device_ifindex);
}

static __always_inline struct flow_state *flow_create(struct packet *p, __u64 now,
						      struct flow_state *old)
{
	struct flow_state flow;
	struct flow_state *created;
	__u64 flow_id = flow_id_next();

	flow_begin(&flow, p, flow_id, now);
	if (old)
		flows_replace(&p->key, &flow);
	else
		flows_insert(&p->key, &flow);
	/* another CPU may have been faster: then the flow is there, with its id */
	created = flows_find(&p->key);
	if (!created) {
		count(PACKETS_TABLE_FULL);
		return NULL;
	}
	if (created->flow_id == flow_id)
		count(old ? FLOWS_RESTARTED : FLOWS_CREATED);
	return created;
}

/* Account a packet to its flow. Returns the flow and fills @mark if it must be mirrored. */
static __always_inline struct flow_state *track(struct packet *p, __u32 wire_len,
						__u32 segments, struct mark *mark)
{
	struct flow_state *flow = flows_find(&p->key);
	__u64 now = bpf_ktime_get_ns();
	__u32 rank;

	if (!flow || flow_restarts(flow, p, now, SETTING(idle_ns)))
		flow = flow_create(p, now, flow);
	if (!flow)
		return NULL;
	count(PACKETS_TRACKED);
	rank = flow_update(flow, p, wire_len, segments, now, SETTING(count_rule));
	if (rank >= SETTING(first_n))
		return NULL;
	count(PACKETS_FIRST_N);
	mark->flow_id = flow->flow_id;
	mark->timestamp_ns = now;
	mark->magic = mark_magic();
	mark->rank = rank;
	mark->direction = flow_direction(flow, p);
	mark->pad = 0;
	return flow;
}

/* Parse, and make the headers linear only where that failed: it costs a copy of them. */
static __always_inline int parse_skb(struct __sk_buff *skb, struct packet *p)
{
	__u32 len = skb->len;
	int attempt;

#pragma clang loop unroll(disable)
	for (attempt = 0; attempt < 2; attempt++) {
		struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
		__u32 linear = skb->data_end - skb->data;

		__builtin_memset(p, 0, sizeof(*p));
		if (!parse_frame(&c, len, p))
			return 0;
		if (p->refusal != PACKETS_MALFORMED || linear >= len)
			break;
		if (bpf_skb_pull_data(skb, len < HEADERS_MAX ? len : HEADERS_MAX))
			break;
	}
	return -1;
}

/* How many packets a super-packet (GSO, GRO) is on the wire. */
static __always_inline __u32 skb_segments(struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = skb->gso_size;

	if (!size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	return p->payload_len > size ? (p->payload_len + size - 1) / size : 1;
}

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

SEC("tc")
int tc_track(struct __sk_buff *skb)
{
	struct flow_state *flow;
	struct packet p;
	struct mark mark;
	__u32 segments, wire_len;

	count(PACKETS_SEEN);
	if (parse_skb(skb, &p)) {
		count(p.refusal);
		return TC_ACT_UNSPEC;
	}
	segments = skb_segments(skb, &p);
	wire_len = skb->len + (segments - 1) * p.payload_offset;
	if (skb->vlan_present)
		wire_len += segments * sizeof(struct vlan_tag);
	flow = track(&p, wire_len, segments, &mark);
	if (flow && mirror(skb, &mark))
		flow->lost++;
	return TC_ACT_UNSPEC;
}

SEC("xdp")
int xdp_track(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	__u32 len = ctx->data_end - ctx->data;
	struct flow_state *flow;
	struct packet p = {};
	struct mark mark, *meta;

	count(PACKETS_SEEN);
	if (parse_frame(&c, len, &p)) {
		count(p.refusal);
		return XDP_PASS;
	}
	flow = track(&p, len, 1, &mark);
	if (!flow)
		return XDP_PASS;
	if (!bpf_xdp_adjust_meta(ctx, -(int)sizeof(mark))) {
		meta = (void *)(long)ctx->data_meta;
		if ((void *)(meta + 1) <= (void *)(long)ctx->data) {
			*meta = mark;
			return XDP_PASS;
		}
	}
	count(PACKETS_CLONE_FAILED);
	flow->lost++;
	return XDP_PASS;
}

/* XDP mode, TC ingress: clone what xdp_track marked. */
SEC("tc")
int tc_mirror(struct __sk_buff *skb)
{
	struct mark *meta = (void *)(long)skb->data_meta;
	struct mark mark;

	if ((void *)(meta + 1) > (void *)(long)skb->data || meta->magic != mark_magic())
		return TC_ACT_UNSPEC;
	mark = *meta;
	mirror(skb, &mark);	/* a failure is counted; the flow is not at hand to tell it */
	return TC_ACT_UNSPEC;
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

SEC("tc")
int mirror_push(struct __sk_buff *skb)
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

SEC("xdp")
int mirror_pop(struct xdp_md *ctx)
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

/* Before XDP mode is chosen: does metadata reach TC through this driver? */
SEC("xdp")
int xdp_canary(struct xdp_md *ctx)
{
	struct mark *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta))) {
		canary_count(CANARY_REFUSED);
		return XDP_PASS;
	}
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return XDP_PASS;
	__builtin_memset(meta, 0, sizeof(*meta));
	meta->magic = canary_magic();
	canary_count(CANARY_WRITTEN);
	return XDP_PASS;
}

SEC("tc")
int tc_canary(struct __sk_buff *skb)
{
	struct mark *meta = (void *)(long)skb->data_meta;

	if ((void *)(meta + 1) > (void *)(long)skb->data || meta->magic != canary_magic())
		canary_count(CANARY_LOST);
	else
		canary_count(CANARY_SURVIVED);
	return TC_ACT_UNSPEC;
}
