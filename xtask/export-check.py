#!/usr/bin/env python3
"""Compares what `nstrace export` makes with what others read in it.

    python3 xtask/export-check.py NSTRACE [--part] RECORDING...

For each recording it makes the three exports. The truth is `export --format json`, parsed
by Python's own json; beside it `report --json`. The trace is read with Perfetto's own
schema, the tables with DuckDB and with pyarrow. Counts, sums of lengths, names, failures,
stages of each operation, times of day and namespaces must be equal, exactly.

With --part, recordings may begin or go on where namespaces live whose birth is not in them:
then only what is in both is compared of births.

Needs from PyPI: duckdb, perfetto, protobuf, pyarrow.
"""

import collections
import datetime
import json
import os
import subprocess
import sys
import tempfile

import duckdb
import pyarrow
import pyarrow.parquet
from google.protobuf import unknown_fields
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

KINDS = "mnt uts ipc pid net user cgroup time".split()
MONOTONIC, REALTIME = 3, 1


class Failed(Exception):
    pass


def equal(what, found, expected):
    if found == expected:
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
        key = min(keys, key=str)
        what, found, expected = f"{what}: {key}", found.get(key), expected.get(key)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) == len(expected):
            at = next(at for at, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
            what, found, expected = f"{what}: {at}", found[at], expected[at]
        else:
            found, expected = len(found), len(expected)
    raise Failed(f"{what}: {str(found)[:2000]}, and should be {str(expected)[:2000]}")


def hidden(c):
    """What render::escape takes for a character that does not show."""
    n = ord(c)
    return (
        n < 0x20
        or 0x7F <= n < 0xA0
        or n in (0xAD, 0x61C, 0x180E, 0xFEFF)
        or 0x200B <= n <= 0x200F
        or 0x2028 <= n <= 0x202E
        or 0x2060 <= n <= 0x206F
        or 0xFFF9 <= n <= 0xFFFB
        or 0xE0000 <= n <= 0xE0FFF
    )


def shown(name):
    """A name of the JSON, as it is for a terminal."""
    if name is None:
        return None
    escape = lambda c: f"\\x{ord(c):02x}" if c.isascii() else f"\\u{{{ord(c):x}}}"
    return "".join(escape(c) if hidden(c) else c for c in name)


def nanoseconds(time):
    """Of a time of day in JSON, since 1970."""
    whole, fraction = time.rstrip("Z").split(".")
    second = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return int(second.timestamp()) * 10**9 + int(fraction)


def run(*command):
    return run_told(*command)[0]


def run_told(*command):
    """What it prints, and what it says beside."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.decode()}")
    return done.stdout, done.stderr.decode()


class Truth:
    """What the JSON says."""

    def __init__(self, nstrace, recording):
        out, told = run_told(nstrace, "export", recording, "--format", "json")
        lines = [json.loads(line) for line in out.splitlines()]
        self.is_damaged = "damaged" in told
        of = lambda kind: [line for line in lines if line["type"] == kind]
        self.ops, self.lost, self.stalls = of("op"), of("lost"), of("stall")
        self.births, self.deaths = of("ns_birth"), of("ns_death")
        lines = run(nstrace, "report", recording, "--json").splitlines()
        lives = [json.loads(line) for line in lines]
        self.lives = {line["kind"]: line for line in lives if line["type"] == "lives"}
        lines = run(nstrace, "tree", "--from", recording, "--json").splitlines()
        tree = [json.loads(line) for line in lines]
        self.living = [line for line in tree if line["type"] == "namespace"]


def ordered(op):
    """A stage that stands behind one in which it is, or behind one that has ended, as the
    list of an operation has them: (name, depth, begin, length, errno)."""
    return [
        (stage["stage"], stage["depth"], stage["start_ns"], stage["took_ns"], stage.get("errno"))
        for stage in op["stages"]
    ]


# ---- Perfetto -----------------------------------------------------------------------------


class Slice:
    def __init__(self, event, packet, depth, names):
        self.name = names.name(event)
        self.categories = [names.get(names.CATEGORY, iid) for iid in event.category_iids]
        self.notes = {names.note(note)[0]: names.note(note)[1] for note in event.debug_annotations}
        self.track, self.begin, self.end = event.track_uuid, packet.timestamp, None
        self.depth, self.children = depth, []


class Names:
    """What is interned, in the order of the packets of a sequence."""

    CATEGORY, NAME, NOTE = range(3)

    def __init__(self):
        self.known = {}

    def learn(self, data):
        for kind, entries in enumerate(
            (data.event_categories, data.event_names, data.debug_annotation_names)
        ):
            for entry in entries:
                if self.known.setdefault((kind, entry.iid), entry.name) != entry.name:
                    raise Failed(f"{entry.iid} stands for two names")

    def get(self, kind, iid):
        return self.known[kind, iid]

    def name(self, event):
        return self.get(self.NAME, event.name_iid) if event.name_iid else event.name

    def note(self, note):
        name = self.get(self.NOTE, note.name_iid) if note.name_iid else None
        if note.dict_entries:
            return name, dict(self.note(entry) for entry in note.dict_entries)
        if note.array_values:
            return name, [self.note(entry)[1] for entry in note.array_values]
        value = note.WhichOneof("value")
        return name, getattr(note, value) if value else {}


def no_unknown(message):
    unknown = unknown_fields.UnknownFieldSet(message)
    if len(unknown):
        raise Failed(f"{type(message).__name__}: the schema has no field {unknown[0].field_number}")
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                no_unknown(inner)


class Trace:
    """What Perfetto's trace processor makes of a trace: sorted by time, those of one time
    in their order, and nested on each track by what is open there."""

    def __init__(self, path):
        trace = proto.Trace()
        with open(path, "rb") as file:
            trace.ParseFromString(file.read())
        no_unknown(trace)
        self.tracks, self.slices, self.instants, self.clocks = {}, [], [], []
        names, events = Names(), []
        for at, packet in enumerate(trace.packet):
            equal("sequence", packet.trusted_packet_sequence_id, 1)
            equal("flags of a packet", packet.sequence_flags, 1 if at == 0 else 2)
            names.learn(packet.interned_data)
            data = packet.WhichOneof("data")
            if data == "clock_snapshot":
                clocks = {clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks}
                equal("primary clock", packet.clock_snapshot.primary_trace_clock, MONOTONIC)
                self.clocks.append((clocks[MONOTONIC], clocks[REALTIME]))
            elif data == "track_descriptor":
                track = packet.track_descriptor
                self.tracks[track.uuid] = track
            elif data == "track_event":
                equal("clock of an event", packet.timestamp_clock_id, MONOTONIC)
                if packet.track_event.track_uuid not in self.tracks:
                    raise Failed(f"track {packet.track_event.track_uuid} is not described before")
                events.append((packet, packet.track_event))
            else:
                raise Failed(f"a packet of {data}")
        equal("clocks, sorted", self.clocks, sorted(self.clocks))
        for track in self.tracks.values():
            if track.parent_uuid and track.parent_uuid not in self.tracks:
                raise Failed(f"track {track.name} is below none that is described")
        events.sort(key=lambda event: event[0].timestamp)
        open_slices = collections.defaultdict(list)
        for packet, event in events:
            stack = open_slices[event.track_uuid]
            if event.type == event.TYPE_SLICE_BEGIN:
                new = Slice(event, packet, len(stack), names)
                if stack:
                    stack[-1].children.append(new)
                stack.append(new)
                self.slices.append(new)
            elif event.type == event.TYPE_SLICE_END:
                if not stack:
                    raise Failed(f"an end at {packet.timestamp} where nothing is open")
                stack.pop().end = packet.timestamp
            else:
                equal("type of an event", event.type, event.TYPE_INSTANT)
                self.instants.append(Slice(event, packet, len(stack), names))
        if any(open_slices.values()):
            raise Failed("a slice has no end")

    def of(self, category):
        return [slice for slice in self.slices if category in slice.categories]


def check_perfetto(nstrace, recording, truth, folder):
    path = os.path.join(folder, "trace.pftrace")
    run(nstrace, "export", recording, "--format", "perfetto", "-o", path)
    trace = Trace(path)
    ops = trace.of("operation")
    equal(
        "slices by name",
        collections.Counter(slice.name for slice in ops + trace.of("stage")),
        collections.Counter(op["op"] for op in truth.ops)
        + collections.Counter(stage["stage"] for op in truth.ops for stage in op["stages"]),
    )
    # In the order of the recording, as the lines of the JSON.
    ops.sort(key=lambda slice: number(slice.notes["op_id"]))
    for slice, op in zip(ops, truth.ops, strict=True):
        check_slice(slice, op, trace)
    lives = trace.of("namespace")
    for kind in KINDS:
        slices = [slice for slice in lives if slice.notes["kind"] == kind]
        expected = truth.lives[kind]
        equal(f"{kind}: died", sum(not s.notes["alive"] for s in slices), expected["died"])
        equal(f"{kind}: all", len(slices), expected["found"] + expected["born"])
    for slice in lives:
        equal("name", slice.name, f"{slice.notes['kind']}:{slice.notes['inum']}")
        equal("depth of a namespace", slice.depth, 0)
        equal("track of a namespace", trace.tracks[slice.track].name, slice.notes["kind"])
    instants = lambda category: [i for i in trace.instants if category in i.categories]
    equal(
        "lost",
        [(i.begin, i.notes["record"], i.notes["count"]) for i in instants("lost")],
        [(lost["mono_ns"], lost["record"], lost["count"]) for lost in truth.lost],
    )
    equal("stalls", len(instants("stall")), len(truth.stalls))
    others = len(trace.slices) - len(ops) - len(lives) - len(trace.of("stage"))
    equal("other slices", others, 0)
    # The JSON has the time of day as it was known when an event was read, a viewer as it was
    # at the event.
    for op in truth.ops:
        before = [clocks for clocks in trace.clocks if clocks[0] <= op["mono_ns"]]
        mono, wall = (before or trace.clocks[:1])[-1]
        apart = abs(wall - mono + op["mono_ns"] - nanoseconds(op["time"]))
        if apart > 10**6:
            raise Failed(f"the time of day of {op['mono_ns']} is {apart} ns off")


def number(op_id):
    """When the recording that has it was begun, and which it is there."""
    _, begun, at = op_id.split("-")
    return int(begun, 16), int(at)


def check_slice(slice, op, trace):
    what = f"{op['op']} at {op['mono_ns']}"
    equal(what, slice.name, op["op"])
    equal(f"{what}: begin", slice.begin, op["mono_ns"])
    equal(f"{what}: length", slice.end - slice.begin, op["took_ns"])
    equal(f"{what}: depth", slice.depth, 0)
    expected = {
        "flags": "|".join(op["flags"]),
        "changed": "|".join(op["changed"]),
        "errno": op.get("errno"),
        **{name: shown(op.get(name)) for name in ("comm", "cgroup", "container")},
        **{
            name: op.get(name)
            for name in (
                "flags_raw ret failed_stage reason pid tid uid cgroup_id namespaces pid_parent "
                "user_parent owner mounts target pids"
            ).split()
        },
    }
    equal(what, {name: slice.notes.get(name) for name in expected}, expected)
    stages = []
    walk(slice, stages)
    equal(f"{what}: stages", stages, ordered(op))
    failed = "failed" in slice.categories
    equal(f"{what}: failed", failed, op["ret"] < 0)
    task = trace.tracks[slice.track]
    container = trace.tracks[task.parent_uuid]
    equal(f"{what}: container", container.description, shown(op.get("container", "")))


def walk(slice, stages, depth=-1, start=0):
    if depth >= 0:
        length = slice.end - slice.begin
        stages.append((slice.name, depth, slice.begin - start, length, slice.notes.get("errno")))
    else:
        start = slice.begin
    for child in slice.children:
        walk(child, stages, depth + 1, start)


# ---- Parquet ------------------------------------------------------------------------------


def check_parquet(nstrace, recording, truth, folder):
    tables = ("operations", "stages", "namespaces")
    run(nstrace, "export", recording, "--format", "parquet", "-o", folder)
    paths = {table: os.path.join(folder, f"{table}.parquet") for table in tables}
    equal("files", sorted(os.listdir(folder)), sorted(f"{table}.parquet" for table in tables))
    for path in paths.values():
        equal(f"mode of {path}", oct(os.stat(path).st_mode), "0o100600")
    rows = {table: pyarrow_rows(paths[table]) for table in tables}
    check_types(paths)
    check_rows(rows, truth)
    check_duckdb(paths, truth)


def pyarrow_rows(path):
    """The rows, with times of day as ns since 1970."""
    table = pyarrow.parquet.read_table(path)
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        if pyarrow.types.is_timestamp(field.type):
            equal(f"unit of {field.name}", (field.type.unit, field.type.tz), ("ns", "UTC"))
            column = column.cast(pyarrow.int64())
        columns[field.name] = column.to_pylist()
    names = list(columns)
    return [dict(zip(names, row)) for row in zip(*columns.values())]


def check_types(paths):
    """What DuckDB takes the columns for, without being told."""
    for path in paths.values():
        for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall():
            if name in ("time", "since", "died"):
                # Older ones have no nanoseconds with a zone.
                if kind not in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"):
                    raise Failed(f"{name} is of type {kind}")
            elif kind not in ("VARCHAR", "BIGINT", "BOOLEAN"):
                raise Failed(f"{name} is of type {kind}")


def check_rows(rows, truth):
    equal("operations", len(rows["operations"]), len(truth.ops))
    stages = collections.defaultdict(list)
    for row in rows["stages"]:
        equal("place of a stage", row["n"], len(stages[row["op_id"]]))
        stages[row["op_id"]].append(row)
    ids = [row["op_id"] for row in rows["operations"]]
    equal("ids, each once", len(set(ids)), len(ids))
    for row, op in zip(rows["operations"], truth.ops, strict=True):
        check_row(row, op, stages.pop(row["op_id"], []))
    equal("stages of no operation", dict(stages), {})
    one = {(row["host"], row["boot_id"], row["kernel"]) for table in rows.values() for row in table}
    if truth.ops:
        equal("machines", len(one), 1)
    check_namespaces(rows["namespaces"], truth)


def check_row(row, op, stages):
    what = f"{op['op']} at {op['mono_ns']}"
    pids = [str(pid["pid"]) for pid in op.get("pids", [])]
    expected = {
        "time": nanoseconds(op["time"]),
        "flags": "|".join(op["flags"]),
        "changed": "|".join(op["changed"]),
        "failed": op["ret"] < 0,
        "child_pid": int(pids[0]) if pids else None,
        "pids": "/".join(pids) or None,
        "stages": len(op["stages"]),
        **{name: shown(op.get(name)) for name in ("comm", "cgroup", "container")},
        **{
            name: op.get(name)
            for name in (
                "mono_ns took_ns op flags_raw ret errno failed_stage reason pid tid uid cgroup_id "
                "pid_parent user_parent owner_uid owner mounts target"
            ).split()
        },
    }
    for kind in KINDS:
        place = op["namespaces"].get(kind, {})
        for end in "before", "after":
            expected[f"{kind}_{end}"] = place.get(end)
            expected[f"{kind}_{end}_id"] = place.get(f"{end}_id")
    others = {"host", "boot_id", "kernel", "op_id", "container_name"}
    equal(f"{what}: columns", row.keys() - others, expected.keys())
    equal(what, {name: row[name] for name in expected}, expected)
    found = [(s["stage"], s["depth"], s["start_ns"], s["took_ns"], s["errno"]) for s in stages]
    equal(f"{what}: stages", found, ordered(op))
    for stage in stages:
        equal(f"{what}: begin of a stage", stage["mono_ns"], op["mono_ns"] + stage["start_ns"])
        equal(f"{what}: time of a stage", stage["time"] - row["time"], stage["start_ns"])
        equal(f"{what}: operation of a stage", stage["op"], op["op"])


def check_namespaces(rows, truth):
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        expected = truth.lives[kind]
        equal(f"{kind}: died", sum(row["died"] is not None for row in own), expected["died"])
        equal(f"{kind}: all", len(own), expected["found"] + expected["born"])
    equal(
        "what lives at the end",
        sorted((row["kind"], row["inum"]) for row in rows if row["died"] is None),
        sorted((ns["kind"], ns["inum"]) for ns in truth.living),
    )
    # Of what was lost the tree guesses some.
    if truth.lost or truth.is_damaged:
        return
    born = collections.Counter(
        (b["kind"], b["inum"], b["mono_ns"], nanoseconds(b["time"])) for b in truth.births
    )
    found = collections.Counter(
        (row["kind"], row["inum"], row["since_mono_ns"], row["since"])
        for row in rows
        if not row["found"]
    )
    equal("births that are not in the tables", born - found, collections.Counter())
    if not truth.is_part:
        equal("births that are not in the JSON", found - born, collections.Counter())
    died = {(d["inum"], d["mono_ns"]): d for d in truth.deaths}
    told = [row for row in rows if row["died"] is not None and not row["inferred"]]
    equal("deaths", sorted((row["inum"], row["died_mono_ns"]) for row in told), sorted(died))
    for row in told:
        death = died[row["inum"], row["died_mono_ns"]]
        what = f"death of {row['kind']}:{row['inum']}"
        maker = death.get("maker", {})
        equal(
            what,
            (
                row["died"],
                row["kind"],
                row["age_ns"],
                row["maker_op"],
                row["maker_pid"],
                row["maker_comm"],
            ),
            (nanoseconds(death["time"]), death["kind"], death.get("age_ns"))
            + (maker.get("op"), maker.get("pid"), shown(maker.get("comm"))),
        )


def check_duckdb(paths, truth):
    """The same sums in SQL as in Python."""
    ask = lambda query: duckdb.sql(query.format(**paths)).fetchall()
    lengths = collections.defaultdict(lambda: [0, 0])
    failures = collections.Counter()
    for op in truth.ops:
        lengths[op["op"]][0] += 1
        lengths[op["op"]][1] += op["took_ns"]
        if "errno" in op:
            failures[op["op"], op["errno"], op.get("failed_stage"), op.get("reason")] += 1
    query = "SELECT op, count(*), sum(took_ns)::BIGINT FROM '{operations}' GROUP BY op"
    equal("lengths by operation", {op: [n, ns] for op, n, ns in ask(query)}, dict(lengths))
    query = """SELECT op, errno, failed_stage, reason, count(*) FROM '{operations}'
               WHERE failed GROUP BY ALL"""
    equal("failures", collections.Counter({tuple(row[:4]): row[4] for row in ask(query)}), failures)
    stages = collections.Counter()
    for op in truth.ops:
        for stage in op["stages"]:
            stages[op["op"], stage["stage"]] += stage["took_ns"]
    query = """SELECT o.op, s.stage, sum(s.took_ns)::BIGINT
               FROM '{operations}' o JOIN '{stages}' s USING (op_id) GROUP BY ALL"""
    found = collections.Counter({(op, stage): ns for op, stage, ns in ask(query)})
    equal("lengths of stages by operation", found, stages)
    # A microsecond is what every version of it has.
    query = "SELECT epoch_ns(time) // 1000, mono_ns FROM '{operations}' ORDER BY mono_ns, 1"
    expected = sorted((op["mono_ns"], nanoseconds(op["time"]) // 1000) for op in truth.ops)
    equal("times of day", [(mono, wall) for wall, mono in ask(query)], expected)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    nstrace, *recordings = sys.argv[1:]
    is_part = recordings[0] == "--part"
    failed = 0
    for recording in recordings[is_part:]:
        try:
            with tempfile.TemporaryDirectory() as folder:
                truth = Truth(nstrace, recording)
                truth.is_part = is_part
                check_perfetto(nstrace, recording, truth, folder)
                check_parquet(nstrace, recording, truth, os.path.join(folder, "tables"))
            print(f"{recording}: {len(truth.ops)} operations are the same in all exports")
        except Failed as error:
            print(f"{recording}: {error}", file=sys.stderr)
            failed += 1
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
