#!/usr/bin/env python3
"""Reads recordings of nstrace by their specification, docs/trace-format.md, and compares what they
come to with the lines of `NSTRACE export --format json`:

    python3 xtask/trace-reader.py NSTRACE RECORDING...

It was written from the specification alone, without a look at the program: where the two part,
one of them is to be mended.

Compared are operations, deaths of namespaces that were known, and births and exits of
tasks below the first pid namespace. Left out are members that the program infers: names
of flags, reasons, containers, makers and ages, and of stages what has no mark.
"""

import errno
import json
import struct
import subprocess
import sys
import zlib
from collections import Counter
from datetime import datetime, timezone

MAGIC = b"nst\x01"
HEADER = struct.Struct("<4sBBHIIQQII")
LARGEST = 16 << 20
HEAD, EVENTS, END, STATE, CLOCKS, LEDGER = range(1, 7)
KINDS = "mnt uts ipc pid net user cgroup time".split()
OPS = [None, "clone", "clone3", "fork", "vfork", "unshare", "setns", "open_tree", "fsmount"]
COPIES = ["copy_mnt_ns", "copy_utsname", "copy_ipcs", "copy_pid_ns", "copy_net_ns",
          "create_user_ns", "copy_cgroup_ns", "copy_time_ns"]
BEGINS = {1: "create_user_ns", 4: "create_new_namespaces", 8: "switch_task_namespaces"}
BEGINS |= {16 + kind: name for kind, name in enumerate(COPIES)}
BEGINS |= {32 + kind: name + "ns_install" for kind, name in enumerate(KINDS)}
ENDS = {2: "create_user_ns", 3: "copy_namespaces", 7: "alloc_pid"}


class Malformed(Exception):
    """What cannot be read."""


def need(condition, what):
    """Raise unless the condition holds."""
    if not condition:
        raise Malformed(what)


def text(name):
    """A name as docs/json.md writes it."""
    return name.replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def unlz4(packed, size):
    """Unpack an LZ4 block."""
    out, rest = bytearray(), iter(packed)

    def length(nibble):
        part = 255 if nibble == 15 else 0
        while part == 255:
            part = next(rest)
            nibble += part
        return nibble

    try:
        for token in rest:
            out += bytes(next(rest) for _ in range(length(token >> 4)))
            low = next(rest, None)
            if low is None:
                break
            start = len(out) - (low | next(rest) << 8)
            copied = length(token & 15) + 4
            need(0 <= start < len(out) and len(out) + copied <= size, "LZ4: match")
            for at in range(start, start + copied):
                out.append(out[at])
    except (StopIteration, RuntimeError):
        raise Malformed("LZ4: cut") from None
    need(len(out) == size, "LZ4: size")
    return bytes(out)


class Block:
    """A block at a place in a file: its header and its payload."""

    def __init__(self, data, at):
        need(at + HEADER.size <= len(data), "block: cut")
        magic, self.kind, how, _, packed, size, *rest, crc = HEADER.unpack_from(data, at)
        self.first, self.last, self.count = rest
        self.at, self.end = at, at + HEADER.size + packed
        need(magic == MAGIC and max(packed, size) <= LARGEST, "block: header")
        need(self.end <= len(data), "block: cut")
        body = data[at + HEADER.size:self.end]
        need(zlib.crc32(body, zlib.crc32(data[at:at + 36])) == crc, "block: checksum")
        need(how == 1 or how == 0 and packed == size, "block: packing")
        self.payload = unlz4(body, size) if how else body


def blocks(data):
    """The whole blocks of a file, and None where something was left out."""
    at = 0
    while at < len(data):
        try:
            block = Block(data, at)
        except Malformed:
            found = data.find(MAGIC, at + 1)
            at = found if found > 0 else len(data)
            block = None
        else:
            at = block.end
        yield block


def members(text):
    """Names and bits of a record's members, in the order of the bits of its mask."""
    for word in text.split():
        name, width, *many = word.split(":")
        names = [f"{name}{i}" for i in range(int(many[0]))] if many else [name]
        yield from ((one, int(width) * 8) for one in names)


