// The page as a whole: what is above the rest, and who tells whom.

class Page {
  constructor(data) {
    this.data = data;
    this.addSummary();
    this.addNotices();
    byId('main').hidden = false;
    this.details = new DetailsView(data, this);
    this.treeView = new TreeView(data, this);
    this.timeline = new Timeline(data, this);
    this.table = new TableView(data, this);
    this.lengths = new LengthsView(data, this);
    this.addFailures();
    this.listen();
    this.viewChanged();
    this.momentChanged();
  }

  addSummary() {
    const { head } = this.data;
    document.title = `nstrace: ${head.host}`;
    byId('host').textContent = head.host;
    const began = fullTime(this.data, 0).replace(/\.\d+ UTC$/, ' UTC');
    const parts = [
      `Linux ${head.kernel} ${head.arch}`,
      began,
      length(this.data.span),
      head.nstrace && `nstrace ${head.nstrace}`,
    ];
    if (head.command.length) parts.push(`while ${head.command.join(' ')} ran`);
    byId('where').textContent = parts.filter(Boolean).join(' · ');
    this.addTotals();
  }

  addTotals() {
    const { data } = this;
    const lost = data.lost.reduce((sum, [, , , number]) => sum + number, 0);
    const born = data.ns_since.reduce((sum, since) => sum + (since === 2), 0);
    const died = data.ns_length.reduce((sum, ns) => sum + (ns > 0), 0);
    const totals = [
      ['operations', data.operations],
      ['failed', data.failed, data.failed && 'bad'],
      ['namespaces born', born],
      ['died', died],
      ['records lost', lost, lost && 'warn'],
    ];
    for (const [name, number, kind] of totals)
      byId('totals').append(
        element(
          'div',
          { class: kind || null },
          element('dd', {}, count(number)),
          element('dt', {}, name),
        ),
      );
  }

  // What is missing, and what hung.
  addNotices() {
    const { data } = this;
    const notice = (text, kind = 'warn') =>
      byId('notices').append(element('li', { class: kind }, text));
    if (!data.operations)
      notice(
        'No operation was recorded: nothing tried to change namespaces, as far as it was seen.',
        'note',
      );
    if (data.left_out.operations)
      notice(
        `${counted(data.left_out.operations, 'operation is', 'operations are')} left out: this page has the first ${count(data.kept)} only. nstrace report has all.`,
      );
    if (data.left_out.namespaces)
      notice(
        `${counted(data.left_out.namespaces, 'namespace is', 'namespaces are')} left out: this page has the first ${count(data.lifeCount)} only.`,
      );
    if (data.left_out.moves_from !== null)
      notice(
        `From ${clock(data, data.left_out.moves_from)} on it is left out which tasks are where.`,
      );
    if (data.is_part)
      notice(
        'There is no whole look at the machine in the recording: what was there before is not known.',
      );
    for (const text of data.damages.slice(0, 5)) notice(text);
    if (data.damages_len > 5)
      notice(`${count(data.damages_len - 5)} more places in the recording are damaged.`);
    this.addLosses(notice);
    for (const stall of data.stalls.slice(0, 5))
      notice(
        `${stall.op} by ${stall.comm}[${stall.pid}] hung${stall.stage ? ` in ${stall.stage}` : ''}: for ${length(stall.time - stall.start)} at ${clock(data, stall.time)}`,
        'note',
      );
    if (data.stalls.length > 5)
      notice(`${count(data.stalls.length - 5)} more operations hung.`, 'note');
    byId('notices').hidden = !byId('notices').childElementCount;
  }

  addLosses(notice) {
    const sums = new Map();
    for (const [, , record, number] of this.data.lost)
      sums.set(record, (sums.get(record) ?? 0) + number);
    if (!sums.size) return;
    const some = [...sums].filter(([, number]) => number > 0);
    if (!some.length) {
      notice('What happened between two recordings is missing, where the time line is marked.');
      return;
    }
    const words = some.map(([record, number]) => `${count(number)} ${record}`).join(', ');
    notice(
      `Records were lost, where the time line is marked: ${words}. What it says of these times may be wrong.`,
    );
  }

  addFailures() {
    const groups = failureGroups(this.data);
    const list = element('ul', { class: 'failures' });
    const most = groups[0]?.total ?? 1;
    const total = groups.reduce((sum, group) => sum + group.total, 0);
    byId('failure-count').textContent =
      `${counted(total, 'failure', 'failures')}, ${counted(groups.length, 'sort', 'sorts')}`;
    for (const group of groups) list.append(this.failure(group, most));
    byId('failure-list').replaceChildren(
      groups.length
        ? list
        : element(
            'p',
            { class: 'quiet' },
            this.data.count ? 'None: every operation succeeded.' : 'None.',
          ),
    );
  }

  failure(group, most) {
    const bar = element('span', { class: 'share' });
    bar.style.width = `${Math.max((group.total / most) * 100, 1)}%`;
    const ops = [...group.ops]
      .sort((a, b) => b[1] - a[1])
      .map(([op, number]) => `${op} ${count(number)}`)
      .join(' · ');
    const attributes = { type: 'button', onclick: () => this.showFailures(group) };
    const button = element(
      'button',
      attributes,
      element('span', { class: 'total number' }, count(group.total)),
      element(
        'span',
        { class: 'what' },
        element('b', {}, group.errno),
        group.stage ? ` ${group.stage}` : '',
        element('span', { class: 'why' }, group.reason ?? 'why is not certain'),
        element('span', { class: 'quiet' }, ops),
      ),
      bar,
    );
    return element('li', {}, button);
  }

