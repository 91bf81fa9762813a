// Times in the reader's zone and language, sizes and amounts of money.

const DAY_MS = 86_400_000;
const SHORT = { hour: '2-digit', minute: '2-digit' };

/** The time of day for today, else the day as well. `now` is for tests. */
export function shortTime(iso, now = new Date()) {
  const time = new Date(iso);
  if (time.toDateString() === now.toDateString()) return time.toLocaleTimeString([], SHORT);
  if (time.toDateString() === new Date(now - DAY_MS).toDateString()) return `yesterday, ${time.toLocaleTimeString([], SHORT)}`;
  const year = time.getFullYear() === now.getFullYear() ? {} : { year: 'numeric' };
  return time.toLocaleString([], { day: 'numeric', month: 'short', ...year, ...SHORT });
}

/** A span of ms in one or two units: `850 ms`, `1.2 s`, `3 min 5 s`, `2 d 4 h`. */
export function duration(ms) {
  if (ms < 1_000) return `${Math.round(Math.max(ms, 0))} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const units = [[DAY_MS, 'd'], [3_600_000, 'h'], [60_000, 'min'], [1_000, 's']];
  const at = units.findIndex(([size]) => ms >= size);
  const [[size, name], [part, below]] = units.slice(at);
  return `${Math.floor(ms / size)} ${name} ${Math.floor((ms % size) / part)} ${below}`;
}

/** A size for people: `byteSize(2048)` is `2 KB`. */
export function byteSize(bytes) {
  if (bytes < 1_024) return `${bytes} bytes`;
  const unit = bytes < 1_024 ** 2 ? ['KB', 1_024] : ['MB', 1_024 ** 2];
  const count = bytes / unit[1];
  return `${count < 10 ? count.toFixed(1).replace('.0', '') : Math.round(count)} ${unit[0]}`;
}

/** An amount in US dollars: small ones with more digits. */
export function money(usd) {
  if (usd > 0 && usd < 0.0001) return '< $0.0001';
  return `$${usd.toFixed(usd > 0 && usd < 1 ? 4 : 2)}`;
}
