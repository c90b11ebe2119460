"""One log behind all doors: what Kafka clients write, HTTP and SSE readers see, and the other way round."""

import base64
import json
import subprocess
import urllib.request

from clients import LANGUAGES, Record, check, consume, equal, produce
from scenario_records import KEYS, create

BINARY = bytes(range(256))


def call(method, url, body=None, **headers):
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def from_json(record):
    """A LogRecord of the HTTP door as a Record."""
    def field(name, of):
        if f"{name}_base64" in of:
            return base64.b64decode(of[f"{name}_base64"])
        return of[name].encode() if name in of else None

    if "value" in record:
        raise AssertionError("asked with encoding=base64")
    value = None if record.get("tombstone") else base64.b64decode(record["base64"])
    headers = [(header["name"], field("value", header)) for header in record.get("headers", [])]
    return Record(
        record["topic"], value, field("key", record), headers, record["timestamp_ms"], record["partition"], record["offset"]
    )


def stream(url, count):
    """The first `count` records that curl gets by Server-Sent Events."""
    curl = subprocess.Popen(["curl", "-sN", "--max-time", "30", url], stdout=subprocess.PIPE, text=True)
    records, event = [], {}
    try:
        for line in curl.stdout:
            line = line.rstrip("\n")
            if line:
                name, _, value = line.partition(":")
                event[name] = value.removeprefix(" ")
                continue
            if "data" in event and event.get("event", "message") == "message":
                records.append(from_json(json.loads(event["data"])))
            event = {}
            if len(records) == count:
                break
    finally:
        curl.kill()
        curl.wait()
    return records


def doors(broker, tools):
    topics = f"{broker.url}/v1/topics"
    create(broker, tools, "doors", 3)
    # What Kafka clients write is seen through HTTP.
    written = []
    for language in LANGUAGES:
        records = [
            Record("doors", value, key, [("from", language.encode()), ("b", b"\x00\xff")], 1_700_000_000_000 + len(written) + n, compression=codec)
            for n, (value, key, codec) in enumerate([
                (b'{"n": 1.50}', b"game-1", "none"), ("täxt".encode(), b"game-2", "gzip"), (BINARY, b"\xff\xfe", "snappy"),
                (b"", b"game-3", "lz4"), (None, b"game-1", "zstd"), (b"no key", None, "zstd"),
            ])
        ]
        produce(tools, language, broker.bootstrap, records)
        written += records
    streamed = stream(f"{topics}/doors/stream?from=earliest&encoding=base64", len(written))
    places = [record.whole() for record in streamed]
    contents = sorted(repr(record.content()) for record in written)
    equal("an SSE reader sees what they wrote", sorted(repr(record.content()) for record in streamed), contents)
    page = json.loads(call("GET", f"{topics}/doors/records?from=earliest&limit=1000&encoding=base64"))
    equal("a page shows the same", sorted(map(repr, (from_json(record).whole() for record in page["records"]))), sorted(map(repr, places)))

    # What HTTP clients write is read by Kafka clients.
    create(broker, tools, "posted", 3)
    for n, (key, body) in enumerate([("game-1", b'{"score": [1, 0]}'), ("game-2", "naïve".encode()), ("game-1", BINARY)]):
        command = ["curl", "-sf", f"{topics}/posted/events?key={key}", "--data-binary", "@-", "-H", f"Record-Header-Source: curl-{n}"]
        answer = subprocess.run([*command, "-H", "content-type: application/json"], input=body, capture_output=True, timeout=30, check=False)
        check(f"curl posts {len(body)} bytes", answer.returncode == 0, answer.stdout + answer.stderr)
    batch = {"records": [{"key": "game-4", "value": {"at": 1e2}, "timestamp_ms": 1_700_000_000_001}, {"key_base64": "//4=", "base64": "AP8="},
                         {"key": "game-4", "tombstone": True}, {"text": "no key"}]}
    call("POST", f"{topics}/posted/records", json.dumps(batch).encode(), content_type="application/json")
    page = json.loads(call("GET", f"{topics}/posted/records?from=earliest&limit=1000&encoding=base64"))
    posted = sorted(repr(from_json(record).whole()) for record in page["records"])
    equal("all is there", len(posted), 7)
    for language in LANGUAGES:
        records = consume(tools, language, broker.bootstrap, ["posted"], len(posted))
        equal(f"{language} reads what curl posted", sorted(repr(record.whole()) for record in records), posted)

    # One key, one partition, whoever writes it.
    create(broker, tools, "keys", 7)
    produce(tools, "java", broker.bootstrap, [Record("keys", b"java", key) for key in KEYS])
    keyed = [{"key_base64": base64.b64encode(key).decode(), "text": "http"} for key in KEYS]
    call("POST", f"{topics}/keys/records", json.dumps({"records": keyed}).encode(), content_type="application/json")
    where = {b"java": {}, b"http": {}}
    for record in consume(tools, "java", broker.bootstrap, ["keys"], 2 * len(KEYS)):
        where[record.value][record.key] = record.partition
    equal("HTTP puts each key where Java does", where[b"http"], where[b"java"])

    # A topic that a Kafka client only names is made as by a POST.
    produce(tools, "librdkafka", broker.bootstrap, [Record("unheard-of", b"first", b"k")])
    told = json.loads(call("GET", f"{topics}/unheard-of"))
    equal("the first record makes the topic", len(told["partitions"]), 3)
