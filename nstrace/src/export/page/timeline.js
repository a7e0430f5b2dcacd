// Lives of namespaces on a time axis, in lanes by kind, on a canvas that has what is seen.

const LANE = 7;
// What is told of most, first.
const ORDER = ['user', 'pid', 'net', 'mnt', 'ipc', 'uts', 'cgroup', 'time'];
const HEAD = { axis: 20, strip: 34 };
const KIND_GAP = 6;
const GUTTER = 58;
const SHORTEST_NS = 200;

class Timeline {
  constructor(data, page) {
    this.data = data;
    this.page = page;
    this.canvas = byId('lives');
    this.box = byId('lanes');
    this.kindsShown = data.kinds.map(() => true);
    this.span = Math.max(data.span, SHORTEST_NS);
    this.from = 0;
    this.to = this.span;
    this.moment = data.span;
    this.marked = -1;
    this.lanes = data.kinds.map((_, kind) => lanesOf(data, kind));
    this.order = ORDER.map((kind) => data.kinds.indexOf(kind));
    this.addKinds();
    this.listen();
    this.layOut();
  }

  addKinds() {
    this.order.forEach((kind) => {
      const name = this.data.kinds[kind];
      const lives = this.lanes[kind].reduce((sum, lane) => sum + lane.length, 0);
      if (!lives) return;
      const toggle = element(
        'button',
        { type: 'button', class: 'chip', 'data-kind': name, 'aria-pressed': 'true' },
        `${name} `,
        element('span', {}, count(lives)),
      );
      toggle.addEventListener('click', () => this.toggle(kind, toggle));
      byId('kinds').append(toggle);
    });
  }

  toggle(kind, button) {
    this.kindsShown[kind] = !this.kindsShown[kind];
    button.setAttribute('aria-pressed', String(this.kindsShown[kind]));
    this.layOut();
  }

  // Where each lane is, from the top.
  layOut() {
    this.rows = [];
    let y = HEAD.axis + HEAD.strip + KIND_GAP;
    this.groups = [];
    this.order.forEach((kind) => {
      const lanes = this.lanes[kind];
      if (!lanes.length || !this.kindsShown[kind]) return;
      this.groups.push({ kind, y, height: lanes.length * LANE });
      for (const lane of lanes) {
        this.rows.push({ kind, lane, y });
        y += LANE;
      }
      y += KIND_GAP;
    });
    this.height = y;
    // One more pixel, or a rounding may make a bar for scrolling.
    const shown = Math.min(Math.max(y, 100), Math.max(180, window.innerHeight * 0.42));
    this.box.style.height = `${Math.ceil(shown) + 2}px`;
    byId('lanes-height').style.height = `${Math.max(0, y - Math.ceil(shown))}px`;
    this.resize();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    this.width = Math.max(width, GUTTER + 50);
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    this.shownHeight = height;
    this.ratio = ratio;
    this.colors = readColors(this.data.kinds);
    this.draw();
  }

  x(time) {
    return GUTTER + ((time - this.from) / (this.to - this.from)) * (this.width - GUTTER);
  }

  time(x) {
    return this.from + ((x - GUTTER) / (this.width - GUTTER)) * (this.to - this.from);
  }

  // Shows a span of time, as far as there is one.
  show(from, to) {
    const length = Math.min(Math.max(to - from, SHORTEST_NS), this.span);
    const middle = (from + to) / 2;
    this.from = Math.min(Math.max(middle - length / 2, 0), this.span - length);
    this.to = this.from + length;
    this.draw();
    this.page.viewChanged();
  }

  zoom(factor, around = (this.from + this.to) / 2) {
    const length = (this.to - this.from) * factor;
    if (length >= this.span) return this.show(0, this.span);
    const share = (around - this.from) / (this.to - this.from);
    const from = around - share * Math.max(length, SHORTEST_NS);
    this.show(from, from + Math.max(length, SHORTEST_NS));
  }

  pan(share) {
    const by = share * (this.to - this.from);
    this.show(this.from + by, this.to + by);
  }

  setMoment(moment) {
    this.moment = Math.min(Math.max(moment, 0), this.data.span);
    this.draw();
    this.page.momentChanged();
  }

  mark(life) {
    this.marked = life;
    this.draw();
  }

