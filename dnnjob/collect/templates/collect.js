"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE_ROWS = 200;
  const place = new Map(data.columns.map((column, i) => [column.name, i]));
  const order = data.rows.map((_, i) => i);
  const texts = data.rows.map((row) => row.map((value) => value ?? "").join("\n").toLowerCase());
  const state = { sort: "", find: "", wide: false, shown: PAGE_ROWS };

  // Four significant digits, as dnnjob.results.notation has them.
  function formatNumber(value, digits = 4) {
    if (value === 0) return "0";
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const size = Math.abs(Number(`${mantissa}e${exponent}`));
    if (size < 1e-4 || size >= 1e6) return `${mantissa}e${Number(exponent)}`;
    const decimals = Math.max(0, digits - 1 - Number(exponent));
    return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  function formatGain(value) {
    const ratio = 1 + value;
    const word = ratio > 1 ? "worse" : "better";
    if (ratio >= 10 || (ratio > 0 && ratio <= 0.1)) {
      const times = Math.max(ratio, 1 / ratio);
      return `${times < 999.5 ? Number(times.toPrecision(3)) : formatNumber(times, 3)} times ${word}`;
    }
    const percent = Math.round(Math.abs(value) * 100);
    return percent === 0 ? "equal" : `${percent} % ${word}`;
  }

  function formatCell(value, column) {
    if (value === null) return "–";
    if (column.gain) return formatGain(value);
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (column.kind !== "number") return String(value);
    // What a person chose is shown as chosen; what was drawn for a search has digits without end.
    if (column.whole) return String(value);
    return column.name.startsWith("job.") ? String(Number(value.toPrecision(6))) : formatNumber(value);
  }

  function findColumn(name) {
    return place.get(name) ?? place.get(`job.${name}`)
      ?? data.columns.findIndex((column) => column.label.endsWith(`.${name}`));
  }

  function makeTest(word) {
    const parts = /^([^=<>]+)([=<>])(.*)$/.exec(word);
    if (!parts) return (i) => texts[i].includes(word.toLowerCase());
    const [, name, sign, text] = parts;
    const at = findColumn(name);
    if (at < 0) throw new Error(`no column ${name}`);
    const isNumber = data.columns[at].kind === "number";
    const wanted = isNumber && text !== "" ? Number(text) : text.toLowerCase();
    if (Number.isNaN(wanted)) throw new Error(`${name} is compared with a number`);
    return (i) => {
      const value = data.rows[i][at];
      if (value === null || text === "") return sign === "=" && value === null && text === "";
      const mine = isNumber ? value : String(value).toLowerCase();
      return sign === "=" ? mine === wanted : sign === "<" ? mine < wanted : mine > wanted;
    };
  }

  function filterRows() {
    const words = state.find.match(/\S+/g) ?? [];
    const tests = words.map(makeTest);
    return order.filter((i) => tests.every((test) => test(i)));
  }

  function sortRows(rows) {
    const name = state.sort.replace(/^-/, "");
    const at = findColumn(name);
    if (!name || at < 0) return rows;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const value = (i) => data.rows[i][at];
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
    });
  }

  function shownColumns() {
    return data.columns.map((column, i) => i).filter((i) => state.wide || data.columns[i].short);
  }

  function drawHead(columns) {
    const row = document.createElement("tr");
    for (const at of columns) {
      const column = data.columns[at];
      const head = document.createElement("th");
      head.scope = "col";
      if (column.kind === "number") head.className = "r";
      if (state.sort.replace(/^-/, "") === column.name) {
        head.setAttribute("aria-sort", state.sort.startsWith("-") ? "descending" : "ascending");
      }
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column.label;
      button.addEventListener("click", () => {
        change({ sort: state.sort === column.name ? `-${column.name}` : column.name });
        byId("runs").tHead.rows[0].cells[columns.indexOf(at)].firstChild.focus();
      });
      head.append(button);
      row.append(head);
    }
    byId("runs").tHead.replaceChildren(row);
  }

  function drawCell(i, at) {
    const column = data.columns[at];
    const value = data.rows[i][at];
    const cell = document.createElement("td");
    const text = formatCell(value, column);
    if (column.kind === "number") cell.className = "r";
    if (column.name === "state") cell.className = `state ${value ?? "none"}`;
    if (column.kind === "text" && text.length > 30) cell.title = text;
    if (column.name === "run_id" && data.links[i]) {
      const link = document.createElement("a");
      link.href = data.links[i];
      link.textContent = text;
      cell.append(link);
    } else {
      cell.textContent = column.name === "reason" && value === null ? "" : text;
    }
    return cell;
  }

  function drawBody(rows, columns) {
    const body = document.createDocumentFragment();
    for (const i of rows.slice(0, state.shown)) {
      const row = document.createElement("tr");
      row.append(...columns.map((at) => drawCell(i, at)));
      body.append(row);
    }
    byId("runs").tBodies[0].replaceChildren(body);
    const rest = rows.length - state.shown;
    byId("more").hidden = rest <= 0;
    byId("more").textContent = `Show the other ${rest.toLocaleString("en")}`;
  }

  // --- drawings -------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const FRAME = { width: 420, height: 270, left: 56, right: 14, top: 26, bottom: 40 };

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function makeScale(values, from, to, mayBend = true) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    const isLog = mayBend && low > 0 && high / low > 20;
    const bend = isLog ? Math.log10 : (value) => value;
    let [start, end] = [bend(low), bend(high)];
    const margin = (end - start) * 0.05 || Math.abs(start) * 0.1 || 1;
    [start, end] = [start - margin, end + margin];
    const at = (value) => from + ((bend(value) - start) / (end - start)) * (to - from);
    return { at, ticks: isLog ? logTicks(start, end) : linearTicks(start, end) };
  }

  function linearTicks(start, end) {
    const rough = (end - start) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const ticks = [];
    for (let k = Math.ceil(start / step); k * step <= end; k += 1) ticks.push(Number((k * step).toPrecision(12)));
    return ticks;
  }

  function logTicks(start, end) {
    const ticks = [];
    const decades = end - start;
    const marks = decades < 2.5 ? [1, 2, 5] : [1];
    const every = Math.max(1, Math.ceil(decades / 6));
    for (let power = Math.floor(start); power <= end; power += 1) {
      if (marks.length === 1 && power % every) continue;
      for (const mark of marks) {
        const value = mark * 10 ** power;
        if (Math.log10(value) >= start && Math.log10(value) <= end) ticks.push(Number(value.toPrecision(12)));
      }
    }
    return ticks;
  }

  function tickText(value) {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(0).replace("e+", "e") : String(value);
  }

  function placeClasses(classes) {
    const inner = FRAME.width - FRAME.left - FRAME.right;
    const at = (value) => FRAME.left + ((classes.indexOf(value) + 0.5) / classes.length) * inner;
    const every = Math.ceil(classes.length / 6);
    return { at, ticks: classes.filter((_, i) => i % every === 0) };
  }

  // Pixels aside, the same for a run in every drawing, so that runs of one value do not hide.
  function spread(i) {
    return (((i * 0.618034) % 1) - 0.5) * 14;
  }

  function dots(points) {
    const path = points.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h.01`).join("");
    return element("path", { class: points.length > 80 ? "dots" : "dots few", d: path });
  }

  function frame(label, x, y, xTitle, yTitle) {
    const { width, height, left, right, top, bottom } = FRAME;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const tick of y.ticks) {
      svg.append(element("path", { class: "grid", d: `M${left} ${y.at(tick)}H${width - right}` }));
      svg.append(element("text", { x: left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of x.ticks) {
      const text = typeof tick === "number" ? tickText(tick) : shorten(tick);
      svg.append(element("text", { x: x.at(tick), y: height - bottom + 15, "text-anchor": "middle" }, text));
    }
    svg.append(element("text", { class: "title", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xTitle));
    svg.append(element("text", { class: "title", x: 0, y: top - 12 }, yTitle));
    return svg;
  }

  function shorten(text) {
    return text.length > 12 ? `${text.slice(0, 11)}…` : text;
  }

  // Errors far above most of the others would press these flat: by Tukey's outer fence, on logs.
  function findTop(rows) {
    const errors = rows.map((i) => data.rows[i][place.get(data.ranking)]).filter((mse) => mse !== null);
    const logs = errors.map((mse) => Math.log(Math.max(mse, 1e-300))).sort((a, b) => a - b);
    const [low, high] = [0.25, 0.75].map((share) => logs[Math.floor(share * (logs.length - 1))]);
    return Math.max(...errors.filter((_, i, all) => all.length < 8 || Math.log(Math.max(errors[i], 1e-300)) <= high + 3 * (high - low)));
  }

  function pointsOf(key, rows) {
    const [at, error, top] = [place.get(key), place.get(data.ranking), findTop(rows)];
    return rows
      .map((i) => [data.rows[i][at], data.rows[i][error], spread(i)])
      .filter(([value, mse]) => value !== null && mse !== null)
      .map(([value, mse, aside]) => [value, Math.min(mse, top), aside, mse > top]);
  }

  // Share of the errors' variance that goes with a key: between its values, or quarters of many.
  function influence(key, rows) {
    const points = pointsOf(key, rows).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    const values = [...new Set(points.map(([value]) => value))];
    const groups = new Map();
    const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
    for (const [value, mse] of points) {
      const group = values.length > 4 ? Math.floor((4 * values.indexOf(value)) / values.length) : value;
      groups.set(group, [...(groups.get(group) ?? []), Math.log(Math.max(mse, 1e-300))]);
    }
    const all = [...groups.values()].flat();
    const variance = (numbers) => mean(numbers.map((one) => (one - mean(all)) ** 2));
    const between = [...groups.values()].flatMap((group) => group.map(() => mean(group)));
    return all.length && variance(all) ? variance(between) / variance(all) : 0;
  }

  function drawChart(key, rows) {
    const at = place.get(key);
    const points = pointsOf(key, rows);
    const column = data.columns[at];
    const isNumber = column.kind === "number";
    const classes = [...new Set(points.map(([value]) => value))].sort((a, b) => (a < b ? -1 : 1));
    if (classes.length < 2) return null;
    const { width, left, right, height, top, bottom } = FRAME;
    const x = isNumber ? makeScale(classes, left, width - right) : placeClasses(classes.map(String));
    const y = makeScale(points.map(([, mse]) => mse), height - bottom, top);
    const name = (value) => (isNumber ? value : String(value));
    const measure = data.ranking.replace("_mse", " MSE");
    const svg = frame(`${measure} against ${column.label}`, x, y, column.label, measure);
    const within = points.filter(([, , , isFar]) => !isFar);
    svg.append(dots(within.map(([value, mse, aside]) => [x.at(name(value)) + aside, y.at(mse)])));
    for (const [value, , aside, isFar] of points) {
      const from = x.at(name(value)) + aside;
      if (isFar) svg.append(element("path", { class: "far", d: `M${(from - 4).toFixed(1)} ${top + 4}l4 -7l4 7z` }));
    }
    drawMedians(svg, classes, points, (value) => x.at(name(value)), y, isNumber);
    const best = points.reduce((a, b) => (b[1] < a[1] ? b : a));
    svg.append(element("circle", { class: "best", r: 6, cx: x.at(name(best[0])) + best[2], cy: y.at(best[1]) }));
    const figure = document.createElement("figure");
    figure.append(svg);
    return figure;
  }

  function drawMedians(svg, classes, points, at, y, isNumber) {
    const errors = new Map(classes.map((value) => [value, []]));
    for (const [value, mse] of points) errors.get(value).push(mse);
    const median = (values) => {
      const [sorted, half] = [values.sort((a, b) => a - b), (values.length - 1) / 2];
      return (sorted[Math.floor(half)] + sorted[Math.ceil(half)]) / 2;
    };
    // Where hardly a value comes twice, as in a search, a line from run to run says nothing.
    if (classes.length > 40 || (classes.length > 12 && points.length < 2 * classes.length)) return;
    const medians = classes.map((value) => [at(value), y.at(median(errors.get(value)))]);
    const line = isNumber
      ? `M${medians.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}`
      : medians.map(([a, b]) => `M${(a - 9).toFixed(1)} ${b.toFixed(1)}h18`).join("");
    svg.append(element("path", { class: "medians", d: line }));
  }

  function drawCharts(rows) {
    const order = data.keys
      .map((key) => [key, influence(key, rows)])
      .sort((a, b) => b[1] - a[1])
      .map(([key]) => key);
    const charts = order.map((key) => drawChart(key, rows)).filter((chart) => chart);
    byId("figures").hidden = charts.length === 0;
    byId("charts").replaceChildren(...charts);
  }

  function drawScatter() {
    const { winner } = data;
    const figure = byId("scatter");
    if (!figure || !winner.points.length) return;
    const { width, left, right, height, top, bottom } = FRAME;
    const values = winner.points.flat();
    const x = makeScale(values, left, width - right, false);
    const y = makeScale(values, height - bottom, top, false);
    const target = winner.target ?? "target";
    const svg = frame(`Actual against predicted ${target}`, x, y, `actual ${target}`, `predicted ${target}`);
    svg.append(dots(winner.points.map(([a, p]) => [x.at(a), y.at(p)])));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    svg.append(element("path", { class: "exact", d: `M${x.at(low)} ${y.at(low)}L${x.at(high)} ${y.at(high)}` }));
    const caption = document.createElement("figcaption");
    const shown = winner.points.length;
    caption.textContent = `The ${winner.num_rows.toLocaleString("en")} test rows of ${winner.name}/${winner.run_id}${shown < winner.num_rows ? `, ${shown.toLocaleString("en")} of them drawn` : ""}. On the dashed line a prediction is exact.`;
    figure.append(svg, caption);
  }

  // --- state ----------------------------------------------------------------------------------
  function readHash() {
    const hash = new URLSearchParams(location.hash.slice(1));
    return { sort: hash.get("sort") ?? data.sort, find: hash.get("find") ?? "", wide: hash.get("wide") === "1", shown: PAGE_ROWS };
  }

  function writeHash() {
    const hash = new URLSearchParams();
    if (state.sort !== data.sort) hash.set("sort", state.sort);
    if (state.find) hash.set("find", state.find);
    if (state.wide) hash.set("wide", "1");
    history.replaceState(null, "", `#${hash}`);
  }

  function draw() {
    let rows = [];
    let fault = "";
    try {
      rows = filterRows();
    } catch (error) {
      fault = error.message;
    }
    byId("find").classList.toggle("wrong", fault !== "");
    byId("count").textContent = fault || `${rows.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} runs`;
    const columns = shownColumns();
    drawHead(columns);
    drawBody(sortRows(rows), columns);
    return rows;
  }

  function change(wish) {
    Object.assign(state, { shown: PAGE_ROWS }, wish);
    writeHash();
    const rows = draw();
    if ("find" in wish) drawCharts(rows);
  }

  function applyHash() {
    Object.assign(state, readHash());
    byId("find").value = state.find;
    byId("wide").checked = state.wide;
    drawCharts(draw());
  }

  let waiting = 0;
  byId("find").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ find: event.target.value }), 120);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("wide").addEventListener("change", (event) => change({ wide: event.target.checked }));
  byId("more").addEventListener("click", () => { state.shown = Infinity; draw(); });
  addEventListener("hashchange", applyHash);
  applyHash();
  drawScatter();
})();
