'use strict';
// The recording, as it stands in the page: base64 of deflated tables and columns.

async function openData(text) {
  const bytes = await inflate(fromBase64(text));
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const tables = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const columns = decodeColumns(tables.columns, bytes, 4 + length);
  return withPlaces({ ...tables, ...columns });
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const WIDTHS = { u8: Uint8Array, u32: Uint32Array, f64: Float64Array };

function decodeColumns(descriptions, bytes, at) {
  const columns = {};
  for (const [name, coding, width, count, length] of descriptions) {
    const numbers = new WIDTHS[width](count);
    decodeColumn(numbers, coding, bytes, at);
    columns[name] = numbers;
    at += length;
  }
  return columns;
}

// Seven bits in each byte, the lowest first. There may be more than 32 bits, so this
// multiplies.
function decodeColumn(numbers, coding, bytes, at) {
  let last = 0;
  for (let i = 0; i < numbers.length; i++) {
    let number = bytes[at] & 127;
    for (let scale = 128; bytes[at++] & 128; scale *= 128) number += (bytes[at] & 127) * scale;
    if (coding !== 'plain') number = number % 2 ? -(number + 1) / 2 : number / 2;
    if (coding === 'delta') number = last += number;
    numbers[i] = number;
  }
}

// Where the lists of each operation begin, and what else is asked for again and again.
function withPlaces(data) {
  data.count = data.start.length;
  data.chainAt = sums(data.chain_len);
  data.stageAt = sums(data.stage_len);
  data.lifeCount = data.ns_kind.length;
  data.setInums = data.kinds.map((kind) => data['set_' + kind]);
  data.setIds = data.kinds.map((kind) => data['id_' + kind]);
  data.inNs = data.kinds.map((kind) => data['in_' + kind]);
  data.containers = containersOf(data.cgroups);
  data.slowest = slowestStages(data);
  setWhatNames(data);
  return data;
}

function sums(lengths) {
  const at = new Uint32Array(lengths.length + 1);
  for (let i = 0; i < lengths.length; i++) at[i + 1] = at[i] + lengths[i];
  return at;
}

// The place of the container of each cgroup; 0 is none. Several cgroups may be in one.
function containersOf(cgroups) {
  const places = new Map([[null, 0]]);
  const names = [''];
  const ids = [''];
  const of = new Uint32Array(cgroups.length + 1);
  cgroups.forEach(([, , id, name], i) => {
    if (!places.has(id)) {
      places.set(id, names.length);
      names.push(name ?? shortId(id));
      ids.push(id);
    }
    of[i + 1] = places.get(id);
  });
  return { of, names, ids };
}

function shortId(id) {
  return /^[0-9a-f]{64}$/.test(id) ? id.slice(0, 12) : id;
}

// The stage of each operation that took longest of those that called no other one, from 1
// on.
function slowestStages(data) {
  const slowest = new Uint32Array(data.count);
  for (let i = 0; i < data.count; i++) {
    let most = -1;
    for (let at = data.stageAt[i]; at < data.stageAt[i + 1]; at++) {
      const calls = at + 1 < data.stageAt[i + 1] && depthOf(data, at + 1) > depthOf(data, at);
      if (!calls && data.stage_took[at] > most) {
        most = data.stage_took[at];
        slowest[i] = at + 1;
      }
    }
  }
  return slowest;
}

function depthOf(data, stage) {
  return data.stage_function[stage] & 3;
}

function functionOf(data, stage) {
  return data.tables.functions[data.stage_function[stage] >> 2];
}

// What each operation was to make or enter, as the tail says it: `+uts +net`, `→net`.
function setWhatNames(data) {
  const places = new Map();
  data.whatNames = [];
  data.what = new Uint32Array(data.count);
  for (let i = 0; i < data.count; i++) {
    const name = whatName(data, i);
    if (!places.has(name)) {
      places.set(name, data.whatNames.length);
      data.whatNames.push(name);
    }
    data.what[i] = places.get(name);
  }
}

const FLAG_KINDS = {
  NEWNS: 'mnt',
  EMPTY_MNTNS: 'mnt',
  NEWUTS: 'uts',
  NEWIPC: 'ipc',
  NEWPID: 'pid',
  NEWNET: 'net',
  NEWUSER: 'user',
  NEWCGROUP: 'cgroup',
  NEWTIME: 'time',
};

function whatName(data, i) {
  const op = data.ops[data.op[i]];
  const sign = op === 'setns' ? '→' : '+';
  if (op === 'open_tree' || op === 'fsmount') return '+mnt';
  const cached = whatNames.get(data.flags[i]);
  const kinds = cached ?? flagKinds(data.tables.flags[data.flags[i]]);
  if (!cached) whatNames.set(data.flags[i], kinds);
  const named = kinds.length || op !== 'setns' ? kinds : enteredKinds(data, i);
  return named.map((kind) => sign + kind).join(' ');
}

const whatNames = new Map();

function flagKinds(flags) {
  const kinds = flags
    .split('|')
    .map((flag) => FLAG_KINDS[flag])
    .filter(Boolean);
  return [...new Set(kinds)];
}

// What setns was to enter, as far as it came.
function enteredKinds(data, i) {
  const kinds = new Set(changedKinds(data, i));
  for (let at = data.stageAt[i]; at < data.stageAt[i + 1]; at++) {
    const [, kind] = /^(\w+)ns_install$/.exec(functionOf(data, at)) ?? [];
    if (kind) kinds.add(kind);
  }
  return [...kinds];
}

function changedKinds(data, i) {
  const [before, after] = [data.before[i], data.after[i]];
  if (before === after) return [];
  return data.kinds.filter((_, kind) => !isSameNs(data, kind, before, after));
}

function isSameNs(data, kind, before, after) {
  const [inums, ids] = [data.setInums[kind], data.setIds[kind]];
  return inums[before] === inums[after] && ids[before] === ids[after];
}
