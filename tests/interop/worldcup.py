"""Every World Cup match event through every way in and every way out of the gateway.

    python worldcup.py URL EVENTS_NDJSON

The file is its own oracle: the last score of each match is its final score. Each check names what it compares; the first
that fails ends the run.
"""

import http.client
import json
import sys
import urllib.parse

from websockets.sync.client import connect

TIMEOUT = 60


class Server:
    """One kept-alive connection, and nothing between the test and the bytes."""

    def __init__(self, url):
        self.host = urllib.parse.urlsplit(url).netloc
        self.connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)

    def call(self, method, path, body=None, headers=None, expect=200):
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        data = response.read()
        assert response.status == expect, f"{method} {path}: {response.status}, not {expect}: {data[:500]!r}"
        return data, response.headers

    def json(self, method, path, body=None, headers=None, expect=200):
        if body is not None:
            body = exact(body)
            headers = {"content-type": "application/json", **(headers or {})}
        return json.loads(self.call(method, path, body, headers, expect)[0])


def check(what, left, right):
    assert left == right, f"{what}: {str(left)[:300]} is not {str(right)[:300]}"
    print(f"  ok  {what}")


# ---- in ---------------------------------------------------------------------------------------------------------------


def in_by_ingest(server, topic, raw, lines):
    data, _ = server.call(
        "POST", f"/v1/topics/{topic}/ingest", raw, {"content-type": "application/x-ndjson"}
    )
    end = json.loads(data.splitlines()[-1])["end"]
    check("ingest stored every line", end["stored"], len(lines))
    check("ingest's ranges add up", sum(p["count"] for p in end["partitions"]), len(lines))


def in_by_records(server, topic, lines):
    for at in range(0, len(lines), 250):
        batch = lines[at : at + 250]
        answer = server.json("POST", f"/v1/topics/{topic}/records", {"records": batch})
        assert len(answer["results"]) == len(batch), "one result for each record"
    print("  ok  records: batches of 250")


def in_by_events(server, topic, lines):
    """Each under an Idempotency-Key, and every 100th twice."""
    for at, line in enumerate(lines):
        path = f"/v1/topics/{topic}/events?key={urllib.parse.quote(line['key'], safe='')}"
        body = exact(line["value"])
        headers = {"content-type": "application/json", "idempotency-key": f"event-{at}"}
        first, _ = server.call("POST", path, body, headers, 201)
        if at % 100 == 0:
            again, answered = server.call("POST", path, body, headers, 201)
            assert json.loads(first) == json.loads(again), f"a resend of event {at} gave {again!r}, not {first!r}"
            assert answered["idempotency-replayed"] == "true", "a resend says that it is one"
    print(f"  ok  events: {len(lines)} requests on one connection, resends answered as before")


# ---- out --------------------------------------------------------------------------------------------------------------


def exact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def by_place(records):
    """(partition, offset) → (key, value), and no place twice."""
    places = {}
    for record in records:
        place = (record["partition"], record["offset"])
        assert place not in places, f"{place} came twice"
        places[place] = (record["key"], exact(record["value"]))
    return places


def out_by_pages(server, topic):
    records, cursor = [], None
    for _ in range(1_000):
        query = f"cursor={urllib.parse.quote(cursor, safe='')}" if cursor else "from=earliest"
        page = server.json("GET", f"/v1/topics/{topic}/records?{query}&limit=500")
        assert "gaps" not in page, f"a gap: {page['gaps']}"
        records += page["records"]
        cursor = page["next_cursor"]
        if page["caught_up"]:
            return by_place(records)
    raise AssertionError("the pages did not end")


def server_sent_events(url, path, headers=None):
    """Yields (event, id, data) of one connection."""
    host = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    connection.request("GET", path, headers={"accept": "text/event-stream", **(headers or {})})
    response = connection.getresponse()
    assert response.status == 200, f"{path}: {response.status} {response.read()[:500]!r}"
    name, identity, data = "message", None, []
    try:
        while line := response.readline():
            line = line.rstrip(b"\r\n").decode()
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "":
                if data:
                    yield name, identity, "\n".join(data)
                name, data = "message", []
            elif field == "event":
                name = value
            elif field == "id":
                identity = value
            elif field == "data":
                data.append(value)
    finally:
        connection.close()


