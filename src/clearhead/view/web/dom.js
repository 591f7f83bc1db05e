/** Elements: made from text and attributes, never from markup, so that no text can become code. */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number | boolean>} [attributes] true sets an empty one, false leaves it out
 * @param {...(Node | string)} children strings become text
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * The same for the elements of a drawing.
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {HTMLElement} near @returns {Element | null} what has the focus, in a shadow tree too */
export function focused(near) {
  return /** @type {Document | ShadowRoot} */ (near.getRootNode()).activeElement ?? null;
}

/**
 * Whether one points with what hovers, or with the keyboard: a finger that comes down means to press what lies there, and
 * nothing may rise over that in between.
 * @param {Event} event
 * @returns {boolean}
 */
export function hovers(event) {
  if (event instanceof PointerEvent) return event.pointerType !== "touch";
  return event.target instanceof Element && event.target.matches(":focus-visible");
}

/**
 * The token, option or cell that an event is about.
 * @param {Event} event
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export function target(event, selector) {
  return event.target instanceof Element ? event.target.closest(selector) : null;
}
