"""One group of four clients on one topic: members join, leave and die, and no record is skipped."""

import base64
import json
import threading
import time
import urllib.error
import urllib.request

from clients import Member, Producer, Record, check, equal, eventually
from scenario_records import create

PARTITIONS, RATE = 6, 100


class HttpMember:
    """A member of the group through the HTTP door, behind what `Member` shows."""

    def __init__(self, url, topic, group, name, on_record):
        self.at, self.topic, self.on_record = f"{url}/v1/groups/{group}/members/{name}", topic, on_record
        self.language, self.assigned, self.count = "http", None, 0
        self.process, self.over, self.failure = self, threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _call(self, method, path="", body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.at + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def _run(self):
        try:
            while not self.over.is_set():
                place = self._call("PUT", body={"topics": [self.topic], "session_timeout_ms": 6_000})
                if place["state"] == "stable":
                    self.assigned = {one["topic"]: one["partitions"] for one in place["assignment"]}
                    self._read(place["epoch"])
                else:
                    self.over.wait(min(0.2, place["heartbeat_interval_ms"] / 1000))
        except Exception as error:  # noqa: BLE001 - told at the end
            self.failure = f"{error!r}: {error.read()[:300] if isinstance(error, urllib.error.HTTPError) else ''}"

    def _read(self, epoch):
        """Pages and commits, until the group shares anew (409)."""
        cursor = None
        try:
            while not self.over.is_set():
                after = f"&cursor={cursor}" if cursor else ""
                page = self._call("GET", f"/records?epoch={epoch}&wait_ms=300&encoding=base64{after}")
                for record in page["records"]:
                    self.count += 1
                    value = base64.b64decode(record["base64"])
                    self.on_record(Record(record["topic"], value, partition=record["partition"], offset=record["offset"]))
                cursor = page["next_cursor"]
                if page["records"]:
                    self._call("POST", "/commit", {"epoch": epoch, "cursor": cursor})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise

    def _end(self):
        self.over.set()
        self.thread.join(30)
        check("the HTTP member met no error", self.failure is None, self.failure)

    def stop(self):
        self._end()
        self._call("DELETE")

    def kill(self):
        self._end()


def groups(broker, tools):
    create(broker, tools, "work", PARTITIONS)
    seen, lock = {}, threading.Lock()

    def member(language):
        last = {}

        def on_record(record):
            with lock:
                seen.setdefault((record.partition, record.offset), []).append(record.value)
            last[record.partition] = record.offset

        if language == "http":
            return HttpMember(broker.url, "work", "workers", f"web-{time.monotonic_ns()}", on_record)
        return Member(tools, language, broker.bootstrap, "work", "workers", on_record)

    producer = Producer(tools, "franz", broker.bootstrap)
    sent, over = 0, threading.Event()

    def load():
        nonlocal sent
        while not over.wait(0.05):
            producer.send(*(Record("work", b"%d" % n, b"key-%d" % (n % 50)) for n in range(sent, sent + RATE // 20)))
            sent += RATE // 20

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    members = {}

    def settled():
        """Every partition has exactly one owner, and everybody who is there has something."""
        owned = [p for one in members.values() for p in (one.assigned or {}).get("work", [])]
        return sorted(owned) == list(range(PARTITIONS)) and all((one.assigned or {}).get("work") for one in members.values())

    def shares():
        return {language: one.assigned for language, one in members.items()}

    def balanced(what, timeout=40):
        eventually(f"{what}: all partitions have one owner", settled, timeout, shares)
        counts = {language: one.count for language, one in members.items()}
        eventually(
            f"{what}: all members read on", lambda: all(one.count > counts[language] for language, one in members.items()), 20,
            lambda: f"{counts} and now {[(language, one.count) for language, one in members.items()]}",
        )

    def add(language):
        members[language] = member(language)

    add("java")
    balanced("java alone")
    add("kafkajs")
    balanced("kafkajs joined")
    add("librdkafka")
    add("franz")
    balanced("librdkafka and franz joined")
    if broker.is_sluice:
        add("http")
        balanced("an HTTP member joined")
        members.pop("http").process.kill()
        balanced("the HTTP member fell silent")
        add("http")
        balanced("another HTTP member joined")
    members.pop("librdkafka").process.kill()
    balanced("librdkafka was killed")
    members.pop("java").process.stop()
    balanced("java left")
    add("librdkafka")
    balanced("librdkafka is back")
    members.pop("kafkajs").process.stop()
    balanced("kafkajs left")
    if broker.is_sluice:
        members.pop("http").process.stop()
        balanced("the HTTP member left")
    over.set()
    thread.join()
    producer.finish_well()

    def values():
        with lock:
            return {int(value) for read in seen.values() for value in read}

    eventually("every record was read", lambda: len(values()) >= sent, 30, lambda: sorted(set(range(sent)) - values())[:20])
    equal("and nothing else", values(), set(range(sent)))
    with lock:
        differ = {place: read for place, read in seen.items() if len(set(read)) > 1}
        again = sum(len(read) - 1 for read in seen.values())
    check("an offset has one value, whoever reads it", not differ, differ)
    print(f"  ok  {sent} records, {again} of them read again after a rebalance", flush=True)
    time.sleep(1)
    at = ("--bootstrap-server", broker.bootstrap, "--describe", "--group", "workers")
    said = tools.run("kafka-consumer-groups", *at)
    rows = [line.split() for line in said.splitlines() if line.startswith("workers")]
    equal("all is committed", [row[5] for row in rows], ["0"] * PARTITIONS)
    said = tools.run("kafka-consumer-groups", *at, "--members")
    equal("two members are left", len([line for line in said.splitlines() if line.startswith("workers")]), 2)
    said = tools.run("kafka-consumer-groups", *at, "--state")
    check("the group is stable", "Stable" in said and "roundrobin" in said, said)
    for one in members.values():
        one.process.stop()
