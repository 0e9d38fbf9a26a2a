"""Where a first packet may be lost on its way to the model."""

# Counters by stage, in the order of the way; etcpipe/live_tap.py adds them up.
STAGES = {
    "clone": ("PACKETS_CLONE_FAILED", "PACKETS_PUSH_FAILED"),
    "mirror": ("MIRROR_DROPPED", "PACKETS_POP_FAILED", "PACKETS_NO_CONSUMER"),
    "gather": ("PACKETS_NOT_GATHERED", "FLOWS_NOT_GATHERED"),
    "ring": ("PACKETS_RINGBUF_FULL", "RING_RX_DROPPED", "RING_RX_RING_FULL"),
}
STAGE_OF = {counter: stage for stage, counters in STAGES.items() for counter in counters}
