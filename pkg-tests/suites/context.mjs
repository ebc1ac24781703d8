/** Options that several suites load small models with, so that they share a page. */
export const SMALL_CONTEXT = { contextLength: 1024 };
