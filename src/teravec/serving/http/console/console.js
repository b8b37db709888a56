// The console: asks /info once in a while and /statistics every second, and draws what they say.
"use strict";

const byId = (id) => document.getElementById(id);
const number = (x, digits = 0) =>
  x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const ms = (s) => `${number(1e3 * s, s < 0.01 ? 2 : 1)} ms`;
const TREND_POINTS = 120;
const trend = [];

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${number(n, unit ? 1 : 0)} ${units[unit]}`;
}

// Text is only ever set as text: nothing a server says becomes markup.
function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(cells) {
  const made = document.createElement("tr");
  for (const [text, className] of cells) made.append(element("td", text, className));
  return made;
}

const ranges = (pairs) => pairs.map(([a, b]) => `${a}:${b}`).join(", ") || "none";

function showInfo(info) {
  const terms = {
    vectors: `${number(info.ntotal)} × ${info.d}`,
    metric: info.metric,
    codec: `${info.codec}, ${info.code_size} bytes a code`,
    transform: info.transform,
    codes: bytes(info.ntotal * info.code_size),
    lists: number(info.nlist),
    "served here": ranges(info.lists),
  };
  const list = byId("index");
  list.replaceChildren();
  for (const [name, text] of Object.entries(terms)) {
    list.append(element("dt", name), element("dd", text));
  }
  byId("version").textContent = `index version ${info.version}`;
  const most = Math.max(1, ...info.histogram.map((bin) => bin.lists));
  const rows = info.histogram.flatMap((bin) => {
    const bar = element("div", "", "bar");
    bar.style.width = `${(100 * bin.lists) / most}%`;
    const span = bin.from === bin.to ? number(bin.from) : `${number(bin.from)}–${number(bin.to)}`;
    return [element("span", `${span} vectors`), bar, element("span", `${number(bin.lists)} lists`)];
  });
  byId("histogram").replaceChildren(...rows);
  showColumns(info.columns || {}, info.text_ids);
}

// The index's columns as boxes to tick: those that were ticked stay so.
function showColumns(kinds, textIds) {
  const names = Object.keys(kinds);
  byId("filter-label").hidden = byId("columns-box").hidden = !names.length;
  const box = byId("columns");
  const key = JSON.stringify(kinds);
  if (box.dataset.key === key) return;
  const ticked = new Set(chosenColumns());
  box.dataset.key = key;
  box.replaceChildren(...names.filter((name) => name !== textIds).map((name) => {
    const label = element("label", "", "inline");
    const tick = element("input");
    tick.type = "checkbox";
    tick.value = name;
    tick.checked = ticked.has(name);
    label.append(tick, element("span", name), element("small", kinds[name]));
    return label;
  }));
}

const chosenColumns = () =>
  [...byId("columns").querySelectorAll("input:checked")].map((tick) => tick.value);

// A value of a column: lists are joined, and nothing is shown for null.
function shown(value) {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.map(shown).join(", ") : String(value);
}

function showState(statistics) {
  const badge = byId("state");
  const text = statistics.draining ? "draining" : statistics.ready ? "ready" : "not ready";
  badge.textContent = text;
  badge.className = `badge ${text === "ready" ? "good" : "bad"}`;
}

function showFigures(statistics) {
  const recent = statistics.recent;
  const figures = recent.requests
    ? [["p50", ms(recent.p50_s)], ["p90", ms(recent.p90_s)], ["p99", ms(recent.p99_s)],
       ["queries/s", number(recent.queries_per_s, 1)],
       ["bytes/query", bytes(recent.bytes_per_query)]]
    : [["requests", "none yet"]];
  figures.push(["waiting", number(statistics.waiting)]);
  byId("figures").replaceChildren(...figures.map(([name, value]) => {
    const figure = element("div");
    figure.append(element("b", value), element("span", name));
    return figure;
  }));
  if (recent.requests) trend.push(recent);
  if (trend.length > TREND_POINTS) trend.shift();
  drawTrend();
}

function drawTrend() {
  if (!trend.length) return;
  const most = Math.max(...trend.map((point) => point.p99_s), 1e-6);
  byId("scale").textContent = `top: ${ms(most)}`;
  const lines = ["p99", "p50"].map((name) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const x = (i) => 360 - (trend.length - 1 - i) * (360 / TREND_POINTS);
    line.setAttribute("points",
      trend.map((p, i) => `${x(i)},${86 - (82 * p[`${name}_s`]) / most}`).join(" "));
    line.setAttribute("class", name);
    return line;
  });
  byId("trend").replaceChildren(...lines);
}

function showServers(servers, current) {
  byId("servers-section").hidden = !servers;
  if (!servers) return;
  byId("servers").replaceChildren(...servers.map((s) => {
    const owned = s.versions[current] || [];
    const state = s.slow && s.state === "live" ? "live, slow" : s.state;
    const made = row([
      [s.address], [state, s.state !== "live" ? "bad" : s.slow ? "warn" : "good"],
      [ranges(owned)], [ms(s.latency_s)], [`${number(s.slowness, 1)}×`],
      [bytes(s.outstanding_bytes)], [number(s.calls)], [number(s.failures)], [number(s.hedges)],
    ]);
    made.title = s.why;
    return made;
  }));
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const content = await response.json();
  if (!response.ok) throw new Error(`${content.error}: ${content.message}`);
  return content;
}

let known = { version: null };

async function refresh() {
  try {
    const statistics = await ask("statistics");
    const versions = Object.keys(statistics.versions);
    if (known.version !== versions[versions.length - 1] || !(refresh.count % 15)) {
      known = await ask("info");
      showInfo(known);
    }
    refresh.count += 1;
    showState(statistics);
    showFigures(statistics);
    showServers(statistics.servers, known.version);
  } catch (error) {
    byId("state").textContent = "no answer";
    byId("state").className = "badge bad";
  }
  setTimeout(refresh, 1000);
}
refresh.count = 0;

// "#17, 42": ids. "[[1, 2], [3, 4]]" or "[1, 2]": JSON. Else numbers, one vector a line.
function readQuery(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("#")) {
    // As text: JavaScript's numbers round ids above 2^53.
    return { ids: trimmed.slice(1).split(/[\s,#]+/).filter(Boolean) };
  }
  if (trimmed.startsWith("[")) {
    const parsed = JSON.parse(trimmed);
    return { queries: Array.isArray(parsed[0]) ? parsed : [parsed] };
  }
  const lines = trimmed.split("\n").filter((line) => line.trim());
  return { queries: lines.map((line) => line.split(/[\s,;]+/).filter(Boolean).map(Number)) };
}

async function search(event) {
  event.preventDefault();
  const told = byId("told");
  told.className = "";
  told.textContent = "searching";
  try {
    const body = {
      ...readQuery(byId("query").value), k: Number(byId("k").value),
      nprobe: Number(byId("nprobe").value), allow_partial: byId("partial").checked,
      string_ids: true,
    };
    const filter = byId("filter").value.trim();
    const names = chosenColumns();
    if (filter) body.filter = filter;
    if (names.length) body.columns = names;
    const answer = await ask("search", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    const missing = answer.missing ? `, ${number(100 * answer.missing, 2)} % missing` : "";
    const asked = answer.results.length === 1 ? "1 query" : `${number(answer.results.length)} queries`;
    told.textContent = `${asked} in ${ms(answer.seconds)}${missing}`;
    const columns = answer.results.length ? Object.keys(answer.results[0].columns || {}) : [];
    const rows = answer.results.flatMap((result, query) => result.ids.map((id, rank) =>
      row([[String(query)], [String(rank + 1)], [String(id)],
           [Number(result.distances[rank]).toPrecision(7)],
           ...columns.map((name) => [shown(result.columns[name][rank]), "text"])])));
    const heads = ["query", "rank", "id", "distance"].map((name) => element("th", name));
    heads.push(...columns.map((name) => element("th", name, "text")));
    const head = element("tr");
    head.append(...heads);
    byId("results").querySelector("thead").replaceChildren(head);
    byId("results").querySelector("tbody").replaceChildren(...rows);
    if (!rows.length) told.textContent += "; nothing was found";
    byId("results").hidden = false;
  } catch (error) {
    told.className = "bad";
    told.textContent = error.message;
    byId("results").hidden = true;
  }
}

byId("ask").addEventListener("submit", search);
refresh();
