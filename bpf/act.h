/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Verdicts act: what the policy wants done to the packets of a flow, done at both TC hooks.
 * Without a policy the verifier removes all of it; with one, a packet of a flow without
 * action costs one array lookup. Nothing is dropped but by an action that says so.
 */
#ifndef ETCPIPE_ACT_H
#define ETCPIPE_ACT_H

#include "track.h"

#define RANK_ACT 0xffff		/* a mark that is not to be mirrored, only acted upon */
#define DSCP_SHIFT 2		/* below it: ECN, which stays */
#define ECN_MASK 3
#define IPV6_TRAFFIC_CLASS_SHIFT 4	/* in the header's first 16 bits */
#define IPV6_TRAFFIC_CLASS_MASK 0x0ff0

#ifdef ETCPIPE_BCC
BPF_ARRAY(actions, struct action, ACTIONS_MAX);
#else
MAP(BPF_MAP_TYPE_ARRAY, actions, __u32, struct action, ACTIONS_MAX, 0);
#endif

static __always_inline struct action *action_load(__u32 index)
{
#ifdef ETCPIPE_BCC
	return actions.lookup(&index);
#else
	return bpf_map_lookup_elem(&actions, &index);
#endif
}

/* What a mark's action is, or NULL. Without a policy there is none. */
static __always_inline struct action *action_of(const struct mark *mark)
{
	return SETTING(policy) && mark->action ? action_load(mark->action) : NULL;
}

/*
 * XDP cannot act: make a mark by which TC will. The same for each packet of a flow, since
 * GRO merges only packets of equal metadata. Returns 0 if there is nothing to do.
 */
static __always_inline int mark_to_act(struct mark *mark)
{
	if (!action_of(mark))
		return 0;
	mark->timestamp_ns = 0;
	mark->magic = mark_magic();
	mark->rank = RANK_ACT;
	mark->direction = 0;
	return 1;
}

/* Where the IP header is; the outer one, where flows are those inside a tunnel. */
static __always_inline int ip_offset(struct __sk_buff *skb, __be16 *protocol)
{
	int offset = 2 * ETH_ALEN;
	int i;

UNROLL
	for (i = 0; i <= VLAN_TAGS_MAX; i++) {
		if (bpf_skb_load_bytes(skb, offset, protocol, sizeof(*protocol)))
			return -1;
		offset += sizeof(*protocol);
		if (*protocol != NET16(ETH_P_8021Q) && *protocol != NET16(ETH_P_8021AD))
			return offset;
		offset += sizeof(__be16);	/* the tag's TCI */
	}
	return -1;
}

static __always_inline void set_dscp_ipv4(struct __sk_buff *skb, int offset, __u8 dscp)
{
	__u16 word, changed;	/* version, header length and TOS, as in the packet */

	if (bpf_skb_load_bytes(skb, offset, &word, sizeof(word)))
		return;
	changed = NET16((NET16(word) & ~0xff) | dscp << DSCP_SHIFT | (NET16(word) & ECN_MASK));
	if (changed == word)
		return;
	/* a checksum over the whole packet (CHECKSUM_COMPLETE) stays: the two changes cancel */
	if (bpf_l3_csum_replace(skb, offset + __builtin_offsetof(struct iphdr, check), word, changed,
				sizeof(word)))
		return;
	bpf_skb_store_bytes(skb, offset, &changed, sizeof(changed), 0);
}

static __always_inline void set_dscp_ipv6(struct __sk_buff *skb, int offset, __u8 dscp)
{
	__u16 word, changed, class;

	if (bpf_skb_load_bytes(skb, offset, &word, sizeof(word)))
		return;
	class = (NET16(word) & IPV6_TRAFFIC_CLASS_MASK) >> IPV6_TRAFFIC_CLASS_SHIFT;
	class = dscp << DSCP_SHIFT | (class & ECN_MASK);
	changed = NET16((NET16(word) & ~IPV6_TRAFFIC_CLASS_MASK) |
			class << IPV6_TRAFFIC_CLASS_SHIFT);
	if (changed != word)
		bpf_skb_store_bytes(skb, offset, &changed, sizeof(changed), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline void set_dscp(struct __sk_buff *skb, __u8 dscp)
{
	__be16 protocol = 0;
	int offset = ip_offset(skb, &protocol);

	if (offset < 0)
		return;
	if (protocol == NET16(ETH_P_IP))
		set_dscp_ipv4(skb, offset, dscp);
	else if (protocol == NET16(ETH_P_IPV6))
		set_dscp_ipv6(skb, offset, dscp);
}

/* Do what the flow's verdict asks for. Returns the hook's answer. */
static __always_inline int act(struct __sk_buff *skb, const struct mark *mark)
{
	struct action *action = action_of(mark);

	if (!action || !action->flags)
		return TC_ACT_UNSPEC;
	if (action->flags & ACTION_DROP) {
		count(PACKETS_POLICY_DROP);
		return TC_ACT_SHOT;
	}
	count(PACKETS_ACTED);
	/* routing overwrites the priority, so that it matters at egress, and a mark at ingress */
	if (action->flags & ACTION_PRIORITY)
		skb->priority = action->priority;
	if (action->flags & ACTION_MARK)
		skb->mark = (skb->mark & ~action->mark_mask) | action->mark;
	if (action->flags & ACTION_CLASSID) {
		skb->tc_classid = action->classid;
		skb->tc_index = action->classid;
	}
	if (action->flags & ACTION_DSCP)
		set_dscp(skb, action->dscp);
	return TC_ACT_UNSPEC;
}

#endif /* ETCPIPE_ACT_H */
