// Plots of the last two minutes, with one value per half second.

const SPAN_S = 120, LEFT = 44, RIGHT = 4, TOP = 8, BOTTOM = 6;

export class Plot {
  // `series`: {key, colour, fill?}, drawn in this order; `label`: makes the text of a value.
  constructor(canvas, series, label) {
    this.canvas = canvas;
    this.series = series;
    this.label = label;
  }

  draw(ticks) {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const values = this.series.flatMap(({ key }) => ticks.map(tick => tick[key])).sort((a, b) => a - b);
    // A single spike, as at the start of a run, is cut off rather than flattening everything else.
    const top = ceiling(Math.max(1e-9, values[Math.floor(0.97 * (values.length - 1))] ?? 0));
    const y = value => height - BOTTOM - Math.min(1.06, value / top) * (height - TOP - BOTTOM);
    context.font = "10.5px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of [0, top / 2, top]) {
      context.fillStyle = "#8f9db0";
      context.fillText(this.label(+value.toPrecision(3)), LEFT - 6, y(value));
      context.fillStyle = "#222d3a";
      context.fillRect(LEFT, Math.round(y(value)), width - LEFT - RIGHT, 1);
    }
    if (!ticks.length) return;
    const now = ticks[ticks.length - 1].t;
    const x = t => width - RIGHT - (now - t) / SPAN_S * (width - LEFT - RIGHT);
    const shown = ticks.filter(({ t }) => now - t <= SPAN_S);
    for (const { key, colour, fill } of this.series) {
      context.beginPath();
      shown.forEach((tick, i) => context[i ? "lineTo" : "moveTo"](x(tick.t), y(tick[key])));
      context.strokeStyle = colour;
      context.lineWidth = 1.6;
      context.lineJoin = "round";
      context.stroke();
      if (!fill) continue;
      context.lineTo(x(now), y(0));
      context.lineTo(x(shown[0].t), y(0));
      context.fillStyle = fill;
      context.fill();
    }
  }
}

// The next larger of 1, 2, 5, 10, 20, ...
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find(step => step * power >= value * 1.02);
}
