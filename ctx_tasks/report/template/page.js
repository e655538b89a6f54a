"use strict";
// Sorting, filtering and the drill-down. Text of models and data reaches the page as text only:
// through textContent and append(), never as HTML, never as an attribute that can run.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

/** An element of our own page with a class and children (elements, or strings as text). */
function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// ---- the table: sort by a heading, filter by words --------------------------------------------

const body = find("table").tBodies[0];
const rows = [...body.rows];
const headings = [...find("table").tHead.rows[0].cells];

/** What a cell is sorted by: its number or its text; null stands last in either order. */
function sortValue(row, place, isText) {
  const cell = row.cells[place];
  if (isText) return cell.textContent.toLowerCase();
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

/** Sort by a column; again in the other order; numbers begin with the largest. */
function sortBy(place) {
  const heading = headings[place];
  const isText = "text" in heading.dataset;
  const begin = isText ? "ascending" : "descending";
  const other = isText ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === begin ? other : begin;
  for (const one of headings) one.setAttribute("aria-sort", one === heading ? order : "none");
  const sign = order === "ascending" ? 1 : -1;
  const sorted = [...rows].sort((a, b) =>
    compare(sortValue(a, place, isText), sortValue(b, place, isText), sign));
  body.append(...sorted);
  say(`sorted by ${heading.querySelector("span").textContent}, ${order}`);
}

function filterRows() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const name = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
    row.hidden = !words.every((word) => name.includes(word));
  }
  say();
}

function say(more) {
  const shown = rows.filter((row) => !row.hidden).length;
  const parts = [`${shown} of ${rows.length} rows`];
  if (more) parts.push(more);
  find("said").textContent = parts.join(", ");
}

headings.forEach((heading, place) => {
  const button = make("button", "", ...heading.childNodes);
  button.type = "button";
  button.addEventListener("click", () => sortBy(place));
  heading.append(button);
});
find("filter").addEventListener("input", filterRows);

// ---- boxes wider than the screen ----------------------------------------------------------------

/** A telephone shows no scroll bar: say where there is more. */
function hint(box) {
  const said = make("p", "hint quiet", "Wider than the screen: scroll sideways for the rest.");
  box.before(said);
  const look = () => { said.hidden = box.scrollWidth <= box.clientWidth; };
  const watch = new ResizeObserver(look);
  watch.observe(box);
  watch.observe(box.firstElementChild);
}

document.querySelectorAll(".scroll").forEach(hint);

// ---- documents --------------------------------------------------------------------------------

/** The text of a text's number. */
const text = (number) => data.texts[number];
const FOUND = {
  raw: "Highlighted: the user's text. The rest is the chat template's.",
  fields: "No run without template shows where the user's text begins and ends. " +
    "Highlighted: the document's own fields.",
  none: "The user's text was not found in this prompt, so nothing is highlighted.",
};
const CLASSES = { t: "template", c: "cut", p: "" };
let group = null;
let open = 0;

function choices(select, values) {
  select.replaceChildren(...values.map((value) => new Option(value, value)));
}

function groupsOf(checkpoint) {
  return data.groups.filter((one) => one.checkpoint === checkpoint && one.documents.length);
}

function chooseCheckpoint() {
  const before = find("column").value;
  const columns = groupsOf(find("checkpoint").value).map((one) => one.column);
  choices(find("column"), columns);
  if (columns.includes(before)) find("column").value = before;
  chooseColumn();
}

function chooseColumn() {
  const column = find("column").value;
  group = groupsOf(find("checkpoint").value).find((one) => one.column === column);
  const differ = group.rows.length > 1
    ? ` The arms score differently on ${group.differing}; those come first.` : "";
  const looked = group.documents.filter((one) => one.darkest).length;
  const looks = looked ? ` The first ${looked} show where the answers looked.` : "";
  find("how-many").textContent =
    `${group.documents.length} of ${group.total} documents are in this page.${differ}${looks}`;
  showList();
}

function showList() {
  const head = make("tr", "", column("question"));
  for (const row of group.rows) head.append(column(data.rows[row].arm, "arm"));
  const lines = group.documents.map((one, place) => {
    const button = make("button", "open", text(one.question) || `document ${place + 1}`);
    button.type = "button";
    button.addEventListener("click", () => show(place));
    const line = make("tr", "", make("td", "question", button));
    for (const row of group.rows) {
      const answer = one.answers.find((candidate) => candidate[0] === row);
      line.append(make("td", "", answer ? verdict(answer[1]) : "–"));
    }
    return line;
  });
  find("list").replaceChildren(make("thead", "", head), make("tbody", "", ...lines));
}

function column(name, className) {
  const heading = make("th", className, name);
  heading.scope = "col";
  return heading;
}

/** Hit, miss, a share between them, or a rating. */
function verdict(score) {
  if (score === null) return make("span", "quiet", "no score");
  if (!group.scale) return make("span", "part", String(score));
  if (score === 1) return make("span", "hit", "✓ hit");
  if (score === 0) return make("span", "miss", "✗ miss");
  return make("span", "part", `◐ ${score.toFixed(2)}`);
}