OPERATION = list(members(
    "kind:4 pad:4 time:8 start:8 flags:8 ret:8 cgroup:8 pid:4 tid:4 uid:4 op:4 comm:8:2"
    " before:4:8 after:4:8 pid_ns:8 pid_parent:4 user_parent:4 owner:4 owner_uid:4 mounts:4"
    " target:4"))
TASK = list(members(
    "kind:4 pad:4 time:8 cgroup:8 start:8 pid:4 tid:4 parent:4 uid:4 exit_code:4 pids_len:4"
    " comm:8:2 namespaces:4:8 time_for_children:4 made_with:4"))
DEATH = list(members("kind:4 pad:4 time:8 id:8 address:8 inum:4 ns_kind:4 pid:4 tid:4"))
RECORDS = {1: OPERATION, 2: TASK, 3: TASK, 4: OPERATION, 5: DEATH, 7: TASK, 8: TASK}
SAME = {f"after{i}": f"before{i}" for i in range(8)}
SAME |= {"tid": "pid", "time_for_children": "namespaces7"}

UNSEEN = "tasks:number descriptors:number mounts:number sockets:number procs:number pfc:number"
HOLDER = "how:byte where:number what:held"
MOUNT = ("address:number since:number unique:number cgroup:number root_inode:number writers:diff"
         " mnt_id:number device:number mnt_flags:number inum:number bits:number pid:number"
         " tid:number comm:bytes type:bytes source:bytes root:bytes point:bytes stack:bytes")
ENTRIES = {
    6: "id:number path:bytes",
    32: "time:time since:number record:number count:number",
    33: "time:time operation:operation",
    34: "time:time",
    35: "time:time kind:byte inum:number id:number parent:number owner:number uid:option",
    36: "time:time age:number pid:number tid:number cgroup:number comm:bytes exited:byte"
        " levels:levels places:places",
    37: f"time:time kind:byte inum:number id:number {HOLDER}",
    38: f"time:time {UNSEEN}",
    39: "time:time inum:number",
    40: "id:bytes name:bytes",
    41: "offset:diff",
    42: "userns:option apparmor:option lsm:bytes cgroup:bytes pids_max:option",
    48: f"time:time {MOUNT}",
    49: f"time:time {MOUNT}",
    50: "time:time address:number since:number function:number entry:number cut:byte stack:bytes",
    51: "time:time entry:number count:number",
    52: "time:time no_mount:number no_room:number no_stack:number deaths:number skipped:number",
    53: "time:time thread:number line:bytes function:bytes",
}
UNCOUNTED = 40, 41, 42


