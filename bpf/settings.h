/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What is fixed when the tap is loaded, so that the verifier prunes what is not used.
 * libbpf: a read-only global that the loader fills. bcc has no globals: there each
 * field comes as -DSETTING_<field>=<value>.
 */
#ifndef ETCPIPE_SETTINGS_H
#define ETCPIPE_SETTINGS_H

#include "features_plan.h"

/* How packets reach the consumer. */
enum capture {
	CAPTURE_AFXDP,		/* mirrored into AF_XDP sockets */
	CAPTURE_RINGBUF,	/* written into a BPF ring buffer */
	CAPTURE_FEATURES,	/* none does: the kernel gathers their flow's features */
};

struct tap_settings {
	__u32 first_n;		/* packets of a flow that reach the consumer, 1 .. FIRST_N_MAX */
	__u32 count_rule;	/* enum count_rule */
	__u32 snap_len;		/* bytes of a frame that reach the consumer */
	__u32 device_ifindex;	/* where traffic is watched */
	__u32 mirror_ifindex;	/* where copies go, and AF_XDP sockets listen */
	__u32 n_cpus;		/* possible CPUs: makes flow ids unique */
	__u32 parse;		/* PARSE_ bits */
	__u32 pad;
	__u64 idle_ns;		/* silence after which a flow has ended, see flows.h */
	__u64 establish_ns;
	__u64 tombstone_ns;
	__u32 sample_every;	/* one flow of so many is tracked, 1: all */
	__u32 sample_seed;
	__u32 slots;		/* entries of the verdict array */
	__u32 policy;		/* 1: verdicts act, see act.h */
	__u32 capture;		/* enum capture */
	__u32 queues;		/* of the mirror, 1 .. QUEUES_MAX */
	__u32 port_ifindex;	/* forward mode: the other end of the wire */
	__u32 netns_inode;	/* in which these numbers hold */
	struct feature_plan features;	/* what is kept of a flow, see features_plan.h */
	__u32 tree_depth;	/* packets after which trees judge a flow, see tree.h; 0: none do */
	__u32 tree_pad;
};

#ifdef ETCPIPE_BCC
#define SETTING(field) SETTING_##field
#elif defined(__BPF__)
const volatile struct tap_settings settings SEC(".rodata.settings") = {};
#define SETTING(field) (settings.field)
#endif

#endif /* ETCPIPE_SETTINGS_H */
