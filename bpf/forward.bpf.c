// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A bump in the wire: what comes in at one port goes out at the other one, untouched and
 * past the stack, and flows are tracked on the way.
 *
 *   both ports          xdp_forward: the first N of a flow to the other port and the mirror
 *                       at once (devmap broadcast), all else to the other port alone
 *   mirror, second end  mirror_pop: into the socket; its metadata came with the frame
 *
 * What is not IP is forwarded too. Packets are dropped only by a policy, or where the other
 * port does not take them: the kernel tells that to tracepoints alone, and two programs
 * there count it.
 */
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/pkt_cls.h>

#include "act.h"
#include "capture.h"
#include "filter.h"
#include "track.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define FORWARD_PORTS 2

/* What the tracepoints need of the kernel's own structures, found by BTF at load. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};
#pragma clang attribute pop

/* The port to go out at, by the one that a packet came in at; and ports and mirror together. */
MAP(BPF_MAP_TYPE_DEVMAP_HASH, forward_ports, __u32, __u32, FORWARD_PORTS, 0);
MAP(BPF_MAP_TYPE_DEVMAP_HASH, forward_group, __u32, __u32, FORWARD_PORTS + 1, 0);

static __always_inline int to_port(struct xdp_md *ctx)
{
	int action = bpf_redirect_map(&forward_ports, ctx->ingress_ifindex, XDP_PASS);

	if (action != XDP_REDIRECT)
		count(PACKETS_NOT_FORWARDED);
	return action;
}

/* Put what the consumer gets in front of the frame; clones for the mirror keep it. */
static __always_inline int put_meta(struct xdp_md *ctx, const struct packet *p,
				    const struct mark *mark, __u32 len)
{
	struct packet_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return -1;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return -1;
	__builtin_memset(meta, 0, sizeof(*meta));
	meta->flow_id = mark->flow_id;
	meta->timestamp_ns = mark->timestamp_ns;
	meta->wire_len = len;
	meta->ifindex = SETTING(device_ifindex);
	meta->rank = mark->rank;
	meta->vlan = p->vlan;
	meta->direction = mark->direction;
	return 0;
}

/* Returns the action for a packet among the first N. */
static __always_inline int to_port_and_consumer(struct xdp_md *ctx, struct flow_state *flow,
						const struct packet *p, const struct mark *mark)
{
	if (gather_settles(p, mark, 1, flow))
		return to_port(ctx);
	if (SETTING(capture) != CAPTURE_AFXDP) {
		flow->lost += capture_xdp(ctx, p, mark, flow);
		return to_port(ctx);
	}
	if (put_meta(ctx, p, mark, ctx->data_end - ctx->data)) {
		count(PACKETS_PUSH_FAILED);
		flow->lost++;
		return to_port(ctx);
	}
	count(PACKETS_CLONED);
	return bpf_redirect_map(&forward_group, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
}

static __always_inline int is_dropped(const struct mark *mark)
{
	struct action *action = action_of(mark);

	return action && action->flags & ACTION_DROP;
}

SEC("xdp")
int xdp_forward(struct xdp_md *ctx)
{
	count(PACKETS_SEEN);
	filter_xdp(ctx);
	return to_port(ctx);
}

/* A packet that the filter did not match: it is forwarded, but not tracked. */
SEC("xdp")
int xdp_missed(struct xdp_md *ctx)
{
	return to_port(ctx);
}

/* The tracker, behind the filter if there is one. */
SEC("xdp")
int xdp_matched(struct xdp_md *ctx)
{
	struct packet *p = parsed();
	__u32 len = len_xdp(ctx);
	struct flow_state *flow;
	struct mark mark = {};

	if (!p)
		return to_port(ctx);
	if (parse_xdp(ctx) && join_fragment(p)) {
		count(p->refusal);
		return to_port(ctx);
	}
	flow = track(p, len, 1, &mark);
	remember_fragment(p);
	if (is_dropped(&mark)) {
		count(PACKETS_POLICY_DROP);
		if (flow) {
			count(PACKETS_CLONE_FAILED);
			flow->lost++;
		}
		return XDP_DROP;
	}
	return flow ? to_port_and_consumer(ctx, flow, p, &mark) : to_port(ctx);
}

SEC("xdp")
int mirror_pop(struct xdp_md *ctx)
{
	struct packet_meta *meta = (void *)(long)ctx->data_meta;
	int action;

	if ((void *)(meta + 1) > (void *)(long)ctx->data ||
	    meta->ifindex != SETTING(device_ifindex)) {
		count(PACKETS_FOREIGN);
		return XDP_DROP;
	}
	if (trim(ctx, SETTING(snap_len))) {
		count(PACKETS_POP_FAILED);
		return XDP_DROP;
	}
	action = xsks_redirect(ctx);
	count(action == XDP_REDIRECT ? PACKETS_REDIRECTED : PACKETS_NO_CONSUMER);
	return action;
}

/* A number is a device of ours only in our network namespace. */
static __always_inline int is_port(const struct net_device *device)
{
	__u32 ifindex = device->ifindex;

	return device->nd_net.net->ns.inum == SETTING(netns_inode) &&
	       (ifindex == SETTING(device_ifindex) || ifindex == SETTING(port_ifindex));
}

/* (from, to, sent, drops, error): the driver had no room, or the far end takes no frames. */
SEC("tp_btf/xdp_devmap_xmit")
int forward_dropped(__u64 *args)
{
	const struct net_device *to = (void *)args[1];
	int drops = args[3];

	if (drops > 0 && is_port(to))
		count_n(PACKETS_NOT_FORWARDED, drops);
	return 0;
}

/* (from, program, target, error ..): the other port is down, or the frame too long for it. */
SEC("tp_btf/xdp_redirect_err")
int forward_refused(__u64 *args)
{
	if (is_port((void *)args[0]))
		count(PACKETS_NOT_FORWARDED);
	return 0;
}
