/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raw view of a packet: its bytes from the IP header on, masked while they are copied,
 * so that no unmasked byte ever reaches a tensor. gpu/mask.py is the contract and says why
 * each field is masked; gpu/mask_cpu.py is the definition.
 */
#ifndef ETCPIPE_MASK_H
#define ETCPIPE_MASK_H

#include <stdint.h>

#include "segment.h"

#define PAYLOAD_HIDDEN 0xff	/* stands for each payload byte that is not shown */

/* In the order of MASKS in gpu/mask.py. */
enum mask {
	MASK_NONE,
	MASK_STANDARD,
	MASK_STRICT,
	N_MASKS,
};

struct frame {
	const uint8_t *data;
	uint32_t captured;	/* bytes of data */
};

/* A raw view being written. Whatever is copied into it is cut to what is there. */
struct raw_view {
	uint8_t *out;
	uint32_t len;		/* bytes of out that will be valid */
	struct frame frame;
	uint32_t header_from;	/* where out[0] lies in the frame */
	uint32_t header_len;	/* the payload begins at out[header_len] */
	uint32_t payload_from;	/* where out[header_len] lies in the frame */
	uint32_t payload_len;	/* payload bytes that may be read from the frame */
};

/*
 * Write the raw view of @segment into @out, which has room for @room bytes, and return how
 * many are valid. The frame was parsed into @p.
 */
uint32_t mask_packet(uint8_t *out, uint32_t room, const struct frame *frame,
		     const struct packet *p, const struct segment *segment, enum mask mask);

/* Show the structure of TLS records at the start of the payload, which is hidden so far. */
void mask_tls(struct raw_view *view);

/* Copy @len payload bytes at @at into the view. */
void view_keep_payload(struct raw_view *view, uint32_t at, uint32_t len);
/* Zero @len payload bytes at @at of the view. */
void view_zero_payload(struct raw_view *view, uint32_t at, uint32_t len);

#endif /* ETCPIPE_MASK_H */