function piece([kind, number]) {
  if (kind === "u") return make("mark", "", text(number));
  if (kind === "c") return make("span", "cut", ` [… ${text(number)} …] `);
  return make("span", CLASSES[kind], text(number));
}

function show(place) {
  open = place;
  const one = group.documents[place];
  find("question").textContent = text(one.question);
  find("wanted").textContent = text(one.target) ? `Expected: ${text(one.target)}` : "";
  find("answers").replaceChildren(...one.answers.map(([row, score, output]) => make(
    "li", "", make("h4", "", data.rows[row].arm), verdict(score),
    make("pre", "", ...(output.length ? output.map(piece) : ["(empty)"])))));
  const kept = find("arm").value;
  find("arm").replaceChildren(
    ...one.answers.map(([row]) => new Option(data.rows[row].arm, String(row))));
  const wanted = one.answers.find(([row]) => String(row) === kept) || templated(one);
  find("arm").value = String(wanted[0]);
  showPrompt();
  showLooks(one);
  find("place").textContent =
    `${group.checkpoint}, ${group.column}: ${place + 1} of ${group.documents.length}`;
  find("previous").disabled = place === 0;
  find("next").disabled = place === group.documents.length - 1;
  if (!find("document").open) find("document").showModal();
  find("document").scrollTop = 0;
}

/** The first answer whose prompt has a template to tell apart; else the first. */
function templated(one) {
  const several = one.answers.find(([, , , , pieces]) => pieces.some(([kind]) => kind === "t"));
  return several || one.answers[0];
}

function showPrompt() {
  const row = Number(find("arm").value);
  const [, , , found, pieces] =
    group.documents[open].answers.find((candidate) => candidate[0] === row);
  const whole = found === "raw" && !pieces.some(([kind]) => kind === "t");
  find("found").textContent = whole ? "No template: all of it is the user's text." : FOUND[found];
  find("prompt").replaceChildren(...pieces.map(piece));
}

// ---- where the answers looked -------------------------------------------------------------------

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Arms side by side: those that answered by themselves, then those whose answer was begun. */
function showLooks(one) {
  const looked = one.answers.filter((answer) => answer.length > 5);
  find("looks").hidden = !looked.length;
  if (!looked.length) return;
  const begun = (answer) => Number(data.rows[answer[0]].begun);
  find("look-list").replaceChildren(
    ...looked.sort((a, b) => begun(a) - begun(b)).map((answer) => look(answer)));
  find("look-words").textContent = "Attention at the last token of the prompt and the first of " +
    "the answer, the mean over layers and heads. One scale for all arms: the darkest is " +
    `${(100 * one.darkest).toPrecision(2)} % a token and more.`;
}

function look([row, , , , pieces, [tokens, totals, first, runs]]) {
  const [user, system, template, special, answer] = totals;
  const rest = [["system", system], ["template", template], ["special tokens", special],
    ["answer so far", answer]].filter(([, share]) => share).map(([name, share]) =>
    `${name} ${percent(share)}`);
  const most = first.map(([words, share]) => `“${words}” ${percent(share)}`);
  const left = [...runs];
  return make("li", "", make("h4", "", data.rows[row].arm),
    make("p", "", make("strong", "", `user's text ${percent(user)}`), `; ${rest.join(", ")}`),
    make("p", "quiet", `Mean of ${tokens} token${tokens > 1 ? "s" : ""}; most on ${most.join(", ")}`),
    make("pre", "", ...pieces.flatMap((one) =>
      (one[0] === "u" ? shades(text(one[1]), left.shift()) : [piece(one)]))));
}

/** The user's text in stretches, each in the colour of its step. */
function shades(whole, runs) {
  const found = [];
  for (let place = 0, at = 0; place < runs.length; place += 2) {
    const end = at + runs[place];
    found.push(make("span", runs[place + 1] ? `look-${runs[place + 1]}` : "",
      whole.slice(at, end)));
    at = end;
  }
  return found;
}

if (find("documents")) {
  const checkpoints = data.groups.filter((one) => one.documents.length)
    .map((one) => one.checkpoint);
  choices(find("checkpoint"), [...new Set(checkpoints)]);
  // Begin where there is most to compare.
  find("checkpoint").value = data.groups.filter((one) => one.documents.length)
    .reduce((most, one) => (one.rows.length > most.rows.length ? one : most)).checkpoint;
  find("checkpoint").addEventListener("change", chooseCheckpoint);
  find("column").addEventListener("change", chooseColumn);
  find("arm").addEventListener("change", showPrompt);
  find("close").addEventListener("click", () => find("document").close());
  find("previous").addEventListener("click", () => show(open - 1));
  find("next").addEventListener("click", () => show(open + 1));
  chooseCheckpoint();
}
for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;