  showFailures(group) {
    byId('search').value = '';
    this.table.onlyFailures({
      name: `${group.errno} ${group.stage ?? ''}`.trim(),
      numbers: group.numbers,
    });
    this.toOperations();
  }

  toOperations() {
    const isCalm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    byId('operations').scrollIntoView({ behavior: isCalm ? 'auto' : 'smooth', block: 'start' });
    byId('grid').focus({ preventScroll: true });
  }

  search(query) {
    byId('search').value = query;
    byId('in-view').checked = false;
    this.table.failures = null;
    byId('failure-chip').replaceChildren();
    this.table.outcome(false);
    this.toOperations();
  }

  openOperation(i, takesFocus) {
    this.details.openOperation(i, takesFocus);
  }

  openLife(life) {
    this.timeline.mark(life);
    this.details.openLife(life, true);
  }

  detailsClosed() {
    this.timeline.mark(-1);
  }

  viewChanged() {
    const { from, to, moment } = this.timeline;
    byId('shown').textContent = `${clock(this.data, from)} + ${length(to - from)}`;
    byId('slider').value = String(Math.round(((moment - from) / (to - from)) * 1000));
    this.table.viewChanged();
  }

  momentChanged() {
    const { from, to, moment } = this.timeline;
    const text = `${clock(this.data, moment)}`;
    byId('moment-text').textContent = `${text}, ${length(moment)} from the beginning`;
    byId('slider').setAttribute('aria-valuetext', text);
    if (document.activeElement !== byId('slider'))
      byId('slider').value = String(Math.round(((moment - from) / (to - from)) * 1000));
    this.treeSoon();
  }

  treeSoon() {
    if (this.isTreeAsked) return;
    this.isTreeAsked = true;
    requestAnimationFrame(() => {
      this.isTreeAsked = false;
      this.treeView.show(this.timeline.moment);
    });
  }

  listen() {
    byId('slider').addEventListener('input', () => {
      const { from, to } = this.timeline;
      this.timeline.setMoment(from + (Number(byId('slider').value) / 1000) * (to - from));
    });
    const { timeline, data } = this;
    byId('change-before').addEventListener('click', () =>
      timeline.setMoment(changeBeside(data, timeline.moment, false)),
    );
    byId('change-behind').addEventListener('click', () =>
      timeline.setMoment(changeBeside(data, timeline.moment, true)),
    );
    byId('moment-end').addEventListener('click', () => timeline.setMoment(data.span));
    document.addEventListener('keydown', (event) => this.key(event));
    let height = window.innerHeight;
    window.addEventListener('resize', () => {
      if (height !== window.innerHeight) timeline.layOut();
      height = window.innerHeight;
    });
  }

  key(event) {
    const isTyping = event.target.matches(
      'input:not([type=range]):not([type=checkbox]), select, textarea',
    );
    if (event.key === 'Escape') this.details.close();
    if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId('search').focus();
    }
  }

  showTip([name, ...lines], x, y) {
    const tip = byId('tip');
    tip.replaceChildren(element('b', {}, name), ...lines.map((line) => element('div', {}, line)));
    tip.hidden = false;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(Math.min(x + 14, window.innerWidth - width - 8), 4)}px`;
    tip.style.top = `${y + 18 + height > window.innerHeight ? y - height - 10 : y + 18}px`;
  }

  hideTip() {
    byId('tip').hidden = true;
    if (this.timeline.marked >= 0 && !this.details.isOpen) this.timeline.mark(-1);
  }
}

// Failures of one errno in one stage, for one reason whatever the numbers in it are; the most
// frequent first.
function failureGroups(data) {
  const totals = new Uint32Array(data.tables.failures.length + 1);
  for (let i = 0; i < data.count; i++) totals[data.failure[i]]++;
  const groups = new Map();
  data.tables.failures.forEach((failure, at) => {
    const [op, errno, name, stage, reason] = failure;
    const like = reason?.replace(/\b(mnt|uts|ipc|pid|net|user|cgroup|time):\d+/g, '$1:…') ?? null;
    const key = JSON.stringify([errno, stage, like]);
    if (!groups.has(key))
      groups.set(key, {
        errno: name ?? `errno ${errno}`,
        stage,
        reason: like,
        total: 0,
        ops: new Map(),
        numbers: new Set(),
        only: reason,
      });
    addTo(groups.get(key), data.ops[op], at + 1, totals[at + 1], reason);
  });
  return [...groups.values()].sort((a, b) => b.total - a.total);
}

function addTo(group, op, number, total, reason) {
  group.total += total;
  group.ops.set(op, (group.ops.get(op) ?? 0) + total);
  group.numbers.add(number);
  // A number that is always the same is told.
  if (group.only !== reason) group.only = null;
  if (group.only) group.reason = group.only;
  else if (group.reason)
    group.reason = group.reason.replace(/\b(mnt|uts|ipc|pid|net|user|cgroup|time):\d+/g, '$1:…');
}

const dark = matchMedia('(prefers-color-scheme: dark)');

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId('theme').setAttribute('aria-pressed', String(theme === 'dark'));
  window.page?.timeline.resize();
}

function listenForTheme() {
  setTheme(dark.matches ? 'dark' : 'light');
  dark.addEventListener('change', () => setTheme(dark.matches ? 'dark' : 'light'));
  byId('theme').addEventListener('click', () =>
    setTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'),
  );
}

async function main() {
  listenForTheme();
  const data = await openData(byId('data').textContent);
  byId('data').remove();
  window.page = new Page(data);
  byId('opening').remove();
  // For who measures.
  requestAnimationFrame(() => {
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  });
}

main().catch((error) => {
  byId('opening').textContent =
    `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later (DecompressionStream).`;
});
