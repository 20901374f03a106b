// Numbers for people.

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(2)} %`);

export const percentMark = (share) => `${Number((100 * share).toFixed(1))} %`;

export const decimals = (number, places = 4) => (number === null || number === undefined ? "–" : number.toFixed(places));

export const numberMark = (number) => String(Number(number.toFixed(4)));

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (number >= size) return `${(number / size).toPrecision(3)} ${unit}`;
  }
  return `${number} B`;
}

export const bytesMark = (number) => bytes(number).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");

export function seconds(number) {
  if (number === null || number === undefined) return "–";
  if (number < 10) return `${number.toFixed(1)} s`;
  if (number < 120) return `${Math.round(number)} s`;
  const minutes = Math.floor(number / 60);
  if (minutes < 120) return `${minutes} min ${String(Math.floor(number % 60)).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

// On an axis: short.
export function secondsMark(number) {
  if (number < 120) return `${number} s`;
  return number < 7200 ? `${Number((number / 60).toFixed(1))} min` : `${Number((number / 3600).toFixed(1))} h`;
}

export function moment(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export const words = (name) => name.replaceAll("_", " ");