class Payload:
    """Reads a payload from its beginning to its end."""

    def __init__(self, data):
        self.data, self.at, self.now, self.fields = data, 0, 0, {}
        self.before, self.masks, self.words, self.where = {}, {}, {}, [0] * 10

    def byte(self):
        return self.take(1)[0]

    def take(self, size):
        self.at += size
        need(self.at <= len(self.data), "payload: cut")
        return self.data[self.at - size:self.at]

    def number(self):
        value = shift = 0
        while shift < 70:
            part = self.byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
            shift += 7
        raise Malformed("payload: a number of more than ten bytes")

    def diff(self):
        value = self.number()
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def bytes(self):
        return self.take(self.number())

    def option(self):
        value = self.number()
        return value - 1 if value else None

    def many(self, read):
        return [read() for _ in range(self.number())]

    def time(self):
        self.now += self.diff()
        return self.now

    def levels(self):
        return self.many(lambda: (self.number(), self.number()))

    def places(self):
        mask = self.number()
        need(mask < 1 << 10, "places: mask")
        self.where = [self.number() if mask >> i & 1 else self.where[i] for i in range(10)]
        return self.where

    def held(self):
        """By what a holder holds: its byte says whether by a descriptor or a path."""
        need(self.fields["how"] < 4, "holder: byte")
        return self.number() if self.fields["how"] in (0, 2) else self.bytes()

    def operation(self):
        need(self.byte() == 1, "entry of kind 33: no operation")
        return self.record(1)

    def struct(self, text):
        """Fields by name, each read by the method that is named behind it."""
        self.fields = fields = {}
        for name, how in (field.split(":") for field in text.split()):
            fields[name] = getattr(self, how)()
        return fields

    def record(self, kind):
        """A record of the kernel side: its members and its lists."""
        layout, begin = RECORDS[kind], self.byte()
        stream = kind, begin & 31
        if not begin & 128:
            self.masks[stream] = self.number()
        mask, before, record = self.masks.get(stream, -1), self.before.get(stream, {}), {}
        need(0 <= mask < 1 << len(layout) and not begin & 96, "record: mask")
        for bit, (name, width) in enumerate(layout):
            value = record[SAME[name]] if name in SAME else before.get(name, 0)
            if name == "time":
                value = self.now
            elif name == "start" and layout is OPERATION:
                value = record["time"]
            changed = self.diff() if mask >> bit & 1 else 0
            record[name] = (value + changed) % (1 << width)
        need(record["kind"] == kind, "record: kind")
        self.now, self.before[stream] = record["time"], record
        return record | self.lists(record, layout, self.word_list(stream))

    def word_list(self, stream):
        """The words of a record, from those of the record before."""
        count, before, words = self.number(), self.words.get(stream, []), []
        for at in range(count):
            mask = self.number() if at % 64 == 0 else mask >> 1
            word = before[at] if at < len(before) else 0
            words.append((word + self.diff()) % (1 << 64) if mask & 1 else word)
        self.words[stream] = words
        return words

    def lists(self, record, layout, words):
        """The lists of a record by name, and its members that are more than a number."""
        more, sizes, ns = {}, {}, 0
        if layout is OPERATION:
            more["op"], marks, pids, ids = record["op"].to_bytes(4, "little")
            more["ret"] = record["ret"] - (record["ret"] >> 63 << 64)
            sizes = {"ids": ids, "marks": marks, "pids": pids, "fail": 10 * (more["ret"] < 0)}
        elif layout is TASK:
            sizes = {"pids": record["pids_len"]}
        need(sum(sizes.values()) == len(words), "record: lengths of lists")
        for name, size in sizes.items():
            more[name], words = words[:size], words[size:]
        for at, mark in enumerate(more.get("marks", [])):
            ns += mark >> 8
            more["marks"][at] = mark & 255, ns
        return more

    def entry(self):
        """The next entry: its kind and its fields, none of those that are left out."""
        kind = self.byte()
        if kind >= 64:
            return kind, {"left out": self.bytes()}
        need(kind in RECORDS or kind in ENTRIES, f"entry: unknown kind {kind}")
        return kind, self.record(kind) if kind in RECORDS else self.struct(ENTRIES[kind])

    def entries(self):
        while self.at < len(self.data):
            yield self.entry()


class State(Payload):
    """What a block of kind 4 says."""

    def __init__(self, data):
        super().__init__(data)
        self.heading = []
        while data[self.at:self.at + 1] != bytes([43]):
            self.heading.append(self.entry())
        self.take(1)
        self.lost = self.struct(f"lost:number {UNSEEN}")
        self.reached = self.number()
        self.namespaces = self.many(self.namespace)
        self.deaths = self.many(self.number)
        self.tasks = self.many(self.task)
        self.ends = [self.many(lambda: (self.number(), self.ago())) for _ in range(2)]
        self.look = self.struct(f"begin:option end:option {UNSEEN}")
        self.doubtful = self.many(lambda: self.struct(HOLDER))
        self.whole = self.struct("loss:option until:number whole:number")
        need(self.at == len(data), "state: bytes behind it")

    def ago(self):
        return (self.reached - self.number()) % (1 << 64)

    def namespace(self):
        one = self.struct("kind:byte inum:number id:number known:ago until:ago birth:option"
                          " parent:number owner:number uid:option ended:byte")
        one["death"] = self.ago() if one["ended"] else None
        one |= self.struct("confirmed:byte address:number made:byte")
        one["maker"] = one["made"] and self.struct(
            "op:byte pid:number tid:number uid:number cgroup:number comm:bytes")
        one["holders"] = self.many(lambda: self.struct(f"found:ago {HOLDER}"))
        return one

    def task(self):
        one = self.struct("pid:number tid:number cgroup:number started:byte start:ago exited:byte"
                          " found:byte levels:levels comm:bytes known:ago told:ago")
        return one | {"places": [self.number() for _ in range(10)]}


def pairs(data, second):
    """Pairs of numbers, each less those before."""
    inner, row = Payload(data), (0, 0)
    while inner.at < len(data):
        row = row[0] + inner.number(), row[1] + second(inner)
        yield row


