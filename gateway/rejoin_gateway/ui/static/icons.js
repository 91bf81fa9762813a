// Icons as inline SVG, 16 × 16, drawn in the colour of the text around them.

const SVG = 'http://www.w3.org/2000/svg';
const PATHS = {
  add: 'M8 3v10M3 8h10',
  again: 'M13 8a5 5 0 1 1-1.5-3.6M13 2.2v2.9h-2.9',
  artifact: 'M8 2l5.5 3v6L8 14l-5.5-3V5zM2.5 5L8 8l5.5-3M8 8v6',
  attach: 'M12.8 7.4l-4.9 4.9a2.7 2.7 0 0 1-3.8-3.8L9.3 3.3a1.8 1.8 0 0 1 2.5 2.5L6.7 10.9a.8.8 0 0 1-1.2-1.2l4.5-4.5',
  check: 'M3 8.5l3.2 3.2L13 5',
  close: 'M4 4l8 8M12 4l-8 8',
  component: 'M3 3h4v4H3zM9 3h4v4H9zM3 9h4v4H3zM9 9h4v4H9z',
  copy: 'M6 6h7.5v7.5H6zM3 10V2.5h7.5',
  data: 'M6 2.5c-2 0-1.6 2-1.6 3.2S3.8 8 3 8c.8 0 1.4 1 1.4 2.3s-.4 3.2 1.6 3.2M10 2.5c2 0 1.6 2 1.6 3.2S12.2 8 13 8c-.8 0-1.4 1-1.4 2.3s.4 3.2-1.6 3.2',
  download: 'M8 2.5v7.5M4.8 7L8 10.2 11.2 7M3 13.5h10',
  edit: 'M3 13l.6-2.8L10.8 3 13 5.2l-7.2 7.2zM9.4 4.4l2.2 2.2',
  file: 'M4 2h5l3 3v9H4zM9 2v3h3',
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  moon: 'M13 9.6A5.4 5.4 0 0 1 6.4 3a5.4 5.4 0 1 0 6.6 6.6z',
  out: 'M6.5 3.5h-3v9h9v-3M9 3h4v4M13 3L7.5 8.5',
  plug: 'M6 2v3M10 2v3M4.5 5h7v2.5a3.5 3.5 0 0 1-7 0zM8 11v3',
  remove: 'M3 4.5h10M6.5 4.5V2.8h3v1.7M4.5 4.5l.6 8.7h5.8l.6-8.7',
  settings: 'M2 5h6.5M12 5h2M2 11h2M7.5 11H14M12 5a1.75 1.75 0 1 1-3.5 0 1.75 1.75 0 0 1 3.5 0M7.5 11A1.75 1.75 0 1 1 4 11a1.75 1.75 0 0 1 3.5 0',
  stop: 'M4.5 4.5h7v7h-7z',
  summary: 'M3 4h10M3 8h10M3 12h6',
  sun: 'M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6M8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M3.4 12.6l.9-.9M11.7 4.3l.9-.9',
};

/** The icon of that name. What it means is said by the element around it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', PATHS[name]);
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(path);
  return svg;
}
