/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Fragments: only the first one of a datagram has ports. The later ones belong to its flow
 * where it came before them, as they do from Linux; else nobody knows whose they are.
 */
#ifndef ETCPIPE_FRAGMENTS_H
#define ETCPIPE_FRAGMENTS_H

#include "packet.h"

#define FRAGMENTS_MAX 4096	/* datagrams that are remembered */
#define FRAGMENT_NS 30000000000ull	/* for how long; identifications come again */

/* The flow of a datagram's first fragment. */
struct fragment_flow {
	struct flow_key key;
	__u64 seen_ns;
	__u8 from_b;
	__u8 pad[7];
};

#endif /* ETCPIPE_FRAGMENTS_H */
