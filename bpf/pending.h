/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* State of a copied packet on its way through the kernel to the mirror's program. */
#ifndef ETCPIPE_PENDING_H
#define ETCPIPE_PENDING_H

#include "segments.h"

#define MIRROR_PENDING 1024	/* copies on their way on a CPU; its backlog takes 1000 by default */

/* One copy: the metadata for the consumer, and what identifies the copy when it arrives. */
struct mirror_entry {
	struct packet_meta meta;
	__u32 len;		/* of the frame that was copied */
	__u32 stamp;		/* of its bytes */
	struct segment_cut cut;
};

/* Copies between head and tail are on their way; both count up and wrap. */
struct mirror_list {
	__u32 head;
	__u32 tail;
};

struct mirror_scratch {
	__u16 words[SEGMENT_HEADERS_MAX / 2];
};

#endif /* ETCPIPE_PENDING_H */
