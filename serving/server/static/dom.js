/* Elements, and numbers as people read them. */

/**
 * An element. Text goes in as text: nothing that a server or a file says is read as HTML.
 *
 * @param {string} name such as "p", or with classes, "p.hint.small".
 * @param {Object} properties attributes by name; functions are listeners; false and null are left out.
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function element(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

/** 93.1%; what is not quite 0 or 1 never reads as such. */
export function percent(share, digits = 1) {
  const step = 10 ** -digits;
  const shown = (share * 100).toFixed(digits);
  if (share > 0 && Number(shown) === 0) return `<${step}%`;
  if (share < 1 && Number(shown) === 100) return `>${(100 - step).toFixed(digits)}%`;
  return `${shown}%`;
}

/** 1,234 */
export function count(number) {
  return number.toLocaleString("en");
}