def events(block):
    """The entries of a block of kind 2."""
    entries = list(Payload(block.payload).entries())
    times = [fields["time"] for _, fields in entries if "time" in fields]
    need(sum(kind not in UNCOUNTED for kind, _ in entries) == block.count, "events: count")
    need(not times or (min(times), max(times)) == (block.first, block.last), "events: times")
    return entries


def read(data):
    """What a recording says, in its order: pairs of what it is and its fields."""
    # Of the first end only, and if nothing was left out, the places are those of this file.
    states, ledger, moved = [], None, False
    for block in blocks(data):
        if block is None:
            moved = True
            yield "left out", {}
        elif block.kind == HEAD:
            yield "head", json.loads(block.payload)
        elif block.kind == EVENTS:
            yield from events(block)
        elif block.kind == LEDGER:
            ledger = block.at if ledger is None else ledger
            inner = Payload(block.payload)
            yield "ledger", {**inner.struct("part:number last:byte"), "all": [*inner.entries()]}
        elif block.kind == STATE:
            state = State(block.payload)
            need(state.reached == block.first == block.last, "state: times")
            states.append((block.at if ledger is None else ledger, state.reached))
            ledger = None
            yield "state", {"state": state}
        elif block.kind == CLOCKS:
            yield "clocks", {"all": list(pairs(block.payload, Payload.diff))}
        elif block.kind == END:
            told = list(pairs(block.payload, Payload.number))
            need(moved or set(told) <= set(states), "end: states")
            moved = True


class World:
    """What lines need of what came before, and the lines themselves."""

    def __init__(self):
        self.cgroups, self.offset, self.alive, self.unknown = {}, 0, set(), True
        self.early = []

    def wall(self, ns):
        """A time of day as lines have it."""
        seconds, ns = divmod(ns + self.offset, 10**9)
        day = datetime.fromtimestamp(seconds, timezone.utc)
        return f"{day:%Y-%m-%dT%H:%M:%S}.{ns:09}Z"

    def lines(self, kind, fields):
        """The lines that an entry comes to as far as they are compared."""
        if kind in ("head", "left out"):
            self.unknown, self.offset = True, fields.get("wall_offset_ns", self.offset)
        elif kind == "state" and self.unknown:
            self.take(fields["state"])
        elif kind == 6:
            self.cgroups[fields["id"]] = text(fields["path"])
        elif kind == 41:
            self.offset = fields["offset"]
        elif kind == 35:
            self.alive.add(fields["inum"])
        elif kind in (1, 4):
            born = {fields[f"after{i}"] for i in range(8)
                    if fields[f"after{i}"] != fields[f"before{i}"]}
            over = [death for death in self.early
                    if death["inum"] in born and death["time"] >= fields["time"]]
            self.early = [death for death in self.early if death not in over]
            self.alive |= born - {death["inum"] for death in over}
            told = [self.operation(fields)] if kind == 1 else []
            return told + list(map(self.death, over))
        elif kind == 3 or kind == 2 and not fields["made_with"]:
            return [self.task(kind, fields)] if len(fields["pids"]) > 1 else []
        elif kind == 5 and not fields["address"]:
            if fields["inum"] in self.alive:
                self.alive.remove(fields["inum"])
                return [self.death(fields)]
            # Its birth may stand behind it.
            self.early = self.early[-63:] + [fields]
        return []

    def take(self, state):
        """What is known in the middle, where what came before is not."""
        for entry in state.heading:
            self.lines(*entry)
        self.alive = {ns["inum"] for ns in state.namespaces if not ns["ended"]}
        self.unknown = False

    def caller(self, fields, time):
        """Members that operations and tasks have."""
        name = b"".join(fields[f"comm{i}"].to_bytes(8, "little") for i in range(2))
        pids = [{"ns": word >> 32, "pid": word & 0xFFFFFFFF} for word in fields["pids"]]
        return {"mono_ns": time, "time": self.wall(time), "pid": fields["pid"],
                "tid": fields["tid"], "uid": fields["uid"], "pids": pids or None,
                "comm": text(name.split(b"\0")[0]),
                "cgroup_id": fields["cgroup"] or None, "cgroup": self.cgroups.get(fields["cgroup"])}

    def operation(self, fields):
        spaces, ids = {}, fields["ids"]
        for i, kind in enumerate(KINDS):
            spaces[kind] = {"before": fields[f"before{i}"], "after": fields[f"after{i}"]}
            spaces[kind] |= {"before_id": ids[i], "after_id": ids[i + 8]} if ids else {}
        spaces = {kind: space for kind, space in spaces.items() if any(space.values())}
        failed = errno.errorcode[-fields["ret"]] if fields["ret"] < 0 else None
        owned = fields["owner_uid"] if fields["user_parent"] else None
        told = {name: fields[name] or None
                for name in ("pid_parent", "user_parent", "owner", "mounts", "target")}
        return self.caller(fields, fields["start"]) | told | {
            "type": "op", "op": OPS[fields["op"]], "took_ns": fields["time"] - fields["start"],
            "flags_raw": fields["flags"], "ret": fields["ret"], "errno": failed,
            "namespaces": spaces, "owner_uid": owned,
            "begun": sorted((BEGINS[m], ns) for m, ns in fields["marks"] if m in BEGINS),
            "ended": sorted((ENDS[m], ns) for m, ns in fields["marks"] if m in ENDS)}

    def task(self, kind, fields):
        line = {"type": "task_new", "parent": fields["parent"]}
        if kind == 3:
            signal, status = fields["exit_code"] & 127, fields["exit_code"] >> 8
            line = {"type": "task_exit", "signal": signal or None,
                    "exit_code": None if signal else status}
        return self.caller(fields, fields["time"]) | line

    def death(self, fields):
        line = {"type": "ns_death", "mono_ns": fields["time"], "inum": fields["inum"],
                "time": self.wall(fields["time"]), "id": fields["id"] or None}
        known = fields["ns_kind"] < len(KINDS)
        return line | ({"kind": KINDS[fields["ns_kind"]]} if known else {})


