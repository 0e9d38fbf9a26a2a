"""Verdict lines to a topic of a Kafka broker, or of one that speaks its protocol.

    kafka://BROKER[:9092][,BROKER...]/TOPIC[?SETTING=VALUE&...]

SETTINGs are librdkafka's, as `compression.type=zstd` or `security.protocol=ssl`. The key of a
message is the flow's Community ID, so that one partition has all that is said of a flow.
"""

import errno
import logging
import sys
from collections.abc import Mapping
from typing import Any

from etcpipe import runtime
from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs import Columns, eve
from etcpipe.outputs.queued import DRAIN_S, Drop

log = logging.getLogger(__name__)

# Messages that librdkafka may hold; more wait in our own queue.
IN_FLIGHT_MAX = 10_000
PROBE_S = 1.0
SETTINGS = {
    "client.id": "etcpipe",
    "queue.buffering.max.messages": IN_FLIGHT_MAX,
    "linger.ms": 50,
    "log_level": 0,  # what fails comes by error_cb, once; else each try is a line
}


class Kafka:
    """Produces a message a verdict.

    Args:
        brokers: host[:port] of some of the cluster, separated by commas.
        topic: where messages go.
        settings: librdkafka's, by name.

    Raises:
        UsageError: the library is missing, or refuses a setting.
    """

    def __init__(self, brokers: str, topic: str, settings: Mapping[str, str]):
        try:
            import confluent_kafka
        except ImportError as error:
            raise UsageError(
                f"kafka:// needs confluent_kafka: {runtime.remedy_for('kafka')}"
            ) from error
        self.on_drop: Drop = lambda n, reason: None
        self._library: Any = confluent_kafka
        self._brokers, self._topic = brokers, topic
        self._is_down = False
        self._told: set[str] = set()
        self._produced = 0  # of the batch that is being written, where the library's memory is full
        wanted: dict[str, Any] = {"bootstrap.servers": brokers, **SETTINGS, **settings}
        wanted["error_cb"] = self._on_error
        try:
            self._producer = confluent_kafka.Producer(wanted)
        except confluent_kafka.KafkaException as error:
            raise UsageError(f"kafka://{brokers}: {error.args[0].str()}") from error
        self._in_flight_max = int(wanted["queue.buffering.max.messages"]) or sys.maxsize

    def write(self, columns: Columns) -> None:
        """Hand messages to the library; it sends them, and tells later what it could not.

        All of them or none, so that none is counted twice: here, and as waiting.
        """
        lines = eve.lines(columns)
        self._producer.poll(0)  # what it has to say of lost connections counts as messages, too
        if 0 < len(self._producer) and len(self._producer) + len(lines) > self._in_flight_max:
            self.tick()
            raise OSError(errno.ENOBUFS, f"{self._brokers} takes messages too slowly")
        while self._produced < len(lines):
            try:
                self._producer.produce(
                    self._topic,
                    value=lines[self._produced],
                    key=columns.community_id[self._produced],
                    on_delivery=self._on_delivery,
                )
            except BufferError as error:
                self.tick()
                raise OSError(
                    errno.ENOBUFS, f"{self._brokers} takes messages too slowly"
                ) from error
            self._produced += 1
        self._produced = 0
        # Not tick(): a broker that is gone is no reason to hand the same messages over again.
        self._producer.poll(0)

    def tick(self) -> None:
        """Learn what became of messages, and whether a broker that was gone is back."""
        self._producer.poll(0)
        if not self._is_down:
            return
        try:
            self._producer.list_topics(self._topic, timeout=PROBE_S)
        except self._library.KafkaException as error:
            raise OSError(errno.EHOSTUNREACH, f"no broker of {self._brokers} answers") from error
        self._is_down = False

    def reopen(self) -> None:
        """Nothing: the library connects anew by itself."""

    def close(self) -> None:
        """Wait some seconds for what is on its way; what is left then is counted.

        Raises:
            OutputError: something is left.
        """
        left = self._producer.flush(DRAIN_S)
        if left:
            self._producer.purge()
            self._producer.poll(0)
            raise OutputError(f"{left} messages were not delivered by the end")

    def _on_error(self, error: Any) -> None:
        if error.code() == self._library.KafkaError._ALL_BROKERS_DOWN:
            self._is_down = True

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is None:
            return
        self.on_drop(1, error.name().lstrip("_").lower())
        if error.name() not in self._told:
            self._told.add(error.name())
            log.warning("kafka://%s/%s: %s", self._brokers, self._topic, error.str())
