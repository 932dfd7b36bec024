"use strict";

const UPDATE_MS = 1000;
const MEAN_OVER = 5; // responses that a mean is taken over
// A browser opens only a few connections to a host; the streams must leave some for the figures.
const MAX_STREAMS = 3;
const RETRY_MS = 2000;
const STAGES = { read: "source", detect: "detection", embed: "appearance", track: "tracking", write: "outputs" };

const cards = new Map();
let responding = false;

// Sets a text only when it changes, since a screen reader announces every change.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, good) {
  element.classList.toggle("good", good);
  element.classList.toggle("bad", !good);
}

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 1 });
}

function duration(seconds) {
  if (seconds >= 10) return `${seconds.toFixed(0)} s`;
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  return `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}

class CameraImage {
  constructor(image, name, streams) {
    this.image = image;
    this.name = encodeURIComponent(name);
    this.streams = streams;
    this.timer = null;
    this.going = false;
    image.addEventListener("load", () => { if (!this.streams) this.nextIn(UPDATE_MS); });
    image.addEventListener("error", () => { this.streams = false; this.nextIn(RETRY_MS); });
  }

  start() {
    if (!this.going) this.next();
    this.going = true;
  }

  stop() {
    this.going = false;
    clearTimeout(this.timer);
    this.image.removeAttribute("src"); // also ends a stream
  }

  nextIn(ms) {
    clearTimeout(this.timer);
    if (this.going) this.timer = setTimeout(() => this.next(), ms);
  }

  next() {
    const kind = this.streams ? `/stream/${this.name}` : `/snapshot/${this.name}.jpg`;
    this.image.src = `${kind}?${Date.now()}`;
  }
}

class Card {
  constructor(camera, streams) {
    this.element = document.getElementById("camera").content.firstElementChild.cloneNode(true);
    const heading = this.find("h2");
    heading.textContent = camera.name;
    heading.id = `camera-${camera.name}`;
    this.element.setAttribute("aria-labelledby", heading.id);
    const image = this.find("img");
    image.alt = `Live image of ${camera.name} with its tracked objects`;
    this.image = new CameraImage(image, camera.name, streams);
    this.history = [];
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  set(what, text) {
    write(this.find(`[data-is=${what}]`), text);
  }

  // The mean over the last responses in seconds; null if nothing was timed.
  recent(pick) {
    const first = pick(this.history[0]);
    const last = pick(this.history[this.history.length - 1]);
    const count = last.count - first.count;
    if (count > 0) return (last.total_s - first.total_s) / count;
    return this.history.length === 1 && last.count > 0 ? last.total_s / last.count : null;
  }

  show(camera) {
    this.history.push(camera);
    if (this.history.length > MEAN_OVER) this.history.shift();
    if (camera.frames < this.history[0].frames) this.history = [camera]; // a new run

    const state = this.find(".state");
    write(state, camera.connected ? "live" : camera.ended ? "ended" : "away");
    mark(state, camera.connected || camera.ended);
    if (camera.size) {
      this.element.style.setProperty("--ratio", `${camera.size[0]} / ${camera.size[1]}`);
      if (!document.hidden) this.image.start();
    }
    const away = this.find(".away");
    const why = camera.problem || (camera.ended ? "the file has ended" : camera.size ? "" : "waiting for the first frame");
    away.hidden = camera.connected && Boolean(camera.size);
    write(away, camera.connected ? why : `No image${why ? `: ${why}` : ""}`);

    this.set("fps", camera.fps.toFixed(1));
    const latency = this.recent((past) => past.latency);
    this.set("latency", latency === null ? "–" : duration(latency));
    this.set("active", number(camera.active));
    this.set("objects", number(camera.objects));
    write(this.find(".limit"), this.limit(camera));
    this.counts(camera.counts);
    const embedded = camera.detections ? (100 * camera.embedded) / camera.detections : 0;
    write(this.find(".small"), [
      `${number(camera.frames)} frames`,
      `${number(camera.dropped)} dropped`,
      `${number(camera.reconnects)} reconnects`,
      `${embedded.toFixed(0)} % of detections embedded`,
    ].join(" · "));
    this.trouble(camera);
  }

  limit(camera) {
    let slowest = null;
    let sum = 0;
    for (const stage of Object.keys(camera.stages)) {
      const mean = this.recent((past) => past.stages[stage] || { count: 0, total_s: 0 });
      if (mean === null) continue;
      sum += mean;
      if (slowest === null || mean > slowest.mean) slowest = { stage, mean };
    }
    if (slowest === null) return "";
    const name = STAGES[slowest.stage] || slowest.stage;
    return `Limited by ${name}: ${duration(slowest.mean)} of ${duration(sum)} per frame`;
  }

  counts(counts) {
    const list = this.find(".counts dl");
    const names = Object.keys(counts);
    this.find(".counts").hidden = names.length === 0;
    while (list.children.length > names.length) list.lastElementChild.remove();
    names.forEach((name, k) => {
      if (!list.children[k]) {
        const row = document.createElement("div");
        row.append(document.createElement("dt"), document.createElement("dd"));
        list.append(row);
      }
      write(list.children[k].firstElementChild, name);
      write(list.children[k].lastElementChild, Card.summary(counts[name]));
    });
  }

  // The counts of a zone or line over all classes, and the mean time that objects stayed.
  static summary(counts) {
    return Object.entries(counts).filter(([what]) => !what.includes(".")).map(([what, n]) => {
      if (what !== "dwell") return `${what} ${number(n)}`;
      return counts.exits ? `mean stay ${duration(n / counts.exits)}` : "mean stay –";
    }).join(" · ");
  }

  trouble(camera) {
    const lines = [];
    if (camera.connected && camera.problem) lines.push(camera.problem);
    for (const [sink, why] of Object.entries(camera.failing)) lines.push(`${sink}: ${why}`);
    for (const [sink, n] of Object.entries(camera.lost)) {
      if (n > 0) lines.push(`${sink}: ${number(n)} lost`);
    }
    const list = this.find(".trouble");
    while (list.children.length > lines.length) list.lastElementChild.remove();
    lines.forEach((line, k) => {
      if (!list.children[k]) list.append(document.createElement("li"));
      write(list.children[k], line);
    });
  }
}

function arrange(cameras) {
  const names = cameras.map((camera) => camera.name).join("\n");
  if (names === [...cards.keys()].join("\n")) return;
  for (const card of cards.values()) card.image.stop();
  cards.clear();
  for (const camera of cameras) {
    const card = new Card(camera, cameras.length <= MAX_STREAMS);
    cards.set(camera.name, card);
  }
  const place = document.getElementById("cameras");
  place.classList.toggle("one", cameras.length === 1);
  place.replaceChildren(...[...cards.values()].map((card) => card.element));
}

function showBroker(mqtt) {
  const broker = document.getElementById("broker");
  broker.hidden = mqtt === null;
  if (mqtt === null) return;
  const lost = mqtt.lost ? `, ${number(mqtt.lost)} lost` : "";
  write(broker, mqtt.connected ? `broker connected${lost}` : `broker away: ${number(mqtt.queue)} messages waiting${lost}`);
  mark(broker, mqtt.connected && !mqtt.lost);
}

function showServers(servers) {
  const place = document.getElementById("servers");
  place.hidden = Object.keys(servers).length === 0;
  const all = Object.entries(servers).map(([name, server]) => {
    const seen = [`${number(server.lost)} lost`, `${number(server.fallback)} processed by the fallback`];
    const figures = seen.filter((_, k) => [server.lost, server.fallback][k] > 0).map((text) => `, ${text}`).join("");
    return `${name} server ${server.up ? "up" : `away: ${server.problem}`}${figures}`;
  });
  write(place, all.join(" · "));
  mark(place, Object.values(servers).every((server) => server.up));
}

async function update() {
  const run = document.getElementById("run");
  try {
    const response = await fetch("/api/status", { signal: AbortSignal.timeout(5000) });
    if (response.status === 401) {
      location.reload(); // shows the sign-in form
      return;
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    const status = await response.json();
    arrange(status.cameras);
    if (!responding) for (const card of cards.values()) card.image.stop(); // the streams ended when the server went away
    responding = true;
    document.body.classList.remove("stale");
    for (const camera of status.cameras) cards.get(camera.name).show(camera);
    const away = status.cameras.filter((camera) => !camera.connected && !camera.ended).length;
    const all = status.cameras.length;
    let text = all === 1 ? "1 camera" : `${all} cameras`;
    if (away) text += `, ${away} away`;
    if (!status.ready) text += ", loading models";
    if (status.models_changed) text += "; a model file was replaced: restart to use it";
    write(run, text);
    mark(run, away === 0 && status.ready);
    showBroker(status.mqtt);
    showServers(status.servers);
  } catch {
    responding = false;
    document.body.classList.add("stale");
    write(run, "edge-tracker is not responding; retrying");
    mark(run, false);
  }
  schedule();
}

let timer = null;
function schedule() {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(update, UPDATE_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    for (const card of cards.values()) card.image.stop();
  } else {
    update();
  }
});

update();