  // Shows a life, with as much time before and behind it.
  showLife(life) {
    const start = this.data.ns_start[life];
    const end = Math.min(deathOf(this.data, life), this.data.span);
    const beside = Math.max(end - start, SHORTEST_NS) * 0.5;
    this.marked = life;
    const row = this.rows.find(({ lane }) => lane.includes(life));
    if (row) this.box.scrollTop = row.y - this.shownHeight / 2;
    this.show(start - beside, end + beside);
  }

  draw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.drawNow();
    });
  }

  drawNow() {
    const context = this.canvas.getContext('2d');
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.shownHeight);
    context.font = '11px ui-monospace, "DejaVu Sans Mono", monospace';
    this.drawLosses(context);
    this.drawGroups(context);
    this.drawLives(context);
    this.drawHead(context);
    this.drawMoment(context);
  }

  drawLosses(context) {
    context.fillStyle = this.colors.loss;
    for (const [from, until] of this.data.lost) {
      const [x, end] = [this.x(from), this.x(until)];
      if (end < GUTTER || x > this.width) continue;
      context.fillRect(
        Math.max(x, GUTTER),
        0,
        Math.max(end - Math.max(x, GUTTER), 2),
        this.shownHeight,
      );
    }
  }

  drawGroups(context) {
    const top = HEAD.axis + HEAD.strip;
    context.textBaseline = 'top';
    context.textAlign = 'left';
    for (const { kind, y, height } of this.groups) {
      const at = y - this.box.scrollTop;
      if (at + height < top || at > this.shownHeight) continue;
      context.fillStyle = this.colors.line;
      context.fillRect(0, at - KIND_GAP / 2, this.width, 1);
      context.fillStyle = this.colors.kinds[kind];
      // The name stays in sight while its lanes are.
      const nameAt = Math.min(Math.max(at, top + 4), at + Math.max(height - 11, 0));
      context.fillText(this.data.kinds[kind], 4, nameAt - 1);
    }
  }

  drawLives(context) {
    const top = HEAD.axis + HEAD.strip;
    for (const { kind, lane, y } of this.rows) {
      const at = y - this.box.scrollTop;
      if (at + LANE < top || at > this.shownHeight) continue;
      context.fillStyle = this.colors.kinds[kind];
      this.drawLane(context, lane, at);
    }
    context.clearRect(0, 0, this.width, top);
  }

  drawLane(context, lane, y) {
    let last = GUTTER;
    for (let at = firstEnding(this.data, lane, this.from); at < lane.length; at++) {
      const life = lane[at];
      const start = this.x(this.data.ns_start[life]);
      if (start > this.width) break;
      const end = Math.min(this.x(deathOf(this.data, life)), this.width);
      const x = Math.max(start, GUTTER);
      if (end < last && end - x < 1 && life !== this.marked) continue;
      const width = Math.max(end - x, 1);
      context.fillRect(x, y, width > 3 && end < this.width ? width - 1 : width, LANE - 2);
      if (life === this.marked) this.drawMark(context, x, y, width);
      last = x + 1;
    }
  }

  drawMark(context, x, y, width) {
    context.strokeStyle = this.colors.text;
    context.lineWidth = 1.5;
    context.strokeRect(x - 1, y - 1, width + 1, LANE);
  }

  // The axis, and how many operations there were beside each other.
  drawHead(context) {
    context.fillStyle = this.colors.line;
    context.fillRect(0, HEAD.axis + HEAD.strip, this.width, 1);
    context.textBaseline = 'middle';
    context.textAlign = 'center';
    const step = niceStep((this.to - this.from) / Math.max((this.width - GUTTER) / 110, 1));
    for (let time = Math.ceil(this.from / step) * step; time <= this.to; time += step) {
      const x = this.x(time);
      context.fillStyle = this.colors.line;
      context.fillRect(Math.round(x), HEAD.axis - 4, 1, 4);
      context.fillStyle = this.colors.quiet;
      if (x < this.width - 24)
        context.fillText(axisLabel(time, step, this.to), Math.max(x, GUTTER + 14), 8);
    }
    this.drawStrip(context);
  }

  drawStrip(context) {
    const { all, failed } = this.counts();
    const most = Math.log1p(Math.max(...all, 1));
    const bottom = HEAD.axis + HEAD.strip;
    const height = (number) => (Math.log1p(number) / most) * (HEAD.strip - 6);
    for (let x = 0; x < all.length; x++) {
      if (!all[x]) continue;
      context.fillStyle = this.colors.strip;
      context.fillRect(GUTTER + x * 2, bottom - height(all[x]), 2, height(all[x]));
      if (!failed[x]) continue;
      // The share of the bar is the share of what failed.
      const bad = Math.max(height(all[x]) * (failed[x] / all[x]), 1);
      context.fillStyle = this.colors.bad;
      context.fillRect(GUTTER + x * 2, bottom - bad, 2, bad);
    }
    context.fillStyle = this.colors.quiet;
    context.textAlign = 'left';
    context.fillText('ops', 4, HEAD.axis + HEAD.strip / 2);
    this.drawLossMarks(context);
  }

  drawLossMarks(context) {
    context.fillStyle = this.colors.lossMark;
    for (const [from, until] of this.data.lost) {
      const [x, end] = [Math.max(this.x(from), GUTTER), this.x(until)];
      if (end >= GUTTER && x <= this.width)
        context.fillRect(x, HEAD.axis - 3, Math.max(end - x, 3), 3);
    }
  }

  // Operations and failures for each two pixels.
  counts() {
    const { data } = this;
    const length = Math.max(Math.ceil((this.width - GUTTER) / 2), 1);
    const [all, failed] = [new Uint32Array(length), new Uint32Array(length)];
    const scale = length / (this.to - this.from);
    for (let i = 0; i < data.count; i++) {
      const at = Math.floor((data.start[i] - this.from) * scale);
      if (at < 0 || at >= length) continue;
      all[at]++;
      if (data.failure[i]) failed[at]++;
    }
    return { all, failed };
  }

  drawMoment(context) {
    const x = this.x(this.moment);
    if (x < GUTTER - 1 || x > this.width + 1) return;
    context.fillStyle = this.colors.accent;
    context.fillRect(Math.min(Math.round(x), this.width - 2), HEAD.axis, 1.5, this.shownHeight);
  }

  // The life at a point of the canvas, or near it; -1 without one.
  at(x, y) {
    const top = HEAD.axis + HEAD.strip;
    if (y < top || x < GUTTER) return -1;
    const inner = y + this.box.scrollTop;
    const row = this.rows.find((row) => inner >= row.y - 1 && inner < row.y + LANE - 1);
    if (!row) return -1;
    const near = 3 * ((this.to - this.from) / (this.width - GUTTER));
    const time = this.time(x);
    const at = firstEnding(this.data, row.lane, time - near);
    const life = row.lane[at];
    return life !== undefined && this.data.ns_start[life] <= time + near ? life : -1;
  }

  listen() {
    const { canvas } = this;
    this.box.addEventListener('scroll', () => this.draw());
    new ResizeObserver(() => this.width !== this.box.clientWidth && this.resize()).observe(
      this.box,
    );
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('pointerdown', (event) => this.press(event));
    canvas.addEventListener('pointermove', (event) => this.point(event));
    canvas.addEventListener('pointerup', (event) => this.release(event));
    canvas.addEventListener('pointerleave', () => this.page.hideTip());
    canvas.addEventListener('keydown', (event) => this.key(event));
    const buttons = {
      'zoom-in': () => this.zoom(0.5),
      'zoom-out': () => this.zoom(2),
      'zoom-all': () => this.show(0, this.span),
      'pan-left': () => this.pan(-0.25),
      'pan-right': () => this.pan(0.25),
    };
    for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener('click', act);
  }

  // Alone it scrolls the page, unless the time line has the focus.
  wheel(event) {
    const isAsked = event.ctrlKey || event.metaKey || document.activeElement === this.canvas;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      return this.pan((event.deltaX || event.deltaY) / this.width);
    }
    const isAll = this.to - this.from >= this.span;
    if (!isAsked || (isAll && event.deltaY > 0)) return undefined;
    event.preventDefault();
    return this.zoom(
      Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.004),
      this.time(event.offsetX),
    );
  }

  press(event) {
    this.drag = {
      x: event.clientX,
      y: event.clientY,
      from: this.from,
      to: this.to,
      top: this.box.scrollTop,
      moved: false,
    };
    this.canvas.setPointerCapture(event.pointerId);
  }

  point(event) {
    if (!this.drag) return this.hover(event);
    const [dx, dy] = [event.clientX - this.drag.x, event.clientY - this.drag.y];
    this.drag.moved ||= Math.hypot(dx, dy) > 4;
    if (!this.drag.moved) return undefined;
    this.page.hideTip();
    this.box.scrollTop = this.drag.top - dy;
    const by = (-dx / (this.width - GUTTER)) * (this.drag.to - this.drag.from);
    return this.show(this.drag.from + by, this.drag.to + by);
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    if (!drag || drag.moved) return;
    const life = this.at(event.offsetX, event.offsetY);
    if (life >= 0) this.page.openLife(life);
    else if (event.offsetX >= GUTTER) this.setMoment(this.time(event.offsetX));
  }

  hover(event) {
    const life = this.at(event.offsetX, event.offsetY);
    this.canvas.style.cursor = life >= 0 ? 'pointer' : 'crosshair';
    if (life !== this.marked) this.mark(life);
    if (life < 0) this.page.hideTip();
    else this.page.showTip(lifeWords(this.data, life), event.clientX, event.clientY);
  }

  key(event) {
    const acts = {
      '+': () => this.zoom(0.5),
      '=': () => this.zoom(0.5),
      '-': () => this.zoom(2),
      ArrowLeft: () => this.pan(-0.2),
      ArrowRight: () => this.pan(0.2),
      0: () => this.show(0, this.span),
      Home: () => this.show(0, this.to - this.from),
      End: () => this.show(this.span - (this.to - this.from), this.span),
      ArrowUp: () => {
        this.box.scrollTop -= 4 * LANE;
      },
      ArrowDown: () => {
        this.box.scrollTop += 4 * LANE;
      },
    };
    const act = acts[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }
}

