// Lines by server-sent events, drawn as a window: only the rows in view exist as elements.
const ROW = 18;
const KEPT = 20000;
const views = new WeakMap();

const clock = (text) => {
  const at = new Date(text);
  const two = (n) => String(n).padStart(2, "0");
  const ms = String(at.getMilliseconds()).padStart(3, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${ms}`;
};

const makeView = (root) => {
  const find = (name) => root.querySelector("." + name);
  const [box, pad, rows, count, live, newest] =
    ["box", "pad", "rows", "count", "live", "newest"].map(find);
  let lines = [], following = true, frame = 0, source = null, url = "", words = {};

  const row = (line) => {
    const element = document.createElement("div");
    const time = document.createElement("span");
    time.className = "time";
    time.textContent = clock(line.at) + "  ";
    element.className = line.level;
    element.append(time, line.level.toUpperCase().padEnd(8) + line.text);
    return element;
  };
  const paint = () => {
    frame = 0;
    pad.style.height = lines.length * ROW + "px";
    if (following) box.scrollTop = lines.length * ROW;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 5);
    const last = Math.min(lines.length, first + Math.ceil(box.clientHeight / ROW) + 10);
    rows.style.transform = `translateY(${first * ROW}px)`;
    rows.replaceChildren(...lines.slice(first, last).map(row));
    pad.style.minWidth = rows.offsetWidth + "px";
    count.textContent = lines.length
      ? words.lines.replace("{n}", lines.length.toLocaleString())
      : words.nothing;
    newest.hidden = following;
  };
  const later = () => { frame ||= requestAnimationFrame(paint); };
  const say = (word, on) => { live.textContent = words[word]; live.dataset.on = on; };
  const close = () => { source?.close(); source = null; };
  const open = (address) => {
    close();
    url = address;
    lines = [];
    following = true;
    say("waiting", false);
    source = new EventSource(new URL(address, document.baseURI));
    source.onopen = () => say("live", true);
    source.onerror = () => say("waiting", false);
    source.onmessage = (event) => {
      lines.push(...JSON.parse(event.data));
      if (lines.length > KEPT) lines = lines.slice(-KEPT);
      later();
    };
    source.addEventListener("end", () => { close(); say("ended", false); later(); });
    later();
  };

  box.onscroll = () => {
    following = box.scrollTop + box.clientHeight > pad.offsetHeight - 2 * ROW;
    later();
  };
  newest.onclick = () => { following = true; later(); };
  return {
    close,
    update(data) {
      words = data.words;
      box.style.height = data.height + "px";
      box.setAttribute("aria-label", words.name);
      newest.textContent = words.newest;
      if (data.url !== url) open(data.url); else later();
    },
  };
};

export default function (component) {
  const { data, parentElement: root } = component;
  if (!views.has(root)) views.set(root, makeView(root));
  const view = views.get(root);
  view.update(data);
  return () => { view.close(); views.delete(root); };
}
