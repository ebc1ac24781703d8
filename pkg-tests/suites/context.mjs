/** Options that several suites load small models with, so that they share a page. Other suites check the kernels. */
export const SMALL = { contextLength: 1024, selfCheck: false };