function readColors(kinds) {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    kinds: kinds.map((kind) => read(`--${kind}`)),
    text: read('--text'),
    quiet: read('--quiet'),
    line: read('--line'),
    bad: read('--bad'),
    strip: read('--strip'),
    accent: read('--accent'),
    loss: read('--loss'),
    lossMark: read('--loss-mark'),
  };
}

// A step of 1, 2 or 5 times a power of ten, or of whole minutes, that is not shorter.
function niceStep(ns) {
  const long = [60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400].map((s) => s * NS.s);
  if (ns > 50 * NS.s) return long.find((step) => step >= ns) ?? Math.ceil(ns / long[8]) * long[8];
  const power = 10 ** Math.floor(Math.log10(ns));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= ns * 0.999);
}

function axisLabel(time, step, last) {
  if (last < NS.s) {
    const [unit, ns] = last < NS.ms ? ['us', NS.us] : ['ms', NS.ms];
    return `${(time / ns).toFixed(digitsOf(step / ns))}${unit}`;
  }
  if (step >= NS.m || (step >= NS.s && time >= NS.m)) {
    const minutes = Math.floor(time / NS.m);
    const text =
      minutes >= 60 ? `${Math.floor(minutes / 60)}h${two(minutes % 60)}m` : `${minutes}m`;
    return step % NS.m ? `${text}${two((time % NS.m) / NS.s)}s` : text;
  }
  return `${(time / NS.s).toFixed(digitsOf(step / NS.s))}s`;
}

// Digits behind the point that tell one step from the next.
function digitsOf(step) {
  return Math.max(0, Math.min(9, -Math.floor(Math.log10(step) + 1e-9)));
}

// What is said of a life at the pointer.
function lifeWords(data, life) {
  const death = deathOf(data, life);
  const since = ['there before', 'seen first', 'born'][data.ns_since[life]];
  const lines = [nsName(data, life)];
  lines.push(data.ns_since[life] ? `${since} ${clock(data, data.ns_start[life])}` : since);
  if (death !== Infinity)
    lines.push(`died ${clock(data, death)}, after ${length(death - data.ns_start[life])}`);
  else lines.push('alive at the end');
  const maker = makerName(data, life);
  if (maker) lines.push(`made by ${maker}`);
  return lines;
}
