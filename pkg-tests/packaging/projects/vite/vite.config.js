/** Only because there are several pages. */
export default { build: { rolldownOptions: { input: ["index.html", "object.html", "prompt.html"] } } };
