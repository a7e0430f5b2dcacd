// What is searched for: words, each of which becomes a test of an operation.
//
// Names are looked at once each, not once for each operation: a word becomes a table of the
// names in which it occurs.

function parseQuery(text) {
  const words = text.match(/-?(?:[a-z]+[:<>])?(?:"[^"]*"?|\S+)/gi) ?? [];
  return words.map(parseWord).filter((term) => term.value !== '');
}

function parseWord(word) {
  const [, no, key, sign, rest] = /^(-?)(?:([a-z]+)([:<>]))?(.*)$/is.exec(word);
  const value = rest.replace(/^"|"$/g, '').toLowerCase();
  return {
    no: no === '-',
    key: key?.toLowerCase(),
    sign,
    value,
    whole: word.replace(/^-/, '').toLowerCase(),
  };
}

// The tests of a query; each takes the number of an operation.
function compileQuery(data, text) {
  return parseQuery(text).map((term) => {
    const test = compileTerm(data, term);
    return term.no ? (i) => !test(i) : test;
  });
}

function compileTerm(data, term) {
  const { key, sign, value } = term;
  if (sign === '<' || sign === '>') return compileLength(data, term);
  if (key === 'time') return (i) => clock(data, data.start[i]).includes(value);
  if (data.kinds.includes(key) && /^\d+$/.test(value))
    return inNamespace(data, data.kinds.indexOf(key), value);
  const compile = FIELDS[key];
  if (compile) return compile(data, value);
  return anywhere(data, key ? term.whole.replace(/"/g, '') : value);
}

const FIELDS = {
  comm: (data, value) => inTable(data.comms, data.comm, value),
  container: inContainer,
  cgroup: inCgroup,
  op: (data, value) => (i) => data.ops[data.op[i]].includes(value),
  ns: (data, value) => (/^\d+$/.test(value) ? inNamespace(data, -1, value) : inWhat(data, value)),
  errno: (data, value) =>
    inFailure(data, ([, errno, name]) => `${name ?? ''} ${errno}`.toLowerCase().includes(value)),
  result: (data, value) => (i) => resultName(data, i).toLowerCase().includes(value),
  stage: inStage,
  reason: (data, value) =>
    inFailure(data, (failure) => (failure[4] ?? '').toLowerCase().includes(value)),
  flags: (data, value) => inTable(data.tables.flags, data.flags, value),
  pid: (data, value) => (i) => data.pid[i] === Number(value) || data.tid[i] === Number(value),
  uid: (data, value) => (i) => data.uid[i] === Number(value),
};

function compileLength(data, { key, sign, value }) {
  const column = { took: data.took, time: data.start, pid: data.pid, uid: data.uid }[key];
  const isLength = key === 'took' || key === 'time';
  const limit = isLength ? parseLength(value) : Number(value);
  if (!column || Number.isNaN(limit)) return () => false;
  return sign === '<' ? (i) => column[i] < limit : (i) => column[i] > limit;
}

function parseLength(text) {
  const [, number, unit] = /^([\d.]+)(ns|us|µs|ms|s|m|h)?$/.exec(text) ?? [];
  const scale = { ns: 1, µs: 1e3, ...NS }[unit ?? 'ns'];
  return number ? Number(number) * scale : NaN;
}

function matches(names, value) {
  return Uint8Array.from(names, (name) => name.toLowerCase().includes(value));
}

function inTable(names, column, value) {
  const found = matches(names, value);
  return (i) => found[column[i]];
}

function inWhat(data, value) {
  return inTable(data.whatNames, data.what, value);
}

function inContainer(data, value) {
  const { of, names, ids } = data.containers;
  const found = matches(
    names.map((name, at) => `${name} ${ids[at]}`),
    value,
  );
  return (i) => found[of[data.cgroup[i]]];
}

function inCgroup(data, value) {
  const found = matches(
    [
      '',
      ...data.cgroups.map(([id, path, container, name]) => [id, path, container, name].join(' ')),
    ],
    value,
  );
  return (i) => found[data.cgroup[i]];
}

function inFailure(data, test) {
  const found = Uint8Array.from(
    [null, ...data.tables.failures],
    (failure) => failure !== null && test(failure),
  );
  return (i) => found[data.failure[i]];
}

function inStage(data, value) {
  const found = matches(data.tables.functions, value);
  return (i) => {
    for (let at = data.stageAt[i]; at < data.stageAt[i + 1]; at++)
      if (found[data.stage_function[at] >> 2]) return true;
    return false;
  };
}

// Whether it was in a namespace before or after, or was to enter it; of any kind for -1.
function inNamespace(data, kind, value) {
  const inum = Number(value);
  const columns = kind < 0 ? data.setInums : [data.setInums[kind]];
  const found = new Uint8Array(data.setInums[0].length);
  for (const column of columns)
    for (let set = 0; set < column.length; set++) if (column[set] === inum) found[set] = 1;
  return (i) => found[data.before[i]] || found[data.after[i]] || data.target[i] === inum;
}

function anywhere(data, value) {
  const inWords = (failure) =>
    [failure[2], failure[3], failure[4]].join(' ').toLowerCase().includes(value);
  const tests = [
    FIELDS.comm(data, value),
    inCgroup(data, value),
    FIELDS.op(data, value),
    inWhat(data, value),
    FIELDS.flags(data, value),
    inFailure(data, inWords),
  ];
  if (/^\d+$/.test(value)) tests.push(FIELDS.pid(data, value), inNamespace(data, -1, value));
  return (i) => tests.some((test) => test(i));
}

// The numbers of the operations that pass all tests.
function filterOperations(data, tests) {
  const found = new Uint32Array(data.count);
  let length = 0;
  for (let i = 0; i < data.count; i++) if (tests.every((test) => test(i))) found[length++] = i;
  return found.subarray(0, length);
}
