/** The statistics of a head: what each is called, what it says, and how its numbers are written. */

import { percent, plain } from "./numbers.js";

/**
 * @typedef {object} Statistic
 * @property {string} title
 * @property {string} says
 * @property {(value: number) => string} write
 * @property {string} [does] what a head does that plays the role, or that has much of the statistic, in plain words
 * @property {boolean} [anyZero] true where 0 is no natural end of the scale
 */

/** @param {string} unit @returns {(value: number) => string} */
const inUnit = (unit) => (value) => `${plain(value)} ${unit}`;

/** @param {string} title @param {string} where @param {string} does @returns {Statistic} */
const role = (title, where, does) =>
  ({ title, says: `weight on ${where}, mean over the queries`, write: percent, does });

/**
 * @param {string} title @param {string} what @param {(value: number) => string} write @param {string} [does]
 * @returns {Statistic}
 */
const mean = (title, what, write, does) => ({ title, says: `${what}, mean over the queries`, write, does });

/** @type {Record<string, Statistic>} */
const KNOWN = {
  previous_token: role("previous token", "the token just before", "looks at the token just before"),
  next_token: role("next token", "the token just after", "looks at the token just after"),
  first_token: role("first token", "the text’s first token, the usual sink", "rests on the text’s first token"),
  self_token: role("self", "the query’s own token", "looks at the token itself"),
  duplicate_token: role("duplicate token", "earlier same tokens", "finds earlier copies of the token"),
  induction: role("induction", "the token after each earlier same token", "looks at what followed earlier repeats"),
  induction_before: role(
    "induction, −1", "the token before each earlier same token", "looks at what stood before earlier repeats"),
  delimiter: role("delimiter", "the nearest other delimiter", "looks at the nearest stop or comma"),
  special_tokens: role("special tokens", "all special tokens ([CLS], [SEP], <s> …)", "rests on special tokens"),
  punctuation: role("punctuation", "all punctuation", "looks at punctuation"),
  sink: {
    title: "sink", says: "the queries that put more than 0.3 on the text’s first token", write: percent,
    does: "has many tokens rest on the first",
  },
  effective_context: mean("effective context", "the fewest keys that hold 90 % of the weight", inUnit("keys"), "looks at many keys at once"),
  entropy: mean("entropy", "how spread out the weights are", inUnit("nats"), "spreads its look"),
  entropy_normalised: mean(
    "normalised entropy", "100 % where all visible keys weigh the same", percent, "looks everywhere alike"),
  peak: mean("peak", "the heaviest key’s weight", percent, "looks at one key above all"),
  distance: mean("distance", "how far away it looks", inUnit("tokens"), "looks far away"),
  lse: { ...mean("log-sum-exp", "the logarithm of the softmax’s denominator", plain), anyZero: true },
  max_score: {
    title: "largest score", says: "the largest of all scores before the softmax", write: plain, anyZero: true,
  },
};

/** @param {string} name @returns {Statistic} */
export function statistic(name) {
  return KNOWN[name] ?? { title: name.replaceAll("_", " "), says: "", write: plain, anyZero: true };
}

/** @param {string} name @returns {string} in plain words, with the field's name for it */
export function inPlainWords(name) {
  const { title, does } = statistic(name);
  return does ? `${capital(does)} (${title})` : capital(title);
}

const UNIFORM = "_uniform";
const STDERR = "_stderr";

/**
 * The names of the statistics that have a number, roles first.
 * @param {Record<string, (number | null)[][]>} table
 * @returns {{roles: string[], others: string[]}} a role is what has a uniform head to be compared with
 */
export function named(table) {
  const names = Object.keys(table).filter((name) => table[name].flat().some((value) => value !== null));
  const roles = names.filter((name) => name + UNIFORM in table);
  return { roles, others: names.filter((name) => !roles.includes(name) && !name.endsWith(UNIFORM) && !name.endsWith(STDERR)) };
}

/**
 * A head's number as text, with its standard error where it is an estimate.
 * @param {Record<string, (number | null)[][]>} table
 * @param {string} name
 * @param {number} layer
 * @param {number} head
 * @returns {string}
 */
export function valueText(table, name, layer, head) {
  const value = table[name][layer][head];
  if (value === null) return "–";
  const error = table[name + STDERR]?.[layer][head];
  return error ? `${statistic(name).write(value)} ± ${plain(error)}` : statistic(name).write(value);
}

/** @param {Record<string, (number | null)[][]>} table @returns {string[]} all roles, those too that the text gave no chance */
export const rolesIn = (table) => Object.keys(table).filter((name) => name + UNIFORM in table);

/**
 * What a uniform head would score.
 * @param {Record<string, (number | null)[][]>} table
 * @param {string} role
 * @param {number} layer
 * @param {number} head
 * @returns {number | null}
 */
export function uniform(table, role, layer, head) {
  return table[role + UNIFORM][layer][head];
}

/** A head plays a role clearly if it goes so far from a uniform head (0) to one that does nothing else (1). */
export const CLEARLY = 0.25;

/**
 * @typedef {object} Played a role as one head plays it
 * @property {string} role
 * @property {number} layer
 * @property {number} head
 * @property {number} value the head's score
 * @property {number} chance a uniform head's
 * @property {number} beyond how far it goes from a uniform head (0) to one that does nothing else (1)
 */

/**
 * @param {Record<string, (number | null)[][]>} table
 * @param {string} role
 * @param {number} layer
 * @param {number} head
 * @returns {Played | null} null where the text gave it no chance
 */
export function played(table, role, layer, head) {
  const value = table[role][layer][head];
  const chance = uniform(table, role, layer, head);
  if (value === null || chance === null) return null;
  return { role, layer, head, value, chance, beyond: chance < 1 ? (value - chance) / (1 - chance) : 0 };
}

/** @param {Played | null} played @returns {boolean} */
export const clearly = (played) => played !== null && played.beyond >= CLEARLY;

/**
 * @param {Record<string, (number | null)[][]>} table
 * @param {string} role
 * @returns {Played[]} all heads that had a chance to play it, that first which does so most
 */
export function players(table, role) {
  const found = table[role].flatMap((row, layer) => row.map((_, head) => played(table, role, layer, head)));
  return found.filter((one) => one !== null).sort((a, b) => b.value - a.value);
}

/**
 * @param {Record<string, (number | null)[][]>} table
 * @param {number} layer
 * @param {number} head
 * @returns {Played[]} what a head does, clearest first
 */
export function habits(table, layer, head) {
  const found = named(table).roles.map((role) => played(table, role, layer, head));
  return found.filter((one) => one !== null).sort((a, b) => b.beyond - a.beyond);
}

/**
 * What a head does clearly: the role that it plays most clearly. Resting on the first token is what heads do where
 * they find nothing of theirs, so that it counts only where nothing else is clear.
 * @param {Record<string, (number | null)[][]>} table
 * @param {number} layer
 * @param {number} head
 * @returns {Played | null}
 */
export function habit(table, layer, head) {
  const clear = habits(table, layer, head).filter(clearly);
  return clear.find((one) => one.role !== "first_token") ?? clear[0] ?? null;
}

/** Roles in the order in which one tells of them. */
const TOLD_FIRST = ["induction", "previous_token", "duplicate_token", "first_token", "delimiter", "self_token"];

/** @param {string[]} roles @returns {string[]} */
export function toldInOrder(roles) {
  return [...TOLD_FIRST.filter((role) => roles.includes(role)), ...roles.filter((role) => !TOLD_FIRST.includes(role))];
}

/** @param {string} text @returns {string} */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
