/** Facts about WebGPU adapters that both sides need. */

/** An adapter, or what is known of one. Older browsers have the flag on the adapter itself. */
export interface AdapterFacts {
  info?: Partial<GPUAdapterInfo> | undefined;
  isFallbackAdapter?: boolean;
}

/** True if a description is that of a software adapter. */
export function namesSoftware(description: string): boolean {
  return /swiftshader|llvmpipe|lavapipe|basic render|software/i.test(description);
}

/** True if the adapter is software; `undefined` if the browser does not say. */
export function isSoftware({ info, isFallbackAdapter }: AdapterFacts): boolean | undefined {
  const { vendor, architecture, device, description } = info ?? {};
  if (namesSoftware([vendor, architecture, device, description].join(" "))) return true;
  return info?.isFallbackAdapter ?? isFallbackAdapter;
}
