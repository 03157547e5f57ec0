// Drawing options chosen on the page; they are remembered and used on the wall, too.

export const TOGGLES = ["picture", "boxes", "ids", "trails", "angles"];
export const CHOICES = { points: ["smooth", "raw", "both"], colour: ["side", "identity", "stage"] };
export const DEFAULTS = { points: "smooth", colour: "side", picture: true, boxes: true, ids: true, trails: true, angles: false };

// Earlier choices that are valid in this version: storage may be forbidden, or written by another version.
export function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem("sharpose") || "{}");
    const known = name => TOGGLES.includes(name) ? typeof kept[name] === "boolean" : CHOICES[name].includes(kept[name]);
    return Object.fromEntries(Object.keys(DEFAULTS).filter(known).map(name => [name, kept[name]]));
  } catch {
    return {};
  }
}

export function remember(options) {
  try {
    localStorage.setItem("sharpose", JSON.stringify(options));
  } catch {
    // forbidden or full: remembered only during this visit
  }
}
