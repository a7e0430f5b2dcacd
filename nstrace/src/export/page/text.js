// Words for lengths, times and names. Nothing here is HTML: text is set as text.

// An element with attributes, and children: elements or text.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) setAttribute(made, key, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

function setAttribute(made, key, value) {
  if (value === false || value == null) return;
  if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
  else made.setAttribute(key, value === true ? '' : value);
}

const byId = (id) => document.getElementById(id);

const NS = { us: 1e3, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9 };

// A length in three digits or so, as the tail has it: `9us`, `0.21ms`, `1.84ms`, `1.2s`.
function length(ns) {
  if (ns < NS.us) return `${Math.round(ns)}ns`;
  if (ns < 1e5) return `${Math.floor(ns / NS.us)}us`;
  if (ns < 1e7) return `${places(ns / NS.ms, 2)}ms`;
  if (ns < 1e8) return `${places(ns / NS.ms, 1)}ms`;
  if (ns < NS.s) return `${Math.floor(ns / NS.ms)}ms`;
  if (ns < NS.m) return `${places(ns / NS.s, 1)}s`;
  if (ns < NS.h) return `${Math.floor(ns / NS.m)}m${two((ns % NS.m) / NS.s)}s`;
  return `${Math.floor(ns / NS.h)}h${two((ns % NS.h) / NS.m)}m`;
}

function places(number, count) {
  const scale = 10 ** count;
  return (Math.floor(number * scale) / scale).toFixed(count);
}

function two(number) {
  return String(Math.floor(number)).padStart(2, '0');
}

// A length exactly.
function exactly(ns) {
  return `${count(ns)} ns`;
}

function count(number) {
  return String(number).replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
}

function counted(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// A time of day in UTC to the ms, of a time since the beginning.
function clock(data, ns) {
  const text = iso(data, ns);
  return text ? text.slice(11, 23) : `${(ns / NS.s).toFixed(3)}s`;
}

function iso(data, ns) {
  const wall = BigInt(data.head.wall_ns) + BigInt(Math.round(ns));
  const date = new Date(Number(wall / 1000000n));
  return Number.isNaN(date.getTime()) || wall < 0n ? null : date.toISOString();
}

// The same with the day and the ns.
function fullTime(data, ns) {
  const text = iso(data, ns);
  if (!text) return `${count(ns)} ns since the beginning`;
  const wall = BigInt(data.head.wall_ns) + BigInt(Math.round(ns));
  return `${text.slice(0, 19).replace('T', ' ')}.${String(wall % 1000000000n).padStart(9, '0')} UTC`;
}

function nsName(data, life) {
  return `${data.kinds[data.ns_kind[life]]}:${data.ns_inum[life]}`;
}

function makerName(data, life) {
  const op = data.ns_maker_op[life];
  if (!op) return null;
  return `${data.comms[data.ns_maker_comm[life]]}[${data.ns_maker_pid[life]}] ${data.ops[op]}`;
}

// Whether it lives at a moment.
function isAliveAt(data, life, moment) {
  return (
    data.ns_start[life] <= moment && (data.ns_length[life] === 0 || deathOf(data, life) > moment)
  );
}

function deathOf(data, life) {
  return data.ns_length[life] === 0 ? Infinity : data.ns_start[life] + data.ns_length[life] - 1;
}

// What an operation gave back.
function resultName(data, i) {
  const failure = data.failure[i];
  if (failure) {
    const [, errno, name] = data.tables.failures[failure - 1];
    return name ?? `errno ${errno}`;
  }
  return data.ret[i] > 0 ? `ok ${data.ret[i]}` : 'ok';
}

function stageOfFailure(data, i) {
  return data.failure[i] ? data.tables.failures[data.failure[i] - 1][3] : null;
}

function reasonOf(data, i) {
  return data.failure[i] ? data.tables.failures[data.failure[i] - 1][4] : null;
}