def stages(mine, line):
    """Of the stages of a line those for which marks are made: where they begin and end.

    One of no length that failed can be inferred, without a mark of its beginning.
    """
    begun, ended = [], []
    for stage in line["stages"]:
        begin = stage["stage"], stage["start_ns"]
        inferred = stage["took_ns"] == 0 and "errno" in stage and begin not in mine["begun"]
        if stage["stage"] in BEGINS.values() and not inferred:
            begun.append(begin)
        if stage["stage"] in ENDS.values():
            ended.append((stage["stage"], stage["start_ns"] + stage["took_ns"]))
    return {"begun": sorted(begun), "ended": sorted(ended)}


def difference(mine, line):
    """What differs between what was read and a line, or None."""
    whole = line | (stages(mine, line) if mine["type"] == "op" else {})
    for member, value in mine.items():
        if whole.get(member) != value:
            return f"{mine['type']} at {mine['mono_ns']}: {member} is {value}," \
                   f" in the line {whole.get(member)}"
    return None


def check(nstrace, path):
    """Compare a recording with its lines; True if they agree."""
    with open(path, "rb") as file:
        world, data = World(), file.read()
    mine = [line for entry in read(data) for line in world.lines(*entry)]
    told = subprocess.run([nstrace, "export", "--format", "json", path], check=True,
                          stdout=subprocess.PIPE).stdout
    lines, wrong, many = list(map(json.loads, told.splitlines())), [], Counter()
    for kind in ("op", "ns_death", "task_new", "task_exit"):
        ours, theirs = ([x for x in all_ if x["type"] == kind] for all_ in (mine, lines))
        many[kind] = len(ours)
        if len(ours) != len(theirs):
            wrong.append(f"{kind}: {len(ours)}, but {len(theirs)} lines")
        wrong += filter(None, map(difference, ours, theirs))
    for text in wrong[:5]:
        print(f"{path}: {text}")
    if not wrong:
        print(f"{path}: {many['op']} operations, {many['ns_death']} deaths,"
              f" {many['task_new'] + many['task_exit']} tasks as in the specification")
    return not wrong


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    try:
        agreed = [check(sys.argv[1], path) for path in sys.argv[2:]]
    except Malformed as what:
        sys.exit(f"not as in the specification: {what}")
    sys.exit(0 if all(agreed) else 1)
