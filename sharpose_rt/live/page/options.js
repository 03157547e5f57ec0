// What is drawn, as it was chosen on the page, and is remembered; the wall goes by it too.

export const TOGGLES = ["picture", "boxes", "ids", "trails", "angles"];
export const CHOICES = { points: ["smooth", "raw", "both"], colour: ["side", "identity", "stage"] };
export const DEFAULTS = { points: "smooth", colour: "side", picture: true, boxes: true, ids: true, trails: true, angles: false };

// What was chosen before, as far as this version knows it: storage may be forbidden, or hold what another one wrote.
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
    // forbidden or full: chosen for this visit alone
  }
}
