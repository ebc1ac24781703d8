export async function apiTests() {}
