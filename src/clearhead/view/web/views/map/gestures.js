/** Gestures: what mouse, wheel, fingers and keys say to the map, as moves of its camera. */

// One finger scrolls the page, as it does beside the map, which may fill a phone; two move and zoom the map.

/**
 * @typedef {object} Heard places are in px from the element's corner
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, x: number, y: number) => void} zoom
 * @property {(x: number, y: number) => void} point
 * @property {() => void} leave
 * @property {(x: number, y: number) => void} press
 * @property {(event: KeyboardEvent) => void} key
 */

/** A press that moves no further, in px, is a click. */
const STILL = 4;
/** px of a wheel that counts in lines. */
const LINE = 16;

/** @param {HTMLElement} on @param {Heard} heard */
export function mapGestures(on, heard) {
  /** @type {Map<number, {x: number, y: number}>} the fingers or the mouse that are down */
  const down = new Map();
  let travelled = 0;
  const place = (/** @type {MouseEvent} */ event) => {
    const { left, top } = on.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };

  on.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (!down.size) travelled = 0;
    down.set(event.pointerId, place(event));
    on.setPointerCapture(event.pointerId);
  });
  on.addEventListener("pointermove", (event) => {
    const now = place(event);
    const was = down.get(event.pointerId);
    if (!was) {
      heard.point(now.x, now.y);
      return;
    }
    down.set(event.pointerId, now);
    travelled += Math.hypot(now.x - was.x, now.y - was.y);
    if (down.size === 1 && travelled > STILL && event.pointerType !== "touch") heard.pan(was.x - now.x, was.y - now.y);
    if (down.size === 2) {
      const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (/** @type {{x: number, y: number}} */ { x, y }) =>
        Math.max(1, Math.hypot(x - other.x, y - other.y));
      heard.pan((was.x - now.x) / 2, (was.y - now.y) / 2);
      heard.zoom(apart(now) / apart(was), (now.x + other.x) / 2, (now.y + other.y) / 2);
    }
    on.toggleAttribute("data-dragged", travelled > STILL);
  });
  const up = (/** @type {PointerEvent} */ event) => {
    const was = down.get(event.pointerId);
    down.delete(event.pointerId);
    on.removeAttribute("data-dragged");
    if (was && !down.size && travelled <= STILL && event.type === "pointerup") heard.press(was.x, was.y);
  };
  on.addEventListener("touchmove", (event) => {
    if (event.touches.length > 1) event.preventDefault(); // or the page would scroll, and the fingers be taken from us
  }, { passive: false });
  on.addEventListener("pointerup", up);
  on.addEventListener("pointercancel", up);
  on.addEventListener("pointerleave", heard.leave);
  on.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    heard.zoom(2, x, y);
  });
  on.addEventListener("wheel", (event) => {
    event.preventDefault();
    const unit = event.deltaMode ? LINE : 1;
    const { x, y } = place(event);
    if (event.shiftKey) heard.pan(event.deltaX * unit, event.deltaY * unit);
    // With Ctrl it is two fingers on a touchpad, which move in small steps.
    else heard.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.002)), x, y);
  }, { passive: false });
  on.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) heard.key(event);
  });
}
