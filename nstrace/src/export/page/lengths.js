// How long stages, operations and what is done in containers took: percentiles, and
// histograms on one axis of powers of ten.

const BINS_A_DECADE = 8;
const LOG_FIRST = 2.5;
const LOG_LAST = 10.5;
const BINS = (LOG_LAST - LOG_FIRST) * BINS_A_DECADE;
const ROWS_OF_CONTAINERS = 200;

class LengthsView {
  constructor(data, page) {
    this.data = data;
    this.page = page;
    this.fillChoices();
    for (const id of ['lengths-of', 'lengths-in', 'lengths-stage'])
      byId(id).addEventListener('change', () => this.show());
    // Nobody waits for what is not in sight.
    new IntersectionObserver(
      (entries, observer) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        this.show();
      },
      { rootMargin: '600px' },
    ).observe(byId('lengths'));
  }

  fillChoices() {
    const { containers, tables } = this.data;
    const choice = (value, text) => element('option', { value }, text);
    const names = containers.names.slice(0, ROWS_OF_CONTAINERS + 1);
    byId('lengths-in').append(
      choice(-1, 'all containers and none'),
      ...names.map((name, at) => choice(at, at ? name : 'no container')),
    );
    byId('lengths-stage').append(
      choice(-1, 'whole operations'),
      ...tables.functions.map((name, at) => choice(at, name)),
    );
  }

  show() {
    const of = byId('lengths-of').value;
    byId('lengths-in-label').hidden = of === 'containers';
    byId('lengths-stage-label').hidden = of !== 'containers';
    const rows = this.rows(of).filter((row) => row.lengths.length);
    byId('lengths-table').replaceChildren(
      rows.length ? this.table(of, rows) : element('p', { class: 'quiet' }, 'There is none.'),
    );
  }

  rows(of) {
    const own = Number(byId('lengths-in').value);
    const isIn = (i) => own < 0 || this.data.containers.of[this.data.cgroup[i]] === own;
    if (of === 'stages') return stageRows(this.data, isIn);
    if (of === 'ops') return operationRows(this.data, isIn);
    return containerRows(this.data, Number(byId('lengths-stage').value));
  }

  table(of, rows) {
    const names = { stages: 'stage', ops: 'operation', containers: 'container' };
    const head = element('tr', {}, element('th', { scope: 'col' }, names[of]));
    for (const name of ['count', 'p50', 'p90', 'p99', 'max'])
      head.append(element('th', { scope: 'col', class: 'number' }, name));
    head.append(element('th', { scope: 'col', class: 'histogram' }, axis()));
    const body = element('tbody', {}, ...rows.map((row) => this.row(of, row)));
    return element('table', { class: 'plain' }, element('thead', {}, head), body);
  }

  row(of, { name, lengths, query }) {
    const sorted = Float64Array.from(lengths).sort();
    const search = element(
      'button',
      { type: 'button', class: 'link', onclick: () => this.page.search(query) },
      name,
    );
    const row = element(
      'tr',
      {},
      element('th', { scope: 'row' }, query ? search : name),
      element('td', { class: 'number' }, count(sorted.length)),
    );
    for (const percent of [50, 90, 99, 100])
      row.append(element('td', { class: 'number' }, length(percentile(sorted, percent))));
    row.append(element('td', { class: 'histogram' }, histogram(sorted)));
    return row;
  }
}

function stageRows(data, isIn) {
  const rows = data.tables.functions.map((name) => ({ name, lengths: [], query: `stage:${name}` }));
  for (let i = 0; i < data.count; i++) {
    if (!isIn(i)) continue;
    for (let at = data.stageAt[i]; at < data.stageAt[i + 1]; at++)
      rows[data.stage_function[at] >> 2].lengths.push(data.stage_took[at]);
  }
  return rows.sort((a, b) => stageOrder(a.name) - stageOrder(b.name));
}

// The order in which operations pass them.
function stageOrder(name) {
  const order = [
    'create_user_ns',
    'copy_namespaces',
    'create_new_namespaces',
    'copy_',
    'alloc_pid',
    '_install',
    'switch_task_namespaces',
  ];
  const exact = order.indexOf(name);
  return exact >= 0 ? exact : order.findIndex((part) => name.includes(part));
}

function operationRows(data, isIn) {
  const rows = data.ops.map((name) => ({ name, lengths: [], query: `op:${name}` }));
  for (let i = 0; i < data.count; i++) if (isIn(i)) rows[data.op[i]].lengths.push(data.took[i]);
  return rows;
}

function containerRows(data, stage) {
  const { of, names, ids } = data.containers;
  const rows = names.map((name, at) => ({
    name: at ? name : 'no container',
    lengths: [],
    query: at ? `container:${ids[at]}` : null,
  }));
  for (let i = 0; i < data.count; i++) {
    const { lengths } = rows[of[data.cgroup[i]]];
    if (stage < 0) lengths.push(data.took[i]);
    else
      for (let at = data.stageAt[i]; at < data.stageAt[i + 1]; at++)
        if (data.stage_function[at] >> 2 === stage) lengths.push(data.stage_took[at]);
  }
  return rows.sort((a, b) => b.lengths.length - a.lengths.length).slice(0, ROWS_OF_CONTAINERS);
}

// What so many of a hundred do not exceed.
function percentile(sorted, percent) {
  return sorted[Math.max(Math.ceil((percent / 100) * sorted.length) - 1, 0)];
}

function bin(ns) {
  const at = Math.floor((Math.log10(Math.max(ns, 1)) - LOG_FIRST) * BINS_A_DECADE);
  return Math.min(Math.max(at, 0), BINS - 1);
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawing(height, ...children) {
  return svg(
    'svg',
    {
      viewBox: `0 0 ${BINS} ${height}`,
      preserveAspectRatio: 'none',
      width: '100%',
      height,
      'aria-hidden': 'true',
    },
    ...children,
  );
}

function histogram(sorted) {
  const counts = new Uint32Array(BINS);
  for (const ns of sorted) counts[bin(ns)]++;
  const most = counts.reduce((a, b) => Math.max(a, b));
  let path = '';
  counts.forEach((number, at) => {
    if (number) path += `M${at} 22h.85v${-Math.max((number / most) * 21, 1)}h-.85z`;
  });
  const marks = [50, 90, 99].map((percent) => {
    const x = (Math.log10(Math.max(percentile(sorted, percent), 1)) - LOG_FIRST) * BINS_A_DECADE;
    return svg('path', {
      d: `M${Math.min(Math.max(x, 0), BINS)} 1v22`,
      class: `percent p${percent}`,
    });
  });
  return drawing(24, ...decades(24), svg('path', { d: path, class: 'bars' }), ...marks);
}

function decades(height) {
  const lines = [];
  for (let power = Math.ceil(LOG_FIRST); power <= LOG_LAST; power++)
    lines.push(
      svg('path', { d: `M${(power - LOG_FIRST) * BINS_A_DECADE} 0v${height}`, class: 'decade' }),
    );
  return lines;
}

function axis() {
  const names = ['1us', '10us', '0.1ms', '1ms', '10ms', '0.1s', '1s', '10s'];
  const labels = names.map((name, at) => {
    const label = element('span', {}, name);
    label.style.left = `${((at + 3 - LOG_FIRST) * BINS_A_DECADE * 100) / BINS}%`;
    return label;
  });
  return element('div', { class: 'axis' }, ...labels);
}