def out_by_sse(url, topic, cut_after):
    """Reads to the end, with one reconnect in the middle, as a browser does it."""
    records, last = [], None
    path = f"/v1/topics/{topic}/stream?from=earliest"
    for event, identity, data in server_sent_events(url, path):
        assert event not in ("gap", "problem"), f"{event}: {data}"
        if event == "message":
            records.append(json.loads(data))
            last = identity
            if len(records) == cut_after:
                break
    for event, _, data in server_sent_events(url, path, {"last-event-id": last}):
        assert event not in ("gap", "problem"), f"{event}: {data}"
        if event == "caught-up":
            return by_place(records)
        if event == "message":
            records.append(json.loads(data))
    raise AssertionError("the stream ended before it had caught up")


def out_by_websocket(url, topic):
    records = []
    address = url.replace("http", "ws", 1) + f"/v1/topics/{topic}/stream?from=earliest"
    with connect(address, open_timeout=TIMEOUT, max_size=8 << 20, proxy=None) as socket:
        while True:
            frame = json.loads(socket.recv(timeout=TIMEOUT))
            if frame["type"] == "record":
                records.append(frame["record"])
            elif frame["type"] == "caught-up":
                return by_place(records)
            else:
                assert frame["type"] not in ("gap", "error", "goaway", "end"), frame


def final_scores(values):
    return {value["match"]: value["score"] for value in values}


def board_by_sse(url, topic):
    rows = {}
    for event, _, data in server_sent_events(url, f"/v1/topics/{topic}/stream?view=latest"):
        if event == "snapshot-end":
            return rows
        assert event == "message", f"{event}: {data}"
        record = json.loads(data)
        rows[record["key"]] = record["value"]
    raise AssertionError("the snapshot did not end")


def board_by_pages(server, topic):
    rows, cursor = {}, None
    for _ in range(1_000):
        query = f"&cursor={urllib.parse.quote(cursor, safe='')}" if cursor else ""
        page = server.json("GET", f"/v1/topics/{topic}/records?view=latest&limit=500{query}")
        rows |= {record["key"]: record["value"] for record in page["records"]}
        cursor = page["next_cursor"]
        if page["caught_up"]:
            return rows
    raise AssertionError("the pages of the view did not end")


def main(url, path):
    with open(path, "rb") as file:
        raw = file.read()
    lines = [json.loads(line) for line in raw.splitlines()]
    keys = {line["key"] for line in lines}
    # What the board must say: the last running score, or full_time's where the goals are not known.
    running = final_scores(line["value"] for line in lines if line["value"]["type"] != "full_time")
    final = final_scores(line["value"] for line in lines if line["value"]["type"] == "full_time")
    unknown = {line["key"] for line in lines if line["value"].get("goals_unknown")}
    assert len(final) == len(keys) and len(final) > 1_000
    for match, score in final.items():
        assert match in unknown or running[match] == score, f"the file contradicts itself about {match}"
    server = Server(url)

    for topic, feed in (
        ("by-ingest", lambda name: in_by_ingest(server, name, raw, lines)),
        ("by-records", lambda name: in_by_records(server, name, lines)),
        ("by-events", lambda name: in_by_events(server, name, lines)),
    ):
        print(topic)
        server.json("POST", "/v1/topics", {"name": topic, "partitions": 3}, expect=201)
        feed(topic)

        pages = out_by_pages(server, topic)
        check("pages give every event", len(pages), len(lines))
        per_key = {}
        for place in sorted(pages):
            key, value = pages[place]
            per_key.setdefault(key, []).append(value)
        sent = {}
        for line in lines:
            sent.setdefault(line["key"], []).append(exact(line["value"]))
        check("each match's events, byte for byte and in order", per_key, sent)
        check("SSE with a reconnect gives what the pages give", out_by_sse(url, topic, 1_000), pages)
        check("WebSocket gives what the pages give", out_by_websocket(url, topic), pages)

        place = (0, 7)
        value, _ = server.call("GET", f"/v1/topics/{topic}/partitions/0/records/7/value")
        check("the exact bytes of one value", (pages[place][0], value), pages[place])

        board = board_by_sse(url, topic)
        check("the board has every match", set(board), keys)
        check("the board's scores are the final scores", final_scores(board.values()), final)
        check("the board by pages is the same", board_by_pages(server, topic), board)
        some = lines[-1]["key"]
        latest = server.json("GET", f"/v1/topics/{topic}/latest?key={some}")
        check("the latest record of one match", latest["value"], board[some])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
