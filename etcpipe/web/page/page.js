// The page: asks each second what the taps did, and draws it.
"use strict";

const EVERY_MS = 1000, CLASSES = 7, RECENT = 10;
const byId = id => document.getElementById(id);
const taps = new Map();  // "netns/device": movements, oldest first
const fragment = new URLSearchParams(location.hash.slice(1));
let chosen = fragment.get("tap"), newest = 0;

if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);  // not for shoulders, nor for bookmarks
}
byId("login").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  ask();
});

async function ask() {
  const token = sessionStorage.getItem("token");
  try {
    const answer = await fetch(`api/movements?after=${newest}`, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
    byId("login").hidden = answer.status !== 401;
    if (!answer.ok) throw new Error(answer.status === 401 ? "token needed" : `status ${answer.status}`);
    take(await answer.json());
    say(`${new Date(Date.now()).toLocaleTimeString()}`, false);
  } catch (error) {
    say(error instanceof TypeError ? "etcpipe web does not answer" : error.message, true);
  }
}

function say(text, alarm) {
  byId("state").textContent = text;
  byId("state").classList.toggle("alarm", alarm);
}

function take(moved) {
  for (const one of moved) {
    const place = `${one.netns}/${one.device}`;
    if (!taps.has(place)) taps.set(place, []);
    taps.get(place).push(one);
    newest = Math.max(newest, one.time);
  }
  const now = Date.now() / 1000;
  for (const [place, kept] of taps) {
    while (kept.length && now - kept[0].time > SPAN_S) kept.shift();
    if (!kept.length || now - kept.at(-1).time > 15) taps.delete(place);
  }
  if (!taps.has(chosen)) chosen = taps.keys().next().value ?? null;
  byId("empty").hidden = chosen !== null;
  byId("view").hidden = chosen === null;
  choices();
  if (chosen !== null) show(taps.get(chosen));
}

function choices() {
  byId("taps").replaceChildren(...[...taps].map(([place, kept]) => {
    const button = document.createElement("button");
    button.textContent = kept.at(-1).device;
    button.title = `network namespace ${kept.at(-1).netns}`;
    button.setAttribute("aria-pressed", place === chosen);
    button.addEventListener("click", () => { chosen = place; take([]); });
    return button;
  }));
}

function show(kept) {
  const last = kept.at(-1), heard = kept.filter(one => one.consumer), now = last.time;
  if (!last.consumer) return;
  const { model, verdicts_total: totals, talkers, outputs } = last.consumer;
  const all = Object.values(totals).reduce((sum, n) => sum + n, 0);
  byId("about").textContent = `${last.mode}, ${last.loader}; model ${model.name} (${model.digest}) by ${model.engine}; `
    + `${all.toLocaleString("en")} flows judged since ${new Date(last.consumer.since * 1000).toLocaleString()}`
    + (last.flows === null ? "" : `; ${last.flows.toLocaleString("en")} flows in the table`);

  const recent = heard.slice(-RECENT), recentSeconds = recent.reduce((sum, one) => sum + one.seconds, 0);
  const names = Object.keys(totals).sort((a, b) => totals[b] - totals[a]);
  const series = pick => heard.map(one => [one.time, pick(one)]);
  const flows = names.slice(0, CLASSES).map(name => ({
    name, values: series(one => (one.consumer.verdicts[name] ?? 0) / one.seconds) }));
  if (names.length > CLASSES) flows.push({ name: "others", values: series(one =>
    names.slice(CLASSES).reduce((sum, name) => sum + (one.consumer.verdicts[name] ?? 0), 0) / one.seconds) });
  chart(byId("flows"), flows, { now, stacked: true, height: 224 });
  const rate = (name, counter) => ({ name, values: series(one => (one.counters[counter] ?? 0) / one.seconds) });
  const lost = { name: "lost", values: series(one => Object.values(one.lost).reduce((sum, n) => sum + n, 0) / one.seconds) };
  chart(byId("packets"), [rate("seen", "PACKETS_SEEN"), rate("first of flows", "PACKETS_FIRST_N"),
    rate("settled", "PACKETS_SETTLED"), lost], { now });
  chart(byId("latency"), ["median", "p99"].map(name => ({
    name: name === "p99" ? "99 %" : name, values: series(one => one.consumer.latency_s.total[name]) })), { now, format: duration });

  const share = n => `${(100 * n / (all || 1)).toFixed(1)} %`;
  table("classes", ["class", "flows", "share", "a second"], names.map(name =>
    [name, totals[name].toLocaleString("en"), share(totals[name]),
      (recent.reduce((sum, one) => sum + (one.consumer.verdicts[name] ?? 0), 0) / recentSeconds).toFixed(1)]));
  table("talkers", ["address", "bytes", "flows"], talkers.map(one => [one.address, bytes(one.bytes), one.flows.toLocaleString("en")]));
  const sum = {};
  for (const one of heard) for (const [name, n] of Object.entries(one.lost)) sum[name] = (sum[name] ?? 0) + n;
  const reasons = Object.entries(sum).map(([name, n]) => [words(name), n.toLocaleString("en")]);
  table("losses", ["reason, in the last 5 minutes", "packets"], reasons.length ? reasons : [["none", "0"]]);
  table("outputs", ["output", "written", "waiting", "dropped"], outputs.map(one => [
    one.error ? `${one.output}: ${one.error}` : one.output, one.written.toLocaleString("en"), one.waiting.toLocaleString("en"),
    Object.values(one.dropped).reduce((total, n) => total + n, 0).toLocaleString("en")]), outputs.map(one => one.error !== null));
}

function bytes(n) {
  const text = scaled(n);
  return text.includes(" ") ? `${text}B` : `${text} B`;
}

function words(counter) {
  return counter.replace(/^PACKETS_/, "").toLowerCase().replaceAll("_", " ");
}

function table(id, headers, rows, alarms = []) {
  const line = (kind, cells) => {
    const made = document.createElement("tr");
    made.append(...cells.map((text, i) => {
      const cell = document.createElement(kind);
      cell.textContent = text;
      if (i) cell.className = "number";
      return cell;
    }));
    return made;
  };
  byId(id).replaceChildren(line("th", headers), ...rows.map((cells, i) => {
    const made = line("td", cells);
    made.classList.toggle("alarm", Boolean(alarms[i]));
    return made;
  }));
}

ask();
setInterval(ask, EVERY_MS);
