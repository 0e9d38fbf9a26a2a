/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the columns of a PacketBatch lie: arrays that etcpipe/columns.py allocates and
 * keeps, in the order of its table. A source fills them from row 0.
 */
#ifndef ETCPIPE_COLUMNS_H
#define ETCPIPE_COLUMNS_H

#include <stdint.h>

#include "etcpipe.h"

struct packet_columns {
	uint64_t *offset;
	uint32_t *captured;
	uint32_t *wire_len;
	uint64_t *timestamp_ns;
	uint64_t *flow_id;
	uint16_t *rank;
	uint8_t *direction;
	uint16_t *vlan;
	uint16_t *segment_len;
	uint32_t *ifindex;
};

static inline void columns_set(const struct packet_columns *columns, uint32_t row,
			       uint64_t offset, uint32_t captured, const struct packet_meta *meta)
{
	columns->offset[row] = offset;
	columns->captured[row] = captured;
	columns->wire_len[row] = meta->wire_len;
	columns->timestamp_ns[row] = meta->timestamp_ns;
	columns->flow_id[row] = meta->flow_id;
	columns->rank[row] = meta->rank;
	columns->direction[row] = meta->direction;
	columns->vlan[row] = meta->vlan;
	columns->segment_len[row] = meta->segment_len;
	columns->ifindex[row] = meta->ifindex;
}

static inline void columns_get(const struct packet_columns *columns, uint32_t row,
			       struct packet_meta *meta)
{
	meta->wire_len = columns->wire_len[row];
	meta->timestamp_ns = columns->timestamp_ns[row];
	meta->flow_id = columns->flow_id[row];
	meta->rank = columns->rank[row];
	meta->direction = columns->direction[row];
	meta->vlan = columns->vlan[row];
	meta->segment_len = columns->segment_len[row];
	meta->ifindex = columns->ifindex[row];
}

#endif /* ETCPIPE_COLUMNS_H */
