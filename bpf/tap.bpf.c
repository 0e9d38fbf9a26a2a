// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The tap: track flows where packets pass and copy the first N of each to the consumer.
 *
 *   device, TC mode     tc_track at ingress and egress
 *   device, XDP mode    xdp_track, then tc_mirror at TC ingress; tc_track at egress
 *   two ports, a wire   tc_track at ingress of both, which sends all on to the other one
 *   mirror              mirror_pop, generic XDP: the copy into the socket
 *
 * XDP cannot both pass a packet and copy it, hence the clone in TC; into a ring buffer
 * (capture.h) it can.
 * Traffic always passes (as policy lets it); only copies on the mirror are ever dropped, and counted.
 */
#ifdef ETCPIPE_BCC
#undef SEC
#define SEC(name)
#else
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include <linux/pkt_cls.h>

#include "act.h"
#include "capture.h"
#include "filter.h"
#include "track.h"

#ifndef ETCPIPE_BCC
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif

static __always_inline __u32 canary_magic(void)
{
	return 0xe7ca0000 ^ SETTING(device_ifindex);
}

static __always_inline int track_in_tc(struct __sk_buff *skb)
{
	struct packet *p = parsed();
	struct flow_state *flow;
	struct mark mark = {};
	__u32 segments, wire_len;

	if (!p)
		return TC_ACT_UNSPEC;
	if (parse_skb(skb, p) && join_fragment(p)) {
		count(p->refusal);
		return TC_ACT_UNSPEC;
	}
	segments = skb_segments(skb, p);
	wire_len = skb->len + (segments - 1) * p->payload_offset;
	if (skb->vlan_present)
		wire_len += segments * sizeof(struct vlan_tag);
	flow = track(p, wire_len, segments, &mark);
	remember_fragment(p);
	if (flow)
		flow->lost += capture_skb(skb, p, &mark, segments, flow);
	return act(skb, &mark);
}

/* In forward mode, send the packet out at the other port, past the stack. */
static __always_inline int pass(struct __sk_buff *skb, int answer)
{
	__u32 device = SETTING(device_ifindex), port = SETTING(port_ifindex);

	if (!port || answer == TC_ACT_SHOT)
		return answer;
	return bpf_redirect(skb->ifindex == device ? port : device, 0);
}

SEC("tc")
int tc_track(struct __sk_buff *skb)
{
	count(PACKETS_SEEN);
	filter_tc(skb);
	return pass(skb, TC_ACT_UNSPEC);
}

/* The tracker, behind the filter if there is one. */
SEC("tc")
int tc_matched(struct __sk_buff *skb)
{
	return pass(skb, track_in_tc(skb));
}

/* A packet that the filter did not match; forward mode still has to pass it on. */
SEC("tc")
int tc_missed(struct __sk_buff *skb)
{
	return pass(skb, TC_ACT_UNSPEC);
}

static __always_inline int track_in_xdp(struct xdp_md *ctx)
{
	struct packet *p = parsed();
	struct mark mark = {}, *meta;
	__u32 len = len_xdp(ctx);
	struct flow_state *flow;

	if (!p)
		return XDP_PASS;
	if (parse_xdp(ctx) && join_fragment(p)) {
		count(p->refusal);
		return XDP_PASS;
	}
	flow = track(p, len, 1, &mark);
	remember_fragment(p);
	if (flow && gather_settles(p, &mark, 1, flow))
		flow = NULL;
	if (flow && SETTING(capture) != CAPTURE_AFXDP) {
		flow->lost += capture_xdp(ctx, p, &mark, flow);
		flow = NULL;
	}
	if (!flow && !mark_to_act(&mark))
		return XDP_PASS;
	if (!bpf_xdp_adjust_meta(ctx, -(int)sizeof(mark))) {
		meta = (void *)(long)ctx->data_meta;
		if ((void *)(meta + 1) <= (void *)(long)ctx->data) {
			*meta = mark;
			return XDP_PASS;
		}
	}
	if (flow) {
		count(PACKETS_CLONE_FAILED);
		flow->lost++;
	}
	return XDP_PASS;
}

SEC("xdp")
int xdp_track(struct xdp_md *ctx)
{
	count(PACKETS_SEEN);
	filter_xdp(ctx);
	return XDP_PASS;
}

SEC("xdp")
int xdp_matched(struct xdp_md *ctx)
{
	return track_in_xdp(ctx);
}

/* XDP mode, TC ingress: clone what xdp_track marked, or act upon it. */
SEC("tc")
int tc_mirror(struct __sk_buff *skb)
{
	struct mark *meta = (void *)(long)skb->data_meta;
	struct mark mark;

	if ((void *)(meta + 1) > (void *)(long)skb->data || meta->magic != mark_magic())
		return TC_ACT_UNSPEC;
	mark = *meta;
	if (mark.rank != RANK_ACT && capture_one(skb, &mark))
		tell_lost(skb);
	return act(skb, &mark);
}

SEC("xdp")
int mirror_pop(struct xdp_md *ctx)
{
	return pop(ctx);
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
