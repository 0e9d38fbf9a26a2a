/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The filter: a program made at run time from a libpcap expression (etcpipe/kernel/filters.py),
 * put in front of the tracker through an array of programs. Where there is none its tail
 * call falls through to that of the tracker; x86 patches both into jumps. Changing the filter
 * is one array update: each packet meets the old one or the new one. The tracker is a program
 * of its own, so that the verifier walks it once.
 */
#ifndef ETCPIPE_FILTER_H
#define ETCPIPE_FILTER_H

#include "maps.h"

/* Entries of the arrays. The kernel keeps TC and XDP programs apart: one array each. */
enum filter_slot {
	FILTER_CHOOSE,		/* the filter, or empty: every packet is tracked */
	FILTER_MATCHED,		/* the tracker: where it sends the packets that it wants */
	FILTER_MISSED,		/* of a wire: what sends the others on; of a tap empty, they pass */
	N_FILTER_SLOTS,
};

#ifdef ETCPIPE_BCC
BPF_PROG_ARRAY(filters_tc, N_FILTER_SLOTS);
BPF_PROG_ARRAY(filters_xdp, N_FILTER_SLOTS);
#else
MAP(BPF_MAP_TYPE_PROG_ARRAY, filters_tc, __u32, __u32, N_FILTER_SLOTS, 0);
MAP(BPF_MAP_TYPE_PROG_ARRAY, filters_xdp, __u32, __u32, N_FILTER_SLOTS, 0);
#endif

/* Go to the filter, or the tracker; returns only if the loader connected neither. */
static __always_inline void filter_tc(struct __sk_buff *skb)
{
#ifdef ETCPIPE_BCC
	filters_tc.call(skb, FILTER_CHOOSE);
	filters_tc.call(skb, FILTER_MATCHED);
#else
	bpf_tail_call(skb, &filters_tc, FILTER_CHOOSE);
	bpf_tail_call(skb, &filters_tc, FILTER_MATCHED);
#endif
}

static __always_inline void filter_xdp(struct xdp_md *ctx)
{
#ifdef ETCPIPE_BCC
	filters_xdp.call(ctx, FILTER_CHOOSE);
	filters_xdp.call(ctx, FILTER_MATCHED);
#else
	bpf_tail_call(ctx, &filters_xdp, FILTER_CHOOSE);
	bpf_tail_call(ctx, &filters_xdp, FILTER_MATCHED);
#endif
}

#endif /* ETCPIPE_FILTER_H */
