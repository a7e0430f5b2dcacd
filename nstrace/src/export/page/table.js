// The operations as a table, of which only the rows in sight are there.

const ROW = 22;
// Browsers do not scroll further; a longer list moves faster than the bar.
const HEIGHT_MAX = 8e6;
const BEYOND = 6;
const PRINTED = 200;

const COLUMNS = [
  {
    key: 'time',
    name: 'Time (UTC)',
    text: (data, i) => clock(data, data.start[i]),
    order: (data) => data.start,
  },
  {
    key: 'took',
    name: 'Took',
    number: true,
    text: (data, i) => length(data.took[i]),
    order: (data) => data.took,
  },
  {
    key: 'op',
    name: 'Op',
    text: (data, i) => data.ops[data.op[i]],
    order: (data) => ranks(data.ops, data.op),
  },
  {
    key: 'ns',
    name: 'Namespaces',
    text: (data, i) => data.whatNames[data.what[i]],
    order: (data) => ranks(data.whatNames, data.what),
  },
  { key: 'result', name: 'Result', text: resultName, order: resultOrder },
  {
    key: 'slowest',
    name: 'Slowest stage',
    text: slowestText,
    order: (data) => data.slowest.map((at) => (at ? data.stage_took[at - 1] : 0)),
  },
  {
    key: 'pid',
    name: 'Pid',
    number: true,
    text: (data, i) => String(data.pid[i]),
    order: (data) => data.pid,
  },
  {
    key: 'comm',
    name: 'Command',
    text: (data, i) => data.comms[data.comm[i]],
    order: (data) => ranks(data.comms, data.comm),
  },
  { key: 'container', name: 'Container', text: containerText, order: containerOrder },
  { key: 'reason', name: 'Reason', text: (data, i) => reasonOf(data, i) ?? '', order: reasonOrder },
];

function slowestText(data, i) {
  const at = data.slowest[i] - 1;
  return at < 0 ? '' : `${length(data.stage_took[at]).padStart(6)} ${functionOf(data, at)}`;
}

function containerText(data, i) {
  return data.containers.names[data.containers.of[data.cgroup[i]]];
}

function containerOrder(data) {
  return ranks(
    data.containers.names,
    data.cgroup.map((cgroup) => data.containers.of[cgroup]),
  );
}

function resultOrder(data) {
  const names = ['', ...data.tables.failures.map(([, errno, name]) => name ?? `errno ${errno}`)];
  return ranks(names, data.failure);
}

function reasonOrder(data) {
  return ranks(['', ...data.tables.failures.map((failure) => failure[4] ?? '')], data.failure);
}

// For each operation the rank of its name among the names.
function ranks(names, column) {
  const order = names
    .map((_, at) => at)
    .sort((a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : 0));
  const rank = new Float64Array(names.length);
  order.forEach((at, place) => {
    rank[at] = place && names[order[place - 1]] === names[at] ? rank[order[place - 1]] : place;
  });
  return Float64Array.from(column, (at) => rank[at]);
}

class TableView {
  constructor(data, page) {
    this.data = data;
    this.page = page;
    this.grid = byId('grid');
    this.body = byId('grid-body');
    this.sorted = { key: 'time', down: false };
    this.active = 0;
    this.failures = null;
    this.orders = {};
    this.addHead();
    this.listen();
    this.filter();
  }

  addHead() {
    for (const column of COLUMNS) {
      const sort = element(
        'button',
        { type: 'button', tabindex: '-1', onclick: () => this.sortBy(column.key) },
        column.name,
      );
      byId('grid-head').append(
        element(
          'div',
          {
            role: 'columnheader',
            class: `cell c-${column.key}`,
            'aria-sort': 'none',
            'data-key': column.key,
          },
          sort,
        ),
      );
      // The heads are one stop for Tab each.
      sort.tabIndex = 0;
    }
    this.grid.setAttribute('aria-colcount', String(COLUMNS.length));
  }

  listen() {
    this.grid.addEventListener('scroll', () => this.drawSoon());
    this.grid.addEventListener('keydown', (event) => this.key(event));
    this.body.addEventListener('click', (event) => this.click(event));
    new ResizeObserver(() => this.drawSoon()).observe(this.grid);
    byId('search').addEventListener('input', () => this.filterSoon());
    byId('in-view').addEventListener('change', () => this.filter());
    for (const id of ['outcome-all', 'outcome-failed'])
      byId(id).addEventListener('click', () => this.outcome(id === 'outcome-failed'));
    window.addEventListener('beforeprint', () => this.drawForPrint());
    window.addEventListener('afterprint', () => this.draw());
  }

  outcome(failed) {
    byId('outcome-all').setAttribute('aria-pressed', String(!failed));
    byId('outcome-failed').setAttribute('aria-pressed', String(failed));
    this.filter();
  }

  // Only these sorts of failures: a name, and a set of their numbers; null for all.
  onlyFailures(only) {
    this.failures = only;
    byId('failure-chip').replaceChildren();
    if (only) {
      const gone = () => {
        this.onlyFailures(null);
        byId('search').focus();
      };
      byId('failure-chip').append(
        element(
          'button',
          { type: 'button', class: 'chip', title: 'Show all again', onclick: gone },
          `${only.name} ✕`,
        ),
      );
    }
    this.filter();
  }

