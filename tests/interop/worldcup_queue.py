"""Every World Cup match event worked through a queue by a shell command, in the order of each match.

    python worldcup_queue.py URL EVENTS_NDJSON SLUICE

Four commands at once each append their event to their match's file, and every 50th fails the first time. What the files
say must be what the feed says: no event missing, none twice, in order, and so the right table.
"""

import json
import os
import subprocess
import sys
import tempfile

from worldcup import Server, check, exact, in_by_ingest

TOPIC, QUEUE = "by-queue", "matches"
COMMAND = """
[ $((SLUICE_OFFSET % 50)) -ne 7 ] || [ "$SLUICE_ATTEMPT" -gt 1 ] || exit 3
cat >> "$TABLE/$SLUICE_KEY" && echo >> "$TABLE/$SLUICE_KEY"
"""


def table(scores):
    """Goals scored and conceded by team, over all matches."""
    goals = {}
    for value in scores:
        for team, mine, theirs in ((value["team1"], 0, 1), (value["team2"], 1, 0)):
            scored, conceded = goals.get(team, (0, 0))
            goals[team] = (scored + value["score"][mine], conceded + value["score"][theirs])
    return goals


def main(url, path, sluice):
    with open(path, "rb") as file:
        raw = file.read()
    lines = [json.loads(line) for line in raw.splitlines()]
    server = Server(url)
    server.json("POST", "/v1/topics", {"name": TOPIC, "partitions": 3}, expect=201)
    in_by_ingest(server, TOPIC, raw, lines)
    definition = {"topic": TOPIC, "order": "key", "max_deliveries": 3}
    server.json("PUT", f"/v1/queues/{QUEUE}", definition, expect=201)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sluice, "queue", "work", QUEUE, "--url", url, "--exec", COMMAND, "-j", "4", "--until-done"],
            env={**os.environ, "TABLE": folder},
            stderr=subprocess.DEVNULL,
            timeout=900,
            check=True,
        )
        worked = {}
        for match in os.listdir(folder):
            with open(os.path.join(folder, match), "rb") as file:
                worked[match] = file.read().splitlines()
    sent = {}
    for line in lines:
        sent.setdefault(line["key"], []).append(exact(line["value"]))
    check("each match's events, once each and in order", worked, sent)
    last = [json.loads(events[-1]) for events in worked.values()]
    final = [line["value"] for line in lines if line["value"]["type"] == "full_time"]
    check("the table is the table of the final scores", table(last), table(final))
    # The first connection was idle for too long.
    queue = Server(url).json("GET", f"/v1/queues/{QUEUE}")
    counts = {state: queue[state] for state in ("ready", "leased", "delayed", "blocked", "parked", "dead")}
    check("nothing is left", counts, dict.fromkeys(counts, 0))
    check("every event was acknowledged", queue["acked"], len(lines))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