  filterSoon() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.filter(), 60);
  }

  viewChanged() {
    if (byId('in-view').checked) this.filterSoon();
  }

  tests() {
    const { data } = this;
    const tests = compileQuery(data, byId('search').value);
    if (byId('outcome-failed').getAttribute('aria-pressed') === 'true')
      tests.push((i) => data.failure[i]);
    if (this.failures) tests.push((i) => this.failures.numbers.has(data.failure[i]));
    if (byId('in-view').checked) {
      const { from, to } = this.page.timeline;
      tests.push((i) => data.start[i] <= to && data.start[i] + data.took[i] >= from);
    }
    return tests;
  }

  filter() {
    this.rows = filterOperations(this.data, this.tests());
    this.sort();
    this.active = 0;
    this.grid.scrollTop = 0;
    byId('found').textContent =
      this.rows.length === this.data.count
        ? counted(this.data.count, 'operation', 'operations')
        : `${count(this.rows.length)} of ${counted(this.data.count, 'operation', 'operations')}`;
    byId('nothing').hidden = this.rows.length > 0;
    byId('nothing').textContent = this.data.count
      ? 'No operation is like that.'
      : 'No operation was recorded.';
    this.layOut();
  }

  sortBy(key) {
    this.sorted = {
      key,
      down: this.sorted.key === key ? !this.sorted.down : key === 'took' || key === 'slowest',
    };
    this.sort();
    this.active = 0;
    this.grid.scrollTop = 0;
    this.draw();
  }

  sort() {
    const { key, down } = this.sorted;
    const column = COLUMNS.find((own) => own.key === key);
    const order = (this.orders[key] ??= column.order(this.data));
    const { start } = this.data;
    const sign = down ? -1 : 1;
    this.rows.sort((a, b) => sign * (order[a] - order[b]) || start[a] - start[b] || a - b);
    for (const head of byId('grid-head').children)
      head.setAttribute(
        'aria-sort',
        head.dataset.key === key ? (down ? 'descending' : 'ascending') : 'none',
      );
  }

  layOut() {
    this.height = Math.min(this.rows.length * ROW, HEIGHT_MAX);
    this.body.style.height = `${this.height}px`;
    this.grid.hidden = this.rows.length === 0;
    this.grid.setAttribute('aria-rowcount', String(this.rows.length + 1));
    this.draw();
  }

  // Rows that have room.
  get room() {
    return Math.max(Math.floor((this.grid.clientHeight - ROW - 4) / ROW), 1);
  }

  // The first row in sight; it may be a part.
  get first() {
    const hidden = this.rows.length - this.room;
    const scrollable = this.grid.scrollHeight - this.grid.clientHeight;
    if (this.rows.length * ROW <= HEIGHT_MAX) return this.grid.scrollTop / ROW;
    return (this.grid.scrollTop / Math.max(scrollable, 1)) * Math.max(hidden, 0);
  }

  drawSoon() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.draw();
    });
  }

  draw() {
    const first = this.first;
    const from = Math.max(Math.floor(first) - BEYOND, 0);
    const to = Math.min(Math.ceil(first) + this.room + BEYOND, this.rows.length);
    const isWhole = this.rows.length * ROW <= HEIGHT_MAX;
    const top = (at) => (isWhole ? at * ROW : this.grid.scrollTop + (at - first) * ROW);
    const rows = [];
    for (let at = from; at < to; at++) rows.push(this.row(at, top(at)));
    this.body.replaceChildren(...rows);
    const isDrawn = this.active >= from && this.active < to;
    if (isDrawn) this.grid.setAttribute('aria-activedescendant', `row-${this.active}`);
    else this.grid.removeAttribute('aria-activedescendant');
  }

  row(at, top) {
    const i = this.rows[at];
    const isActive = at === this.active;
    const row = element('div', {
      role: 'row',
      id: `row-${at}`,
      class: this.data.failure[i] ? 'row bad' : 'row',
      'aria-rowindex': at + 2,
      'aria-selected': String(isActive),
      'data-at': at,
    });
    row.style.transform = `translateY(${top}px)`;
    for (const column of COLUMNS) row.append(this.cell(column, i));
    return row;
  }

  cell(column, i) {
    const text = column.text(this.data, i);
    return element(
      'div',
      { role: 'gridcell', class: `cell c-${column.key}`, title: text.length > 14 ? text : null },
      text,
    );
  }

  drawForPrint() {
    const rows = [];
    for (let at = 0; at < Math.min(this.rows.length, PRINTED); at++) rows.push(this.row(at, 0));
    this.body.replaceChildren(...rows);
  }

  click(event) {
    const row = event.target.closest('[data-at]');
    if (!row) return;
    this.active = Number(row.dataset.at);
    this.draw();
    this.grid.focus({ preventScroll: true });
    this.page.openOperation(this.rows[this.active], false);
  }

  key(event) {
    if (event.target !== this.grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: this.room,
      PageUp: -this.room,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      this.move(step);
    } else if ((event.key === 'Enter' || event.key === ' ') && this.rows.length) {
      event.preventDefault();
      this.page.openOperation(this.rows[this.active], true);
    }
  }

  move(step) {
    if (!this.rows.length) return;
    this.active = Math.min(Math.max(this.active + step, 0), this.rows.length - 1);
    this.reveal();
    this.draw();
    if (this.page.details.isOpen) this.page.openOperation(this.rows[this.active], false);
  }

  // Scrolls until the active row is in sight.
  reveal() {
    const { first, room, active } = this;
    const target = active < first ? active : active >= first + room - 1 ? active - room + 1 : null;
    if (target === null) return;
    const scrollable = this.grid.scrollHeight - this.grid.clientHeight;
    const isWhole = this.rows.length * ROW <= HEIGHT_MAX;
    this.grid.scrollTop = isWhole
      ? target * ROW
      : (target / Math.max(this.rows.length - room, 1)) * scrollable;
  }
}
